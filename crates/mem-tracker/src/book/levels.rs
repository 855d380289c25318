//! Open scopes, and the most that was held while each was innermost.

use super::Record;
use super::device::is_more;
use crate::usage::Moment;
use crate::{ModState, Peaks, Usage};
use std::thread::ThreadId;

/// An open scope.
///
/// ```text
///   scopes    outer ├───────────────────────────────────────┤
///             inner         ├───────────────────┤
///             third                   ├─────────────────┤        closed in any order
///   levels         │ outer  │  inner  │  third │ third   │ outer
///   most           └─ max ──┴── max ──┴── max ─┴── … ────┘       an event looks at the last level only
/// ```
///
/// The time since the oldest open scope was opened is cut where scopes were opened; each level has the most of its own
/// stretch. What a scope has seen is the most of its level and all later ones. When it is closed its stretch becomes part of
/// the one before, whose scope was open all the while.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) guard: u64,
    pub(crate) module: u32,
    pub(crate) era: u32,
    pub(crate) thread: ThreadId,
    /// With which state it was opened.
    pub(crate) opened: ModState,
    /// The peak state and the call of it that this scope may raise.
    pub(crate) raises: Option<(ModState, usize)>,
    /// The most of this stretch, by device; devices that came later have none yet.
    most: Vec<Moment>,
}

/// The open scopes, the one opened first at the front.
#[derive(Debug)]
pub(crate) struct Levels {
    open: Vec<Level>,
    /// Emptied rows, to be used again: opening a scope allocates nothing once warm.
    spare: Vec<Vec<Moment>>,
    peaks: Peaks,
}

impl Levels {
    pub(crate) fn new(peaks: Peaks) -> Self {
        Self { open: Vec::new(), spare: Vec::new(), peaks }
    }

    /// The open scopes in the order in which they were opened.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Level> {
        self.open.iter()
    }

    /// A device holds this much now. O(1).
    #[inline]
    pub(crate) fn look(&mut self, device: usize, now: &Usage, clock: u64) {
        let Some(level) = self.open.last_mut() else { return };
        let Some(most) = level.most.get_mut(device) else {
            level.most.resize(device + 1, Moment::default());
            level.most[device] = Moment { usage: *now, at: clock };
            return;
        };
        if is_more(self.peaks, now.total(), most.usage.total()) {
            *most = Moment { usage: *now, at: clock };
        }
    }

    /// Opens a scope. O(1).
    pub(crate) fn push(
        &mut self,
        guard: u64,
        (module, era): (u32, u32),
        opened: ModState,
        raises: Option<(ModState, usize)>,
        thread: ThreadId,
    ) {
        let most = self.spare.pop().unwrap_or_default();
        self.open.push(Level { guard, module, era, thread, opened, raises, most });
    }

    /// Closes a scope and tells its module's record of the most it has seen. O(devices) for the scope opened last,
    /// O(later scopes x devices) for others.
    pub(crate) fn close(&mut self, guard: u64, modules: &mut [Record], era: u32) -> Option<Level> {
        let at = self.open.iter().rposition(|level| level.guard == guard)?;
        self.tell(at, modules, era);
        let mut level = self.open.remove(at);
        if let Some(before) = at.checked_sub(1).map(|before| &mut self.open[before]) {
            join(self.peaks, &mut before.most, &level.most);
        }
        let mut most = core::mem::take(&mut level.most);
        most.clear();
        self.spare.push(most);
        Some(level)
    }

    /// Tells the records of open scopes' modules what these have seen so far. O(open scopes² x devices) at worst.
    pub(crate) fn settle(&self, modules: &mut [Record], era: u32) {
        for at in 0..self.open.len() {
            self.tell(at, modules, era);
        }
    }

    /// The latest backward call of a module that is open.
    pub(crate) fn backward(&self, module: u32, era: u32) -> Option<usize> {
        let of = |level: &Level| level.module == module && level.era == era;
        let calls = self.open.iter().filter(|level| of(level) && level.opened == ModState::PreBackward);
        calls.filter_map(|level| level.raises.map(|(_, call)| call)).max()
    }

    /// A backward call of a module begins: recomputations of it that are open raise that one from now on.
    pub(crate) fn retarget(&mut self, module: u32, call: usize, modules: &mut [Record], era: u32) {
        let recomputing = |level: &Level| level.module == module && level.opened == ModState::PreForwardAc;
        while let Some(at) = self
            .open
            .iter()
            .position(|level| recomputing(level) && level.raises != Some((ModState::PeakBackward, call)))
        {
            // As if it were closed and opened once more.
            let guard = self.open[at].guard;
            let Some(mut level) = self.close(guard, modules, era) else { return };
            level.raises = Some((ModState::PeakBackward, call));
            level.most = self.spare.pop().unwrap_or_default();
            self.open.push(level);
        }
    }

    fn tell(&self, at: usize, modules: &mut [Record], era: u32) {
        let level = &self.open[at];
        let Some((state, call)) = level.raises.filter(|_| level.era == era) else { return };
        let Some(record) = modules.get_mut(level.module as usize) else { return };
        for stretch in &self.open[at..] {
            for (device, most) in stretch.most.iter().enumerate() {
                record.raise(state, call, device, most, self.peaks);
            }
        }
    }
}

/// Makes a later stretch part of an earlier one.
fn join(peaks: Peaks, before: &mut Vec<Moment>, later: &[Moment]) {
    if before.len() < later.len() {
        before.resize(later.len(), Moment::default());
    }
    for (most, later) in before.iter_mut().zip(later) {
        if later.beats(most, peaks) {
            *most = *later;
        }
    }
}
