//! The order that must hold between two uses of the same bytes.

use crate::Event;
use core::ops::Range;

/// How an operation uses a byte range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// It reads: must run after the writes before it.
    Read,
    /// It writes: must run after everything before it.
    Write,
}

/// Which work last touched which bytes of a buffer.
///
/// Per byte it knows the event of the last writer and of the readers since. Whether the bytes are live or free
/// makes no difference, so freed room, moved blocks and vacated sources are no special cases.
///
/// Every operation runs the same way: [`before`](Self::before), the queue waits for each event, enqueue, record,
/// [`after`](Self::after). Operations of one buffer pass here in the order they are submitted; waits then point
/// only backwards and cannot cycle. A move is `[(src, Read), (dst, Write)]`.
///
/// ```text
///    bytes   0        16        32        48
///    write   |--- upload #1 ---|- move #3 -|
///    read         |-- download #2 --|
///    before (8..40, Write) -> wait for #2 and #3, and for #1 unless #2 covers it
///    after  (8..40, Write) -> what they were on 8..40 is forgotten: whoever waits for the new one waits for all
/// ```
///
/// A flat list: `before` and `after` are O(entries), and entries of work that has ended are dropped whenever the
/// list has doubled, so it stays as long as the work in flight is ragged. Allocation-free once warm.
///
/// Source: each race in vLLM #45704, #47282, #48596 and torchtune's stash is one of these waits missing.
///
/// ```
/// use pinned_host::{Access, Hazards};
/// # #[derive(Debug)] struct Never;
/// # impl core::fmt::Display for Never { fn fmt(&self, _: &mut core::fmt::Formatter) -> core::fmt::Result { Ok(()) } }
/// # impl core::error::Error for Never {}
/// # impl pinned_host::DeviceError for Never { fn kind(&self) -> pinned_host::ErrorKind { pinned_host::ErrorKind::Failed } }
/// # #[derive(Clone, PartialEq, Debug)] struct Numbered(u32);
/// # impl pinned_host::Event for Numbered {
/// #     type Error = Never;
/// #     fn query(&self) -> Result<bool, Never> { Ok(false) }
/// #     fn synchronize(&self) -> Result<(), Never> { Ok(()) }
/// # }
/// let mut hazards = Hazards::new();
/// let mut waits = Vec::new();
/// // An upload to 0..64: nothing was there.
/// hazards.before(&[(0..64, Access::Write)], &mut waits);
/// assert!(waits.is_empty());
/// hazards.after(&[(0..64, Access::Write)], &Numbered(1));
/// // A move of 32..64 down to 100..132 reads what the upload wrote.
/// let accesses = [(32..64, Access::Read), (100..132, Access::Write)];
/// hazards.before(&accesses, &mut waits);
/// assert_eq!(waits, [Numbered(1)]);
/// hazards.after(&accesses, &Numbered(2));
/// // The vacated source is free, and yet who writes there waits for the move.
/// waits.clear();
/// hazards.before(&[(40..48, Access::Write)], &mut waits);
/// assert!(waits.contains(&Numbered(2)));
/// ```
#[derive(Debug, Clone)]
pub struct Hazards<E> {
    /// Invariant: ranges are not empty; writes overlap neither writes nor older reads.
    entries: Vec<Entry<E>>,
    /// Length at which ended work is looked for.
    prune_at: usize,
}

#[derive(Debug, Clone)]
struct Entry<E> {
    range: Range<u64>,
    access: Access,
    event: E,
}

impl<E: Event> Hazards<E> {
    /// A buffer that nobody has used.
    pub const fn new() -> Self {
        Hazards { entries: Vec::new(), prune_at: PRUNE_FLOOR }
    }

    /// Appends to `waits` the events that an operation with these accesses must run after. O(entries × accesses).
    ///
    /// An event that another in `waits` [`covers`](Event::covers) is left out, or taken out again. Work that has
    /// ended may be named too: waiting for it costs little and `before` asks the device nothing.
    pub fn before(&self, accesses: &[(Range<u64>, Access)], waits: &mut Vec<E>) {
        for (range, access) in accesses {
            for entry in &self.entries {
                if overlaps(&entry.range, range)
                    && (*access == Access::Write || entry.access == Access::Write)
                {
                    add_wait(waits, &entry.event);
                }
            }
        }
    }

