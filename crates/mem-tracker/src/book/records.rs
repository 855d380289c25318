//! What is known of a module: its own bytes, and the states of its calls.

use std::sync::Arc;

use super::DeviceBook;
use crate::usage::Moment;
use crate::{ModState, Peaks};

/// One module.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) name: Arc<str>,
    /// Whether it was entered since the module statistics were reset.
    pub(crate) entered: bool,
    pub(crate) parameters: u64,
    pub(crate) buffers: u64,
    pub(crate) inputs: u64,
    pub(crate) outputs: u64,
    /// The states it met, in the order in which it met them.
    pub(crate) order: Vec<ModState>,
    /// The call whose peak is the local one.
    pub(crate) latest: Option<(ModState, usize)>,
    /// The backward call that began after the latest forward call: the one that a recomputation is for.
    backward: Option<usize>,
    calls: [Calls; 8],
}

/// What all devices held at one state, a row of devices for each call.
#[derive(Debug, Clone, Default)]
struct Calls {
    rows: Vec<Moment>,
    /// Devices in a row.
    width: usize,
    /// Calls so far, and how many of the first are dropped. Invariant: `rows` has `len - dropped` rows.
    len: usize,
    dropped: usize,
}

impl Record {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            entered: false,
            parameters: 0,
            buffers: 0,
            inputs: 0,
            outputs: 0,
            order: Vec::new(),
            latest: None,
            backward: None,
            calls: Default::default(),
        }
    }

    /// Forgets the calls; what the module owns stays.
    pub(crate) fn reset(&mut self) {
        (self.entered, self.inputs, self.outputs, self.latest, self.backward) = (false, 0, 0, None, None);
        self.order.clear();
        self.calls.iter_mut().for_each(Calls::clear);
    }

    /// A pass begins whose peak is a state of its own; the number of the call.
    pub(crate) fn begin(&mut self, peak: ModState, devices: &[DeviceBook], clock: u64, keep: usize) -> usize {
        let call = self.note(peak, devices, clock, keep);
        self.latest = Some((peak, call));
        self.backward = (peak == ModState::PeakBackward).then_some(call);
        call
    }

    /// The backward call that began after the latest forward call.
    pub(crate) fn backward(&self) -> Option<usize> {
        self.backward
    }

    /// Drops all calls but the last `keep` of each state.
    pub(crate) fn keep(&mut self, keep: usize) {
        self.calls.iter_mut().for_each(|calls| calls.keep(keep));
    }

    /// Gives back the room that calls took which are forgotten.
    pub(crate) fn give_back(&mut self) {
        self.calls.iter_mut().for_each(|calls| calls.rows.shrink_to_fit());
    }

    /// Notes what the devices hold, and keeps the last `keep` calls at least; the number of this call, from 0. O(devices).
    pub(crate) fn note(&mut self, state: ModState, devices: &[DeviceBook], clock: u64, keep: usize) -> usize {
        let calls = &mut self.calls[state.index()];
        if calls.len == 0 {
            self.order.push(state);
        }
        calls.widen(devices.len());
        calls.rows.extend(devices.iter().map(|device| Moment { usage: device.now, at: clock }));
        calls.len += 1;
        // Without a device a row still has one, so that a call is a row.
        calls.rows.resize((calls.len - calls.dropped) * calls.width, Moment::default());
        calls.trim(keep);
        calls.len - 1
    }

    /// A peak state's call saw this much on a device.
    pub(crate) fn raise(&mut self, state: ModState, call: usize, device: usize, most: &Moment, peaks: Peaks) {
        let calls = &mut self.calls[state.index()];
        if !(calls.dropped..calls.len).contains(&call) || most.usage.is_empty() {
            return;
        }
        calls.widen(device + 1);
        let row = &mut calls.rows[(call - calls.dropped) * calls.width + device];
        if most.beats(row, peaks) {
            *row = *most;
        }
    }

    /// How many calls met a state.
    pub(crate) fn len(&self, state: ModState) -> usize {
        self.calls[state.index()].len
    }

    /// How many of the first of them are dropped.
    pub(crate) fn dropped(&self, state: ModState) -> usize {
        self.calls[state.index()].dropped
    }

    /// What the devices held at a call's state, by number of device. Nothing for a call that is dropped.
    pub(crate) fn row(&self, state: ModState, call: usize) -> &[Moment] {
        let Calls { rows, width, dropped, .. } = &self.calls[state.index()];
        let row = call.checked_sub(*dropped).and_then(|at| rows.get(at * width..(at + 1) * width));
        row.unwrap_or_default()
    }
}

impl Calls {
    /// Forgets the calls. The room they took stays for the next ones, unless it is more than these will need.
    fn clear(&mut self) {
        self.rows.clear();
        if self.rows.capacity() > MOST_SPARE * self.width {
            self.rows = Vec::new();
        }
        (self.len, self.dropped) = (0, 0);
    }

    /// Drops the first calls once there are twice as many as are to be kept: O(1) a call.
    fn trim(&mut self, keep: usize) {
        if (self.len - self.dropped) / 2 >= keep {
            self.drop_to(keep);
        }
    }

    /// Drops the first calls at once, and gives their room back.
    fn keep(&mut self, keep: usize) {
        if self.len - self.dropped > keep {
            self.drop_to(keep);
            self.rows.shrink_to_fit();
        }
    }

    fn drop_to(&mut self, keep: usize) {
        let drop = self.len - self.dropped - keep;
        self.rows.drain(..drop * self.width);
        self.dropped += drop;
    }

    /// Makes the rows at least this wide. Happens once for each device, should it come after the first call.
    fn widen(&mut self, width: usize) {
        let width = width.max(1);
        if width <= self.width {
            return;
        }
        if self.len > 0 {
            let wide = self
                .rows
                .chunks(self.width)
                .flat_map(|row| row.iter().copied().chain((row.len()..width).map(|_| Moment::default())));
            self.rows = wide.collect();
        }
        self.width = width;
    }
}

/// Rows of calls whose room is kept: as many as there can be of those that are kept where nobody says how many.
const MOST_SPARE: usize = 4 * crate::Tracker::KEPT_CALLS;
