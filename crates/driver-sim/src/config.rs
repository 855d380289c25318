//! Settings, from the environment and from the control functions.

use crate::fault::Faults;

/// What an asynchronous copy does with pageable memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pageable {
    /// Reads it at the call.
    Stage,
    /// The same, and compares when the copy's turn comes.
    Check,
    /// The same, and calls it undefined.
    Report,
}

/// What an undefined use does to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnUndefined {
    Exit,
    Abort,
    Count,
}

/// What a leak does to the process when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLeak {
    Exit,
    Report,
    Ignore,
}

/// The settings; they outlive a reset.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) seed: u64,
    pub(crate) memory: u64,
    pub(crate) devices: i32,
    pub(crate) pools: bool,
    pub(crate) pageable: Pageable,
    pub(crate) on_undefined: OnUndefined,
    pub(crate) on_leak: OnLeak,
    pub(crate) trace: bool,
    /// What could not be read.
    pub(crate) mistake: Option<String>,
}

impl Config {
    /// Reads the environment through `get`; the faults apply to the first device only.
    pub(crate) fn read(get: impl Fn(&str) -> Option<String>) -> (Self, Faults) {
        let mut config = Config::default();
        let mut faults = Faults::default();
        for &(name, parse) in VARIABLES {
            if let Some(value) = get(name)
                && parse(&value, &mut config, &mut faults).is_none()
            {
                config.mistake = Some(format!("{name}={value:?} cannot be read"));
            }
        }
        (config, faults)
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            seed: 0,
            memory: 8 << 30,
            devices: 1,
            pools: true,
            pageable: Pageable::Stage,
            on_undefined: OnUndefined::Exit,
            on_leak: OnLeak::Exit,
            trace: false,
            mistake: None,
        }
    }
}

type Parse = fn(&str, &mut Config, &mut Faults) -> Option<()>;

const VARIABLES: &[(&str, Parse)] = &[
    ("CUDA_SIM_SEED", |value, config, _| set(&mut config.seed, value.parse().ok())),
    ("CUDA_SIM_MEMORY", |value, config, _| set(&mut config.memory, bytes(value))),
    ("CUDA_SIM_DEVICES", |value, config, _| set(&mut config.devices, flag(value).map(i32::from))),
    ("CUDA_SIM_POOLS", |value, config, _| set(&mut config.pools, flag(value))),
    ("CUDA_SIM_TRACE", |value, config, _| set(&mut config.trace, flag(value))),
    ("CUDA_SIM_PAGEABLE", |value, config, _| {
        let modes = [("stage", Pageable::Stage), ("check", Pageable::Check), ("report", Pageable::Report)];
        set(&mut config.pageable, one_of(value, &modes))
    }),
    ("CUDA_SIM_ON_UNDEFINED", |value, config, _| {
        let modes =
            [("exit", OnUndefined::Exit), ("abort", OnUndefined::Abort), ("count", OnUndefined::Count)];
        set(&mut config.on_undefined, one_of(value, &modes))
    }),
    ("CUDA_SIM_ON_LEAK", |value, config, _| {
        let modes = [("exit", OnLeak::Exit), ("report", OnLeak::Report), ("ignore", OnLeak::Ignore)];
        set(&mut config.on_leak, one_of(value, &modes))
    }),
    ("CUDA_SIM_FAULTS", |value, _, faults| {
        value.split(',').filter(|part| !part.is_empty()).try_for_each(|part| faults.parse(part))
    }),
];

fn set<T>(field: &mut T, value: Option<T>) -> Option<()> {
    *field = value?;
    Some(())
}

fn flag(value: &str) -> Option<bool> {
    one_of(value, &[("0", false), ("1", true)])
}

fn one_of<T: Copy>(value: &str, modes: &[(&str, T)]) -> Option<T> {
    modes.iter().find(|mode| mode.0 == value).map(|mode| mode.1)
}

fn bytes(value: &str) -> Option<u64> {
    let (digits, shift) = match value.char_indices().next_back()? {
        (at, 'K' | 'k') => (&value[..at], 10),
        (at, 'M' | 'm') => (&value[..at], 20),
        (at, 'G' | 'g') => (&value[..at], 30),
        _ => (value, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> (Config, Faults) {
        Config::read(|asked| (asked == name).then(|| value.to_string()))
    }

    #[test]
    fn values_are_read() {
        assert_eq!(read("CUDA_SIM_SEED", "17").0.seed, 17);
        assert_eq!(read("CUDA_SIM_MEMORY", "3M").0.memory, 3 << 20);
        assert_eq!(read("CUDA_SIM_MEMORY", "512").0.memory, 512);
        assert_eq!(read("CUDA_SIM_DEVICES", "0").0.devices, 0);
        assert_eq!(read("CUDA_SIM_PAGEABLE", "check").0.pageable, Pageable::Check);
        assert_eq!(read("CUDA_SIM_ON_LEAK", "ignore").0.on_leak, OnLeak::Ignore);
        assert!(
            read("CUDA_SIM_FAULTS", "ILLEGAL_ADDRESS@3,OUT_OF_MEMORY@cuMemAlloc_v2:2").0.mistake.is_none()
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let mistakes = [
            ("CUDA_SIM_MEMORY", "many"),
            ("CUDA_SIM_MEMORY", "99999999999G"),
            ("CUDA_SIM_MEMORY", "é"),
            ("CUDA_SIM_POOLS", "yes"),
            ("CUDA_SIM_FAULTS", "ILLEGAL_ADDRESS"),
            ("CUDA_SIM_FAULTS", "ILLEGAL_ADDRESS@0"),
            ("CUDA_SIM_FAULTS", "WHAT@3"),
        ];
        for (name, value) in mistakes {
            let mistake = read(name, value).0.mistake;
            assert!(mistake.is_some_and(|mistake| mistake.contains(name)), "{name}={value}");
        }
    }
}
