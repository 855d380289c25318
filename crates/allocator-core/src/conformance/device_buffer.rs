//! The promises of [`DeviceBuffer`], one function each.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Harness, assert_names_rule, fresh, pattern};
use crate::{DeviceBuffer, check_copy, check_range};

/// A buffer is as large as asked for at least, and a multiple of its grain, which is a power of two.
pub fn size_and_grain<H: Harness>(harness: &mut H) {
    let buffer = harness.make(4096);
    assert!(buffer.grain().is_power_of_two(), "grain {}", buffer.grain());
    assert!(buffer.size() >= 4096, "{} bytes of 4096 asked for", buffer.size());
    assert_eq!(buffer.size() % buffer.grain(), 0);
}

/// A copy onto itself changes nothing.
pub fn copy_of_distance_zero<H: Harness>(harness: &mut H) {
    copies(harness, |_| Vec::from([0]));
}

/// memmove when source and destination are one grain apart, both ways.
pub fn copy_of_one_grain_distance<H: Harness>(harness: &mut H) {
    copies(harness, |_| Vec::from([1]));
}

/// memmove when source and destination overlap, both ways.
pub fn copy_of_distance_shorter_than_length<H: Harness>(harness: &mut H) {
    copies(harness, |len| Vec::from([len / 3, len / 2, len - 1]));
}

/// A copy to the range right beside the source, both ways.
pub fn copy_of_distance_equal_to_length<H: Harness>(harness: &mut H) {
    copies(harness, |len| Vec::from([len]));
}

/// A copy to a range apart from the source, both ways.
pub fn copy_of_distance_longer_than_length<H: Harness>(harness: &mut H) {
    copies(harness, |len| Vec::from([len + 1, 2 * len + 3]));
}

/// memmove of more than the backend copies at once, by one grain, by its piece and by two, both ways.
pub fn copy_beyond_the_bounce_buffer<H: Harness>(harness: &mut H) {
    let unknown = if cfg!(miri) { 1 << 8 } else { 1 << 16 };
    let bounce = if harness.bounce() == 0 { unknown } else { harness.bounce() };
    let grain = harness.make(4096).grain();
    let piece = bounce.next_multiple_of(grain);
    let len = 2 * piece + grain;
    let mut buffer = harness.make(4 * piece + grain);
    for distance in [grain, piece, 2 * piece] {
        copies_as_memmove(harness, &mut buffer, 0..len, distance);
        copies_as_memmove(harness, &mut buffer, distance..distance + len, 0);
    }
}

/// A copy of no bytes is no error and changes nothing, up to the very end of the buffer.
pub fn copy_of_nothing<H: Harness>(harness: &mut H) {
    let (mut buffer, grain) = fresh(harness);
    let end = buffer.size();
    for (src, dst) in [(grain..grain, 0), (0..0, end), (end..end, end), (end..end, 0)] {
        copies_as_memmove(harness, &mut buffer, src, dst);
    }
}

/// Copies of one buffer take effect in the order they were made.
pub fn copies_take_effect_in_order<H: Harness>(harness: &mut H) {
    let (mut buffer, grain) = fresh(harness);
    let mut expected = pattern(1, buffer.size());
    harness.write(&mut buffer, 0, &expected);
    let grains = buffer.size() / grain;
    for step in 0..24 {
        let (from, to) = (step * 7 % (grains / 2) * grain, step * 31 % (grains / 2) * grain);
        let len = (step % (grains / 4) + 8) * grain;
        buffer.copy_within(from..from + len, to).expect("a copy within bounds");
        expected.copy_within(from as usize..(from + len) as usize, to as usize);
    }
    assert!(read_all(harness, &buffer) == expected, "copies took effect out of order");
}

/// Copies that are made together take effect one after the other, however they overlap and follow from one another: lists at
/// random, slides down and up, and such as have nothing to do with one another.
pub fn copies_together_take_effect_in_order<H: Harness>(harness: &mut H) {
    let (mut buffer, grain) = fresh(harness);
    let grains = buffer.size() / grain;
    let mut random = Random(7);
    for round in 0..if cfg!(miri) { 8 } else { 60 } {
        let copies = list(round, grains, grain, &mut random);
        let mut expected = pattern(round, buffer.size());
        harness.write(&mut buffer, 0, &expected);
        let copied = buffer.copies_within(&copies);
        assert!(copied.is_ok(), "{copies:?}: {:?}", copied.err());
        copies_of(&copies, &mut expected);
        assert!(read_all(harness, &buffer) == expected, "round {round}: {copies:?}");
    }
}

