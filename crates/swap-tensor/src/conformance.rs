//! The swap story: what a pool promises, told on any device. One function per promise.
//!
//! A backend's tests are one call of [`swap_suite!`](crate::swap_suite) with its [`Harness`]. The stories see contents only
//! through leases and plain reads, so they find lost, torn and mixed-up bytes; that the device's work was *ordered* and not
//! lucky is for the simulated device to say.

use crate::{DType, DeviceIndex, Mode, PoolBuilder, Residency, SwapError, SwapPool, Tensor, TensorSpec};
use pinned_host::{Transfer, conformance::Harness};
use std::time::Duration;

/// Tests a [`Harness`] against every story of [`conformance`](crate::conformance). The expression is evaluated once per
/// test.
#[macro_export]
macro_rules! swap_suite {
    ($harness:expr) => {
        $crate::swap_suite!(@each $harness,
            more_than_the_device_holds_streams_through_it
            dirty_tensors_come_back_as_they_were_written
            clean_tensors_leave_without_a_copy
            blocks_move_to_make_room
            leases_are_all_or_nothing
            prefetched_tensors_are_there
            contents_can_be_replaced_and_read_in_every_tier
            leases_that_do_not_fit_are_refused
            everything_is_given_back
            devices_share_tensors_or_are_refused
        );
    };
    (@each $harness:expr, $($promise:ident)*) => {
        $(
            #[test]
            fn $promise() {
                $crate::conformance::$promise(&$harness);
            }
        )*
    };
}

/// Twelve tensors through an arena that holds three, forward and back.
pub fn more_than_the_device_holds_streams_through_it<H: Harness>(harness: &H) {
    let story = Story::new(harness, 3 * UNIT, 16 * UNIT);
    let tensors: Vec<_> = (0..12).map(|i| story.tensor(&format!("t{i}"), UNIT, i)).collect();
    for _ in 0..2 {
        for (i, tensor) in tensors.iter().enumerate().chain(tensors.iter().enumerate().rev()) {
            story.reads(tensor, i as u8);
        }
    }
    assert!(story.pool.stats().evictions >= 18, "{:?}", story.pool.stats());
    story.end();
}

/// Every tensor is rewritten several times, and each version is the one that comes back.
pub fn dirty_tensors_come_back_as_they_were_written<H: Harness>(harness: &H) {
    let story = Story::new(harness, 3 * UNIT, 16 * UNIT);
    let tensors: Vec<_> = (0..8).map(|i| story.tensor(&format!("t{i}"), UNIT, i)).collect();
    for round in 0..4u8 {
        for (i, tensor) in tensors.iter().enumerate() {
            let mut lease = tensor.write().expect("a lease for writing");
            let new = vec![16 * (round + 1) + i as u8; tensor.spec().bytes() as usize];
            match round % 2 {
                0 => lease.write_now(&new).expect("a plain write"),
                _ => lease.upload(&new).expect("a write through staging"),
            }
        }
        for (i, tensor) in tensors.iter().enumerate() {
            story.reads(tensor, 16 * (round + 1) + i as u8);
        }
    }
    assert!(story.pool.stats().write_backs >= 20, "{:?}", story.pool.stats());
    story.end();
}

/// What was only read costs no copy down.
pub fn clean_tensors_leave_without_a_copy<H: Harness>(harness: &H) {
    let story = Story::new(harness, UNIT, 4 * UNIT);
    let (a, b) = (story.tensor("a", UNIT, 1), story.tensor("b", UNIT, 2));
    for _ in 0..3 {
        story.reads(&a, 1);
        story.reads(&b, 2);
    }
    let stats = story.pool.stats();
    assert_eq!((stats.downloaded_bytes, stats.write_backs), (0, 0));
    assert_eq!(stats.uploaded_bytes, 6 * UNIT, "one copy up per miss, and no more");
    story.end();
}

