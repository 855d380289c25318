//! Reserved addresses and the physical pages behind them: the driver's virtual memory management.

use crate::context::{Context, lock};
use crate::memory::no_memory;
use crate::{CudaError, driver};
use core::ops::Range;
use cudarc::driver::sys;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// An address range of which the first part has pages behind it.
///
/// ```text
///    base                                 base + bytes()            base + reserved
///    | granule 0 | granule 1 | granule 2 |                          |
///      handle a    handle c    handle b     addresses only
/// ```
pub(crate) struct Pages {
    base: sys::CUdeviceptr,
    /// Bytes of address space, whole granules.
    reserved: u64,
    /// Bytes of a page, a power of two.
    granule: u64,
    /// The physical page behind each granule; all are mapped, unless `broken`.
    table: Mutex<Vec<Page>>,
    /// Whether pages could not be put back.
    broken: AtomicBool,
    ordinal: i32,
}

/// A physical page, mapped at its granule or nowhere.
struct Page {
    handle: sys::CUmemGenericAllocationHandle,
    mapped: bool,
}

impl Pages {
    /// `size` bytes with pages, in an address range of at least `reserve` bytes; a page has at least `granule` bytes.
    ///
    /// # Errors
    /// No virtual memory management on this device; no addresses or no memory. Nothing is left behind.
    pub(crate) fn new(context: &Context, size: u64, reserve: u64, granule: u64) -> Result<Self, CudaError> {
        let lacks = || CudaError::Unsupported {
            device: context.name().to_owned(),
            what: "virtual memory management",
        };
        if context.attribute(SUPPORTED)? == 0 {
            return Err(lacks());
        }
        driver::require(driver::VIRTUAL)?;
        let ordinal = context.safe().cu_device();
        let (mut least, how) = (0, properties(ordinal));
        let minimum = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        context.call("cuMemGetAllocationGranularity", || {
            // SAFETY: both point to values of ours.
            unsafe { sys::cuMemGetAllocationGranularity(&raw mut least, &raw const how, minimum) }
        })?;
        let granule = granule.max(least as u64).max(1);
        let limit = || CudaError::Limit { limit: "the address space", asked: granule, allowed: 1 << 40 };
        let granule = granule.checked_next_power_of_two().filter(|g| *g <= 1 << 40).ok_or_else(limit)?;
        // The caller checked that both are small enough not to overflow.
        let reserved = size.max(reserve).next_multiple_of(granule);
        let mut base = 0;
        let made = context.call("cuMemAddressReserve", || {
            // SAFETY: points to a value of ours; no address is asked for.
            unsafe { sys::cuMemAddressReserve(&raw mut base, reserved as usize, 0, 0, 0) }
        });
        made.map_err(|error| no_memory(context, "the addresses of a buffer", reserved, error))?;
        let pages = Pages {
            base,
            reserved,
            granule,
            table: Mutex::default(),
            broken: AtomicBool::new(false),
            ordinal,
        };
        match pages.resize(context, size, || Ok(())) {
            Ok(_) => Ok(pages),
            Err(error) => {
                pages.free(context);
                Err(error)
            }
        }
    }

    pub(crate) fn base(&self) -> sys::CUdeviceptr {
        self.base
    }

    pub(crate) fn granule(&self) -> u64 {
        self.granule
    }

