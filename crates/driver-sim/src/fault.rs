//! Faults: which call goes wrong, and how.

use crate::result::CuError;

/// What a fault does to the call it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refuses a call that allocates or enqueues.
    OutOfMemory,
    /// Refuses a call of whatever class with this error, and changes nothing.
    Refused(CuError),
    /// Work fails with this error, and the context with it.
    Sticky(CuError),
    /// Everything fails from now on.
    DeviceLost,
}

impl Fault {
    /// By the number of the control functions.
    pub(crate) fn numbered(kind: u32) -> Option<Fault> {
        KINDS.get((kind as usize).checked_sub(1)?).map(|row| row.1)
    }
}

/// What a call does, as far as faults care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Answers always, also before `cuInit`; neither counted nor struck.
    Always,
    /// A question whose answer is constant, or about the calling thread; neither counted nor struck.
    Constant,
    /// Takes memory or another resource.
    Allocate,
    /// Puts work into a stream.
    Enqueue,
    /// Waits, asks, or sets something.
    Other,
    /// Gives something back.
    Release,
}

impl Class {
    pub(crate) fn is_counted(self) -> bool {
        !matches!(self, Class::Always | Class::Constant)
    }
}

/// Faults to come, and how far the calls have come.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    planned: Vec<Planned>,
    calls: u64,
    by_name: std::collections::BTreeMap<&'static str, u64>,
    pub(crate) struck: u64,
}

#[derive(Debug, Clone)]
struct Planned {
    fault: Fault,
    /// A function, or any.
    function: Option<String>,
    /// Matching calls until it strikes; 0: at the next call that it can strike.
    left: u64,
}

impl Faults {
    /// Strikes the `k`-th call from now, from 1, of `function` or of any.
    pub(crate) fn plan(&mut self, fault: Fault, function: Option<String>, k: u64) {
        self.planned.push(Planned { fault, function, left: k });
    }

    /// Reads `KIND@K` or `KIND@FUNCTION:K`.
    pub(crate) fn parse(&mut self, text: &str) -> Option<()> {
        let (kind, place) = text.split_once('@')?;
        let fault = KINDS.iter().find(|row| row.0 == kind)?.1;
        let (function, k) = match place.split_once(':') {
            Some((function, k)) => (Some(function.to_string()), k),
            None => (None, place),
        };
        let k = k.parse().ok().filter(|&k| k > 0)?;
        self.plan(fault, function, k);
        Some(())
    }

    /// Counts a call of `function` and says what strikes it.
    pub(crate) fn strike(&mut self, function: &'static str, class: Class) -> Option<Fault> {
        if !class.is_counted() {
            return None;
        }
        self.calls += 1;
        *self.by_name.entry(function).or_default() += 1;
        let refusable = matches!(class, Class::Allocate | Class::Enqueue);
        let mut struck = None;
        for (index, planned) in self.planned.iter_mut().enumerate() {
            if planned.function.as_deref().is_some_and(|wanted| wanted != function) {
                continue;
            }
            planned.left = planned.left.saturating_sub(1);
            let can = planned.fault != Fault::OutOfMemory || refusable;
            if planned.left == 0 && can && struck.is_none() {
                struck = Some(index);
            }
        }
        self.struck += u64::from(struck.is_some());
        struck.map(|index| self.planned.remove(index).fault)
    }

    pub(crate) fn clear(&mut self) {
        self.planned.clear();
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    pub(crate) fn calls_of(&self, function: &str) -> u64 {
        self.by_name.get(function).copied().unwrap_or(0)
    }
}

/// By number from 1.
const KINDS: &[(&str, Fault)] = &[
    ("OUT_OF_MEMORY", Fault::OutOfMemory),
    ("ILLEGAL_ADDRESS", Fault::Sticky(CuError::ILLEGAL_ADDRESS)),
    ("LAUNCH_FAILED", Fault::Sticky(CuError::LAUNCH_FAILED)),
    ("ECC_UNCORRECTABLE", Fault::Sticky(CuError::ECC_UNCORRECTABLE)),
    ("DEVICE_LOST", Fault::DeviceLost),
    ("CONTAINED", Fault::Sticky(CuError::CONTAINED)),
    ("TENSOR_MEMORY_LEAK", Fault::Sticky(CuError::TENSOR_MEMORY_LEAK)),
    ("NOT_SUPPORTED", Fault::Refused(CuError::NOT_SUPPORTED)),
    ("INVALID_VALUE", Fault::Refused(CuError::INVALID_VALUE)),
    ("UNKNOWN", Fault::Refused(CuError::UNKNOWN)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_the_call_it_was_told_to() {
        let mut faults = Faults::default();
        faults.plan(Fault::DeviceLost, None, 3);
        faults.plan(Fault::Sticky(CuError::LAUNCH_FAILED), Some("b".into()), 2);
        assert_eq!(faults.strike("a", Class::Other), None);
        assert_eq!(faults.strike("const", Class::Constant), None);
        assert_eq!(faults.strike("b", Class::Other), None);
        assert_eq!(faults.strike("a", Class::Other), Some(Fault::DeviceLost));
        assert_eq!(faults.strike("b", Class::Other), Some(Fault::Sticky(CuError::LAUNCH_FAILED)));
        assert_eq!(
            (faults.calls(), faults.calls_of("b"), faults.calls_of("const"), faults.struck),
            (4, 2, 0, 2)
        );
    }

    #[test]
    fn out_of_memory_waits_for_a_call_that_can_say_so() {
        let mut faults = Faults::default();
        faults.plan(Fault::OutOfMemory, None, 1);
        assert_eq!(faults.strike("free", Class::Release), None);
        assert_eq!(faults.strike("wait", Class::Other), None);
        assert_eq!(faults.strike("copy", Class::Enqueue), Some(Fault::OutOfMemory));
        assert_eq!(faults.strike("copy", Class::Enqueue), None);
    }
}