/// Free room in two holes serves a tensor larger than either: a block moves, and keeps its contents.
pub fn blocks_move_to_make_room<H: Harness>(harness: &H) {
    let story = Story::new(harness, 4 * UNIT, 16 * UNIT);
    let small: Vec<_> = (0..4).map(|i| story.tensor(&format!("t{i}"), UNIT, i)).collect();
    for (i, tensor) in small.iter().enumerate() {
        story.reads(tensor, i as u8);
    }
    assert!(small[0].evict() && small[2].evict(), "clean and unused");
    let large = story.tensor("large", 2 * UNIT, 9);
    story.reads(&large, 9);
    let stats = story.pool.stats();
    assert_eq!((stats.moved_bytes, stats.evictions), (UNIT, 2), "one block moves, nobody else leaves");
    story.reads(&small[1], 1);
    story.reads(&small[3], 3);
    assert_eq!(story.pool.stats().hits - stats.hits, 2);
    story.end();
}

/// Several leases at once, or none.
pub fn leases_are_all_or_nothing<H: Harness>(harness: &H) {
    let story = Story::new(harness, 3 * UNIT, 16 * UNIT);
    let tensors: Vec<_> = (0..4).map(|i| story.tensor(&format!("t{i}"), UNIT, i)).collect();
    let wanted: Vec<_> = tensors.iter().map(|t| (t, Mode::Read)).collect();
    assert!(matches!(story.pool.lease_all(&wanted), Err(SwapError::DeviceBudget { .. })));
    assert_eq!(story.pool.stats().held_bytes, 0, "a refusal holds nothing");
    let leases = story.pool.lease_all(&wanted[..3]).expect("three fit");
    assert_eq!(leases.len(), 3);
    assert_eq!(story.pool.stats().held_bytes, 3 * UNIT);
    let ranges: Vec<_> = leases.iter().map(|lease| lease.range()).collect();
    assert!(
        ranges
            .iter()
            .enumerate()
            .all(|(i, a)| ranges[..i].iter().all(|b| a.end <= b.start || b.end <= a.start))
    );
    drop(leases);
    story.end();
}

/// A tensor fetched ahead is a hit.
pub fn prefetched_tensors_are_there<H: Harness>(harness: &H) {
    let story = Story::new(harness, 3 * UNIT, 16 * UNIT);
    let (a, b) = (story.tensor("a", UNIT, 1), story.tensor("b", UNIT, 2));
    story.pool.prefetch(&[&a, &b]);
    story.pool.settle().expect("nothing fails here");
    assert_eq!((a.residency(), b.residency()), (Residency::Device, Residency::Device));
    story.reads(&a, 1);
    story.reads(&b, 2);
    assert_eq!(story.pool.stats().hits, 2);
    story.end();
}

/// New contents from the host reach the device, and the device's reach the host, wherever the tensor was.
pub fn contents_can_be_replaced_and_read_in_every_tier<H: Harness>(harness: &H) {
    let story = Story::new(harness, 3 * UNIT, 16 * UNIT);
    let a = story.tensor("a", UNIT + 1, 1);
    let bytes = a.spec().bytes() as usize;
    let mut into = vec![0; bytes];
    a.load(&vec![2; bytes]).expect("in the host tier");
    story.reads(&a, 2);
    a.load(&vec![3; bytes]).expect("with a copy on the device");
    a.copy_to(&mut into).expect("from the host tier");
    assert!(into.iter().all(|&x| x == 3));
    a.overwrite().expect("a lease for writing").upload(&vec![4; bytes]).expect("all of it");
    a.copy_to(&mut into).expect("from the device");
    assert!(into.iter().all(|&x| x == 4));
    a.swap_out().expect("room below");
    assert_eq!(a.residency(), Residency::Host);
    story.reads(&a, 4);
    story.end();
}

/// A lease that would need more than the device has is an error with figures, and the others go on.
pub fn leases_that_do_not_fit_are_refused<H: Harness>(harness: &H) {
    let story = Story::new(harness, 2 * UNIT, 16 * UNIT);
    let (a, b) = (story.tensor("a", 2 * UNIT, 1), story.tensor("b", UNIT, 2));
    let lease = a.read().expect("it just fits");
    let refused = b.read().map(drop);
    assert!(
        matches!(refused, Err(SwapError::DeviceBudget { leased, arena, .. }) if leased == arena && arena == 2 * UNIT),
        "{refused:?}"
    );
    assert!(matches!(a.write().map(drop), Err(SwapError::Leased { readers: 1, writer: false, .. })));
    drop(lease);
    story.reads(&b, 2);
    let spec = TensorSpec::new("c", DType::U8, [3 * UNIT]).expect("a size");
    assert!(matches!(
        story.pool.create(spec, &[0; 3 * UNIT as usize]),
        Err(SwapError::LargerThanArena { .. })
    ));
    story.end();
}

