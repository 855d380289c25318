//! Whose a storage is, where no thread's scope can say so.

use crate::book::{Book, NONE};
use crate::place::Here;
use crate::{Category, TrackError, Tracker};

/// Whose a storage is, whatever thread makes it: what it is held for, of which module, and what it is called.
///
/// For memory that belongs to something with a name rather than to what a thread is doing: a pool's own threads bring a tensor in
/// on behalf of whoever asked. The names are looked up once, when this is made; giving it to a storage is O(1) and allocates nothing.
///
/// ```
/// use mem_tracker::{Category, Tracker, When};
///
/// let tracker = Tracker::new();
/// let host = tracker.device("host")?;
/// let weights = tracker.owner(Category::Parameter, Some("h.0.attn"), Some("weight"))?;
/// let held = host.hold_for(4096, &weights)?;
/// let attribution = host.attribution(When::Current, 1);
/// assert_eq!(attribution.modules[0].module.as_deref(), Some("h.0.attn"));
/// assert_eq!(attribution.largest[0].label.as_deref(), Some("weight"));
///
/// tracker.assign(held.id(), &weights.with_category(Category::Buffer))?;
/// assert_eq!(host.usage(When::Current).allocated(Category::Buffer), 4096);
/// # Ok::<(), mem_tracker::TrackError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    tracker: u32,
    pub(crate) here: Here,
    pub(crate) label: u32,
}

impl Owner {
    /// What the storage is held for.
    #[must_use]
    pub const fn category(&self) -> Category {
        self.here.category
    }

    /// The same owner, of what is held for something else.
    #[must_use]
    pub const fn with_category(mut self, category: Category) -> Self {
        self.here.category = category;
        self
    }

    /// Refuses another tracker's: the names it knows by number are not those of this one.
    pub(crate) fn check(&self, book: &Book) -> Result<(), TrackError> {
        if self.tracker == book.number { Ok(()) } else { Err(TrackError::ForeignOwner) }
    }
}

impl Tracker {
    /// An owner for storages that no scope makes. Modules' names and labels are kept for the tracker's life, each once.
    ///
    /// # Errors
    /// [`TrackError::TooMany`].
    pub fn owner(
        &self,
        category: Category,
        module: Option<&str>,
        label: Option<&str>,
    ) -> Result<Owner, TrackError> {
        let mut book = self.book();
        let module = module.map_or(Ok(NONE), |name| book.module(name))?;
        let label = label.map_or(Ok(NONE), |name| book.label(name))?;
        Ok(Owner { tracker: book.number, here: Here { module, category }, label })
    }
}