    /// Records that the work behind `event` has these accesses. It must run after what [`before`](Self::before)
    /// named for them. O(entries × accesses), amortised.
    ///
    /// An operation that reads and writes the same bytes counts as their writer.
    pub fn after(&mut self, accesses: &[(Range<u64>, Access)], event: &E) {
        // Reads first: a write of the same operation then supersedes them, not the other way round.
        for (range, _) in accesses.iter().filter(|(_, access)| *access == Access::Read) {
            self.clear(range, |old| old.access == Access::Read && event.covers(&old.event));
            self.add(range, Access::Read, event);
        }
        for (range, _) in accesses.iter().filter(|(_, access)| *access == Access::Write) {
            self.clear(range, |_| true);
            self.add(range, Access::Write, event);
        }
        if self.entries.len() >= self.prune_at {
            self.prune();
        }
    }

    /// Forgets work that can touch memory no more. Returns how many entries are left. O(entries) queries.
    pub fn prune(&mut self) -> usize {
        self.entries.retain(|entry| !entry.event.is_settled());
        self.prune_at = (2 * self.entries.len()).max(PRUNE_FLOOR);
        self.entries.len()
    }

    /// How many entries there are: ranges, not bytes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none, so that nothing has to wait.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn add(&mut self, range: &Range<u64>, access: Access, event: &E) {
        if !range.is_empty() {
            self.entries.push(Entry { range: range.clone(), access, event: event.clone() });
        }
    }

    /// Takes `range` out of the entries that `which` picks, trimming those that reach beyond it.
    fn clear(&mut self, range: &Range<u64>, which: impl Fn(&Entry<E>) -> bool) {
        if range.is_empty() {
            return;
        }
        let mut index = 0;
        while let Some(entry) = self.entries.get_mut(index) {
            if !overlaps(&entry.range, range) || !which(entry) {
                index += 1;
                continue;
            }
            let (left, right) = (entry.range.start..range.start, range.end..entry.range.end);
            match (left.is_empty(), right.is_empty()) {
                (true, true) => {
                    self.entries.swap_remove(index);
                    continue;
                }
                (false, true) => entry.range = left,
                (true, false) => entry.range = right,
                (false, false) => {
                    entry.range = left;
                    let split = Entry { range: right, ..entry.clone() };
                    self.entries.push(split);
                }
            }
            index += 1;
        }
    }
}

impl<E: Event> Default for Hazards<E> {
    fn default() -> Self {
        Self::new()
    }
}

fn add_wait<E: Event>(waits: &mut Vec<E>, event: &E) {
    if waits.iter().any(|wait| wait.covers(event)) {
        return;
    }
    waits.retain(|wait| !event.covers(wait));
    waits.push(event.clone());
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end && !a.is_empty() && !b.is_empty()
}

