//! What a pool tells about itself while it works: a timeline, metrics and spans.
//!
//! Nothing here prints, writes files or installs anything: the program chooses who listens. A pool that nobody listens to
//! spends a comparison on each of these.
//!
//! # Timeline
//! A [`Timeline`] given to [`PoolBuilder::timeline`](crate::PoolBuilder::timeline) keeps what the pool did as spans, with
//! tensor, bytes, begin and end; [`Timeline::write_chrome_json`] writes them for <https://ui.perfetto.dev>.
//!
//! | track | a span is | `tier` |
//! |---|---|---|
//! | `upload` | a copy to the device, from enqueue to event | `device` |
//! | `download` | a copy to host memory, from enqueue to event; write-backs are these | `host` |
//! | `move` | the moves of one plan inside the arena, from enqueue to event | `device` |
//! | `file read` | a read of an attached file | `file` |
//! | `disk read`, `disk write` | a read or write of a tier on disk | `disk` |
//! | `stall` | a caller blocked in a lease | `device` |
//! | the program's | what [`Timeline::span`] was asked to record | none |
//!
//! Each device of a pool of several is a process of its own, called after the pool and its number. Spans of one track that overlap lie on lanes of their own (`upload`, `upload 2`, …). A transfer's end is when a thread that
//! waits for the events of its lane saw it.
//!
//! # Metrics
//! With feature `metrics`, through the `metrics` facade. A pool takes its handles when it is built: install the recorder
//! before. Every metric has the label `pool`, the name given to [`PoolBuilder::name`](crate::PoolBuilder::name); pools of one
//! name add up. In a pool of several devices every metric also has the label `device`, the number of the device that the bytes were
//! for or came from; what belongs to none (the host tier, what is copied from host memory to a disk) has the first one's.
//!
//! | name | kind | unit | other labels |
//! |---|---|---|---|
//! | `swap_tensor_transfer_bytes_total` | counter | bytes | `tier`, `direction` |
//! | `swap_tensor_transfers_total` | counter | transfers | `tier`, `direction` |
//! | `swap_tensor_transfer_failures_total` | counter | transfers | `tier`, `direction` |
//! | `swap_tensor_transfers_in_flight` | gauge | transfers | `tier`, `direction` (not `move`) |
//! | `swap_tensor_transfer_seconds` | histogram | seconds | `tier`, `direction` |
//! | `swap_tensor_leases_total` | counter | leases | `found`: `hit` (valid on the device), `miss` |
//! | `swap_tensor_lease_wait_seconds` | histogram | seconds, of callers blocked in leases | |
//! | `swap_tensor_evictions_total` | counter | evictions | `reason`: `clean`, `written_back`, `asked` |
//! | `swap_tensor_evicted_bytes_total` | counter | bytes | `reason` |
//! | `swap_tensor_prefetches_total` | counter | tensors fetched ahead | |
//! | `swap_tensor_prefetch_queue` | gauge | tensors that wait to be fetched | |
//! | `swap_tensor_held_bytes` | gauge | bytes | `tier`: `device`, `host` |
//! | `swap_tensor_budget_bytes` | gauge | bytes | `tier`: `device`, `host` |
//! | `swap_tensor_leased_bytes` | gauge | device bytes under lease or pin | |
//!
//! Of moves, transfers are blocks, and failures plans.
//!
//! `tier` and `direction` are `device` with `upload`, `download` or `move`; `file` with `read`; `disk` with `read` or `write`.
//! Bytes of the device count when the copy is enqueued, bytes of files and disks when they have been read or written. How
//! long transfers of the device take is only known to a pool that watches them, because of
//! [`measure_transfers`](crate::PoolBuilder::measure_transfers) or a timeline; reads and writes are always timed.
//!
//! # Spans
//! With feature `tracing`, target `swap_tensor`: spans at level `DEBUG` with the fields `tensor` (but for moves), `bytes` and `tier`, while a
//! thread of the pool or of a caller is at it; a transfer's covers putting it on its lane, and a timeline says how long it
//! travelled.
//!
//! | span | around |
//! |---|---|
//! | `lease` | taking a lease, waits included |
//! | `swap_in`, `write_back`, `move` | ordering and enqueuing a copy to the device, a copy of a changed tensor to host memory, the moves of a plan |
//! | `file_read`, `disk_read`, `disk_write` | a read or a write |
//!
//! Events: `evicted` at `DEBUG`, with `reason`; a transfer, a read or a write that failed at `WARN`, with `error`.

mod chrome;
mod lanes;
mod notes;
mod timeline;

pub use timeline::{Timeline, TimelineSpan};

pub(crate) use notes::{Counted, Io, Kind, Levels, Listeners, Passage, Probe, Reason, Step};
pub(crate) use timeline::{Name, Track};
