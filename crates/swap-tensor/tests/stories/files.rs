//! Attached safetensors files: every way one can be wrong, and the ways that are right.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use std::{fs, path::PathBuf};
use swap_tensor::{DType, Residency, SwapError, SwapPool};
use tempfile::TempDir;

fn pool() -> SwapPool<CpuDevice> {
    SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 20).host_memory(1 << 20).build().unwrap()
}

fn file(header: &str, data: &[u8]) -> (TempDir, PathBuf) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    raw(&bytes)
}

fn raw(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn reason(bytes: (TempDir, PathBuf)) -> String {
    match pool().attach_safetensors(&bytes.1) {
        Err(SwapError::Format { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tensors_come_in_the_order_of_the_file_and_are_not_duplicated() {
    let header = r#"{"b":{"dtype":"F16","shape":[2,2],"data_offsets":[3,11]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"s":{"dtype":"BF16","shape":[],"data_offsets":[11,13]},"__metadata__":{"k":"v"}}"#;
    let (_folder, path) = file(header, &(0..13).collect::<Vec<u8>>());
    let pool = pool();
    let tensors = pool.attach_safetensors(&path).unwrap();
    let names: Vec<_> = tensors.iter().map(|t| t.spec().name()).collect();
    assert_eq!(names, ["a", "b", "s"]);
    assert_eq!((tensors[1].spec().dtype(), tensors[1].spec().shape()), (DType::F16, &[2, 2][..]));
    assert!(tensors.iter().all(|t| t.residency() == Residency::File));

    let mut into = vec![0; 8];
    tensors[1].read().unwrap().read_now(&mut into).unwrap();
    assert_eq!(into, (3..11).collect::<Vec<u8>>());
    assert!(tensors[1].evict(), "the file is a clean copy");
    assert_eq!(pool.stats().host_bytes, 0);

    tensors[1].write().unwrap().write_now(&[9; 8]).unwrap();
    tensors[1].swap_out().unwrap();
    assert_eq!(tensors[1].residency(), Residency::Host);
    assert_eq!(fs::read(&path).unwrap().len(), 8 + header.len() + 13, "the file is only read");
}

#[test]
fn truncated_and_lying_headers_are_named() {
    assert!(reason(raw(b"abc")).contains("3 bytes are too few"));
    assert!(reason(raw(&100u64.to_le_bytes())).contains("claims 100 bytes, 0 follow"));
    assert!(reason(raw(&u64::MAX.to_le_bytes())).contains("claims 18446744073709551615"));
    assert!(reason(file("not json", &[])).contains("header: "));
    let short = r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
    assert!(reason(file(short, &[1, 2])).contains("describes 3 bytes of tensors, 2 follow"));
    assert!(reason(file(short, &[1, 2, 3, 4])).contains("describes 3 bytes of tensors, 4 follow"));
    let lying = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,3]}}"#;
    assert!(reason(file(lying, &[1, 2, 3])).contains("header: "));
    let overlapping = r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}"#;
    assert!(reason(file(overlapping, &[0; 4])).contains("header: "));
    let unknown = r#"{"a":{"dtype":"F7","shape":[3],"data_offsets":[0,3]}}"#;
    assert!(reason(file(unknown, &[1, 2, 3])).contains("F7"));
}

#[test]
fn a_missing_file_and_a_folder_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.safetensors");
    assert!(matches!(pool().attach_safetensors(&missing), Err(SwapError::File { operation: "open", .. })));
    assert!(pool().attach_safetensors(folder.path()).is_err());
}

#[test]
fn a_file_that_shrinks_while_attached_is_an_error_and_no_copy_any_more() {
    let header = r#"{"a":{"dtype":"U8","shape":[9000],"data_offsets":[0,9000]}}"#;
    let (_folder, path) = file(header, &[7; 9000]);
    let pool = pool();
    let tensors = pool.attach_safetensors(&path).unwrap();
    drop(tensors[0].read().unwrap());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(500).unwrap();
    assert!(tensors[0].evict(), "nobody has noticed yet");
    assert!(matches!(tensors[0].read(), Err(SwapError::FileChanged { .. })));
    assert!(matches!(tensors[0].read(), Err(SwapError::NoValidCopy { .. })));
    pool.check().unwrap();
}

#[test]
fn names_that_are_taken_attach_nothing() {
    let header = r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}"#;
    let (_folder, path) = file(header, &[0; 4]);
    let pool = pool();
    let first = pool.attach_safetensors(&path).unwrap();
    drop(first.into_iter().next());
    let again = pool.attach_safetensors(&path);
    assert!(matches!(again, Ok(ref tensors) if tensors.len() == 2), "all handles are gone: {again:?}");
    let second = pool.attach_safetensors(&path);
    assert!(matches!(second, Err(SwapError::DuplicateName { .. })));
}
