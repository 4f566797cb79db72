//! The capture time in the forms that receivers expect. Whole seconds are formatted once: thousands of lines share one
//! and differ only in the fraction.

use domain::line::STAMP_BYTES;
use jiff::{Timestamp, tz::TimeZone};

/// Length of `2026-11-23T07:50:00`.
pub(crate) const SECOND_BYTES: usize = 19;
/// Length of `2026-11-23T07:50:00.123456`: RFC 5424 section 6.2.3 allows at most six digits.
const MICROS_BYTES: usize = 26;

/// The text of the last formatted second.
pub(crate) struct PerSecond {
    second: [u8; SECOND_BYTES],
    text: Vec<u8>,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    /// `1795420200`
    Epoch,
    /// `Nov 23 07:50:00`, local time (RFC 3164 section 4.1.2).
    Bsd,
}

impl PerSecond {
    pub(crate) fn epoch() -> PerSecond {
        PerSecond { second: [0; SECOND_BYTES], text: Vec::new(), form: Form::Epoch }
    }

    pub(crate) fn bsd() -> PerSecond {
        PerSecond { second: [0; SECOND_BYTES], text: Vec::new(), form: Form::Bsd }
    }

    pub(crate) fn text(&mut self, stamp: &[u8]) -> &[u8] {
        let second = stamp.first_chunk::<SECOND_BYTES>().unwrap_or(b"1970-01-01T00:00:00");
        if second != &self.second {
            let at = std::str::from_utf8(stamp).ok().and_then(|text| text.parse().ok());
            let at: Timestamp = at.unwrap_or(Timestamp::UNIX_EPOCH);
            self.second = *second;
            self.text = match self.form {
                // Floor: the fraction is added also before 1970.
                Form::Epoch => at.as_nanosecond().div_euclid(1_000_000_000).to_string().into_bytes(),
                Form::Bsd => at.to_zoned(TimeZone::system()).strftime("%b %e %H:%M:%S").to_string().into_bytes(),
            };
        }
        &self.text
    }
}

/// `.123456`: the fraction of a stamp, six digits, with its point.
pub(crate) fn micros(stamp: &[u8]) -> &[u8] {
    stamp.get(SECOND_BYTES..MICROS_BYTES).unwrap_or(b".000000")
}

/// Milliseconds since 1970; 0 for bytes that are not a stamp.
pub(crate) fn millis(stamp: &[u8], second: &mut ([u8; SECOND_BYTES], i64)) -> i64 {
    let Some(text) = stamp.first_chunk::<SECOND_BYTES>() else { return 0 };
    if *text != second.0 {
        let at = std::str::from_utf8(stamp).ok().and_then(|text| text.parse::<Timestamp>().ok());
        *second = (*text, at.map_or(0, |at| at.as_nanosecond().div_euclid(1_000_000_000) as i64));
    }
    let digits = stamp.get(SECOND_BYTES + 1..SECOND_BYTES + 4).unwrap_or(b"000");
    second.1 * 1000 + digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit.wrapping_sub(b'0')))
}

/// `2026-11-23T07:50:00.123456Z`
pub(crate) fn to_micros(stamp: &[u8]) -> [u8; MICROS_BYTES + 1] {
    let mut micros = *b"1970-01-01T00:00:00.000000Z";
    if let Some(stamp) = stamp.first_chunk::<MICROS_BYTES>() {
        micros[..MICROS_BYTES].copy_from_slice(stamp);
    }
    micros
}

/// Appends a number in decimal.
pub(crate) fn write_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; NUMBER_BYTES_MAX];
    out.extend_from_slice(digits_of(number, &mut digits));
}

/// Decimal digits of `u64::MAX`.
pub(crate) const NUMBER_BYTES_MAX: usize = 20;

/// The decimal digits of a number.
pub(crate) fn digits_of(number: u64, digits: &mut [u8; NUMBER_BYTES_MAX]) -> &[u8] {
    let mut at = NUMBER_BYTES_MAX;
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return &digits[at..];
        }
    }
}

/// The digits of numbers that mostly stay or rise by one, like those of lines: then no division is needed.
pub(crate) struct Digits {
    number: u64,
    digits: [u8; NUMBER_BYTES_MAX],
    at: usize,
}

impl Default for Digits {
    fn default() -> Digits {
        Digits { number: 0, digits: [b'0'; NUMBER_BYTES_MAX], at: NUMBER_BYTES_MAX - 1 }
    }
}

impl Digits {
    pub(crate) fn text(&mut self, number: u64) -> &[u8] {
        if number != self.number {
            if self.number.checked_add(1) != Some(number) || !self.count_up() {
                self.at = NUMBER_BYTES_MAX - digits_of(number, &mut self.digits).len();
            }
            self.number = number;
        }
        &self.digits[self.at..]
    }

    /// Returns false when the number needs one more digit.
    fn count_up(&mut self) -> bool {
        for digit in self.digits[self.at..].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return true;
            }
            *digit = b'0';
        }
        false
    }
}

/// The stamp of an instant in the spool's format.
pub(crate) fn format(at: Timestamp) -> [u8; STAMP_BYTES] {
    domain::line::stamp(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_instants_are_formatted_completely() {
        for number in [0, 7, 10, 1234567890, u64::MAX] {
            let mut out = Vec::new();
            write_number(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
        let mut digits = Digits::default();
        for number in [0, 1, 1, 8, 9, 10, 99, 100, 7, 199, 200, u64::MAX - 1, u64::MAX, 0] {
            assert_eq!(digits.text(number), number.to_string().as_bytes());
        }
        let stamp = b"2026-11-23T07:50:00.123456789Z";
        let mut epoch = PerSecond::epoch();
        assert_eq!(epoch.text(stamp), b"1795420200");
        assert_eq!(epoch.text(b"2026-11-23T07:50:01.000000000Z"), b"1795420201");
        assert_eq!(epoch.text(b"nonsense"), b"0");
        assert_eq!(micros(stamp), b".123456");
        assert_eq!(&to_micros(stamp), b"2026-11-23T07:50:00.123456Z");
    }
}