/// Of copies that are made together, those before the first that is refused are made, it and those after it are not, and the
/// error says how many were.
pub fn copies_together_end_where_one_is_refused<H: Harness>(harness: &mut H) {
    let (mut buffer, grain) = fresh(harness);
    let (size, grains) = (buffer.size(), buffer.size() / grain);
    let mut random = Random(11);
    for wrong in [(0..size + grain, 0), (0..grain, size), (inverted(2 * grain, grain), 0)] {
        for round in 0..4 {
            let mut copies = list(round, grains, grain, &mut random);
            let at = (round as usize * copies.len() / 3).min(copies.len());
            copies.insert(at, wrong.clone());
            let mut expected = pattern(round, size);
            harness.write(&mut buffer, 0, &expected);
            let refused = buffer.copies_within(&copies).expect_err("a copy was not refused");
            assert_eq!(refused.made, at, "{copies:?}");
            assert_names_rule(&refused.error, check_copy(size, grain, &wrong.0, wrong.1));
            copies_of(&copies[..at], &mut expected);
            assert!(read_all(harness, &buffer) == expected, "{at} of {copies:?}");
        }
    }
}

/// No copies, and copies of nothing and onto themselves, are no error; those among them are made.
pub fn copies_together_may_be_of_nothing<H: Harness>(harness: &mut H) {
    let (mut buffer, grain) = fresh(harness);
    let end = buffer.size();
    let mut expected = pattern(5, end);
    harness.write(&mut buffer, 0, &expected);
    let nothing = [(0..0, 0), (end..end, end), (grain..3 * grain, grain), (0..0, end)];
    assert!(buffer.copies_within(&[]).is_ok() && buffer.copies_within(&nothing).is_ok());
    assert!(read_all(harness, &buffer) == expected, "copies of nothing changed bytes");
    let copies = [nothing[0].clone(), (0..grain, grain), nothing[2].clone(), (grain..2 * grain, end - grain)];
    assert!(buffer.copies_within(&copies).is_ok());
    copies_of(&copies, &mut expected);
    assert!(read_all(harness, &buffer) == expected, "copies among copies of nothing");
}

/// The trait works as a trait object, for callers that keep buffers of several backends.
pub fn copy_works_behind_dyn<H: Harness>(harness: &mut H) {
    let (mut buffer, grain) = fresh(harness);
    let mut expected = pattern(2, buffer.size());
    harness.write(&mut buffer, 0, &expected);
    let dynamic: &mut dyn DeviceBuffer<Error = <H::Buffer as DeviceBuffer>::Error> = &mut buffer;
    dynamic.copy_within(0..2 * grain, grain).expect("a copy within bounds");
    expected.copy_within(0..2 * grain as usize, grain as usize);
    let dynamic: &mut dyn DeviceBuffer<Error = <H::Buffer as DeviceBuffer>::Error> = &mut buffer;
    let copies = [(0..2 * grain, 3 * grain), (4 * grain..5 * grain, grain)];
    assert!(dynamic.copies_within(&copies).is_ok());
    copies_of(&copies, &mut expected);
    assert!(read_all(harness, &buffer) == expected, "the copy behind dyn differs");
}

/// Source or destination beyond the end: an error, and nothing changes.
pub fn copy_out_of_bounds_is_refused<H: Harness>(harness: &mut H) {
    refused(harness, |size, grain| {
        Vec::from([
            (size - grain..size + grain, 0),
            (size..size + grain, 0),
            (0..size + grain, 0),
            (0..grain, size),
            (0..2 * grain, size - grain),
            (0..size, grain),
        ])
    });
}

/// Ranges whose end does not fit 64 bits: an error, no wrap-around, and nothing changes.
pub fn copy_that_overflows_is_refused<H: Harness>(harness: &mut H) {
    refused(harness, |_, grain| {
        let last = u64::MAX - (grain - 1);
        Vec::from([(0..grain, last), (0..2 * grain, last - grain), (last - grain..last, 0), (0..last, grain)])
    });
}

/// A range that ends before it starts: an error, and nothing changes.
pub fn copy_of_inverted_range_is_refused<H: Harness>(harness: &mut H) {
    refused(harness, |size, grain| {
        Vec::from([(inverted(2 * grain, grain), 0), (inverted(size, 0), 0), (inverted(u64::MAX, 0), grain)])
    });
}

/// Offsets or lengths that are no multiples of the grain: an error, and nothing changes.
pub fn copy_off_the_grain_is_refused<H: Harness>(harness: &mut H) {
    refused(harness, |_, grain| {
        let cases = [(1..1 + grain, 0), (0..grain + 1, 2 * grain), (0..grain, 2 * grain + 1), (0..1, grain)];
        if grain == 1 { Vec::new() } else { Vec::from(cases) }
    });
}

/// A view can be had of any range within bounds.
pub fn view_within_bounds<H: Harness>(harness: &mut H) {
    let (buffer, grain) = fresh(harness);
    let size = buffer.size();
    for range in [0..size, 0..grain, size - grain..size, grain..3 * grain] {
        assert!(buffer.view(range.clone()).is_ok(), "no view of {range:?} in {size} bytes");
    }
}

/// A view beyond the end is an error.
pub fn view_out_of_bounds_is_refused<H: Harness>(harness: &mut H) {
    no_view(harness, |size, grain| {
        Vec::from([0..size + grain, size - grain..size + grain, size..size + grain])
    });
}

