//! The texts of durations (`90s`, `10m`, `6h`, `2d`) and sizes (`64KiB`), in files and in stored records.

use std::time::Duration;

/// Reads `90s`, `10m`, `1h30m`, `500ms`, `2d`; at most 100 years.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 6] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];
    let message = || "not a duration; write a number with a unit, like 90s, 10m, 6h or 2d".to_owned();
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(message());
    }
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| message())?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit_ms = UNITS.iter().find(|(name, _)| *name == &rest[..letters]).ok_or_else(message)?.1;
        rest = rest[letters..].trim_start();
        total_ms = number
            .checked_mul(unit_ms)
            .and_then(|ms| ms.checked_add(total_ms))
            .filter(|ms| *ms <= DURATION_MS_MAX)
            .ok_or_else(|| format!("{TOO_LONG}; write a shorter duration"))?;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Begins the message about a duration that is too long for any key.
pub(crate) const TOO_LONG: &str = "longer than 100 years";

/// The longest duration in a file: 100 years, so that no sum with an instant overflows.
const DURATION_MS_MAX: u64 = 100 * 366 * 86_400_000;

/// Writes a duration as [`parse_duration`] reads it, with the largest units first: `1h30m`, `500ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut ms = duration.as_millis() as u64;
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if ms >= unit_ms {
            text.push_str(&format!("{}{unit}", ms / unit_ms));
            ms %= unit_ms;
        }
    }
    text
}

/// Reads `512`, `64KiB`, `10MB`, `2GiB` as bytes.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let message = || "not a size; write bytes or a unit, like 65536, 64KiB, 10MB or 2GiB".to_owned();
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| message())?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        "t" | "tb" => 1_000_000_000_000,
        "tib" => 1 << 40,
        _ => return Err(message()),
    };
    number.checked_mul(unit).ok_or_else(message)
}

/// Writes bytes as [`parse_size`] reads them, in the largest binary unit without a fraction.
pub fn format_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Writes a number of lines for a message: `1 line`, `7 lines`.
pub fn format_lines(count: u64) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

/// `#[serde(with = "domain::units::duration")]`: a `Duration` as `90s`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes [`super::format_duration`].
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*value))
    }

    /// Reads [`super::parse_duration`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// As [`duration`], for `Option<Duration>`.
pub mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes [`super::format_duration`], or null.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => super::duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads [`super::parse_duration`], or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::parse_duration(&text).map_err(D::Error::custom))
            .transpose()
    }
}

/// `#[serde(with = "domain::units::size")]`: bytes as `64KiB`.
pub mod size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes [`super::format_size`].
    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_size(*value))
    }

    /// Reads [`super::parse_size`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        super::parse_size(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A number with its noun: `1 job`, `2 jobs`, `0 entries`. `noun`: the singular.
pub fn format_count(count: usize, noun: &str) -> String {
    let is_vowel = |c: char| matches!(c, 'a' | 'e' | 'i' | 'o' | 'u');
    match (count, noun.strip_suffix('y').filter(|stem| !stem.ends_with(is_vowel))) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_are_written() {
        for (text, ms) in [
            ("90s", 90_000),
            ("10m", 600_000),
            ("6h", 21_600_000),
            ("2d", 172_800_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(
                parse_duration(&format_duration(Duration::from_millis(ms))),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in ["", "90", "s", "-5s", "1.5h", "9 parsecs", "99999999999999999999s", "300000000w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_as_they_are_written() {
        for (text, bytes) in [("512", 512), ("64KiB", 65_536), ("10MB", 10_000_000), ("2GiB", 1 << 31)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5GiB", "3 furlongs", "99999999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_count_has_its_noun_in_the_singular_or_plural() {
        let texts = [(1, "job"), (0, "job"), (2, "entry"), (1, "entry"), (3, "key")];
        let texts = texts.map(|(count, noun)| format_count(count, noun));
        assert_eq!(texts, ["1 job", "0 jobs", "2 entries", "1 entry", "3 keys"]);
    }
}
