//! What goes wrong half-way: a typed error, everything given back, and the next step goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use backend_cpu::sim::{Call, Fault, SimConfig, SimDevice};
use swap_models::*;

/// A tracked device, a model and its optimizer.
struct Bench {
    device: Device,
    tracker: Tracker,
    model: Model,
    adam: Adam,
}

impl Bench {
    fn new(device: Device) -> Result<Self, ModelError> {
        let tracker = Tracker::new();
        device.track(&tracker, "cpu")?;
        let model = cases::blocks(&device, 2, 16, Float::F32, true)?;
        let adam = Adam::new(model.parameters(), 1e-3);
        Ok(Bench { device, tracker, model, adam })
    }

    fn step(&mut self, rows: usize) -> Result<(), ModelError> {
        let input = Tensor::random(&self.device, &[rows, 16], Float::F32, (5, 1.0))?;
        let output = self.model.forward(&input)?;
        Loss::squared_error(&output, &input)?.backward(&mut self.model)?;
        drop((input, output));
        self.adam.step()
    }

    /// Only what a model has between two steps is there.
    fn is_at_rest(&self) {
        self.adam.zero_grad();
        // Eight parameters, and the optimizer's state of some.
        let states = self.device.stats().blocks - 8;
        assert!(states <= 24 && states.is_multiple_of(3), "{states} blocks beside the parameters");
        assert_eq!((self.tracker.warnings(), self.tracker.check_closed()), (vec![], Ok(())));
    }
}

fn bench(arena: u64) -> Bench {
    Bench::new(Device::computing(CpuDevice::new().unwrap(), arena).unwrap()).unwrap()
}

/// A step in every arena from `least` bytes on that is too small for it, and what room was refused for.
fn short_of_room(rows: usize, least: u64, then: impl Fn(Bench)) -> Vec<u64> {
    let mut refused = Vec::new();
    for arena in (least..).step_by(192) {
        let mut bench = bench(arena);
        match bench.step(rows) {
            Ok(()) => break,
            Err(ModelError::Alloc { bytes, .. }) => refused.push(bytes),
            Err(other) => unreachable!("{other}"),
        }
        bench.is_at_rest();
        then(bench);
    }
    refused.dedup();
    refused
}

#[test]
fn room_may_be_missing_in_forward_and_backward() {
    let refused = short_of_room(100, 48 << 10, |mut bench| bench.step(1).unwrap());
    // Outputs of ReLU, then the gradient of a weight, then the gradients of those outputs.
    assert_eq!(refused, [100 * 32 * 4, 16 * 32 * 4, 100 * 32 * 4]);
}

#[test]
fn room_may_be_missing_in_the_optimizer() {
    let refused = short_of_room(1, 18 << 10, drop);
    assert!(refused.len() > 4, "it was missing for {refused:?} only");
}

/// What two steps of Adam come to, and how often they were refused where `others` hold the arena: less and less of it, until the
/// step has room.
fn two_steps(others: bool) -> (Vec<f32>, usize) {
    let device = Device::computing(CpuDevice::new().unwrap(), 64 << 10).unwrap();
    let parameter = |value| Parameter::new(Tensor::full(&device, &[500], Float::F32, value).unwrap());
    let parameters = vec![parameter(1.0), parameter(2.0)];
    let mut adam = Adam::new(parameters.clone(), 0.1);
    let mut refused = 0;
    for gradient in [2.0, -1.0] {
        for parameter in &parameters {
            parameter.accumulate(Tensor::full(&device, &[500], Float::F32, gradient).unwrap()).unwrap();
        }
        let held = if others { device.stats().free as usize / 4 } else { 1 };
        for held in (1..=held).rev().step_by(16) {
            // The states that a refused step has made stay, so others may not have as much.
            let Ok(_others) = Tensor::empty(&device, &[held], Float::F32) else { continue };
            match adam.step() {
                Ok(()) => break,
                Err(ModelError::Alloc { .. }) => refused += 1,
                Err(other) => unreachable!("{other}"),
            }
        }
        adam.zero_grad();
    }
    (parameters.iter().flat_map(|parameter| parameter.value().values().unwrap()).collect(), refused)
}

/// A step for which there was no room has changed no number: taken again, it is the step it would have been.
#[test]
fn a_step_without_room_can_be_taken_again() {
    let (values, refused) = two_steps(true);
    assert!(refused > 100, "{refused}");
    assert_eq!(values, two_steps(false).0);
}

/// Strikes the `k`-th call of a kind in a step, for every `k`; how many there were.
fn strike(call: Call, rows: usize, arena: u64) -> u64 {
    for k in 1.. {
        let sim = SimDevice::new(SimConfig::seeded(k).strict());
        sim.inject(call, k, Fault::Refuse);
        let device = match Device::computing(sim, arena) {
            Ok(device) => device,
            Err(ModelError::Device { what: "make an arena for", .. }) => continue,
            Err(other) => unreachable!("{other}"),
        };
        let Ok(mut bench) = Bench::new(device) else { continue };
        match bench.step(rows) {
            Ok(()) => return k - 1,
            Err(ModelError::Device { source, .. }) => assert!(source.to_string().contains("refused")),
            Err(other) => unreachable!("{other}"),
        }
        bench.is_at_rest();
        bench.step(rows).unwrap();
    }
    unreachable!("there is no end to the calls")
}

#[test]
fn a_device_may_refuse_any_call() {
    assert!(strike(Call::ReadNow, 4, 1 << 20) > 50);
    assert!(strike(Call::WriteNow, 4, 1 << 20) > 50);
    assert_eq!(strike(Call::Buffer, 4, 1 << 20), 1);
    // In the smallest arena in which a step fits, blocks move.
    let fits = |arena: &u64| bench(*arena).step(4).is_ok();
    let arena = (40 << 10..).step_by(64).find(fits).unwrap();
    assert!(strike(Call::CopyWithin, 4, arena) > 0);
}

#[test]
fn a_device_has_one_tracker() {
    let device = Device::computing(CpuDevice::new().unwrap(), 1 << 10).unwrap();
    let tracker = Tracker::new();
    device.track(&tracker, "cpu").unwrap();
    assert!(matches!(device.track(&Tracker::new(), "cpu"), Err(ModelError::Tracked)));
    let _tensor = Tensor::empty(&device, &[3], Float::F16).unwrap();
    let held = tracker.device("cpu").unwrap().usage(mem_tracker::When::Current);
    assert_eq!(held.total(), 6);
}