/// A view whose end is near the largest offset is an error.
pub fn view_that_overflows_is_refused<H: Harness>(harness: &mut H) {
    no_view(harness, |_, grain| {
        let last = u64::MAX - (grain - 1);
        Vec::from([0..last, last - grain..last])
    });
}

/// A view of a range that ends before it starts is an error.
pub fn view_of_inverted_range_is_refused<H: Harness>(harness: &mut H) {
    no_view(harness, |size, grain| Vec::from([inverted(2 * grain, grain), inverted(size, 0)]));
}

/// A view off the grain is an error.
pub fn view_off_the_grain_is_refused<H: Harness>(harness: &mut H) {
    no_view(
        harness,
        |_, grain| if grain == 1 { Vec::new() } else { Vec::from([1..1 + grain, 0..grain + 1]) },
    );
}

/// Tries several lengths, at the distances (in grains) that `distances` names for each, up and down.
fn copies<H: Harness>(harness: &mut H, distances: impl Fn(u64) -> Vec<u64>) {
    let (mut buffer, grain) = fresh(harness);
    let lengths: &[u64] = if cfg!(miri) { &[1, 9] } else { &[1, 2, 3, 8, 33, 60] };
    for &len in lengths {
        for distance in distances(len) {
            let (low, high) = (5 * grain, (5 + distance) * grain);
            copies_as_memmove(harness, &mut buffer, low..low + len * grain, high);
            copies_as_memmove(harness, &mut buffer, high..high + len * grain, low);
        }
    }
}

/// What copies do to bytes.
fn copies_of(copies: &[(Range<u64>, u64)], bytes: &mut [u8]) {
    for (src, dst) in copies {
        bytes.copy_within(src.start as usize..src.end as usize, *dst as usize);
    }
}

/// Copies within so many grains, of a kind that the round says.
fn list(round: u64, grains: u64, grain: u64, random: &mut Random) -> Vec<(Range<u64>, u64)> {
    let count = 1 + random.below(24);
    // Where the next one is, of what moves in order.
    let (mut from, mut to) = (0, 0);
    let mut copies = Vec::new();
    for _ in 0..count {
        if from.max(to) + 12 > grains / 2 {
            break;
        }
        let len = 1 + random.below(8);
        let (src, dst) = match round % 4 {
            0 => (random.below(grains - len), random.below(grains - len)),
            // From the upper half to the lower.
            1 => (grains / 2 + random.below(grains / 2 - len), to),
            // Down by ever more, as in a compaction; or up, the last one first.
            kind => {
                from += random.below(3);
                if kind == 2 { (from, to) } else { (grains - from - len, grains - to - len) }
            }
        };
        (from, to) = (from + len, to + len);
        copies.push((src * grain..(src + len) * grain, dst * grain));
    }
    copies
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn copies_as_memmove<H: Harness>(harness: &mut H, buffer: &mut H::Buffer, src: Range<u64>, dst: u64) {
    let mut expected = pattern(src.start ^ dst << 8, buffer.size());
    harness.write(buffer, 0, &expected);
    let copied = buffer.copy_within(src.clone(), dst);
    assert!(copied.is_ok(), "copy of {src:?} to {dst} in {} bytes: {:?}", buffer.size(), copied.err());
    expected.copy_within(src.start as usize..src.end as usize, dst as usize);
    let found = read_all(harness, buffer);
    let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    assert!(wrong.is_none(), "copy of {src:?} to {dst}: byte {wrong:?} is wrong");
}

fn refused<H: Harness>(harness: &mut H, cases: impl Fn(u64, u64) -> Vec<(Range<u64>, u64)>) {
    let (mut buffer, grain) = fresh(harness);
    let before = pattern(3, buffer.size());
    harness.write(&mut buffer, 0, &before);
    for (src, dst) in cases(buffer.size(), grain) {
        let expected = check_copy(buffer.size(), grain, &src, dst);
        match buffer.copy_within(src.clone(), dst) {
            Ok(()) => assert!(expected.is_ok(), "copy of {src:?} to {dst} was not refused"),
            Err(error) => assert_names_rule(&error, expected),
        }
        assert!(read_all(harness, &buffer) == before, "the refused copy of {src:?} to {dst} changed bytes");
    }
}

fn no_view<H: Harness>(harness: &mut H, cases: impl Fn(u64, u64) -> Vec<Range<u64>>) {
    let (buffer, grain) = fresh(harness);
    for range in cases(buffer.size(), grain) {
        match buffer.view(range.clone()) {
            Ok(_) => {
                assert!(range.is_empty() && range.start == range.end, "view of {range:?} was not refused")
            }
            Err(error) => assert_names_rule(&error, check_range(buffer.size(), grain, &range)),
        }
    }
}

fn read_all<H: Harness>(harness: &mut H, buffer: &H::Buffer) -> Vec<u8> {
    harness.read(buffer, 0, buffer.size())
}

/// A range that ends before it starts.
fn inverted(start: u64, end: u64) -> Range<u64> {
    Range { start, end }
}
