//! Recognises the time stamps that programs write in front of a message. Reads bytes; computes no time.

const DAYS: [&[u8]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];

const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Names of zones that programs print behind a time.
const ZONES: [&[u8]; 20] = [
    b"UTC", b"GMT", b"CEST", b"CET", b"EEST", b"EET", b"WEST", b"WET", b"BST", b"EST", b"EDT", b"CST", b"CDT", b"MST",
    b"MDT", b"PST", b"PDT", b"IST", b"JST", b"MSK",
];

/// Any time stamp: a date, a time, or both; behind it a byte that no word continues with.
pub(crate) fn time_stamp(rest: &[u8]) -> Option<usize> {
    let bytes = match rest.first()? {
        b'0'..=b'9' => numeric_date(rest)
            .map(|date| date + time_behind(&rest[date..]))
            .or_else(|| clock(rest).map(|time| time + zone(&rest[time..])))
            .or_else(|| unix_time(rest))?,
        byte if byte.is_ascii_uppercase() => named_date(rest)?,
        _ => return None,
    };
    let is_joined = rest.get(bytes).is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/'));
    (!is_joined).then_some(bytes)
}

/// `2026-11-23`, `2026/11/23`, `20261123`, `23.11.2026`, `11/23/26`, `23/Nov/2026`, `23 Nov 2026`.
fn numeric_date(rest: &[u8]) -> Option<usize> {
    let first = count_of(rest, |byte| byte.is_ascii_digit());
    if first == 8 && (rest.starts_with(b"19") || rest.starts_with(b"20")) {
        return Some(8);
    }
    let sign = *rest.get(first)?;
    let behind = rest.get(first + 1..)?;
    if first <= 2 && matches!(sign, b'/' | b'-' | b' ') && starts_with_any(behind, &MONTHS) {
        let year = first + 5;
        return (rest.get(first + 4) == Some(&sign) && digits_at(rest, year, 4)).then_some(year + 4);
    }
    let second = count_of(behind, |byte| byte.is_ascii_digit());
    let third_at = first + 1 + second + 1;
    let third = count_of(rest.get(third_at..)?, |byte| byte.is_ascii_digit());
    let is_date = matches!(sign, b'-' | b'/' | b'.') && rest[third_at - 1] == sign && (1..=2).contains(&second);
    let is_sized = (first == 4 && (1..=2).contains(&third)) || (first <= 2 && (third == 2 || third == 4));
    (is_date && is_sized).then_some(third_at + third)
}

/// `Nov 23 07:50:00`, `Mon Nov 23 07:50:00 UTC 2026`, `Mon, 23 Nov 2026 07:50:00`, `Nov 23, 2026 7:50:00 AM`.
fn named_date(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    if starts_with_any(rest, &DAYS) {
        at = 3 + usize::from(rest.get(3) == Some(&b','));
        at += count_of(&rest[at..], is_blank);
    }
    let date = rest.get(at..)?;
    if at > 3 && date.first().is_some_and(u8::is_ascii_digit) {
        let bytes = numeric_date(date)?;
        return Some(at + bytes + time_behind(&date[bytes..]));
    }
    if !starts_with_any(date, &MONTHS) || date.get(3) != Some(&b' ') {
        return None;
    }
    at += 4;
    at += count_of(rest.get(at..)?, is_blank);
    let day = count_of(rest.get(at..)?, |byte| byte.is_ascii_digit());
    if !(1..=2).contains(&day) {
        return None;
    }
    at += day;
    if rest.get(at) == Some(&b',') {
        at += 1;
    }
    if rest.get(at) == Some(&b' ') && digits_at(rest, at + 1, 4) && rest.get(at + 5) != Some(&b':') {
        at += 5;
    }
    let time = time_behind(rest.get(at..)?);
    if time == 0 {
        return None;
    }
    at += time;
    let has_year = rest.get(at) == Some(&b' ') && digits_at(rest, at + 1, 4) && is_year(&rest[at + 1..]);
    Some(if has_year { at + 5 } else { at })
}

