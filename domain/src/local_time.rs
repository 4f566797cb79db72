//! Instants in texts for people: local time with its offset, to the second. JSON keeps UTC.
//!
//! The binary passes the zone in with [`use_zone`]; without that, times are shown in UTC.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Bytes of the shortest instant in a text: `2026-11-23T07:50:00Z`.
const INSTANT_BYTES_MIN: usize = 20;

static ZONE: RwLock<TimeZone> = RwLock::new(TimeZone::UTC);

/// From now on, times are shown in this zone.
pub fn use_zone(zone: TimeZone) {
    *ZONE.write().unwrap_or_else(PoisonError::into_inner) = zone;
}

fn zone() -> TimeZone {
    ZONE.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// `2026-11-23T08:50:00+01:00`; in UTC `2026-11-23T07:50:00Z`.
pub fn format(at: Timestamp) -> String {
    format_in(at, &zone())
}

/// Rewrites each instant in UTC inside a text, like the reason of a run, as local time. Other text stays.
pub fn localize(text: &str) -> Cow<'_, str> {
    localize_in(text, &zone())
}

fn format_in(at: Timestamp, zone: &TimeZone) -> String {
    if *zone == TimeZone::UTC {
        return at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    }
    at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

fn localize_in<'t>(text: &'t str, zone: &TimeZone) -> Cow<'t, str> {
    let mut localized = String::new();
    let mut rest = text;
    while let Some((before, at, after)) = split_at_instant(rest) {
        localized.push_str(before);
        localized.push_str(&format_in(at, zone));
        rest = after;
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    localized.push_str(rest);
    Cow::Owned(localized)
}

/// The first instant of a text, with what is before and after it.
fn split_at_instant(text: &str) -> Option<(&str, Timestamp, &str)> {
    let mut from = 0;
    // The date before the `T` has ten bytes.
    while let Some(letter) = text[from..].find('T').map(|at| from + at) {
        from = letter + 1;
        let Some(start) = letter.checked_sub(10).filter(|start| text.is_char_boundary(*start)) else { continue };
        let is_part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'T' | b':' | b'.');
        let length = text.as_bytes()[start..].iter().take_while(|byte| is_part(byte)).count();
        let end = start + length + 1;
        let is_alone = !text[..start].ends_with(|c: char| c.is_ascii_alphanumeric());
        if is_alone
            && end - start >= INSTANT_BYTES_MIN
            && text.as_bytes().get(end - 1) == Some(&b'Z')
            && let Ok(at) = text[start..end].parse()
        {
            return Some((&text[..start], at, &text[end..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instant_of_a_text_becomes_local_time() {
        let paris = crate::zones::zone_named("Europe/Paris").expect("known");
        for (text, local) in [
            ("2026-11-23T07:50:00Z", "2026-11-23T08:50:00+01:00"),
            (
                "down from 2026-07-01T00:00:00.123456789Z to 2026-11-23T07:50:00Z; é",
                "down from 2026-07-01T02:00:00+02:00 to 2026-11-23T08:50:00+01:00; é",
            ),
            ("éT12:00:00Z T TT 2026-11-23T", "éT12:00:00Z T TT 2026-11-23T"),
            ("run 20261123T075000Z-3f9a1c0e7b2d", "run 20261123T075000Z-3f9a1c0e7b2d"),
            (
                "2026-13-23T07:50:00Z and 2026-11-23T07:50:00+01:00",
                "2026-13-23T07:50:00Z and 2026-11-23T07:50:00+01:00",
            ),
            ("", ""),
        ] {
            assert_eq!(localize_in(text, &paris), local);
        }
        assert_eq!(localize_in("at 2026-11-23T07:50:00.5Z", &TimeZone::UTC), "at 2026-11-23T07:50:00Z");
    }
}
