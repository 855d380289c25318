//! Units of reports, and numbers as PyTorch's reports print them.

use core::fmt;
use core::str::FromStr;

use crate::TrackError;

/// The unit of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Units {
    /// Bytes, as integers.
    #[default]
    B,
    /// 1024 bytes, with at most two decimals.
    KiB,
    /// 1024 KiB.
    MiB,
    /// 1024 MiB.
    GiB,
}

impl Units {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::B => "B",
            Self::KiB => "KiB",
            Self::MiB => "MiB",
            Self::GiB => "GiB",
        }
    }

    /// Bytes in one.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::B => 1,
            Self::KiB => 1 << 10,
            Self::MiB => 1 << 20,
            Self::GiB => 1 << 30,
        }
    }

    /// An amount as reports print it: `131072 B`, `130.0 KiB`, `0.51 MiB`.
    pub(crate) fn show(self, bytes: u64) -> String {
        match self {
            Self::B => format!("{bytes} B"),
            _ => {
                let hundredths = self.hundredths(bytes);
                let (whole, part) = (hundredths / 100, hundredths % 100);
                // A Python float prints at least one decimal, and none that is zero after it.
                match part % 10 {
                    0 => format!("{whole}.{} {}", part / 10, self.name()),
                    _ => format!("{whole}.{part:02} {}", self.name()),
                }
            }
        }
    }

    /// Whether an amount is printed as zero; reports leave such devices out.
    pub(crate) fn is_nothing(self, bytes: u64) -> bool {
        match self {
            Self::B => bytes == 0,
            _ => self.hundredths(bytes) == 0,
        }
    }

    /// Rounded to hundredths, a half to the even one, as Python's `round` does. Python divides floats, which is as exact below
    /// 8 PiB.
    fn hundredths(self, bytes: u64) -> u128 {
        let (scaled, unit) = (u128::from(bytes) * 100, u128::from(self.bytes()));
        let (down, rest) = (scaled / unit, scaled % unit);
        let up = 2 * rest > unit || (2 * rest == unit && down % 2 == 1);
        down + u128::from(up)
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Bytes as PyTorch's message of an out-of-memory error writes them: `512 bytes`, `1.50 MiB`.
///
/// ```
/// use mem_tracker::Amount;
/// assert_eq!(Amount(1024).to_string(), "1024 bytes");
/// assert_eq!(Amount(3 << 19).to_string(), "1.50 MiB");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let float = self.0 as f64;
        match self.0 {
            0..=0x400 => write!(f, "{} bytes", self.0),
            0x401..=0x10_0000 => write!(f, "{:.2} KiB", float / 1024.0),
            0x10_0001..=0x4000_0000 => write!(f, "{:.2} MiB", float / 1_048_576.0),
            _ => write!(f, "{:.2} GiB", float / 1_073_741_824.0),
        }
    }
}

/// Reads what [`name`](Units::name) writes.
impl FromStr for Units {
    type Err = TrackError;

    fn from_str(text: &str) -> Result<Self, TrackError> {
        let all = [Self::B, Self::KiB, Self::MiB, Self::GiB];
        let found = all.into_iter().find(|unit| unit.name() == text);
        found.ok_or_else(|| TrackError::UnknownUnit { name: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_as_python_floats() {
        for (bytes, unit, text) in [
            (0, Units::B, "0 B"),
            (133_120, Units::KiB, "130.0 KiB"),
            (520, Units::KiB, "0.51 KiB"),
            (512, Units::KiB, "0.5 KiB"),
            (0, Units::GiB, "0.0 GiB"),
            // Exactly half: to the even hundredth.
            (128, Units::KiB, "0.12 KiB"),
            (384, Units::KiB, "0.38 KiB"),
            (1_024 + 5, Units::KiB, "1.0 KiB"),
            (1_024 + 6, Units::KiB, "1.01 KiB"),
            (1_024 + 11, Units::KiB, "1.01 KiB"),
            (10_752, Units::KiB, "10.5 KiB"),
            (u64::MAX, Units::GiB, "17179869184.0 GiB"),
        ] {
            assert_eq!(unit.show(bytes), text, "{bytes}");
        }
        assert!(Units::GiB.is_nothing(5 << 20) && !Units::GiB.is_nothing(6 << 20));
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!("MiB".parse(), Ok(Units::MiB));
        let text = "Unsupported unit: MB. Supported units are: B, KiB, MiB, GiB";
        assert_eq!("MB".parse::<Units>().unwrap_err().to_string(), text);
    }
}
