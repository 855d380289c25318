//! The numbers: gradients against differences, checkpoints against plain runs, and losses that fall.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use swap_models::*;

fn device() -> Device {
    Device::computing(CpuDevice::new().unwrap(), 8 << 20).unwrap()
}

fn input(device: &Device, shape: &[usize], float: Float) -> Tensor {
    Tensor::random(device, shape, float, (99, 1.0)).unwrap()
}

fn gradients(model: &Model) -> Vec<Vec<f32>> {
    model.parameters().iter().map(|parameter| parameter.gradient().unwrap().values().unwrap()).collect()
}

/// One forward and backward over the squared error from zero.
fn learn(model: &mut Model, input: &Tensor) -> f32 {
    let output = model.forward(input).unwrap();
    let target = Tensor::full(input.device(), output.shape(), output.float(), 0.25).unwrap();
    let loss = Loss::squared_error(&output, &target).unwrap();
    let value = loss.value().values().unwrap()[0];
    loss.backward(model).unwrap();
    value
}

fn mlp(device: &Device, activation: fn() -> Layer) -> Model {
    let linear = |shape, seed| Linear::new(device, shape, Float::F32, seed).unwrap();
    let layers =
        vec![Layer::new("in", linear((3, 5), 1)), activation(), Layer::new("out", linear((5, 2), 2))];
    Model::new("Mlp", Sequential::new(layers))
}

fn agrees_with_differences(activation: fn() -> Layer) {
    let device = device();
    let mut model = mlp(&device, activation);
    let input = input(&device, &[4, 3], Float::F32);
    learn(&mut model, &input);
    let computed = gradients(&model);
    let parameters = model.parameters();
    for (parameter, computed) in parameters.iter().zip(computed) {
        let values = parameter.value().values().unwrap();
        for (at, computed) in computed.iter().enumerate() {
            let mut loss_at = |step: f32| {
                let mut moved = values.clone();
                moved[at] += step;
                parameter.value().set(&moved).unwrap();
                learn(&mut model, &input)
            };
            let slope = (loss_at(1e-2) - loss_at(-1e-2)) / 2e-2;
            parameter.value().set(&values).unwrap();
            assert!((slope - computed).abs() < 2e-3, "{slope} by differences, {computed} computed");
        }
    }
}

#[test]
fn gradients_of_relu_agree_with_differences() {
    agrees_with_differences(|| Layer::new("relu", Relu));
}

#[test]
fn gradients_of_gelu_agree_with_differences() {
    agrees_with_differences(|| Layer::new("gelu", Gelu));
}

#[test]
fn checkpoints_change_no_bit() {
    let run = |checkpointed| {
        let device = device();
        let mut model = cases::blocks(&device, 4, 16, Float::F32, checkpointed).unwrap();
        learn(&mut model, &input(&device, &[2, 8, 16], Float::F32));
        gradients(&model)
    };
    let (plain, checkpointed) = (run(false), run(true));
    assert_eq!(plain.len(), 16);
    assert!(plain.iter().flatten().any(|gradient| *gradient != 0.0));
    assert_eq!(plain, checkpointed);
}

#[test]
fn checkpoints_within_checkpoints_change_no_bit() {
    let run = |outer, inner| {
        let device = device();
        let linear = |seed| Linear::new(&device, (8, 8), Float::F32, seed).unwrap();
        let last =
            Layer::new("last", Sequential::new(vec![Layer::new("0", linear(3)), Layer::new("1", Gelu)]));
        let layers = vec![Layer::new("0", linear(1)), Layer::new("1", Relu), last.checkpointed(inner)];
        let block = Layer::new("block", Sequential::new(layers)).checkpointed(outer);
        let head = Layer::new("head", linear(2));
        let mut model = Model::new("Nested", Sequential::new(vec![head, block]));
        learn(&mut model, &input(&device, &[4, 8], Float::F32));
        gradients(&model)
    };
    let plain = run(false, false);
    assert_eq!(plain, run(true, false));
    assert_eq!(plain, run(false, true));
    assert_eq!(plain, run(true, true));
}

/// As in PyTorch: a number that is none goes through, and so does its gradient.
#[test]
fn relu_hides_no_number_that_is_none() {
    let device = device();
    let linear = Linear::new(&device, (1, 1), Float::F32, 1).unwrap();
    let layers = vec![Layer::new("0", linear), Layer::new("1", Relu)];
    let mut model = Model::new("R", Sequential::new(layers));
    let output = model.forward(&Tensor::full(&device, &[1, 1], Float::F32, f32::NAN).unwrap()).unwrap();
    assert!(output.values().unwrap()[0].is_nan());
    Loss::sum(&output).unwrap().backward(&mut model).unwrap();
    assert_eq!(model.parameters()[1].gradient().unwrap().values().unwrap(), [1.0]);
}

/// The gradient of a sum is one number in all places. A layer with nothing but a bias passes it to its parameter.
#[test]
fn a_gradient_that_is_one_number_becomes_a_tensor() {
    /// Adds a parameter to its input.
    #[derive(Debug)]
    struct Bias(Parameter);

    impl Module for Bias {
        fn forward(&self, input: &Tensor, _: &mut Tape) -> Result<Tensor, ModelError> {
            let out = input.empty_like()?;
            out.device().compute([input, self.0.value()], &out, |[input, bias], out| {
                out.iter_mut().zip(input.iter().zip(bias)).for_each(|(out, (a, b))| *out = a + b);
            })?;
            Ok(out.with_gradient())
        }

        fn backward(&self, gradient: Tensor, _: &mut Tape) -> Result<Option<Tensor>, ModelError> {
            self.0.accumulate(gradient).map(|()| None)
        }

        fn parameters(&self) -> Vec<Parameter> {
            vec![self.0.clone()]
        }
    }

    let device = device();
    let tracker = Tracker::new();
    device.track(&tracker, "cpu").unwrap();
    let bias = Parameter::new(Tensor::full(&device, &[5], Float::F32, 0.5).unwrap());
    let mut model = Model::new("B", Bias(bias.clone()));
    let input = input(&device, &[5], Float::F32);
    for times in [1.0, 2.0] {
        let output = model.forward(&input).unwrap();
        Loss::sum(&output).unwrap().backward(&mut model).unwrap();
        assert_eq!(bias.gradient().unwrap().values().unwrap(), [times; 5]);
    }
    let held = tracker.device("cpu").unwrap().usage(mem_tracker::When::Current);
    assert_eq!(held.requested(Category::Gradient), 5 * 4);
}

