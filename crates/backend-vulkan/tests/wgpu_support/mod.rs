//! Devices for the tests of the wgpu backend, and an ear for what Vulkan's validation layer says.

#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::conformance::Harness as BufferHarness;
use backend_vulkan::{WgpuBuffer, WgpuDevice, WgpuError, WgpuMoves, WgpuOptions, wgpu};
use log::{Level, LevelFilter, Log, Metadata, Record};
use pinned_host::conformance::Harness;
use pinned_host::{Queue, QueuedBuffer, Transfer};
use std::sync::{Mutex, Once, PoisonError};

#[path = "../support/turn.rs"]
mod turn;

/// A device of wgpu's Vulkan backend, with the validation layer and its synchronisation checks unless the layer is to be
/// left out; `None`, and a line that says why, where there is no adapter.
pub(crate) fn vulkan(options: WgpuOptions) -> Option<WgpuDevice> {
    listen();
    if !turn::with_layer() {
        return vulkan_without_layer(options);
    }
    turn::under_the_layer();
    // wgpu turns synchronisation validation on together with the layer.
    open(options.instance_flags(wgpu::InstanceFlags::VALIDATION | wgpu::InstanceFlags::DEBUG))
}

/// The same without the layer, for programs of tens of thousands of submissions: the layer of Debian 12 (1.3.239) has a
/// thread of its own for each queue, which meets the reuse of a command buffer or the destruction of a buffer once in
/// some hundred thousand, and then it crashes.
pub(crate) fn vulkan_without_layer(options: WgpuOptions) -> Option<WgpuDevice> {
    open(options.instance_flags(wgpu::InstanceFlags::empty()))
}

fn open(options: WgpuOptions) -> Option<WgpuDevice> {
    match options.backends(wgpu::Backends::VULKAN).open() {
        Ok(device) => Some(device),
        Err(error @ WgpuError::NoAdapter { .. }) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A device of wgpu's noop backend, which keeps bytes and needs no driver.
pub(crate) fn noop(options: WgpuOptions) -> WgpuDevice {
    noop_with(options, wgpu::Limits { max_buffer_size: 1 << 30, ..wgpu::Limits::default() })
}

pub(crate) fn noop_with(options: WgpuOptions, limits: wgpu::Limits) -> WgpuDevice {
    let (device, queue) =
        wgpu::Device::noop(&wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() });
    options.over(device, queue).unwrap()
}

/// Staging of two pieces of 4 KiB and as much scratch, so that small transfers and moves need several; nothing goes
/// past staging.
pub(crate) fn small(moves: WgpuMoves) -> WgpuOptions {
    WgpuOptions::new().piece(4096).staging(8192).scratch(4096).moves(moves).direct(false)
}

/// The same with arenas that the host reaches, if the device can have such.
pub(crate) fn direct() -> WgpuOptions {
    small(WgpuMoves::Raw).direct(true)
}

/// A device whose buffers are under test.
pub(crate) struct Buffers(pub(crate) WgpuDevice);

impl BufferHarness for Buffers {
    type Buffer = WgpuBuffer;

    fn make(&mut self, size: u64) -> WgpuBuffer {
        self.0.buffer(size).unwrap()
    }

    fn write(&mut self, buffer: &mut WgpuBuffer, at: u64, bytes: &[u8]) {
        buffer.queue().drain().unwrap();
        self.0.write_now(buffer, at, bytes).unwrap();
    }

    fn read(&mut self, buffer: &WgpuBuffer, at: u64, len: u64) -> Vec<u8> {
        buffer.queue().drain().unwrap();
        let mut bytes = vec![0; len as usize];
        self.0.read_now(buffer, at, &mut bytes).unwrap();
        bytes
    }

    fn bounce(&self) -> u64 {
        4096
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        no_message();
    }
}

/// Devices for the suites of transfers and queues.
pub(crate) struct Wgpu(pub(crate) fn() -> WgpuDevice);

impl Harness for Wgpu {
    type Device = WgpuDevice;

    fn device(&self) -> WgpuDevice {
        (self.0)()
    }

    fn lose_device(&self, device: &WgpuDevice) -> bool {
        device.native().0.destroy();
        true
    }
}

impl Drop for Wgpu {
    fn drop(&mut self) {
        no_message();
    }
}

/// Fails if the layer, or wgpu, has complained about anything in this process.
pub(crate) fn no_message() {
    let messages = messages();
    if !messages.is_empty() && !std::thread::panicking() {
        panic!("{} messages, the first of them: {}", messages.len(), messages[0]);
    }
}

/// Warnings and errors so far.
pub(crate) fn messages() -> Vec<String> {
    MESSAGES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Begins to listen, before the first instance is made.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Ear).unwrap();
        // wgpu asks the layer for messages of the levels that are heard when the instance is made.
        log::set_max_level(LevelFilter::Warn);
    });
}

struct Ear;

impl Log for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}: {}", record.level(), record.target(), record.args());
            eprintln!("{line}");
            MESSAGES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn flush(&self) {}
}

static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());
