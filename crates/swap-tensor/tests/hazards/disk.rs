//! What lies on disk or in a file: that it is whole, that it is this tensor's, and that it is still there.

use crate::support::{
    AGES, UNIT, contents, copied, cpu, cpu_over_disk, hangs, leased, model, same, staged, store, tensor,
    tensor_on_disk, until,
};
use std::{fs, thread, time::Duration};
use swap_tensor::{
    Residency, SwapError,
    disk::{Call, Fault, FaultPlan},
};

/// Mooncake evicts in two phases, for a file was deleted under its readers.
/// Rule: out of the index first, then the readers end, then the room goes.
/// Guard: `LowerCopy` in `lower/disk.rs` shares its pieces: the room goes with the last who reads them (`outdate` in `lower.rs` lets
/// go of the index's share only).
#[test]
fn evict_while_reader_reads_disk() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 1, Fault::Hang));
    let pool = cpu_over_disk(2, 0, &store, AGES);
    let a = tensor_on_disk(&pool, "a", 1, 1);
    thread::scope(|s| {
        let reader = s.spawn(|| copied(&a));
        until(|| hangs(&store));
        // Its copy on disk is outdated, and others write to the disk meanwhile.
        a.load(&contents(2, 1)).unwrap();
        let b = tensor_on_disk(&pool, "b", 3, 2);
        a.swap_out().unwrap();
        let reserved = store.stats().reserved;
        store.release();
        same(reader.join().unwrap(), &contents(1, 1));
        until(|| store.stats().reserved < reserved);
        same(copied(&b), &contents(3, 2));
    });
    same(copied(&a), &contents(2, 1));
    drop(a);
    until(|| store.stats().reserved == 0 && store.stats().in_flight == 0);
}

/// Mooncake #3052, and vLLM's write to another name: half of a write was taken for all of it.
/// Rule: a record is published when all of it is written, with a checksum. Here nothing outlives the process: an extent is
/// published once its write has ended well (no rename), and each part has a CRC32C that every read compares.
/// Guards: `conclude` and `compare` in `disk/request.rs`; `end_host_write` in `spill.rs`, which gives the source up only then.
#[test]
fn torn_write_is_never_served() {
    // Half is written and the rest fails; some bits of another write are wrong; then of a read.
    let faults = FaultPlan::seeded(1).at(Call::Write, 1, Fault::Short).at(Call::Write, 2, Fault::NO_SPACE);
    let store = store(faults.at(Call::Write, 8, Fault::BitFlip).at(Call::Read, 5, Fault::BitFlip));
    let pool = cpu_over_disk(2, 0, &store, AGES);
    let a = tensor(&pool, "a", 1, 1);
    assert!(matches!(a.swap_out(), Err(SwapError::DiskBudget { .. })));
    assert_eq!((a.residency(), store.stats().short_transfers), (Residency::Device, 1));
    same(copied(&a), &contents(1, 1));
    until(|| store.stats().in_flight == 0);
    a.swap_out().unwrap();
    let bad = copied(&a);
    assert!(
        matches!(bad, Err(SwapError::Corrupt { .. })),
        "a bit was wrong, and {:?} came",
        bad.map(|b| b.len())
    );
    assert!(matches!(leased(&a), Err(SwapError::Corrupt { .. })));
    assert!(matches!(copied(&a), Err(SwapError::NoValidCopy { .. })), "the loss is told from then on");
    a.load(&contents(2, 1)).unwrap();
    a.swap_out().unwrap();
    same(copied(&a), &contents(2, 1));
    pool.check().unwrap();
}

/// A write that failed in the middle, from host memory: the copy it was made from is the only one.
/// Guards: as above.
#[test]
fn torn_write_leaves_the_source() {
    let store = store(FaultPlan::seeded(1).at(Call::Write, 1, Fault::IO));
    let pool = cpu_over_disk(1, 1, &store, AGES);
    let a = tensor(&pool, "a", 1, 1);
    // Takes the one unit of host memory away from `a`, which has no other copy.
    let b = tensor(&pool, "b", 2, 1);
    let c = pool
        .create(swap_tensor::TensorSpec::new("c", swap_tensor::DType::U8, [UNIT]).unwrap(), &contents(3, 1));
    let _ = pool.settle();
    store.clear_faults();
    same(copied(&a), &contents(1, 1));
    same(copied(&b), &contents(2, 1));
    c.iter().for_each(|c| same(copied(c), &contents(3, 1)));
    pool.check().unwrap();
}

/// safetensors #764: a mapped file was truncated, and the program died of a signal; or was written to, and served as it was not.
/// Rule: attached files are read by position, and their length and time of change are compared.
/// Guard: `check_unchanged` in `file.rs`. `tests/files.rs` has truncated and lying headers.
#[test]
fn attached_file_truncated() {
    for shorter in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let file = model(&path, &[1]);
        let pool = cpu(1, 4);
        let a = pool.attach_safetensors(&path).unwrap().pop().unwrap();
        same(leased(&a), &contents(0, 1));
        assert!(a.evict());
        match shorter {
            true => file.set_len(1000).unwrap(),
            false => {
                // As long as before, and other contents.
                let before = fs::read(&path).unwrap();
                let after: Vec<u8> = before.iter().map(|byte| !byte).collect();
                fs::write(&path, after).unwrap();
                file.set_modified(file.metadata().unwrap().modified().unwrap() + Duration::from_secs(2))
                    .unwrap();
            }
        }
        for found in [leased(&a), copied(&a)] {
            let told = matches!(found, Err(SwapError::FileChanged { .. } | SwapError::NoValidCopy { .. }));
            assert!(told, "served from a file that changed: {:?}", found.map(|bytes| bytes.len()));
        }
        assert_eq!((pool.stats().held_bytes, pool.stats().device_bytes, staged(&pool)), (0, 0, 0));
    }
}
