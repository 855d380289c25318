//! Promises of [`Transfer`] and [`Ticket`](crate::Ticket).

use super::{Bench, Harness, pattern, skip};
use crate::{DeviceError, ErrorKind, Event, HostPool, Lane, PageLocker, Queue, QueuedBuffer, Transfer};

/// What goes up comes down, at every size and place, and nothing beside it changes.
pub fn round_trip<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 4 << 20);
    check_round_trips(&bench);
}

/// The same with pageable host memory, where the device takes it.
pub fn pageable_round_trip<H: Harness>(harness: &H) {
    let device = harness.device();
    match device.locker().pageable(4 << 20) {
        None => skip("pageable_round_trip", "the device takes page-locked memory only"),
        Some(region) => {
            let bench = Bench::new(device, 4096);
            let pool = HostPool::new(vec![region.unwrap()], 64).unwrap();
            check_round_trips(&Bench { pool, ..bench });
        }
    }
}

fn check_round_trips<T: Transfer>(bench: &Bench<T>) {
    let size = bench.grains((1 << 20) + 8192);
    let mut buffer = bench.buffer(size);
    let mut shadow = vec![0; size as usize];
    let g = bench.grain;
    let cases = [
        (g, 0),
        (g, size - g),
        (3 * g, g),
        (bench.grains(64), 0),
        (bench.grains(4096), bench.grains(4000)),
        (bench.grains(4096) + g, g),
        (1 << 20, 5 * g),
        (size, 0),
    ];
    for (seed, (len, at)) in cases.into_iter().enumerate() {
        let bytes = pattern(seed as u64, len);
        let slice = bench.upload(bench.slice(seed as u64, len), &mut buffer, at).wait().unwrap();
        assert_eq!(slice.as_slice(), bytes, "an upload only reads its slice");
        shadow[at as usize..][..len as usize].copy_from_slice(&bytes);
        assert!(bench.contents(&buffer, 0, size) == shadow, "upload of {len} bytes to {at}");
        let back = bench.download(&buffer, at, len).wait().unwrap();
        assert!(back.as_slice() == bytes, "download of {len} bytes from {at}");
        assert!(
            bench.contents(&buffer, 0, size) == shadow,
            "download of {len} bytes from {at} wrote to the buffer"
        );
    }
}

/// A device that says it reaches another's host memory copies to and from it, once the host has waited for the other.
pub fn host_memory_is_shared_where_it_is_said<H: Harness>(harness: &H) {
    const NAME: &str = "host_memory_is_shared_where_it_is_said";
    let bench = Bench::new(harness.device(), 64 << 10);
    let Some(beside) = harness.device_beside(&bench.device) else {
        return skip(NAME, "there is only one device");
    };
    if !beside.reaches(&bench.device) {
        return skip(NAME, "devices share no host memory");
    }
    let len = bench.grains(5000);
    let (mut here, mut there) = (bench.buffer(len), beside.buffer(len).unwrap());
    let pageable = bench.device.locker().pageable(64 << 10).map(|region| region.unwrap());
    let pageable = pageable.map(|region| HostPool::new(vec![region], 64).unwrap());
    for (seed, pool) in [Some(&bench.pool), pageable.as_ref()].into_iter().flatten().enumerate() {
        let mut slice = pool.allocate(len as usize).unwrap();
        slice.as_mut_slice().copy_from_slice(&pattern(seed as u64, len));
        let slice = bench.upload(slice, &mut here, 0).wait().unwrap();
        let slice = beside.upload(slice, &mut there, 0).unwrap().wait().unwrap();
        let mut bytes = vec![0; len as usize];
        beside.read_now(&there, 0, &mut bytes).unwrap();
        assert!(bytes == pattern(seed as u64, len), "upload to the device beside");
        // What the one leaves there the other finds.
        let other = pattern(100 + seed as u64, len);
        beside.write_now(&mut there, 0, &other).unwrap();
        let slice = beside.download(&there, 0, slice).unwrap().wait().unwrap();
        assert!(slice.as_slice() == other, "download from the device beside");
        bench.upload(slice, &mut here, 0).wait().unwrap();
        assert!(bench.contents(&here, 0, len) == other, "upload of what came from the device beside");
    }
}

