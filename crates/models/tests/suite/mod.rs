//! The original's three tests: their shapes, and how they are run.

pub(crate) mod count;

use count::Count;
use mem_tracker::{Peaks, Usage, When};
use swap_models::{Adam, Category, Device, Float, Loss, Model, Optimizer, Tensor, Tracker, cases};

/// One of the three tests at certain shapes.
pub(crate) struct Case {
    pub(crate) kind: Kind,
    /// Layers, pairs of layers, blocks: what the test repeats.
    pub(crate) count: usize,
    pub(crate) width: usize,
    /// Shape of the input without its last dimension.
    pub(crate) rows: &'static [usize],
    pub(crate) float: Float,
    pub(crate) iterations: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Attribution,
    Equivalence,
    Blocks { checkpointed: bool },
}

pub(crate) const ATTRIBUTION: Case =
    Case { kind: Kind::Attribution, count: 3, width: 128, rows: &[16], float: Float::F32, iterations: 1 };

pub(crate) const EQUIVALENCE: Case =
    Case { kind: Kind::Equivalence, count: 4, width: 512, rows: &[16], float: Float::BF16, iterations: 2 };

pub(crate) const CHECKPOINTED: Case = Case {
    kind: Kind::Blocks { checkpointed: true },
    count: 4,
    width: 256,
    rows: &[4, 256],
    float: Float::F32,
    iterations: 2,
};

pub(crate) const PLAIN: Case = Case { kind: Kind::Blocks { checkpointed: false }, ..CHECKPOINTED };

/// The shapes of the original's test of checkpointing: a peak of 3.3 GB.
pub(crate) const FULL: Case = Case { width: 1024, rows: &[128, 1024], float: Float::F16, ..CHECKPOINTED };

/// What a run said.
pub(crate) struct Run {
    pub(crate) marks: Vec<(String, Usage)>,
    pub(crate) peak: Usage,
    /// Of each iteration; zeros where nothing is computed.
    pub(crate) losses: Vec<f32>,
}

impl Case {
    pub(crate) fn is_blocks(&self) -> bool {
        matches!(self.kind, Kind::Blocks { .. })
    }

    /// Room for all of it without a move.
    pub(crate) fn room(&self) -> u64 {
        (self.tight() * 5 / 4).next_multiple_of(1 << 20)
    }

    /// Room for what is live at the peak, with the alignment of every tensor.
    pub(crate) fn tight(&self) -> u64 {
        Count { case: self, rounding: 64 }.peak().total()
    }

    pub(crate) fn model(&self, device: &Device) -> Model {
        let Case { count, width, float, .. } = *self;
        match self.kind {
            Kind::Attribution => cases::attribution(device, count, width, float),
            Kind::Equivalence => cases::equivalence(device, count, width, float),
            Kind::Blocks { checkpointed } => cases::blocks(device, count, width, float, checkpointed),
        }
        .unwrap()
    }

    fn label(&self, iteration: usize, label: &str) -> String {
        if self.kind == Kind::Attribution { label.to_owned() } else { format!("it{iteration}_{label}") }
    }

    /// Trains on `device` and says what `tracker` said at every mark.
    pub(crate) fn run(&self, device: &Device, tracker: &Tracker) -> Run {
        device.track(tracker, DEVICE).unwrap();
        let usage = |when| tracker.device(DEVICE).unwrap().usage(when);
        let mut marks = Vec::new();
        let losses = self.train(device, |label| {
            // As the original's tests do between their two iterations.
            if label == "it0_after_zero_grad" {
                tracker.reset_mod_stats();
            }
            marks.push((label, usage(When::Current)));
        });
        let peak = usage(When::Peak);
        assert_eq!(device.stats().high_water, peak.total(), "the arena's own count, and the tracker's");
        assert_eq!((tracker.warnings(), tracker.check_closed()), (vec![], Ok(())));
        assert!(usage(When::Current).is_empty() && device.stats().blocks == 0, "everything was given back");
        Run { marks, peak, losses }
    }

    /// Trains on `device` and tells when it passes a mark; returns the loss of each iteration.
    pub(crate) fn train(&self, device: &Device, mut mark: impl FnMut(String)) -> Vec<f32> {
        let mut model = self.model(device);
        let mut optimizer = Adam::new(model.parameters(), 1e-3);
        let input = self.input(device);
        let mut losses = Vec::new();
        if self.kind == Kind::Attribution {
            mark("before_forward".to_owned());
        }
        for iteration in 0..self.iterations {
            let mut mark = |label| mark(self.label(iteration, label));
            let output = model.forward(&input).unwrap();
            // The first of the tests looks before there is a loss, and holds the output to the end of backward.
            let held = (self.kind == Kind::Attribution).then(|| output.clone());
            if held.is_some() {
                mark("after_forward");
            }
            let loss = Loss::sum(&output).unwrap();
            drop(output);
            if held.is_none() {
                mark("after_forward");
            }
            losses.extend(loss.value().values().unwrap());
            loss.backward(&mut model).unwrap();
            mark("after_backward");
            drop(held);
            optimizer.step().unwrap();
            mark("after_step");
            optimizer.zero_grad();
            mark("after_zero_grad");
        }
        losses
    }

    fn input(&self, device: &Device) -> Tensor {
        let _other = (self.kind == Kind::Equivalence).then(|| device.holding(Category::Other));
        Tensor::random(device, &[self.rows, &[self.width]].concat(), self.float, (7, 1.0)).unwrap()
    }
}

/// A tracker that looks for peaks when PyTorch's does.
pub(crate) fn tracker() -> Tracker {
    Tracker::with_peaks(Peaks::AtOperations)
}

pub(crate) const DEVICE: &str = "cpu";
