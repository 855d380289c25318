//! Promises of [`Queue`] and [`Event`].

use super::{Bench, Harness, pattern, skip};
use crate::{DeviceError, ErrorKind, Event, Lane, Queue, QueuedBuffer, Transfer};
use allocator_core::DeviceBuffer;

/// Work on one queue runs in the order it was submitted, and an event fires after all of it.
pub fn one_queue_keeps_order<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(3 * len);
    let first = bench.upload(bench.slice(1, len), &mut buffer, 0);
    let second = bench.upload(bench.slice(2, len), &mut buffer, 0);
    second.wait().unwrap();
    assert!(first.is_done().unwrap(), "the later upload ended first");
    assert_eq!(bench.contents(&buffer, 0, len), pattern(2, len));
    buffer.copy_within(0..len, len).unwrap();
    buffer.copy_within(len..2 * len, 2 * len).unwrap();
    buffer.queue().record().unwrap().synchronize().unwrap();
    assert_eq!(bench.contents(&buffer, 2 * len, len), pattern(2, len));
}

/// Work submitted after a `wait` runs after the event, whatever queue the event is from.
pub fn a_wait_orders_two_queues<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(2 * len);
    for seed in 1..9 {
        let up = bench.upload(bench.slice(seed, len), &mut buffer, 0);
        buffer.queue().wait(up.event()).unwrap();
        buffer.copy_within(0..len, len).unwrap();
        let moved = buffer.queue().record().unwrap();
        bench.device.lane(Lane::Download).wait(&moved).unwrap();
        let down = bench.download(&buffer, len, len);
        // The next upload overwrites what the move reads, the next move what the download reads.
        bench.device.lane(Lane::Upload).wait(&moved).unwrap();
        buffer.queue().wait(down.event()).unwrap();
        if seed % 2 == 0 {
            assert_eq!(down.wait().unwrap().as_slice(), pattern(seed, len));
            assert!(
                moved.query().unwrap() && up.is_done().unwrap(),
                "the download ran before what it waits for"
            );
        } else {
            // Nobody waits here: the next round's waits must do.
            let next = bench.upload(bench.slice(100 + seed, len), &mut buffer, 0);
            assert_eq!(down.wait().unwrap().as_slice(), pattern(seed, len));
            next.wait().unwrap();
        }
    }
}

/// An event of another device is refused, and the queue goes on as if it had not been asked.
pub fn an_event_of_another_device_is_refused<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let Some(other) = harness.other_device() else {
        return skip("an_event_of_another_device_is_refused", "there is only one device");
    };
    let foreign = Bench::new(other, 64 << 10);
    let len = 4096;
    let mut there = foreign.buffer(len);
    let ticket = foreign.upload(foreign.slice(1, len), &mut there, 0);
    let mut buffer = bench.buffer(len);
    for queue in [bench.device.lane(Lane::Upload), bench.device.lane(Lane::Download), buffer.queue()] {
        let error = queue.wait(ticket.event()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidUse, "{error}");
    }
    assert!(
        !bench.upload(bench.slice(2, len), &mut buffer, 0).event().covers(ticket.event()),
        "covers an event of another device"
    );
    bench.drain(&buffer);
    assert_eq!(bench.contents(&buffer, 0, len), pattern(2, len));
    ticket.wait().unwrap();
}

/// Where one event covers another, that one has fired once the first has.
pub fn covers_tells_the_truth<H: Harness>(harness: &H) {
    let count = events(&Bench::new(harness.device(), 256 << 10)).len();
    for one in 0..count {
        for other in 0..count {
            // Afresh each time: only the one event is waited for.
            let events = events(&Bench::new(harness.device(), 256 << 10));
            if events[one].covers(&events[other]) {
                events[one].synchronize().unwrap();
                assert!(events[other].query().unwrap(), "event {one} covers {other}, which has not fired");
            }
        }
    }
}