fn losses(float: Float, mut optimizer: impl FnMut(Vec<Parameter>) -> Box<dyn Optimizer>) -> Vec<f32> {
    let device = device();
    let mut model = cases::attribution(&device, 2, 8, float).unwrap();
    let mut optimizer = optimizer(model.parameters());
    let input = input(&device, &[16, 8], float);
    let one = |_| {
        let loss = learn(&mut model, &input);
        optimizer.step().unwrap();
        optimizer.zero_grad();
        loss
    };
    (0..20).map(one).collect()
}

#[test]
fn losses_fall() {
    let adam = |parameters| Box::new(Adam::new(parameters, 1e-2)) as Box<dyn Optimizer>;
    let sgd = |parameters| Box::new(Sgd::new(parameters, 1.0)) as Box<dyn Optimizer>;
    let falls = |losses: Vec<f32>| assert!(losses[19] < 0.7 * losses[0], "{losses:?}");
    for float in [Float::F32, Float::F16, Float::BF16] {
        falls(losses(float, sgd));
    }
    for float in [Float::F32, Float::BF16] {
        falls(losses(float, adam));
    }
}

#[test]
fn the_first_step_of_adam_is_its_rate() {
    let device = device();
    let parameter = Parameter::new(Tensor::full(&device, &[3], Float::F32, 1.0).unwrap());
    let gradient = Tensor::empty(&device, &[3], Float::F32).unwrap();
    gradient.set(&[2.0, -0.5, 7.0]).unwrap();
    parameter.accumulate(gradient).unwrap();
    Adam::new(vec![parameter.clone()], 0.1).step().unwrap();
    for (value, expected) in parameter.value().values().unwrap().iter().zip([0.9, 1.1, 0.9]) {
        assert!((value - expected).abs() < 1e-6, "{value}");
    }
}

#[test]
fn gradients_add_up_until_they_are_cleared() {
    let device = device();
    let mut model = mlp(&device, || Layer::new("relu", Relu));
    let input = input(&device, &[4, 3], Float::F32);
    let before = device.stats().live;
    learn(&mut model, &input);
    let (once, held) = (gradients(&model), device.stats().live);
    learn(&mut model, &input);
    for (twice, once) in gradients(&model).iter().flatten().zip(once.iter().flatten()) {
        assert_eq!(*twice, 2.0 * once);
    }
    assert_eq!(device.stats().live, held, "the second gradient is added and freed");
    Sgd::new(model.parameters(), 0.0).zero_grad();
    assert_eq!(device.stats().live, before);
}

#[test]
fn a_model_goes_to_another_thread() {
    let device = device();
    let mut model = cases::blocks(&device, 2, 16, Float::F32, true).unwrap();
    let input = input(&device, &[2, 16], Float::F32);
    learn(&mut model, &input);
    let here = gradients(&model);
    let there = std::thread::spawn(move || {
        model.parameters().iter().for_each(Parameter::clear_gradient);
        learn(&mut model, &input);
        gradients(&model)
    });
    assert_eq!(there.join().unwrap(), here);
}

#[test]
fn a_model_gives_everything_back() {
    let device = device();
    let mut model = cases::blocks(&device, 3, 16, Float::F32, true).unwrap();
    let input = input(&device, &[2, 16], Float::F32);
    let output = model.infer(&input).unwrap();
    assert_eq!(output.values().unwrap(), model.forward(&input).unwrap().values().unwrap());
    drop((model, output, input));
    assert_eq!(device.stats().blocks, 0);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let device = device();
    let mut model = mlp(&device, || Layer::new("relu", Relu));
    let odd = input(&device, &[4, 7], Float::F32);
    let refused = model.forward(&odd);
    assert!(matches!(refused, Err(ModelError::Shape { expected: 3, .. })), "{refused:?}");
    assert!(matches!(
        Loss::squared_error(&odd, &input(&device, &[1], Float::F32)),
        Err(ModelError::Shape { .. })
    ));
    assert!(matches!(model.backward(odd.clone()), Err(ModelError::NothingSaved)));
    model.forward(&input(&device, &[4, 3], Float::F32)).unwrap();
    assert!(matches!(model.backward(odd), Err(ModelError::Shape { expected: 8, .. })));
    assert!(model.parameters().iter().all(|parameter| parameter.gradient().is_none()));
    let refused = model.parameters()[0].accumulate(input(&device, &[4], Float::F32));
    assert!(matches!(refused, Err(ModelError::Shape { expected: 15, .. })), "{refused:?}");
    for shape in [&[4, 0][..], &[usize::MAX, 2], &[1 << 40, 1 << 30]] {
        let refused = Tensor::empty(&device, shape, Float::F32);
        assert!(matches!(refused, Err(ModelError::NoTensor { .. })), "{refused:?}");
    }
    let refused = Tensor::empty(&device, &[8 << 20], Float::F32);
    assert!(matches!(refused, Err(ModelError::Alloc { bytes: 33_554_432, .. })), "{refused:?}");
}
