//! Several devices in one pool: which copies there are, who waits for whom, and what each device has to itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]
#![cfg(unix)]

mod copies;
mod disk;
mod faces;
mod faults;
mod order;
mod support;
