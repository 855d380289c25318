//! Who holds a device's memory.

use core::fmt;

use crate::book::{Book, NONE};
use crate::usage::Bytes;
use crate::{Amount, Category, StorageId, Usage, When};

/// Who holds, or held at the peak, a device's memory.
///
/// Its text has three lines, of categories, modules and the largest storages. The precision says how many modules are named, 5
/// without one.
///
/// ```
/// use mem_tracker::{Category, Tracker, When};
///
/// let tracker = Tracker::new();
/// let device = tracker.device("cuda:0")?;
/// let owner = |module, label| tracker.owner(Category::Parameter, Some(module), Some(label));
/// let _held = (device.hold_for(3 << 20, &owner("h.0", "weight")?)?, device.hold_for(4096, &owner("h.1", "bias")?)?);
/// assert_eq!(
///     format!("{:.1}", device.attribution(When::Current, 1)),
///     "held: 3.00 MiB Parameter\n\
///      by module: 3.00 MiB h.0, 4.00 KiB 1 others\n\
///      largest: 3.00 MiB Parameter weight of h.0"
/// );
/// # Ok::<(), mem_tracker::TrackError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attribution {
    /// Name of the device.
    pub device: String,
    /// Bytes by category.
    pub usage: Usage,
    /// Storages with bytes.
    pub storages: u64,
    /// Bytes by the module that made them: the innermost whose scope was open on the thread that did. The largest first; what was
    /// made outside of every module is without a name.
    pub modules: Vec<ModuleShare>,
    /// The largest storages, the largest first, the older of two that are equally large before the younger.
    pub largest: Vec<StorageShare>,
}

impl Attribution {
    /// What a module holds with all modules below it: `Net.h` with `Net.h.0`, not with `Net.head`. O(modules).
    #[must_use]
    pub fn below(&self, module: &str) -> Usage {
        let within = |name: &str| {
            name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let shares = self.modules.iter().filter(|share| share.module.as_deref().is_some_and(within));
        shares.fold(Usage::default(), |sum, share| sum.with(&share.usage))
    }
}

impl fmt::Display for Attribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = f.precision().unwrap_or(NAMED).min(self.modules.len());
        let (named, others) = self.modules.split_at(named);
        let mut modules: Vec<String> = named.iter().map(ModuleShare::to_string).collect();
        if !others.is_empty() {
            let rest = others.iter().map(|share| share.usage.total()).sum();
            modules.push(format!("{} {} others", Amount(rest), others.len()));
        }
        writeln!(f, "held: {}", self.usage)?;
        writeln!(f, "by module: {}", listed(&modules))?;
        let largest: Vec<String> = self.largest.iter().map(StorageShare::to_string).collect();
        write!(f, "largest: {}", listed(&largest))
    }
}

fn listed(parts: &[String]) -> String {
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// What a module holds, without modules below it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModuleShare {
    /// The module; `None` for what was made outside of every one.
    pub module: Option<String>,
    /// What it holds.
    pub usage: Usage,
}

/// `2.00 MiB Net.0`, or `2.00 MiB outside of modules`.
impl fmt::Display for ModuleShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.module.as_deref().unwrap_or("outside of modules");
        write!(f, "{} {name}", Amount(self.usage.total()))
    }
}

/// What one storage holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageShare {
    /// Its name. Of what was held at the peak, it may be gone.
    pub id: StorageId,
    /// What the program called it.
    pub label: Option<String>,
    /// What it is held for.
    pub category: Category,
    /// The module that made it.
    pub module: Option<String>,
    /// Bytes it occupies.
    pub allocated: u64,
    /// Bytes that were asked for.
    pub requested: u64,
}

/// `2.00 MiB Parameter weight of Net.0`, as far as it has names.
impl fmt::Display for StorageShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Amount(self.allocated), self.category)?;
        if let Some(label) = &self.label {
            write!(f, " {label}")?;
        }
        self.module.iter().try_for_each(|module| write!(f, " of {module}"))
    }
}

/// A storage as it was at the moment that is asked about.
struct Share {
    slot: u32,
    born: u64,
    bytes: Bytes,
    module: u32,
    label: u32,
    category: Category,
}

pub(crate) fn collect(book: &Book, device: u32, when: When, largest: usize) -> Attribution {
    let mut shares = shares(book, device, when);
    let mut modules: Vec<(u32, Usage)> = Vec::new();
    let mut at = vec![usize::MAX; book.modules.len() + 1];
    for share in &shares {
        let place = &mut at[if share.module == NONE { book.modules.len() } else { share.module as usize }];
        if *place == usize::MAX {
            *place = modules.len();
            modules.push((share.module, Usage::default()));
        }
        // The device's own sum is larger, and fits.
        modules[*place].1.add(share.category, share.bytes);
    }
    modules.sort_by_key(|(module, usage)| (std::cmp::Reverse(usage.total()), *module));
    shares.sort_unstable_by_key(|share| (std::cmp::Reverse(share.bytes.allocated), share.born));
    let storages = shares.len() as u64;
    shares.truncate(largest);
    let book_of = &book.devices[device as usize];
    Attribution {
        device: book_of.name.to_string(),
        usage: if when == When::Current { book_of.now } else { book_of.peak.usage },
        storages,
        modules: modules
            .into_iter()
            .map(|(module, usage)| ModuleShare { module: book.module_name(module), usage })
            .collect(),
        largest: shares.into_iter().map(|share| named(book, &share)).collect(),
    }
}

/// Every storage with bytes on a device, as it was.
fn shares(book: &Book, device: u32, when: When) -> Vec<Share> {
    let here = &book.devices[device as usize];
    let then =
        |born: u64, changed: u64| when == When::Current || (born <= here.peak.at && changed <= here.peak.at);
    let kept =
        book.blocks.iter().filter(|(_, block)| block.device == device && then(block.born, block.changed));
    let mut shares: Vec<Share> = kept
        .map(|(slot, block)| Share {
            slot,
            born: block.born,
            bytes: block.bytes,
            module: block.module,
            label: block.label,
            category: block.category,
        })
        .collect();
    if when == When::Peak {
        shares.extend(here.past.iter().map(|was| Share {
            slot: was.slot,
            born: was.born,
            bytes: was.bytes,
            module: was.module,
            label: was.label,
            category: was.category,
        }));
    }
    shares.retain(|share| share.bytes.allocated > 0);
    shares
}

fn named(book: &Book, share: &Share) -> StorageShare {
    StorageShare {
        id: StorageId { tracker: book.number, slot: share.slot, born: share.born },
        label: book.label_name(share.label),
        category: share.category,
        module: book.module_name(share.module),
        allocated: share.bytes.allocated,
        requested: share.bytes.requested,
    }
}

/// How many modules a text names, unless it is told.
const NAMED: usize = 5;