    /// Bytes with pages behind them.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.table).len() as u64 * self.granule
    }

    /// # Errors
    /// [`CudaError::Broken`].
    pub(crate) fn check(&self) -> Result<(), CudaError> {
        if self.broken.load(SeqCst) { Err(CudaError::Broken) } else { Ok(()) }
    }

    /// Puts pages behind as many addresses as `size` needs, or takes them away, from the end. Returns how many bytes had pages
    /// before, and have them now.
    ///
    /// `quiet` waits until nobody uses what goes. O(pages changed) calls of the driver.
    ///
    /// # Errors
    /// More than is reserved, no memory, or the driver refuses; nothing changed, unless pages could not be put back.
    pub(crate) fn resize(
        &self,
        context: &Context,
        size: u64,
        quiet: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(u64, u64), CudaError> {
        self.check()?;
        if size > self.reserved {
            let limit = "the addresses reserved for the buffer";
            return Err(CudaError::Limit { limit, asked: size, allowed: self.reserved });
        }
        let wanted = size.div_ceil(self.granule) as usize;
        let mut table = lock(&self.table);
        let held = table.len();
        if wanted < held {
            quiet()?;
            let goes = wanted..held;
            if let Err(error) = self.unmap(context, &mut table, goes.clone()) {
                self.put_back(context, &mut table, core::slice::from_ref(&goes))?;
                return Err(error);
            }
            table.drain(wanted..).for_each(|page| release(context, page));
        }
        let mut grown = Ok(());
        while grown.is_ok() && table.len() < wanted {
            grown = self.create(context).map(|handle| table.push(Page { handle, mapped: false }));
        }
        let grown = grown.and_then(|()| self.map(context, &mut table, held.min(wanted)..wanted));
        if let Err(error) = grown {
            table.drain(held..).for_each(|page| release(context, page));
            return Err(no_memory(context, "the pages of a buffer", size, error));
        }
        Ok((held as u64 * self.granule, table.len() as u64 * self.granule))
    }

    /// Exchanges the pages of two ranges of granules of the same length, which do not overlap and which nobody uses.
    ///
    /// # Errors
    /// The driver refuses, and the pages are where they were; or some could not be put back, and [`check`](Self::check) says
    /// so from now on.
    pub(crate) fn exchange(
        &self,
        context: &Context,
        a: Range<usize>,
        b: Range<usize>,
    ) -> Result<(), CudaError> {
        self.check()?;
        let table = &mut *lock(&self.table);
        let mut exchanged = false;
        let off = |table: &mut [Page]| {
            self.unmap(context, table, a.clone()).and_then(|()| self.unmap(context, table, b.clone()))
        };
        let mut outcome = off(table);
        if outcome.is_ok() {
            swap(table, &a, &b);
            exchanged = true;
            let mapped = self.map(context, table, a.clone());
            outcome = mapped.and_then(|()| self.map(context, table, b.clone()));
            // Back to where they were, if what was mapped comes off again.
            if outcome.is_err() && off(table).is_ok() {
                swap(table, &a, &b);
                exchanged = false;
            }
        }
        let Err(error) = outcome else { return Ok(()) };
        self.put_back(context, table, &[a, b])?;
        // What did not come off is where it was wanted.
        if exchanged { Ok(()) } else { Err(error) }
    }

    /// Maps what was taken off `ranges`, where the table has it.
    ///
    /// # Errors
    /// Some of it cannot be mapped: the pages are broken from now on.
    fn put_back(
        &self,
        context: &Context,
        table: &mut [Page],
        ranges: &[Range<usize>],
    ) -> Result<(), CudaError> {
        // Once more if need be: a refusal for want of memory may have been of the moment.
        let back = |range: &Range<usize>, table: &mut [Page]| {
            (0..2).any(|_| self.map(context, table, range.clone()).is_ok())
        };
        if ranges.iter().filter(|range| !back(range, table)).count() == 0 {
            return Ok(());
        }
        self.broken.store(true, SeqCst);
        Err(context.check_lost().err().unwrap_or(CudaError::Broken))
    }

    /// Gives pages and addresses back; nobody uses them any more.
    pub(crate) fn free(&self, context: &Context) {
        let mut table = lock(&self.table);
        let all = 0..table.len();
        if context.late(self.unmap(context, &mut table, all)) || context.is_lost() {
            table.drain(..).for_each(|page| release(context, page));
            // SAFETY: reserved by `new`, and nothing is mapped there.
            let given = context.give_back("cuMemAddressFree", || unsafe {
                sys::cuMemAddressFree(self.base, self.reserved as usize)
            });
            context.late(given);
        }
    }

    fn create(&self, context: &Context) -> Result<sys::CUmemGenericAllocationHandle, CudaError> {
        let (mut handle, how) = (0, properties(self.ordinal));
        context.call("cuMemCreate", || {
            // SAFETY: both point to values of ours; the length is a multiple of the granularity.
            unsafe { sys::cuMemCreate(&raw mut handle, self.granule as usize, &raw const how, 0) }
        })?;
        Ok(handle)
    }

    /// Maps the pages of `range` that are not, where the table has them, and makes all of it accessible; or leaves mapped
    /// what was mapped before.
    fn map(&self, context: &Context, table: &mut [Page], range: Range<usize>) -> Result<(), CudaError> {
        if range.is_empty() {
            return Ok(());
        }
        let granule = self.granule as usize;
        let mut fresh = Vec::new();
        let mut outcome = Ok(());
        for number in range.clone().filter(|number| !table[*number].mapped).collect::<Vec<_>>() {
            outcome = context.call("cuMemMap", || {
                // SAFETY: the addresses are reserved and unmapped, the handle has a granule's length.
                unsafe { sys::cuMemMap(self.at(number), granule, 0, table[number].handle, 0) }
            });
            if outcome.is_err() {
                break;
            }
            table[number].mapped = true;
            fresh.push(number);
        }
        if outcome.is_ok() {
            let read_write = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
            let access =
                sys::CUmemAccessDesc { location: properties(self.ordinal).location, flags: read_write };
            let bytes = range.len() * granule;
            outcome = context.call("cuMemSetAccess", || {
                // SAFETY: all of the range is mapped; one descriptor is given.
                unsafe { sys::cuMemSetAccess(self.at(range.start), bytes, &raw const access, 1) }
            });
        }
        if outcome.is_err() {
            for number in fresh {
                // A page that stays mapped is not accessible, and unmapped with the rest.
                let _ = self.unmap(context, table, number..number + 1);
            }
        }
        outcome
    }

    /// Unmaps the pages of `range` that are mapped: one call for each run of them. Ends at the first refusal, unless the
    /// context is lost: then each is given up once.
    fn unmap(&self, context: &Context, table: &mut [Page], range: Range<usize>) -> Result<(), CudaError> {
        let (mut from, mut outcome) = (range.start, Ok(()));
        while from < range.end && (outcome.is_ok() || context.is_lost()) {
            let run = table[from..range.end].iter().take_while(|page| page.mapped).count();
            if run > 0 {
                let bytes = run * self.granule as usize;
                // SAFETY: the run consists of whole mappings, and nobody uses them.
                let off =
                    context.give_back("cuMemUnmap", || unsafe { sys::cuMemUnmap(self.at(from), bytes) });
                if off.is_ok() || context.is_lost() {
                    table[from..from + run].iter_mut().for_each(|page| page.mapped = false);
                }
                outcome = outcome.and(off);
            }
            from += run.max(1);
        }
        outcome
    }

    fn at(&self, granule: usize) -> sys::CUdeviceptr {
        self.base + granule as u64 * self.granule
    }
}

fn release(context: &Context, page: Page) {
    // SAFETY: made by `create` and forgotten here; should it still be mapped, the driver keeps it until it is not.
    context.late(context.give_back("cuMemRelease", || unsafe { sys::cuMemRelease(page.handle) }));
}

/// Changes what pages lie behind two ranges; nothing is mapped there.
fn swap(table: &mut [Page], a: &Range<usize>, b: &Range<usize>) {
    a.clone().zip(b.clone()).for_each(|(a, b)| table.swap(a, b));
}

/// Memory on the device with this ordinal of the driver's, for this process alone.
fn properties(ordinal: i32) -> sys::CUmemAllocationProp {
    sys::CUmemAllocationProp {
        type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
        location: sys::CUmemLocation {
            type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: ordinal,
        },
        win32HandleMetaData: core::ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

const SUPPORTED: sys::CUdevice_attribute =
    sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED;
