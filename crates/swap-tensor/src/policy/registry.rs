//! The policies that have a name.

use super::{EvictionPolicy, Frequency, Lru};

/// The names [`by_name`] takes, the default first.
pub const NAMES: &[&str] = &["lru", "frequency"];

/// No policy has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no eviction policy {name:?}; there are: {}", NAMES.join(", "))]
#[non_exhaustive]
pub struct UnknownPolicy {
    /// What was asked for.
    pub name: String,
}

/// The policy called `name`.
///
/// # Errors
/// [`UnknownPolicy`], which lists the names there are.
///
/// ```
/// use swap_tensor::policy;
///
/// assert_eq!(policy::by_name("frequency")?.name(), "frequency");
/// assert!(policy::by_name("random").unwrap_err().to_string().contains("lru"));
/// # Ok::<(), policy::UnknownPolicy>(())
/// ```
pub fn by_name(name: &str) -> Result<Box<dyn EvictionPolicy>, UnknownPolicy> {
    match name {
        "lru" => Ok(Box::new(Lru::default())),
        "frequency" => Ok(Box::new(Frequency::default())),
        _ => Err(UnknownPolicy { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_the_policy_that_has_it() {
        for name in NAMES {
            assert_eq!(by_name(name).unwrap().name(), *name);
            assert_eq!(by_name(name).unwrap().fresh().name(), *name);
        }
    }
}