/// Shorter lists are not worth asking the device about.
const PRUNE_FLOOR: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceError, ErrorKind};
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug, thiserror::Error)]
    #[error("never")]
    struct Never;

    impl DeviceError for Never {
        fn kind(&self) -> ErrorKind {
            ErrorKind::Failed
        }
    }

    /// The `number`-th operation of a program, on a queue that runs in order.
    #[derive(Clone, Debug)]
    struct Toy {
        queue: usize,
        number: usize,
        /// Whether it knows that a queue runs in order.
        clever: bool,
        fired: Arc<AtomicBool>,
    }

    impl Event for Toy {
        type Error = Never;

        fn query(&self) -> Result<bool, Never> {
            Ok(self.fired.load(Ordering::Relaxed))
        }

        fn synchronize(&self) -> Result<(), Never> {
            Ok(())
        }

        fn covers(&self, earlier: &Self) -> bool {
            self.clever && self.queue == earlier.queue && self.number >= earlier.number
        }
    }

    #[derive(Clone, Debug)]
    struct Op {
        queue: usize,
        accesses: Vec<(Range<u64>, Access)>,
    }

    impl Op {
        fn conflicts(&self, other: &Op) -> bool {
            self.accesses.iter().any(|(range, access)| {
                other
                    .accesses
                    .iter()
                    .any(|(r, a)| overlaps(range, r) && (*access == Access::Write || *a == Access::Write))
            })
        }
    }

    /// Runs a program and checks it against the naive model: all history, and the transitive closure of the
    /// waits and of each queue's own order. `fires` names, per step, how many of the oldest operations have
    /// ended by then; those need no order.
    fn check(program: &[Op], clever: bool, fires: impl Fn(usize) -> usize) -> Result<(), String> {
        let mut hazards = Hazards::<Toy>::new();
        let mut events: Vec<Toy> = Vec::new();
        // Bit j of `order[i]`: operation j has ended before i starts.
        let mut order: Vec<u64> = Vec::new();
        for (number, op) in program.iter().enumerate() {
            let ended = fires(number).min(number);
            for event in &events[..ended] {
                event.fired.store(true, Ordering::Relaxed);
            }
            if ended > 0 {
                hazards.prune();
            }
            let mut waits = Vec::new();
            hazards.before(&op.accesses, &mut waits);
            for (i, wait) in waits.iter().enumerate() {
                if waits.iter().enumerate().any(|(j, other)| i != j && other.covers(wait)) {
                    return Err(format!(
                        "operation {number} waits for {} and for what covers it",
                        wait.number
                    ));
                }
            }
            let same_queue = events.iter().rfind(|event| event.queue == op.queue).map(|event| event.number);
            let direct = waits.iter().map(|wait| wait.number).chain(same_queue);
            let before = direct.fold((1u64 << ended) - 1, |all, earlier| all | order[earlier] | 1 << earlier);
            for earlier in 0..number {
                if op.conflicts(&program[earlier]) && before >> earlier & 1 == 0 {
                    return Err(format!("operation {number} is not ordered after {earlier}: {program:?}"));
                }
            }
            order.push(before);
            let event = Toy { queue: op.queue, number, clever, fired: Arc::default() };
            hazards.after(&op.accesses, &event);
            events.push(event);
        }
        Ok(())
    }

    /// Every program of four operations with one access each, on two queues and three bytes.
    #[test]
    fn every_small_program_is_ordered() {
        let mut ops = Vec::new();
        for queue in 0..2 {
            for access in [Access::Read, Access::Write] {
                for (start, end) in [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)] {
                    ops.push(Op { queue, accesses: vec![(start..end, access)] });
                }
            }
        }
        let count = ops.len();
        // The first queue is the first operation's, by symmetry.
        for code in 0..count.pow(4) / 2 {
            let pick = |place: u32| ops[code / count.pow(3 - place) % count].clone();
            let program = [pick(0), pick(1), pick(2), pick(3)];
            check(&program, code % 2 == 0, |_| 0).unwrap();
        }
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = (0..24u64, 0..12u64).prop_map(|(start, len)| start..(start + len).min(24));
        let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
        (0..3usize, proptest::collection::vec((range, access), 1..4))
            .prop_map(|(queue, accesses)| Op { queue, accesses })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn random_programs_are_ordered(
            program in proptest::collection::vec(op(), 1..60),
            clever in any::<bool>(),
            lag in prop_oneof![Just(64usize), 2..20usize],
        ) {
            prop_assert_eq!(check(&program, clever, |step| step.saturating_sub(lag)), Ok(()));
        }
    }

    fn event(number: usize, fired: &Arc<AtomicBool>) -> Toy {
        Toy { queue: 0, number, clever: true, fired: Arc::clone(fired) }
    }

    #[test]
    fn a_write_supersedes_what_it_covers_and_trims_the_rest() {
        let fired = Arc::default();
        let mut hazards = Hazards::new();
        hazards.after(&[(0..100, Access::Write)], &event(1, &fired));
        hazards.after(&[(40..60, Access::Write)], &event(2, &fired));
        assert_eq!(hazards.len(), 3, "left, right and the new one");
        hazards.after(&[(30..70, Access::Read)], &event(2, &fired));
        hazards.after(&[(0..100, Access::Write)], &event(3, &fired));
        assert_eq!(hazards.len(), 1, "readers and writers alike");
        hazards.after(&[(7..7, Access::Write)], &event(4, &fired));
        assert_eq!(hazards.len(), 1, "nothing touches no bytes");
    }

    #[test]
    fn reads_of_one_queue_replace_each_other() {
        let fired = Arc::default();
        let mut hazards = Hazards::new();
        for number in 0..1000 {
            hazards.after(&[(10..20, Access::Read)], &event(number, &fired));
        }
        assert_eq!(hazards.len(), 1);
        let mut waits = Vec::new();
        hazards.before(&[(0..15, Access::Read)], &mut waits);
        assert!(waits.is_empty(), "readers do not wait for readers");
        hazards.before(&[(0..15, Access::Write)], &mut waits);
        assert_eq!(waits.len(), 1);
        assert_eq!(waits[0].number, 999);
    }

    #[test]
    fn ended_work_is_forgotten_as_the_list_grows() {
        let mut hazards = Hazards::new();
        for number in 0..10_000 {
            // Disjoint, so nothing supersedes anything; each has ended when the next begins.
            let at = number as u64 * 8;
            let fired = Arc::new(AtomicBool::new(true));
            hazards.after(&[(at..at + 8, Access::Write)], &event(number, &fired));
            assert!(hazards.len() <= PRUNE_FLOOR);
        }
        assert_eq!(hazards.prune(), 0);
        assert!(hazards.is_empty());
    }
}
