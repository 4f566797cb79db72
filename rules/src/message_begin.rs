//! Finds where the message of a line begins, behind the time stamp, syslog header or `[name]` that a supervisor, a
//! logger or `ts` wrote in front of it. Called for every line of output, so it reads no byte behind the first one that
//! cannot belong to such a prefix. Never decides about matches.

use crate::time_stamp::{clock, count_of, digits_at, is_blank, time_stamp};

/// Pieces in front of one message. Chosen: a syslog header, a time stamp, two names and a level.
const PIECES_MAX: usize = 8;

/// Bytes between the brackets of a `[name]`. Chosen: longer ones are data.
const BRACKET_BYTES_MAX: usize = 64;

/// Levels in front of a message that is a failure anyway.
const BAD_LEVELS: [&[u8]; 9] =
    [b"ERROR", b"ERR", b"FATAL", b"CRITICAL", b"CRIT", b"SEVERE", b"EMERG", b"PANIC", b"ALERT"];

/// Names in brackets whose message is no verdict of the program, so it does not count as the begin of one.
const CALM_NAMES: [&str; 10] =
    ["DEBUG", "DBG", "TRACE", "VERBOSE", "WARN", "WARNING", "OK", "PASS", "PASSED", "SUCCESS"];

/// One piece of a prefix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// A time: a host and a tag with a process id may follow.
    Time,
    /// A time that begins with the name of a month or day, as in syslog: a host and any tag may follow.
    NamedTime,
    /// The priority and version of an RFC 5424 message: its fields follow the time.
    Version5424,
    /// In brackets: the message may follow without a space.
    Bracketed,
    Other,
}

/// Appends the places in `line` where its message can begin: behind each piece of the prefix. The begin of the line is
/// not among them.
pub(crate) fn find_begins(line: &[u8], begins: &mut Vec<usize>) {
    let mut at = 0;
    let (mut last, mut is_5424) = (Piece::Other, false);
    for _ in 0..PIECES_MAX {
        let Some((bytes, piece)) = piece_of(&line[at..], last, is_5424) else { return };
        is_5424 = piece == Piece::Version5424 || (is_5424 && piece == Piece::Time);
        let Some(next) = pass_separator(line, at + bytes, piece, begins) else { return };
        at = next;
        last = piece;
    }
}

/// Appends the begins behind a piece that ends at `at`; returns the last of them.
fn pass_separator(line: &[u8], at: usize, piece: Piece, begins: &mut Vec<usize>) -> Option<usize> {
    if piece == Piece::Version5424 {
        return Some(at);
    }
    let mut next = at;
    if matches!(line.get(next), Some(b':' | b',' | b';')) {
        next += 1;
    }
    let blanks = count_of(&line[next..], is_blank);
    if blanks == 0 && next < line.len() && piece != Piece::Bracketed {
        return None;
    }
    if blanks > 1 {
        // An indented message (`\tat main.java`) begins with its indentation.
        begins.push(next + 1);
    }
    next += blanks;
    begins.push(next);
    let dashes = count_of(&line[next..], |byte| matches!(byte, b'-' | b':' | b'|' | b'>'));
    let behind = count_of(&line[next + dashes..], is_blank);
    if (1..=2).contains(&dashes) && behind > 0 {
        next += dashes + behind;
        begins.push(next);
    }
    Some(next)
}

