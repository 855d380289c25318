//! Sizes in bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
///
/// Reads `4096`, `96M`, `256MiB`, `1.5GB`: `K`, `M`, `G` and `T`, alone or with `iB`, are powers of 1024; with `B`
/// they are powers of 1000, as everywhere on Linux. Case does not matter. Writes itself in binary units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Why a text is no size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum SizeError {
    #[error("`{text}` does not begin with a number; sizes look like 256MiB, 1.5GB or 4096")]
    NoNumber { text: String },
    #[error("not a usable size: it is negative")]
    Negative,
    #[error("`{unit}` is no unit of size; use B, K, M, G, T, KiB, MiB, GiB, TiB, KB, MB, GB or TB")]
    UnknownUnit { unit: String },
    #[error("`{text}` is not a whole number of bytes")]
    Fraction { text: String },
    #[error("`{text}` is more than 2^64 - 1 bytes")]
    TooLarge { text: String },
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Size, SizeError> {
        let trimmed = text.trim();
        if trimmed.starts_with('-') && trimmed[1..].starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return Err(SizeError::Negative);
        }
        let unit_at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(unit_at);
        let factor =
            factor(unit.trim()).ok_or_else(|| SizeError::UnknownUnit { unit: unit.trim().to_owned() });
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') {
            return Err(SizeError::NoNumber { text: text.to_owned() });
        }
        let factor = factor?;
        let too_large = || SizeError::TooLarge { text: text.to_owned() };
        // Decimal digits, exactly: 0.1 MB is 100000 bytes and nothing near it.
        let fraction = fraction.trim_end_matches('0');
        let scale = u32::try_from(fraction.len()).ok().and_then(|digits| 10u128.checked_pow(digits));
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| too_large())?;
        let (scale, scaled) =
            (scale.ok_or_else(too_large)?, digits.checked_mul(factor).ok_or_else(too_large)?);
        if scaled % scale != 0 && factor == 1 {
            return Err(SizeError::Fraction { text: text.to_owned() });
        }
        u64::try_from(scaled / scale).map(Size).map_err(|_| too_large())
    }
}

fn factor(unit: &str) -> Option<u128> {
    let unit = unit.to_ascii_lowercase();
    let (prefix, base) = match unit.strip_suffix("ib").or(unit.strip_suffix('i')) {
        Some(prefix) => (prefix, 1024u128),
        None => unit.strip_suffix('b').map_or((unit.as_str(), 1024), |prefix| (prefix, 1000)),
    };
    let power = match prefix {
        "" if unit == "ib" || unit == "i" => return None,
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    Some(base.pow(power))
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let power = self.0.ilog2() / 10;
        let value = self.0 as f64 / f64::from(power * 10).exp2();
        write!(f, "{value:.1} {}", UNITS[power as usize - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("12B", 12),
            ("96M", 96 << 20),
            ("96MiB", 96 << 20),
            ("256 MiB", 256 << 20),
            ("256mib", 256 << 20),
            ("1.5GB", 1_500_000_000),
            ("0.1MB", 100_000),
            ("1.5k", 1536),
            ("1.50K", 1536),
            ("2Ti", 2 << 40),
            ("0.3KiB", 307),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_says_why() {
        let parse = |text: &str| text.parse::<Size>().unwrap_err();
        for text in ["", "MiB", ".5GB", "-", "-M", "1.2.3M", "nan"] {
            assert!(
                matches!(parse(text), SizeError::NoNumber { .. } | SizeError::UnknownUnit { .. }),
                "{text}"
            );
        }
        assert_eq!((parse("-1"), parse(" -0.5G")), (SizeError::Negative, SizeError::Negative));
        assert!(matches!(parse("5 parsecs"), SizeError::UnknownUnit { unit } if unit == "parsecs"));
        assert!(matches!(parse("5iB"), SizeError::UnknownUnit { .. }));
        assert!(matches!(parse("1.5"), SizeError::Fraction { .. }));
        assert!(matches!(parse("16777216T"), SizeError::TooLarge { .. }));
        assert!(matches!(parse(&"9".repeat(60)), SizeError::TooLarge { .. }));
        assert!(matches!(parse(&format!("0.{}1G", "0".repeat(60))), SizeError::TooLarge { .. }));
    }

    #[test]
    fn sizes_as_people_read_them() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (96 << 20, "96.0 MiB"), (u64::MAX, "16.0 EiB")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