/// A range beyond the buffer, overflow included, is refused before anything is enqueued; the slice comes back.
pub fn range_errors_return_the_slice<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let size = bench.grains(4096);
    let g = bench.grain;
    let last = u64::MAX / g * g;
    for at in [size, size - g, size + g, last, last - g] {
        refused(&bench, at, 2 * g, size);
    }
    refused(&bench, 0, size + g, size);
}

/// A place or length off the grain is refused before anything is enqueued; the slice comes back.
pub fn grain_errors_return_the_slice<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let g = bench.grain;
    if g == 1 {
        return skip("grain_errors_return_the_slice", "every offset is on a grain of one byte");
    }
    refused(&bench, 1, g, bench.grains(4096));
    refused(&bench, 0, g + 1, bench.grains(4096));
    refused(&bench, 0, g - 1, bench.grains(4096));
}

fn refused<T: Transfer>(bench: &Bench<T>, at: u64, len: u64, size: u64) {
    let mut buffer = bench.buffer(size);
    let slice = bench.slice(1, len);
    let first = slice.as_ptr();
    let up = bench.device.upload(slice, &mut buffer, at).unwrap_err();
    assert_eq!(
        up.error.kind(),
        ErrorKind::InvalidUse,
        "upload of {len} bytes to {at} of {size}: {}",
        up.error
    );
    let slice = up.slice.expect("nothing was enqueued, so the slice comes back");
    let down = bench.device.download(&buffer, at, slice).unwrap_err();
    assert_eq!(
        down.error.kind(),
        ErrorKind::InvalidUse,
        "download of {len} bytes at {at} of {size}: {}",
        down.error
    );
    let slice = down.slice.expect("nothing was enqueued, so the slice comes back");
    bench.drain(&buffer);
    assert_eq!(slice.as_ptr(), first);
    assert_eq!(slice.as_slice(), pattern(1, len));
    assert_eq!(bench.contents(&buffer, 0, size), vec![0; size as usize]);
}

/// A dropped ticket's slice stays out of the pool until the device has read it.
pub fn ticket_dropped_in_flight_parks_the_upload<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    drop(bench.upload(bench.slice(1, len), &mut buffer, 0));
    assert_eq!(bench.pool.stats().slices, bench.device.parking().len(), "parked or free, nothing else");
    let taken = bench.scribble(len);
    bench.drain(&buffer);
    assert_eq!(
        bench.contents(&buffer, 0, len),
        pattern(1, len),
        "the upload read memory given to somebody else"
    );
    assert_eq!(bench.device.parking().sweep(), 0, "drained, and yet in use");
    drop(taken);
    assert_eq!(bench.pool.stats().slices, 0);
}

/// A dropped ticket's slice stays out of the pool until the device has written it.
pub fn ticket_dropped_in_flight_parks_the_download<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    bench.device.write_now(&mut buffer, 0, &pattern(1, len)).unwrap();
    drop(bench.download(&buffer, 0, len));
    assert_eq!(bench.pool.stats().slices, bench.device.parking().len(), "parked or free, nothing else");
    let taken = bench.scribble(len);
    bench.drain(&buffer);
    for (junk, slice) in &taken {
        assert_eq!(slice.as_slice(), junk, "the download wrote memory given to somebody else");
    }
    assert_eq!(bench.device.parking().sweep(), 0, "drained, and yet in use");
    drop(taken);
    assert_eq!(bench.pool.stats().slices, 0);
}

/// A forgotten ticket costs its slice and nothing else.
pub fn ticket_forgotten_in_flight_leaks<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    core::mem::forget(bench.upload(bench.slice(1, len), &mut buffer, 0));
    let taken = bench.scribble(len);
    bench.drain(&buffer);
    assert_eq!(bench.contents(&buffer, 0, len), pattern(1, len));
    drop(taken);
    bench.device.parking().sweep();
    assert_eq!(bench.pool.stats().slices, 1, "a forgotten slice is never given again");
    bench.upload(bench.slice(2, len), &mut buffer, 0).wait().unwrap();
    assert_eq!(bench.contents(&buffer, 0, len), pattern(2, len));
}