/// The piece at the begin of `rest`, with its bytes.
fn piece_of(rest: &[u8], last: Piece, is_5424: bool) -> Option<(usize, Piece)> {
    let first = *rest.first()?;
    if is_5424 && last == Piece::Time {
        return fields_of_5424(rest).map(|bytes| (bytes, Piece::Other));
    }
    match first {
        b'[' => bracket(rest).map(|bytes| (bytes, Piece::Bracketed)),
        b'(' => {
            let inner = time_stamp(&rest[1..])?;
            (rest.get(1 + inner) == Some(&b')')).then_some((inner + 2, Piece::Bracketed))
        }
        b'{' => source_place(rest).map(|bytes| (bytes, Piece::Other)),
        b'<' => priority(rest),
        b'@' => tai_stamp(rest).map(|bytes| (bytes, Piece::Time)),
        b'0'..=b'9' => time_stamp(rest).map(|bytes| (bytes, Piece::Time)),
        _ if first.is_ascii_alphabetic() || first == b'_' => {
            let by_name = || match last {
                Piece::Time => cri_head(rest).or_else(|| host_and_tag(rest, false)),
                Piece::NamedTime => host_and_tag(rest, true),
                _ => None,
            };
            time_stamp(rest)
                .map(|bytes| (bytes, Piece::NamedTime))
                .or_else(|| by_name().map(|bytes| (bytes, Piece::Other)))
                .or_else(|| klog_head(rest).or_else(|| level(rest)).map(|bytes| (bytes, Piece::Other)))
                .or_else(|| tag_with_pid(rest).or_else(|| service_column(rest)).map(|bytes| (bytes, Piece::Other)))
        }
        _ => None,
    }
}

/// `[backup]`, `[2026-11-23 07:50:00]`, `[ 12.345678]`. Not `["a"]`, `[text](link)`, or the name of a calm level.
fn bracket(rest: &[u8]) -> Option<usize> {
    let inner = &rest[1..rest.len().min(BRACKET_BYTES_MAX + 2)];
    let bytes = memchr::memchr(b']', inner)?;
    let inner = &inner[..bytes];
    let is_data = inner.iter().any(|byte| matches!(byte, b'"' | b'\'' | b'{' | b'[' | b'\r'));
    let name = inner.trim_ascii();
    let is_calm = CALM_NAMES.iter().any(|calm| name.eq_ignore_ascii_case(calm.as_bytes()));
    let next = rest.get(bytes + 2);
    let is_joined = matches!(next, Some(b'(' | b'=' | b'.' | b'{'));
    (!is_data && !name.is_empty() && !is_calm && !is_joined).then_some(bytes + 2)
}

