//! A stand-in for the CUDA driver, `libcuda.so.1`, that runs in host memory and fails on undefined use. **For tests
//! only, never published.** In tables it is called `cuda-sim`, never `cuda`: nothing it shows is a fact about a GPU.
//!
//! A synchronous stand-in finds no ordering bug, and a driver that is merely asynchronous finds few. Here
//! * work in streams **runs only when the host waits**, in a seeded order that respects the order of each stream, the
//!   events it was told to wait for, the rules of the default stream, and nothing else;
//! * **vector clocks** on every byte range of device and page-locked memory find a missing wait at enqueue, on every
//!   seed;
//! * bytes nobody wrote are **poison**, and may be moved but not read;
//! * ranges, kinds of pointers and lifetimes are checked in every call, and what is left at the end is a **leak**;
//! * **faults** strike the k-th call: some refuse that call only, some break the context for good, as on a device.
//!
//! # How a program finds it
//! The library is built as `libdriver_sim.so`. A program that opens the driver at run time finds it when a folder that
//! holds it under the driver's name comes first in the search path. Cargo puts the library of a (dev-)dependency into
//! `target/<profile>/deps/`, beside the test binaries:
//!
//! ```sh
//! mkdir -p target/cuda-sim
//! cp target/debug/libdriver_sim.so target/cuda-sim/libcuda.so.1
//! LD_LIBRARY_PATH=target/cuda-sim cargo test -p backend-cuda
//! ```
//!
//! Do not link this crate into a program that also opens the library: each copy has a device of its own.
//!
//! # Control
//! There is one device per process, with one state. What follows is exported beside the driver's functions and found
//! with `dlsym`; all of it is C ABI, safe from any thread, and never counted as a call. A function that fills
//! `text`/`capacity` writes at most `capacity` bytes of UTF-8, ends them with NUL if there is room, and returns the
//! length of the whole text without the NUL; `text` may be null.
//!
//! | function | what it does |
//! |---|---|
//! | `uint32_t simVersion(void)` | version of this table, 1; its presence tells a simulator from a driver |
//! | `void simReset(uint64_t seed)` | a fresh device: everything is forgotten, nothing is reported; settings stay. Every handle and pointer from before is invalid, also a retained context |
//! | `void simSetSeed(uint64_t seed)` | draws the order of what follows from `seed` |
//! | `void simSetMemory(uint64_t bytes)` | the device's memory in all |
//! | `void simSetPools(uint32_t present)` | whether the device says that it has memory pools (attribute 115) |
//! | `void simSetPageable(uint32_t mode)` | what an asynchronous copy does with pageable memory: 0 stage, 1 check, 2 report; see below |
//! | `uint32_t simInjectFault(uint32_t kind, uint64_t k)` | strikes the `k`-th call from now, from 1; returns 0, or 1 for an unknown kind or `k` of 0 |
//! | `uint32_t simInjectFaultAt(uint32_t kind, const char *function, uint64_t k)` | strikes the `k`-th call of `function` from now, by exported name, as `"cuMemAlloc_v2"` |
//! | `void simClearFaults(void)` | takes back faults that have not struck; what is broken stays so |
//! | `uint64_t simFaultsStruck(void)` | faults that have struck since the last reset |
//! | `uint64_t simCallCount(void)` | counted calls since the last reset |
//! | `uint64_t simCallCountOf(const char *function)` | the same, of one function |
//! | `uint64_t simUndefinedUses(void)` | undefined uses found since the last reset |
//! | `size_t simUndefinedUse(uint64_t index, char *text, size_t capacity)` | one of them, in the words of the report; 0 beyond the last |
//! | `void simForgiveUndefinedUses(void)` | forgets them, for a test that provoked them |
//! | `uint64_t simLeaks(char *text, size_t capacity)` | number of live objects (not the length of the text), and a line for each kind: how many, how many bytes |
//! | `size_t simReport(char *text, size_t capacity)` | undefined uses and live objects, as printed at exit |
//! | `uint64_t simPendingWork(void)` | operations enqueued that have not run |
//! | `uint64_t simCopiedBytes(uint32_t direction)` | bytes that copies have moved since the last reset: 0 to the device, 1 to the host, 2 within the device, 3 by kernels |
//! | `void simHostAccess(const void *address, size_t bytes, uint32_t write)` | declares that the program itself reads (0) or writes (1) page-locked memory now, and checks it as such |
//!
//! # Settings from the environment
//! Read once, at the first call. A value that cannot be read is an error on stderr and `CUDA_ERROR_UNKNOWN` from
//! `cuInit`.
//!
//! | variable | value | without it |
//! |---|---|---|
//! | `CUDA_SIM_SEED` | a number | 0 |
//! | `CUDA_SIM_MEMORY` | bytes; `K`, `M`, `G` for powers of 1024 | `8G` |
//! | `CUDA_SIM_DEVICES` | 0 or 1: with 0, `cuInit` answers `CUDA_ERROR_NO_DEVICE` | 1 |
//! | `CUDA_SIM_POOLS` | 0 or 1 | 1 |
//! | `CUDA_SIM_PAGEABLE` | `stage`, `check`, `report` | `stage` |
//! | `CUDA_SIM_FAULTS` | `KIND@K` or `KIND@FUNCTION:K`, separated by commas | none |
//! | `CUDA_SIM_ON_UNDEFINED` | `exit`: a line on stderr now, failure at exit; `abort`: abort at once; `count`: nothing but the count | `exit` |
//! | `CUDA_SIM_ON_LEAK` | `exit`: report at exit and fail; `report`: report only; `ignore` | `exit` |
//! | `CUDA_SIM_TRACE` | 1: a line on stderr for each call | 0 |
//!
//! A process that ends with undefined uses not forgiven, or with leaks, ends with exit status 86.
//!
//! # Faults
//!
//! | kind | name | what it does |
//! |---|---|---|
//! | 1 | `OUT_OF_MEMORY` | refuses the call, which changes nothing. Strikes calls that allocate or enqueue; at any other it waits for the next that does |
//! | 2 | `ILLEGAL_ADDRESS` | sticky |
//! | 3 | `LAUNCH_FAILED` | sticky |
//! | 4 | `ECC_UNCORRECTABLE` | sticky |
//! | 5 | `DEVICE_LOST` | this call and all later ones answer `CUDA_ERROR_UNKNOWN`, as where a device fell off the bus; what is in the streams never runs |
//! | 6 | `CONTAINED` | sticky |
//! | 7 | `TENSOR_MEMORY_LEAK` | sticky |
//! | 8 | `NOT_SUPPORTED` | refuses the call with that error, whatever it does, and changes nothing |
//! | 9 | `INVALID_VALUE` | the same |
//! | 10 | `UNKNOWN` | the same; unlike 5, later calls go through |
//!
//! A *sticky* fault is asynchronous. At a call that enqueues work, the call succeeds and its work fails when it runs:
//! noise in its destination, nothing after it runs. The error surfaces at the call that runs it, which is often not
//! one that waits: the device may get there at any call. At a call that enqueues nothing the error surfaces at once, as
//! if from earlier work, and the call does nothing. From then on every call answers the error until `simReset`; a
//! driver asks for a new process instead.
//!
//! A call that releases something (`cuMemFree`, `cuStreamDestroy`, …) on a broken device still answers the error, and
//! is accounted as having released it: what is reported as a leak is what nobody tried to release. Page-locked memory that
//! is kept on a broken device is no leak, and neither are the contexts and their modules: nobody can say when a copy to the host that an
//! engine had begun ends, so keeping its memory is the careful thing, and giving back what such a copy was to write is an
//! undefined use.
//!
//! Not counted and never struck: `cuInit`, `cuGetErrorName`, `cuGetErrorString`, `cuDriverGetVersion`,
//! `cuCtxGetCurrent`, `cuCtxSetCurrent`, `cuCtxPushCurrent`, `cuCtxPopCurrent`, and queries of what does not change
//! (`cuDeviceGet…`, `cuDevicePrimaryCtxGetState`, `cuCtxGet…`, `cuStreamGet…`, `cuStreamIsCapturing`,
//! `cuThreadExchangeStreamCaptureMode`, `cuMemGetAllocationGranularity`). They also go on answering on a broken device.
//!
//! # What counts as undefined use
//!
//! | what | when it is found |
//! |---|---|
//! | two uses of a byte, one a write, that nothing orders | the later one is enqueued |
//! | a device copy onto itself; copies of one batch, or of one launch of `copy_many`, that touch one another | enqueue |
//! | a range outside of live memory: freed, beyond the end, never allocated, reserved but not mapped, mapped without access | enqueue; the call answers `CUDA_ERROR_INVALID_VALUE`, a kernel breaks the context |
//! | a host pointer where a device pointer belongs, and the reverse | the call |
//! | memory freed, unmapped or unregistered while work uses it, or before the host knows that the work has ended; freed twice; a pointer that was not allocated so | the call |
//! | a destroyed or made-up handle | the call; it answers `CUDA_ERROR_INVALID_HANDLE` |
//! | bytes nobody wrote, read by a kernel or brought to the host | when the reader runs |
//! | the program writing the page-locked source of a copy in flight, or the destination | when the copy runs |
//! | pageable memory reused after an asynchronous copy returned (`check`), or used in one at all (`report`) | when the copy runs; the call |
//! | an event recorded in a stream of another context, a kernel launched in one while another context is current | the call; it answers `CUDA_ERROR_INVALID_HANDLE` |
//! | page-locked memory given back on a broken device that a copy to the host, then in flight, was to write | the call |
//! | a call from a function of `cuLaunchHostFunc` | the call; it answers `CUDA_ERROR_NOT_PERMITTED` |
//!
//! *Pageable memory.* A driver may stage the source of an asynchronous copy and return, or wait; programs rely on
//! either. With `stage` the source is read at the call and a copy to the host runs before the call returns. `check`
//! does the same and compares the source when the copy's turn comes. `report` calls any such use undefined, for
//! programs that promise to use page-locked memory only.
//!
//! *Page-locked memory.* The source of a copy is remembered when it is enqueued and compared when it runs; the
//! destination is filled with noise when it is enqueued, so that a program that reads it early sees noise. Neither is
//! done where work still in the streams uses the same bytes.
//!
//! # Where the rules come from
//! The CUDA driver API reference, 12.8.
//!
//! *The null stream* is the legacy default stream: its work runs after all work enqueued before on blocking streams,
//! and theirs after it; streams made with `CU_STREAM_NON_BLOCKING` know nothing of it. Who waits for it waits for what
//! is in it, not for the blocking streams. The plain copies run in it. One to the device from pageable memory may
//! return before the bytes are there, and one within the device, or a plain fill, does: the next use on a non-blocking
//! stream needs an event.
//!
//! *Freeing.* `cuMemFree` of memory in use may wait on a driver, which promises nothing; here it is reported.
//!
//! *Host functions* run on a thread of their own, when some call makes work run. With functions that take long, a run
//! is not a matter of the seed alone.
//!
//! *Capture* can be begun, asked for and ended, and gives no graph: whatever uses the stream meanwhile answers
//! `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED` and spoils it. So does loading a module on a thread to which the capture's mode
//! forbids it; other calls that are not safe beside a capture are not forbidden here.
//!
//! *Not there:* managed memory and shareable handles are answered with `CUDA_ERROR_NOT_SUPPORTED`, a second
//! device with `CUDA_ERROR_INVALID_DEVICE`. Graphs, arrays, textures and what else this crate's module `abi` lacks are
//! not exported.
//!
//! # What it cannot show
//! * One clock stands for all threads of the host: what one of them waited for, all of them know to have ended. A thread
//!   that relies on another's wait without being ordered after it is not found.
//! * A device that breaks discards what is in its streams at once. On a real one a copy may still be under way, so bytes
//!   that change after an error are never seen here; that memory is kept is checked where it is given back, and not where
//!   the program reuses it for something else.
//! * All contexts share one device, one address space and one legacy default stream; an error in one breaks all.
//! * Nothing runs unless the host calls, so a host that never waits for a device that waits for it does not hang as it
//!   would; and no time passes, so nothing is shown of speed.
//!
//! # Kernels
//! PTX is not executed. A module may be PTX text; the names of its entries are found in it, and each runs as its *host
//! twin*, a function of the same name and parameters in the module `kernel::twins`. An entry without a twin answers
//! `CUDA_ERROR_NOT_FOUND` from `cuModuleGetFunction`, and parameters that differ from the twin's
//! `CUDA_ERROR_INVALID_PTX` from `cuModuleLoadData`. A twin is a row of that table: its name, the sizes of its
//! parameters, a function that tells from the arguments which bytes it reads, writes and moves, and one that does it.
//!
//! | kernel | parameters | what it does |
//! |---|---|---|
//! | `fill_u32` | `u64 dst, u64 n, u32 value` | `dst[i] = value` for `i < n` |
//! | `add_u32` | `u64 dst, u64 n, u32 value` | `dst[i] += value`, wrapping |
//! | `copy_u32` | `u64 dst, u64 src, u64 n` | `dst[i] = src[i]`; ranges that overlap are undefined |
//! | `move_bytes` | `u64 dst, u64 src, u64 n` | `memmove`, in one block |
//! | `copy_many` | `u8 copies[4080], u32 count` | the kernel of `backend-cuda`: a copy is `u64 src, u64 dst, u32 bytes, u32 pieces`, these being the pieces of 16 KiB of it and of all before it, and each block makes one; copies that touch one another are undefined |
//!
//! The first three work on element `blockIdx.x * blockDim.x + threadIdx.x`: a grid that is too small leaves the rest.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

pub mod abi;
mod clock;
mod config;
mod copy;
mod exit;
mod fault;
mod kernel;
mod lane;
mod leak;
mod memory;
mod os;
mod raw;
mod result;
mod rng;
mod run;
mod session;
mod sim;
mod types;
mod written;

pub use exit::EXIT_STATUS;
pub use result::{CuError, CuResult, SUCCESS};
pub use types::{
    AccessDesc, AllocationHandle, AllocationProp, Context, Device, DevicePtr, Event, Function, HostFn, In,
    LEGACY, LaunchConfig, MemLocation, MemcpyAttributes, Module, Out, PER_THREAD, Pool, PoolProps, Stream,
};