/// Dropped tensors leave nothing behind in any tier.
pub fn everything_is_given_back<H: Harness>(harness: &H) {
    let story = Story::new(harness, 3 * UNIT, 16 * UNIT);
    let tensors: Vec<_> = (0..6).map(|i| story.tensor(&format!("t{i}"), UNIT, i)).collect();
    for tensor in &tensors {
        drop(tensor.write().expect("a lease"));
    }
    story.pool.prefetch(&[&tensors[0]]);
    drop(tensors);
    story.pool.settle().expect("nothing fails here");
    let stats = story.pool.stats();
    assert_eq!((stats.device_bytes, stats.host_bytes, stats.held_bytes), (0, 0, 0));
    story.end();
}

/// Two devices that share host memory have copies of the same tensors, each its version; two that do not make no pool.
pub fn devices_share_tensors_or_are_refused<H: Harness>(harness: &H) {
    let device = harness.device();
    let Some(beside) = harness.device_beside(&device) else {
        eprintln!("skipped devices_share_tensors_or_are_refused: there is only one device");
        return;
    };
    let shared = beside.reaches(&device);
    let built = describe(device, 2 * UNIT, 16 * UNIT).add_device(beside, 2 * UNIT).build();
    if !shared {
        let second = DeviceIndex::new(1);
        assert!(matches!(built, Err(SwapError::Unreachable { device }) if device == second), "{built:?}");
        return;
    }
    let story: Story<H> = Story { pool: built.expect("a pool of two devices") };
    let tensors: Vec<_> = (0..4).map(|i| story.tensor(&format!("t{i}"), UNIT, i)).collect();
    let devices: Vec<_> = story.pool.devices().map(|(on, _)| on).collect();
    for round in 1..4u8 {
        for (i, tensor) in tensors.iter().enumerate() {
            let (writer, value) = (devices[(i + round as usize) % 2], 16 * round + i as u8);
            let mut lease = tensor.write_at(writer).expect("a lease for writing");
            lease.upload(&vec![value; UNIT as usize]).expect("a write through staging");
            drop(lease);
            devices.iter().for_each(|&on| story.reads_at(tensor, on, value));
        }
    }
    let here = story.pool.device_stats(DeviceIndex::FIRST).expect("it is there");
    assert!(here.leases > 0 && here.write_backs > 0 && !here.lost, "{here:?}");
    story.end();
}

/// A pool and what every story does with it.
struct Story<H: Harness> {
    pool: SwapPool<H::Device>,
}

impl<H: Harness> Story<H> {
    fn new(harness: &H, device: u64, host: u64) -> Self {
        let pool = describe(harness.device(), device, host).build();
        Story { pool: pool.expect("a pool of a few pages") }
    }

    fn tensor(&self, name: &str, bytes: u64, value: u8) -> Tensor<H::Device> {
        let spec = TensorSpec::new(name, DType::U8, [bytes]).expect("a size");
        self.pool.create(spec, &vec![value; bytes as usize]).expect("room in the host tier")
    }

    fn reads(&self, tensor: &Tensor<H::Device>, value: u8) {
        self.reads_at(tensor, DeviceIndex::FIRST, value);
    }

    fn reads_at(&self, tensor: &Tensor<H::Device>, on: DeviceIndex, value: u8) {
        let lease = tensor.read_at(on).expect("a lease for reading");
        let mut into = vec![!value; tensor.spec().bytes() as usize];
        lease.read_now(&mut into).expect("a plain read");
        assert!(into.iter().all(|&x| x == value), "{:?} lost its contents", tensor.spec().name());
        self.pool.check().expect("the invariants hold");
    }

    fn end(self) {
        self.pool.settle().expect("nothing fails here");
        self.pool.check().expect("the invariants hold");
    }
}

fn describe<T: Transfer>(on: T, device: u64, host: u64) -> PoolBuilder<T> {
    let builder = SwapPool::builder(on).device_memory(device).host_memory(host);
    builder.staging(64 << 10).deadline(Duration::ZERO)
}

/// Size of a tensor: several pieces of staging, and no multiple of one.
const UNIT: u64 = 40 << 10;