/// Events of all queues, with and without waits between them; work lies before each.
fn events<T: Transfer>(bench: &Bench<T>) -> Vec<T::Event> {
    let len = 4096;
    let mut buffer = bench.buffer(5 * len);
    let up_one = bench.upload(bench.slice(1, len), &mut buffer, 0);
    let up_two = bench.upload(bench.slice(2, len), &mut buffer, len);
    let mut events = vec![up_one.event().clone(), up_two.event().clone()];
    buffer.copy_within(2 * len..3 * len, 3 * len).unwrap();
    events.push(buffer.queue().record().unwrap());
    buffer.queue().wait(up_one.event()).unwrap();
    buffer.copy_within(0..len, 2 * len).unwrap();
    events.push(buffer.queue().record().unwrap());
    let down = bench.download(&buffer, 4 * len, len);
    events.push(down.event().clone());
    let down = bench.download(&buffer, 4 * len, len);
    events.push(down.event().clone());
    events
}

/// `drain` returns when everything submitted has ended.
pub fn drain_ends_what_was_submitted<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    let one = bench.upload(bench.slice(1, len), &mut buffer, 0);
    let two = bench.upload(bench.slice(2, len), &mut buffer, 0);
    bench.device.lane(Lane::Upload).drain().unwrap();
    assert!(one.is_done().unwrap() && two.is_done().unwrap());
    assert_eq!(bench.contents(&buffer, 0, len), pattern(2, len));
    bench.device.lane(Lane::Upload).drain().unwrap();
}

/// An event recorded where nothing was submitted fires.
pub fn record_on_an_idle_queue_fires<H: Harness>(harness: &H) {
    let device = harness.device();
    let buffer = device.buffer(4096).unwrap();
    for queue in [device.lane(Lane::Upload), device.lane(Lane::Download), buffer.queue()] {
        let event = queue.record().unwrap();
        event.synchronize().unwrap();
        assert!(event.query().unwrap());
        queue.wait(&event).unwrap();
        queue.record().unwrap().synchronize().unwrap();
    }
}

/// A failed record reports itself; the work before it runs and the queue goes on.
pub fn a_failed_record_is_an_error_and_no_more<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 64 << 10);
    let len = 4096;
    let mut buffer = bench.buffer(len);
    let lane = bench.device.lane(Lane::Upload);
    let before = bench.upload(bench.slice(1, len), &mut buffer, 0);
    if !harness.fail_next_record(&bench.device, Lane::Upload) {
        return skip("a_failed_record_is_an_error_and_no_more", "this harness cannot make a record fail");
    }
    assert!(lane.record().is_err());
    lane.record().unwrap().synchronize().unwrap();
    before.wait().unwrap();
    assert_eq!(bench.contents(&buffer, 0, len), pattern(1, len));
}

/// Many threads submit to the same lanes; each gets its own bytes.
pub fn threads_share_queues<H: Harness>(harness: &H) {
    let bench = Bench::new(harness.device(), 256 << 10);
    let (threads, len) = (4, 4096);
    let buffer = bench.buffer(threads * len);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (bench, mut buffer) = (&bench, buffer.clone());
            scope.spawn(move || {
                for round in 0..8 {
                    let (seed, at) = (100 * thread + round, thread * len);
                    bench.upload(bench.slice(seed, len), &mut buffer, at).wait().unwrap();
                    let back = bench.download(&buffer, at, len).wait().unwrap();
                    assert_eq!(back.as_slice(), pattern(seed, len));
                }
            });
        }
    });
    assert_eq!(bench.pool.stats().slices, 0);
}

/// On a lost device a record fails, or the event it gives does.
pub fn a_lost_device_fails_its_queues<H: Harness>(harness: &H) {
    let device = harness.device();
    let buffer = device.buffer(4096).unwrap();
    if !harness.lose_device(&device) {
        return skip("a_lost_device_fails_its_queues", "this harness cannot lose its device");
    }
    for queue in [device.lane(Lane::Upload), device.lane(Lane::Download), buffer.queue()] {
        let error = queue.record().and_then(|event| event.synchronize()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    }
}
