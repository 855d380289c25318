//! Faults: what goes wrong, and when.

use super::rng::Rng;

/// A kind of call that a fault can strike, and the name of an operation in a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// A transfer to the device.
    Upload,
    /// A transfer to the host.
    Download,
    /// A move inside a buffer.
    CopyWithin,
    /// A kernel of [`SimQueue::launch`](super::SimQueue::launch).
    Launch,
    /// A queue told to wait for an event.
    Wait,
    /// An event recorded, by the program or at the end of a transfer.
    Record,
    /// The host waiting for a queue, in the program or where a transfer's record failed.
    Drain,
    /// A buffer made.
    Buffer,
    /// A region locked.
    Lock,
    /// A plain synchronous read by the host.
    ReadNow,
    /// A plain synchronous write by the host.
    WriteNow,
    /// The host owning a pinned slice, between two transfers of it. No fault strikes it.
    HostSlice,
    /// In a [`FaultPlan`]: any of them.
    Any,
}

impl core::fmt::Display for Call {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Call::Upload => "upload",
            Call::Download => "download",
            Call::CopyWithin => "copy_within",
            Call::Launch => "launch",
            Call::Wait => "wait",
            Call::Record => "record",
            Call::Drain => "drain",
            Call::Buffer => "buffer",
            Call::Lock => "lock",
            Call::ReadNow => "read_now",
            Call::WriteNow => "write_now",
            Call::HostSlice => "host use of a slice",
            Call::Any => "any call",
        })
    }
}

/// What a fault does to the call it strikes.
///
/// The last five concern work that runs later; a call without such work ([`Call::Wait`], [`Call::Record`],
/// [`Call::Drain`], [`Call::Buffer`], [`Call::Lock`], [`Call::ReadNow`], [`Call::WriteNow`]) is refused instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The call reports that memory is used up; nothing is enqueued.
    OutOfMemory,
    /// The call is refused; nothing is enqueued.
    Refuse,
    /// From this call on everything reports a lost device; work in the queues never runs.
    DeviceLost,
    /// The work is enqueued and recording the event behind it fails. Only transfers record; others are refused.
    FailRecord,
    /// The work fails when it runs: its destination holds noise, and the event behind it says so.
    Fail,
    /// One bit of what was written is wrong, and nothing says so.
    BitFlip,
    /// The work runs after everything that may run before it.
    Delay,
    /// Half of the bytes are transferred, and the event says so.
    Short,
}

/// Which calls go wrong: scripted by number, drawn from the seed, or both.
///
/// ```
/// use backend_cpu::sim::{Call, Fault, FaultPlan};
/// let plan = FaultPlan::none()
///     .at(Call::Upload, 2, Fault::Refuse)             // the second upload
///     .randomly(Call::Download, 100, Fault::BitFlip); // one download in a hundred
/// assert_ne!(plan, FaultPlan::none());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultPlan {
    scripted: Vec<(Call, u64, Fault)>,
    random: Vec<(Call, u32, Fault)>,
}

impl FaultPlan {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// Strikes the `k`-th `call`, counted from 1.
    pub fn at(mut self, call: Call, k: u64, fault: Fault) -> Self {
        self.scripted.push((call, k, fault));
        self
    }

    /// Strikes one `call` in `one_in`, at random; 0 is never.
    pub fn randomly(mut self, call: Call, one_in: u32, fault: Fault) -> Self {
        self.random.push((call, one_in, fault));
        self
    }
}

/// A plan and how far the calls have come.
#[derive(Debug)]
pub(crate) struct Faults {
    plan: FaultPlan,
    counts: [u64; Call::Any as usize + 1],
}

impl Faults {
    pub(crate) fn new(plan: FaultPlan) -> Self {
        Faults { plan, counts: [0; Call::Any as usize + 1] }
    }

    /// Strikes the `k`-th `call` from now, counted from 1.
    pub(crate) fn add(&mut self, call: Call, k: u64, fault: Fault) {
        let at = self.counts[call as usize].saturating_add(k);
        self.plan.scripted.push((call, at, fault));
    }

    /// No more random faults, and none scripted.
    pub(crate) fn clear(&mut self) {
        self.plan = FaultPlan::none();
    }

    /// Counts a call; returns its number among its kind and the fault that strikes it.
    pub(crate) fn strike(&mut self, call: Call, rng: &mut Rng) -> (u64, Option<Fault>) {
        self.counts[call as usize] += 1;
        self.counts[Call::Any as usize] += 1;
        let counts = &self.counts;
        let scripted = self
            .plan
            .scripted
            .iter()
            .position(|&(kind, k, _)| (kind == call || kind == Call::Any) && counts[kind as usize] == k);
        let number = counts[call as usize];
        if let Some(index) = scripted {
            return (number, Some(self.plan.scripted.swap_remove(index).2));
        }
        // Every line draws on every call of its kind, so that one line striking does not shift the others.
        let mut struck = None;
        for &(kind, one_in, fault) in &self.plan.random {
            if (kind == call || kind == Call::Any) && rng.one_in(one_in) {
                struck = struck.or(Some(fault));
            }
        }
        (number, struck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_the_call_it_was_told_to() {
        let plan = FaultPlan::none().at(Call::Upload, 2, Fault::Refuse).at(Call::Any, 4, Fault::Fail);
        let (mut faults, mut rng) = (Faults::new(plan), Rng::new(0));
        assert_eq!(faults.strike(Call::Upload, &mut rng), (1, None));
        assert_eq!(faults.strike(Call::Download, &mut rng), (1, None));
        assert_eq!(faults.strike(Call::Upload, &mut rng), (2, Some(Fault::Refuse)));
        assert_eq!(faults.strike(Call::Wait, &mut rng), (1, Some(Fault::Fail)));
        faults.add(Call::Wait, 1, Fault::Delay);
        assert_eq!(faults.strike(Call::Wait, &mut rng), (2, Some(Fault::Delay)));
        assert_eq!(faults.strike(Call::Wait, &mut rng), (3, None));
    }

    #[test]
    fn random_faults_keep_to_their_rate() {
        let plan = FaultPlan::none().randomly(Call::Upload, 10, Fault::BitFlip);
        let (mut faults, mut rng) = (Faults::new(plan), Rng::new(3));
        let hits = (0..10_000).filter(|_| faults.strike(Call::Upload, &mut rng).1.is_some()).count();
        assert!((800..1200).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| faults.strike(Call::Download, &mut rng).1.is_none()));
    }
}