/// A buffer dropped while a transfer uses it lives until the transfer has ended.
pub fn buffer_dropped_in_flight<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    let ticket = bench.upload(bench.slice(1, len), &mut buffer, 0);
    drop(buffer);
    let other = bench.buffer(len);
    assert_eq!(ticket.wait().unwrap().as_slice(), pattern(1, len));
    assert_eq!(
        bench.contents(&other, 0, len),
        vec![0; len as usize],
        "the upload wrote somebody else's buffer"
    );

    let mut buffer = bench.buffer(len);
    bench.device.write_now(&mut buffer, 0, &pattern(2, len)).unwrap();
    let ticket = bench.download(&buffer, 0, len);
    drop(buffer);
    let _other = bench.buffer(len);
    assert_eq!(ticket.wait().unwrap().as_slice(), pattern(2, len));
}

/// An upload chained to a transfer in flight sees what that one left in the slice.
pub fn chained_upload<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut from = bench.buffer(len);
    let (mut one, mut two) = (bench.buffer(len), bench.buffer(len));
    bench.device.write_now(&mut from, 0, &pattern(1, len)).unwrap();
    let down = bench.download(&from, 0, len);
    let first = bench.device.upload_after(down, &mut one, 0).unwrap();
    let second = bench.device.upload_after(first, &mut two, 0).unwrap();
    assert_eq!(second.wait().unwrap().as_slice(), pattern(1, len));
    assert_eq!(bench.contents(&one, 0, len), pattern(1, len));
    assert_eq!(bench.contents(&two, 0, len), pattern(1, len));
}

/// An event can be waited for again, by the host and by queues, and stays fired.
pub fn waiting_twice_is_waiting_once<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    let ticket = bench.upload(bench.slice(1, len), &mut buffer, 0);
    let event = ticket.event().clone();
    event.synchronize().unwrap();
    event.clone().synchronize().unwrap();
    assert!(event.query().unwrap());
    assert!(event.is_settled());
    let slice = ticket.wait().unwrap();
    event.synchronize().unwrap();
    for queue in [bench.device.lane(Lane::Upload), bench.device.lane(Lane::Download), buffer.queue()] {
        queue.wait(&event).unwrap();
        queue.wait(&event).unwrap();
    }
    bench.upload(slice, &mut buffer, 0).wait().unwrap();
    bench.drain(&buffer);
    assert!(event.query().unwrap());
}

/// Once the event has fired, the ticket is done; asking before that does no harm.
pub fn is_done_after_the_event<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    let up = bench.upload(bench.slice(1, len), &mut buffer, 0);
    let _either = up.is_done().unwrap();
    up.event().synchronize().unwrap();
    assert!(up.is_done().unwrap());
    let down = bench.download(&buffer, 0, len);
    let _either = down.is_done().unwrap();
    down.event().synchronize().unwrap();
    assert!(down.is_done().unwrap());
    assert_eq!(down.wait().unwrap().as_slice(), pattern(1, len));
    drop(up);
    assert_eq!(bench.pool.stats().slices, 0, "a ticket whose event has fired parks nothing");
}

/// `read_now` sees uploads, downloads see `write_now`.
pub fn plain_reads_and_writes_agree<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let (g, len) = (bench.grain, 4096);
    let mut buffer = bench.buffer(len);
    bench.device.write_now(&mut buffer, g, &pattern(1, 2 * g)).unwrap();
    let back = bench.download(&buffer, 0, len).wait().unwrap();
    let mut shadow = vec![0; len as usize];
    shadow[g as usize..][..2 * g as usize].copy_from_slice(&pattern(1, 2 * g));
    assert_eq!(back.as_slice(), shadow);
    bench.upload(bench.slice(2, len), &mut buffer, 0).wait().unwrap();
    assert_eq!(bench.contents(&buffer, 3 * g, g), pattern(2, len)[3 * g as usize..][..g as usize]);
}

