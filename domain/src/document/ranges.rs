//! Durations and sizes with limits: each fault names the key, the written value and what is allowed.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Section;
use super::toml_value::Value;
use crate::units;

impl Section {
    /// Takes a duration in this range. `hint`: added to the fault of one that is out of range; empty, or from its
    /// separator on.
    pub fn duration_in(&mut self, key: &'static str, range: RangeInclusive<Duration>, hint: &str) -> Option<Duration> {
        let [least, most] = [range.start(), range.end()].map(|limit| units::format_duration(*limit));
        let wanted = format!("{least} to {most}");
        let (line, value) = self.take_key_as(key, |word| Some(Value::Text(word.to_owned())))?;
        let Value::Text(text) = &value else {
            self.type_fault(line, key, &value, &format!("a duration of {wanted} in quotes, like {key} = \"{most}\""));
            return None;
        };
        match units::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => return Some(duration),
            Err(message) if !message.starts_with(units::TOO_LONG) => {
                self.fault(line, text, format!("`{key}` is {message}; {wanted} is allowed"));
            }
            Ok(_) | Err(_) => self.range_fault(line, key, &value, &format!("{wanted}{hint}")),
        }
        None
    }

    /// Takes bytes in this range.
    pub fn size_in(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("{} to {}", units::format_size(*range.start()), units::format_size(*range.end()));
        let (line, value) = self.take_key_as(key, |word| Some(Value::Text(word.to_owned())))?;
        let bytes = match &value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            Value::Text(text) => match units::parse_size(text) {
                Ok(bytes) => Some(bytes),
                Err(message) => {
                    self.fault(line, text, format!("`{key}` is {message}; {wanted} is allowed"));
                    return None;
                }
            },
            _ => {
                let wanted = format!("bytes or a size like \"64KiB\", {wanted}");
                self.type_fault(line, key, &value, &wanted);
                return None;
            }
        };
        let allowed = bytes.filter(|bytes| range.contains(bytes));
        if allowed.is_none() {
            self.range_fault(line, key, &value, &wanted);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::super::Document;
    use super::*;

    /// The faults of a table with this text.
    fn faults(text: &str) -> String {
        let (document, mut section) = Document::parse("f", text).expect("TOML");
        section.duration_in("wait", Duration::from_millis(10)..=Duration::from_secs(3600), "");
        section.size_in("size", 480..=64 << 10);
        document.faults().to_string()
    }

    #[test]
    fn a_fault_of_a_limit_names_the_key_the_written_value_and_the_range() {
        for (text, wanted) in [
            ("wait = \"10ms\"\nsize = 480", ""),
            ("wait = \"60m\"\nsize = \"64KiB\"", ""),
            ("wait = \"0s\"", "f:1: `0s`: `wait` is out of range; write 10ms to 1h"),
            ("wait = \"1h1ms\"", "f:1: `1h1ms`: `wait` is out of range; write 10ms to 1h"),
            (
                "wait = \"999y\"",
                "is not a duration; write a number with a unit, like 90s, 10m, 6h or 2d; 10ms to 1h is",
            ),
            ("wait = \"9999999w\"", "f:1: `9999999w`: `wait` is out of range; write 10ms to 1h"),
            ("wait = \"\"", "`wait` is not a duration; write a number with a unit, like 90s, 10m, 6h or 2d; 10ms to"),
            (
                "wait = 5",
                "f:1: `5`: `wait` is a whole number; write a duration of 10ms to 1h in quotes, like wait = \"1h\"",
            ),
            ("size = 479", "f:1: `479`: `size` is out of range; write 480 to 64KiB"),
            ("size = \"65KiB\"", "f:1: `65KiB`: `size` is out of range; write 480 to 64KiB"),
            ("size = -1", "f:1: `-1`: `size` is out of range; write 480 to 64KiB"),
            (
                "size = \"big\"",
                "f:1: `big`: `size` is not a size; write bytes or a unit, like 65536, 64KiB, 10MB or 2GiB; 480",
            ),
            ("size = 1.5", "f:1: `1.5`: `size` is a number; write bytes or a size like \"64KiB\", 480 to 64KiB"),
        ] {
            let found = faults(text);
            assert!(if wanted.is_empty() { found.is_empty() } else { found.contains(wanted) }, "{text}: {found}");
        }
    }
}