/// `{subprocess.py:93}`, as Airflow writes it.
fn source_place(rest: &[u8]) -> Option<usize> {
    let name = count_of(&rest[1..], |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-'));
    let colon = 1 + name;
    let digits = count_of(rest.get(colon + 1..)?, |byte| byte.is_ascii_digit());
    let end = colon + 1 + digits;
    (name > 0 && digits > 0 && rest[colon] == b':' && rest.get(end) == Some(&b'}')).then_some(end + 1)
}

/// `<34>`, of RFC 3164, or `<34>1 `, of RFC 5424. The time follows without a space.
fn priority(rest: &[u8]) -> Option<(usize, Piece)> {
    let digits = count_of(&rest[1..], |byte| byte.is_ascii_digit());
    if !(1..=3).contains(&digits) || rest.get(1 + digits) != Some(&b'>') {
        return None;
    }
    let end = digits + 2;
    let has_version = rest.get(end) == Some(&b'1') && rest.get(end + 1) == Some(&b' ');
    match has_version {
        true => Some((end + 2, Piece::Version5424)),
        // A message, or the time of RFC 3164.
        false => Some((end, Piece::Bracketed)),
    }
}

/// Host, program, process, message id and structured data, behind the time of RFC 5424.
fn fields_of_5424(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    for _ in 0..4 {
        let field = count_of(rest.get(at..)?, |byte| !is_blank(byte));
        if field == 0 || rest.get(at + field) != Some(&b' ') {
            return None;
        }
        at += field + 1;
    }
    match rest.get(at)? {
        b'-' => Some(at + 1),
        b'[' => Some(at + memchr::memmem::find(&rest[at..], b"] ").map_or(rest.len() - at, |end| end + 1)),
        _ => None,
    }
}

/// `@400000006523f2a10000000c`, of multilog and s6-log.
fn tai_stamp(rest: &[u8]) -> Option<usize> {
    (count_of(&rest[1..], |byte| byte.is_ascii_hexdigit()) == 24).then_some(25)
}

/// `stdout F ` behind a time, in the log files of Kubernetes.
fn cri_head(rest: &[u8]) -> Option<usize> {
    let is_stream = rest.starts_with(b"stdout ") || rest.starts_with(b"stderr ");
    let end = 8 + count_of(rest.get(8..)?, |byte| !is_blank(byte));
    (is_stream && matches!(rest.get(7), Some(b'F' | b'P')) && end <= 16).then_some(end)
}

/// `host program[123]:`, `host program:` or `program[123]:` behind a time.
fn host_and_tag(rest: &[u8], is_syslog: bool) -> Option<usize> {
    let host = count_of(rest, is_host_byte);
    if host == 0 || rest.get(host) != Some(&b' ') {
        return None;
    }
    let tag = &rest[host + 1..];
    let bytes = tag_with_pid(tag).or_else(|| {
        // Without a process id, only a word that is no sentence: `upload failed: ...` has none of these bytes.
        let host_is_a_name = is_syslog || rest[..host].iter().any(|byte| matches!(byte, b'.' | b'-' | b'0'..=b'9'));
        let bytes = count_of(tag, is_tag_byte);
        (host_is_a_name && bytes > 0 && tag.get(bytes) == Some(&b':')).then_some(bytes)
    })?;
    Some(host + 1 + bytes)
}

/// `program[123]`, with a colon behind it.
fn tag_with_pid(rest: &[u8]) -> Option<usize> {
    let name = count_of(rest, is_tag_byte);
    if name == 0 || rest.get(name) != Some(&b'[') {
        return None;
    }
    let digits = count_of(&rest[name + 1..], |byte| byte.is_ascii_digit());
    let end = name + 1 + digits;
    (digits > 0 && rest.get(end) == Some(&b']') && rest.get(end + 1) == Some(&b':')).then_some(end + 1)
}

/// `web-1  | `, of `docker compose`, `foreman` and `honcho`. The number tells it from a column of a table.
fn service_column(rest: &[u8]) -> Option<usize> {
    let name = count_of(rest, is_tag_byte);
    let blanks = count_of(rest.get(name..)?, |byte| byte == b' ');
    let bar = name + blanks;
    let digits = rest[..name].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let is_numbered = digits > 0 && digits < name && matches!(rest[name - digits - 1], b'-' | b'_' | b'.');
    let is_column =
        is_numbered && blanks > 0 && rest.get(bar) == Some(&b'|') && matches!(rest.get(bar + 1), Some(b' ') | None);
    is_column.then_some(bar + 1)
}

/// `E1123 07:50:00.123456   12345 file.go:123]`, of klog and glog. Not of its warnings.
fn klog_head(rest: &[u8]) -> Option<usize> {
    let is_head =
        matches!(rest.first(), Some(b'I' | b'E' | b'F')) && digits_at(rest, 1, 4) && rest.get(5) == Some(&b' ');
    if !is_head {
        return None;
    }
    let time = 6 + clock(rest.get(6..)?)?;
    let end = memchr::memchr(b']', &rest[..rest.len().min(time + BRACKET_BYTES_MAX)])?;
    Some(end + 1)
}

/// `ERROR`, `FATAL:` and other levels of a failure.
fn level(rest: &[u8]) -> Option<usize> {
    let bytes = count_of(rest, |byte| byte.is_ascii_alphabetic());
    let word = &rest[..bytes];
    let is_bad = BAD_LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let is_upper = word.iter().all(u8::is_ascii_uppercase);
    (is_bad && (rest.get(bytes) == Some(&b':') || is_upper)).then_some(bytes)
}

fn is_tag_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-' | b'@')
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last begin is that of the message.
    fn check(line: &str, message: Option<&str>) {
        let mut begins = Vec::new();
        find_begins(line.as_bytes(), &mut begins);
        assert_eq!(begins.last().map(|at| &line[*at..]), message, "{line}");
    }

    #[test]
    fn a_message_begins_behind_its_time_stamp() {
        for stamp in [
            "2026-11-23 07:50:00",
            "2026-11-23T07:50:00.123456789Z",
            "2026-11-23T07:50:00+01:00",
            "2026-11-23",
            "2026/11/23 07:50:00",
            "2026-11-23 07:50:00,123",
            "2026-11-23 07:50:00.123 UTC",
            "20261123 07:50:00",
            "20261123-07:50:00",
            "23.11.2026 07:50:00",
            "11/23/26 07:50:00",
            "23/Nov/2026:07:50:00 +0000",
            "23-Nov-2026 07:50:00",
            "Nov 23 07:50:00",
            "Nov  3 07:50:00",
            "Mon Nov 23 07:50:00 UTC 2026",
            "Mon Nov 23 07:50:00 2026",
            "Mon 23 Nov 2026 07:50:00 AM CET",
            "Mon, 23 Nov 2026 07:50:00 +0000",
            "Nov 23, 2026 7:50:00 AM",
            "07:50:00",
            "07:50:00.123",
            "1795420200",
            "1795420200.123",
            "1795420200123",
            "@400000006523f2a10000000c",
            "[2026-11-23 07:50:00]",
            "(2026-11-23 07:50:00)",
            "[    5.123456]",
        ] {
            for separator in [" ", ": ", " - ", " | ", "\t"] {
                check(&format!("{stamp}{separator}upload failed"), Some("upload failed"));
            }
        }
    }

    #[test]
    fn a_message_begins_behind_the_head_of_a_logger_or_a_supervisor() {
        for head in [
            "[backup] ",
            "[backup]: ",
            "[backup][7] ",
            "[backup] [main] ",
            "Nov 23 07:50:00 web1 backup[812]: ",
            "Nov 23 07:50:00 web1 backup: ",
            "2026-11-23T07:50:00.123+01:00 db.example.com CRON[9]: ",
            "<13>Nov 23 07:50:00 web1 backup: ",
            "<34>1 2026-11-23T07:50:00Z web1 app 12 ID47 - ",
            "<34>1 2026-11-23T07:50:00Z web1 app - - [x@1 a=\"b\"] ",
            "<3>",
            "backup[812]: ",
            "web-1  | ",
            "07:50:00 web.1  | ",
            "2026-11-23T07:50:00.123456789Z stderr F ",
            "E1123 07:50:00.123456   12345 file.go:123] ",
            "2026-11-23 07:50:00 ERROR ",
            "[ERROR] ",
            "ERROR: ",
            "[2026-11-23, 07:50:00 UTC] {subprocess.py:93} ",
            "2026-11-23 07:50:00 [backup] ERROR - ",
        ] {
            check(&format!("{head}upload failed"), Some("upload failed"));
        }
    }

    #[test]
    fn text_that_is_no_prefix_stays_a_part_of_the_message() {
        for line in [
            "upload failed: x",
            "error 7: x",
            "[\"error: x\"]",
            "[link](error: x)",
            "[DEBUG] error: x",
            "[ WARN ] error: x",
            "[  OK  ] Failed units: 0",
            "12 files failed",
            "2026 rows failed",
            "Monday failed",
            "Marching on",
            "a | b",
            "x=1 y=2",
            "",
            "[",
            "<",
            "<b>error</b>",
            "1234567890 rows",
            "07:50",
            "{\"a\":1}",
            "WARNING: error: x",
            "INFO error: x",
            "+ [x] y",
            "3.14 failed",
            "1.2.3 failed",
        ] {
            check(line, None);
        }
        check("2026-11-23 07:50:00 upload failed: disk full", Some("upload failed: disk full"));
        check("2026-11-23 07:50:00 DEBUG error: x", Some("DEBUG error: x"));
        check("2026-11-23 07:50:00", Some(""));
    }

    #[test]
    fn an_indented_message_begins_with_its_indentation_too() {
        let mut begins = Vec::new();
        find_begins(b"07:50:00 \tat main", &mut begins);
        assert_eq!(begins, [9, 10]);
    }
}