/// Plain access refuses ranges beyond the buffer, and then has written nothing.
pub fn plain_access_checks_ranges<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let (g, size) = (bench.grain, bench.grains(4096));
    let mut buffer = bench.buffer(size);
    let last = u64::MAX / g * g;
    for at in [size, size - g, last] {
        let bytes = pattern(1, 2 * g);
        let error = bench.device.write_now(&mut buffer, at, &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidUse, "write at {at} of {size}: {error}");
        let mut into = bytes.clone();
        let error = bench.device.read_now(&buffer, at, &mut into).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidUse, "read at {at} of {size}: {error}");
        assert_eq!(into, bytes);
    }
    assert_eq!(bench.contents(&buffer, 0, size), vec![0; size as usize]);
}

/// Device memory counts buffers while they live, and not after.
pub fn memory_counts_buffers<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 1 << 20);
    let size = bench.grains(256 << 10);
    let held = || {
        let memory = bench.device.memory();
        assert!(memory.scratch <= memory.current && memory.current <= memory.peak, "{memory:?}");
        memory.current - memory.scratch
    };
    let start = held();
    let mut one = bench.buffer(size);
    assert!(held() >= start + size);
    let two = bench.buffer(size);
    let both = held();
    assert!(both >= start + 2 * size);
    bench.upload(bench.slice(1, size), &mut one, 0).wait().unwrap();
    bench.download(&two, 0, size).wait().unwrap();
    assert_eq!(held(), both, "a transfer leaves no buffer behind");
    let clone = one.clone();
    bench.drain(&one);
    drop((one, two));
    assert!(held() >= start + size, "a clone keeps the memory");
    drop(clone);
    assert_eq!(held(), start);
    assert!(bench.device.memory().peak >= start + 2 * size);
}

/// If the event behind a copy cannot be recorded, the copy is waited for and the slice comes back.
pub fn failed_record_returns_the_slice<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    if !harness.fail_next_record(&bench.device, Lane::Upload) {
        return skip("failed_record_returns_the_slice", "this harness cannot make a record fail");
    }
    let refused = bench.device.upload(bench.slice(1, len), &mut buffer, 0).unwrap_err();
    let slice = refused.slice.expect("the lane can be drained, so the slice comes back");
    assert_eq!(slice.as_slice(), pattern(1, len));
    bench.upload(slice, &mut buffer, 0).wait().unwrap();
    assert!(harness.fail_next_record(&bench.device, Lane::Download));
    let refused = bench.device.download(&buffer, 0, bench.slice(2, len)).unwrap_err();
    let slice = refused.slice.expect("the lane can be drained, so the slice comes back");
    let back = bench.device.download(&buffer, 0, slice).unwrap().wait().unwrap();
    assert_eq!(back.as_slice(), pattern(1, len));
    drop(back);
    assert_eq!(bench.pool.stats().slices, 0);
}

/// A lost device says so: work in flight, new work and new buffers; what was not enqueued comes back.
pub fn lost_device_is_typed<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    let ticket = bench.upload(bench.slice(1, len), &mut buffer, 0);
    if !harness.lose_device(&bench.device) {
        return skip("lost_device_is_typed", "this harness cannot lose its device");
    }
    // It may have ended just before.
    if let Err(failed) = ticket.wait() {
        assert_eq!(failed.error.kind(), ErrorKind::DeviceLost, "{failed}");
    }
    let refused = bench.device.upload(bench.slice(2, len), &mut buffer, 0).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::DeviceLost, "{refused}");
    let slice = refused.slice.expect("nothing was enqueued, so the slice comes back");
    let refused = bench.device.download(&buffer, 0, slice).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::DeviceLost, "{refused}");
    assert!(refused.slice.is_some());
    match bench.device.buffer(len) {
        Ok(_) => panic!("a lost device gave a buffer"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}"),
    }
}
