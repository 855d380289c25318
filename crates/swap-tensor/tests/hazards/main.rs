//! A test for each hazard that swap systems have met in the wild, named after it: what was seen, the rule that came of it, and the
//! guard in this crate.
//!
//! A test is worth what it says when the guard is gone. Each guard was taken out of the code by hand, one at a time, and the test
//! run: the last column has what was removed and what the test said then. Files are those of `src/` unless another crate is named.
//!
//! | hazard | test | guard | without it |
//! |---|---|---|---|
//! | store reads before the producer has finished | [`order::store_reads_before_producer_finished`] | `room.rs` `write_back`, `spill.rs` `write_device`: `order_one` | call removed: host, "read after write" by the simulated device; disk, wrong bytes |
//! | load overwrites a block still read | [`order::load_overwrites_block_still_read`] | `fill.rs` `swap_in`, `below.rs` `begin_fill`: `order_one` | call removed in either: "write after read" (one upload; four pieces) |
//! | freed or used again while its download is in flight | [`order::freed_while_download_in_flight`] | `books.rs` `dispose_if_done` looks at `jobs` | not looked at: the job ends on another tensor's number, "subtract with overflow" |
//! | | | `room.rs` `write_back`: `hazards.after` | removed: "write after read" by the next lease's kernel |
//! | `record_stream` on the wrong stream | [`order::lease_on_another_stream`] | `claim.rs` `seat`: `order_one`; `hold.rs` `end` records on the lease's queue | removed; the pool's queue instead: two and three missing waits |
//! | host reads before the download's event | [`order::host_read_before_event`] | `room.rs` `write_back` leaves the copy Filling; `pinned-host` `Ticket::wait` | Valid at once: "a valid host copy without memory"; no wait for the event: "read before it was there" |
//! | buffer dropped during I/O | [`work::buffer_dropped_during_io`] | `disk/io/flight.rs` `take` | the buffer comes with the timeout: "the read that hangs still writes to its memory" |
//! | future dropped mid-transfer | [`work::future_dropped_mid_transfer`] | `request.rs` `ask`: the job drops the promise and the lease in it | promise leaked: the lease never ends |
//! | double swap-in | [`work::double_swap_in`], [`work::double_swap_in_without_room`] | `fill.rs` `bring_in`: `busy` | not looked at: "a slot cannot go from filling to reserved" in the second; the first holds by the wall that a fill makes |
//! | | [`work::double_swap_in_given_up`] | `claim.rs` `occupy` spoils only what it took | spoils what is Filling: "its copy was spoilt" |
//! | evict while in use | [`room::evict_while_in_use`] | `is_idle` in `tensor.rs` `evict`, `is_idle_on` in `room.rs` `victim` | not asked: the pinned tensor is evicted; is the victim |
//! | lookup-then-pin gap | [`room::lookup_then_pin_gap`] | `claim.rs` `claim_now` counts before it looks | counted in `seat`: what was found is evicted for the other lease, no hit |
//! | partial batch returned as full | [`work::partial_batch_is_no_batch`] | `below.rs` `end_fill`; `spill.rs` `send_pieces` | errors taken for success: served without its third piece; believed to be on disk without one |
//! | | [`work::partial_batch_of_leases_is_no_batch`] | `claim.rs` `occupy_all` gives the rest back | not given back: bytes stay held |
//! | | [`work::write_that_never_began`] | `hold.rs` `upload` spoils only once something was sent | spoils always: `NoValidCopy` |
//! | a copy outdated on its way | [`work::stale_copy_published_after_write`] | `spill.rs` `next_to_spill` and `end_host_write` | both removed: the bytes before the write are served |
//! | pool exhausted, all hold one and wait for one | [`room::pool_exhausted_everybody_ends`] | `claim.rs` `claim_now` grants what there is room for | not compared: `DeviceBudget` at the deadline |
//! | | [`room::pool_exhausted_by_its_own_walls`] | `claim.rs` `gather` before any `seat` | one after the other: `DeviceBudget` with as much free as was asked for |
//! | | [`room::pool_exhausted_for_long`] | `below.rs` `fill_from_below`: time from now on | time from the call on: `Timeout` of a disk with which nothing is wrong |
//! | lock leaked on early return | [`room::guard_dropped_on_early_return`] | `claim.rs` `occupy`: `unclaim` | removed: bytes stay held after the error |
//! | staging shares its pool with the cache | [`room::staging_apart_from_cache`] | `flight.rs` `staging_slice`: the ring | the host tier instead: no memory, and no way to make some |
//! | mirror copies cannot be reclaimed | [`room::clean_duplicate_is_always_evictable`] | `room.rs` `drop_spare_host_copy`, `evict_one`; `contents.rs` `load_to_host` waits for the transfer that has the memory | removed, each: `DeviceBudget` (host), write-backs of clean tensors (device) |
//! | leaked pins | [`work::leaked_leases_show_and_dropped_ones_end`] | `hold.rs` `Drop`; `Stats::held_bytes` | no drop: two units stay held |
//! | evict metadata against delete file | [`disk::evict_while_reader_reads_disk`] | `lower/disk.rs`: a copy's pieces are shared | pieces copied, so that the index's share ends them: `NoPart` |
//! | descriptor used again after close | [`work::descriptor_reused`] | `disk/engine.rs` `Drop` joins; what does I/O owns its `Drive` | not closed and joined: descriptors are left; closed after the grace all the same: none is open under the read that hangs |
//! | torn write | [`disk::torn_write_is_never_served`], [`disk::torn_write_leaves_the_source`] | `disk/request.rs` `conclude`, `compare`; `spill.rs` `end_host_write` | error ignored: a torn extent is published; sums not compared: wrong bytes served; source dropped: `NoValidCopy` |
//! | attached file truncated or overwritten | [`disk::attached_file_truncated`] | `file.rs` `check_unchanged` | not compared: a bare end of file; the other contents served |
//! | sticky error after a failed registration | [`room::sticky_error_after_failed_lock`] | `host_memory.rs` `tier` goes on with pageable memory | error passed on: no pool |
//! | two pins of one page against a limit | [`room::two_pins_of_one_page`] | `builder.rs` `build`: what is locked counts once | staging counted twice: a tier that fits is pageable |
//! | registration stalls, in the middle of serving | [`room::registration_on_the_hot_path`] | `builder.rs` locks all there is | a lock for each host copy: refused |
//! | lock held across a wait | [`locks::no_lock_across_wait`], [`locks::no_lock_across_wait_for_the_device`] | `below.rs` `fill_from_below`, `room.rs` `wait_for` | kept: nobody gets in |
//! | lock held in a drop | [`locks::no_lock_while_waking`] | `lock.rs` `WakeAfter` | tasks called at once: the waker never returns |
//! | cancel after commit | [`work::cancel_after_commit_is_no_op`] | `movers.rs` `unwish` | counts what is being served: one is said to be called off |
//!
//! Not testable here:
//! * *Read outlives a remote lease* (Mooncake #4153): there is no remote tier yet.
//! * *Ranks evict differently, and a collective hangs* (SGLang #26921): needs several ranks. Nothing here calls a collective.
//! * *A CUDA graph has captured addresses* (vLLM's prefetch): needs a GPU. A leased address does not change, which
//!   [`room::evict_while_in_use`] sees.
//! * *Transparent huge pages against `FOLL_LONGTERM`* (Mooncake), and how pages are touched ahead: the kernel's doing; `OsMemory` in
//!   `pinned-host` asks for ordinary pages (`MADV_NOHUGEPAGE`), with tests there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]
#![cfg(unix)]

mod disk;
mod locks;
mod order;
mod room;
mod support;
mod work;