fn is_year(rest: &[u8]) -> bool {
    (rest.starts_with(b"19") || rest.starts_with(b"20")) && !rest.get(4).is_some_and(u8::is_ascii_digit)
}

/// The bytes of a separator and a time, with its zone, behind a date; 0 when there is none.
fn time_behind(rest: &[u8]) -> usize {
    let gap = match rest {
        [b',', b' ', ..] => 2,
        [b'T' | b'_' | b' ' | b':' | b',' | b'-', ..] => 1,
        _ => return 0,
    };
    let Some(time) = clock(&rest[gap..]) else { return 0 };
    gap + time + zone(&rest[gap + time..])
}

/// `07:50:00`, `07:50:00.123`, `7:50:00 AM`.
pub(crate) fn clock(rest: &[u8]) -> Option<usize> {
    let hour = count_of(rest, |byte| byte.is_ascii_digit());
    let is_time = (1..=2).contains(&hour)
        && rest.get(hour) == Some(&b':')
        && digits_at(rest, hour + 1, 2)
        && rest.get(hour + 3) == Some(&b':')
        && digits_at(rest, hour + 4, 2);
    if !is_time {
        return None;
    }
    let mut at = hour + 6;
    if matches!(rest.get(at), Some(b'.' | b',')) {
        let fraction = count_of(&rest[at + 1..], |byte| byte.is_ascii_digit());
        at += if fraction > 0 { 1 + fraction } else { 0 };
    }
    let half = rest.get(at..).unwrap_or_default();
    let blank = usize::from(half.first() == Some(&b' '));
    if matches!(half.get(blank..blank + 2), Some(b"AM" | b"PM" | b"am" | b"pm")) {
        at += blank + 2;
    }
    Some(at)
}

/// `Z`, `+01:00`, ` +0100`, ` UTC`; 0 bytes when there is none.
fn zone(rest: &[u8]) -> usize {
    let blank = usize::from(rest.first() == Some(&b' '));
    let zone = &rest[blank..];
    match zone.first() {
        Some(b'Z') if blank == 0 => 1,
        Some(b'+' | b'-') if digits_at(zone, 1, 4) => blank + 5,
        Some(b'+' | b'-') if digits_at(zone, 1, 2) && zone.get(3) == Some(&b':') && digits_at(zone, 4, 2) => blank + 6,
        Some(b'+' | b'-') if blank == 0 && digits_at(zone, 1, 2) => 3,
        _ => {
            let is_zone =
                |name: &&&[u8]| zone.starts_with(name) && !zone.get(name.len()).is_some_and(u8::is_ascii_alphanumeric);
            ZONES.iter().find(is_zone).map_or(0, |name| blank + name.len())
        }
    }
}

/// Seconds or milliseconds since 1970, from 2017 to 2033.
fn unix_time(rest: &[u8]) -> Option<usize> {
    let digits = count_of(rest, |byte| byte.is_ascii_digit());
    let is_time = rest[0] == b'1' && matches!(rest.get(1), Some(b'5'..=b'9')) && (digits == 10 || digits == 13);
    if !is_time {
        return None;
    }
    let has_fraction = rest.get(digits) == Some(&b'.') && rest.get(digits + 1).is_some_and(u8::is_ascii_digit);
    let fraction = if has_fraction { 1 + count_of(&rest[digits + 1..], |byte| byte.is_ascii_digit()) } else { 0 };
    let end = digits + fraction;
    matches!(rest.get(end), Some(b' ' | b':' | b'\t')).then_some(end)
}

/// Whether `count` digits begin at `at`.
pub(crate) fn digits_at(rest: &[u8], at: usize, count: usize) -> bool {
    rest.get(at..at + count).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
}

fn starts_with_any(rest: &[u8], names: &[&[u8]]) -> bool {
    names.iter().any(|name| rest.starts_with(name))
}

pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Number of leading bytes that are of one kind.
pub(crate) fn count_of(rest: &[u8], is_kind: impl Fn(u8) -> bool) -> usize {
    rest.iter().position(|byte| !is_kind(*byte)).unwrap_or(rest.len())
}
