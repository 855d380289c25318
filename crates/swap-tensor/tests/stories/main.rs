//! Stories of a pool, each told from beginning to end. One program: what a pool is made of is compiled once for all of them.

mod deepspeed_golden;
#[cfg(all(feature = "disk", feature = "conformance"))]
mod devices;
#[cfg(all(feature = "disk", feature = "conformance"))]
mod disk;
#[cfg(all(feature = "disk", feature = "conformance"))]
mod disk_pool;
mod files;
#[cfg(all(feature = "disk", feature = "conformance"))]
mod interleavings;
mod pool;
mod schedule_pool;
mod tasks;
mod timeline;
#[cfg(all(feature = "disk", feature = "conformance", feature = "track"))]
mod track;
