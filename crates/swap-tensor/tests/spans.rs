//! The spans and events of a pool, as a subscriber sees them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use std::{
    fmt::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use swap_tensor::{DType, SwapPool, Tensor, TensorSpec};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Writes a line for each span that is entered, with how deep, and for each event.
#[derive(Clone, Default)]
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<Mutex<Vec<String>>>,
    depth: Arc<AtomicU64>,
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        of.target() == "swap_tensor" && *of.level() <= Level::DEBUG
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut fields = Fields(span.metadata().name().to_owned());
        span.record(&mut fields);
        let mut spans = self.spans.lock().unwrap();
        spans.push(fields.0);
        span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.line(&fields.0);
    }

    fn enter(&self, span: &span::Id) {
        let said = self.spans.lock().unwrap()[span.into_u64() as usize - 1].clone();
        self.line(&said);
        self.depth.fetch_add(1, Ordering::Relaxed);
    }

    fn exit(&self, _: &span::Id) {
        self.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lines {
    fn line(&self, said: &str) {
        let indent = " ".repeat(self.depth.load(Ordering::Relaxed) as usize);
        self.lines.lock().unwrap().push(format!("{indent}{said}"));
    }
}

/// What is said while `work` runs.
fn said(work: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), work);
    assert_eq!(lines.depth.load(Ordering::Relaxed), 0, "every span was left");
    let lines = lines.lines.lock().unwrap();
    lines.clone()
}

fn tensor(pool: &SwapPool<CpuDevice>, name: &str, bytes: u64) -> Tensor<CpuDevice> {
    let spec = TensorSpec::new(name, DType::U8, [bytes]).unwrap();
    pool.create(spec, &vec![1; bytes as usize]).unwrap()
}

fn pool() -> SwapPool<CpuDevice> {
    let device = CpuDevice::new().unwrap();
    SwapPool::builder(device).device_memory(64 << 10).host_memory(1 << 20).build().unwrap()
}

#[test]
fn what_a_lease_does_lies_within_its_span() {
    let pool = pool();
    let (a, b) = (tensor(&pool, "a", 40_000), tensor(&pool, "b", 50_000));
    let lines = said(|| drop(a.write().unwrap()));
    assert_eq!(
        lines,
        [
            "lease tensor=\"a\" bytes=40000 tier=\"device\"",
            " swap_in tensor=\"a\" bytes=40000 tier=\"device\""
        ]
    );
    let lines = said(|| drop(b.read().unwrap()));
    assert_eq!(
        lines,
        [
            "lease tensor=\"b\" bytes=50000 tier=\"device\"",
            " write_back tensor=\"a\" bytes=40000 tier=\"host\"",
            " DEBUG message=evicted tensor=\"a\" bytes=40000 tier=\"device\" reason=\"written_back\"",
            " swap_in tensor=\"b\" bytes=50000 tier=\"device\"",
        ]
    );
    assert_eq!(said(|| drop(b.read().unwrap())).len(), 1);
}

#[test]
fn moves_and_clean_evictions() {
    let pool = pool();
    let tensors = ["a", "b", "c"].map(|name| tensor(&pool, name, 20 << 10));
    tensors.iter().for_each(|tensor| drop(tensor.read().unwrap()));
    pool.settle().unwrap();
    let lines = said(|| assert!(tensors[0].evict() && tensors[2].evict()));
    let asked =
        |name| format!("DEBUG message=evicted tensor={name:?} bytes=20480 tier=\"device\" reason=\"asked\"");
    assert_eq!(lines, [asked("a"), asked("c")]);
    let wide = tensor(&pool, "wide", 40 << 10);
    let lines = said(|| drop(wide.read().unwrap()));
    assert!(lines.contains(&" move bytes=20480 tier=\"device\"".to_owned()), "{lines:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let bytes = vec![3; 5000];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![5000], &bytes).unwrap();
    safetensors::serialize_to_file([("w", view)], None, &path).unwrap();
    let pool = pool();
    let tensors = pool.attach_safetensors(&path).unwrap();
    let lines = said(|| drop(tensors[0].read().unwrap()));
    assert!(lines.contains(&" file_read tensor=\"w\" bytes=5000 tier=\"file\"".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("WARN")), "{lines:?}");
    assert!(tensors[0].evict());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(3000).unwrap();
    let lines = said(|| drop(tensors[0].read().unwrap_err()));
    let warned = lines.iter().find(|line| line.trim_start().starts_with("WARN"));
    let warned = warned.unwrap_or_else(|| panic!("no warning in {lines:?}"));
    assert!(warned.contains("tensor=\"w\"") && warned.contains("error="), "{warned}");
}
