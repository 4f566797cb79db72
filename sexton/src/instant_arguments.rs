//! Arguments that are instants: `--since`, `--from` and others name one of the past, `--until` of a pause or of a
//! maintenance window one of the future. Pure.

use std::time::Duration;

use domain::local_time;
use domain::units::parse_duration;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::failure::Failure;
use crate::print::format_utc;

/// What a duration counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ago,
    FromNow,
}

/// Parses an instant: RFC 3339, a date (midnight in UTC), `now`, or a duration before `now`.
///
/// # Errors
/// Returns what to write.
pub(crate) fn parse_instant(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(now);
    }
    match (parse_absolute(text), parse_duration(text)) {
        (Some(at), _) => Ok(at),
        (None, Ok(ago)) => now
            .checked_sub(ago)
            .map_err(|_| format!("`{text}` ago is before the earliest date; write a shorter duration")),
        (None, Err(why)) => Err(not_an_instant(text, &why, now, Direction::Ago)),
    }
}

/// Parses the end of a pause or of a maintenance window: RFC 3339, a date, or a duration from now; in whole seconds.
///
/// # Errors
/// Exit 2 for another text, and for an instant that is not in the future.
pub(crate) fn parse_end(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let late = || Failure::usage(format!("`{text}` from now is after the latest date; write a shorter duration"));
    let end = match (parse_absolute(text), parse_duration(text)) {
        (Some(at), _) if at <= now => {
            return Err(Failure::usage(format!(
                "`{text}` is {}, which has passed; write a later instant, or a duration from now like 2h",
                local_time::format(at)
            )));
        }
        (Some(at), _) => return Ok(at),
        _ if text == "now" => Duration::ZERO,
        (None, Ok(duration)) => duration,
        (None, Err(why)) => return Err(Failure::usage(not_an_instant(text, &why, now, Direction::FromNow))),
    };
    if end.is_zero() {
        return Err(Failure::usage(format!("`{text}` ends at its start; write a duration from now like 2h")));
    }
    // The next whole second: half a second is of no use, and nanoseconds are hard to read.
    let at = now.checked_add(end).map_err(|_| late())?;
    Timestamp::from_second(at.as_second() + i64::from(at.subsec_nanosecond() > 0)).map_err(|_| late())
}

/// Parses the two ends of a span of the past, each absent or an instant. `names` are those of the arguments.
///
/// # Errors
/// Exit 2 for another text, and when the span ends before it begins.
pub(crate) fn parse_span(
    names: [&str; 2],
    texts: [Option<&str>; 2],
    now: Timestamp,
) -> Result<[Option<Timestamp>; 2], Failure> {
    let parse = |text: Option<&str>| text.map(|text| parse_instant(text, now)).transpose().map_err(Failure::usage);
    let span = [parse(texts[0])?, parse(texts[1])?];
    if let ([Some(start), Some(end)], [Some(first), Some(last)]) = (span, texts)
        && start >= end
    {
        let shown = |text: &str, at: Timestamp| match parse_absolute(text) {
            Some(_) => text.to_owned(),
            None => format!("{text} ({})", local_time::format(at)),
        };
        let remedy = match (parse_absolute(first), parse_absolute(last)) {
            (Some(_), Some(_)) => "swap them",
            _ => "a duration counts back from now, so write an instant for a later one",
        };
        let [from, to] = names;
        return Err(Failure::usage(format!(
            "{to} {} is not after {from} {}; {remedy}",
            shown(last, end),
            shown(first, start)
        )));
    }
    Ok(span)
}

fn parse_absolute(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let date = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() == "2026-11-23".len())?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The sentence for a text that is neither an instant nor a duration, for the reason `why`.
fn not_an_instant(text: &str, why: &str, now: Timestamp, direction: Direction) -> String {
    let counted = match direction {
        Direction::Ago => "ago",
        Direction::FromNow => "from now",
    };
    if let Some(positive) = text.strip_prefix('-').filter(|rest| parse_duration(rest).is_ok()) {
        return format!("`{text}` is negative; write {positive} for {positive} {counted}");
    }
    if why.starts_with("longer than") {
        return format!("`{text}` is {why}");
    }
    const DAY: Duration = Duration::from_secs(86_400);
    // An example of the right direction: yesterday or tomorrow.
    let example = match direction {
        Direction::Ago => now.checked_sub(DAY),
        Direction::FromNow => now.checked_add(DAY),
    };
    let example = format_utc(example.unwrap_or(now));
    let (date, _) = example.split_once('T').unwrap_or_default();
    let also_now = if direction == Direction::Ago { "now, " } else { "" };
    format!(
        "`{text}` is not an instant; write RFC 3339 with a zone like {example}, a date like {date} (its midnight in \
         UTC), {also_now}or a duration {counted} like 2h"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00.25Z".parse().expect("instant")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("instant")
    }

    #[test]
    fn an_instant_of_the_past_is_parsed_in_all_its_forms() {
        for (text, wanted) in [
            ("2026-11-23T07:50:00Z", at("2026-11-23T07:50:00Z")),
            ("2026-11-23T08:50:00+01:00", at("2026-11-23T07:50:00Z")),
            ("2026-11-23", at("2026-11-23T00:00:00Z")),
            ("now", now()),
            ("0s", now()),
            ("2h", at("2026-11-23T10:00:00.25Z")),
        ] {
            assert_eq!(parse_instant(text, now()), Ok(wanted), "{text}");
        }
        for text in ["", "yesterday", "tomorrow", "24:00", "2026-11-23T07:50:00", "2026-13-01", "99", "1e3", "-5"] {
            let fault = parse_instant(text, now()).expect_err(text);
            assert!(fault.starts_with(&format!("`{text}` is not an instant; write RFC 3339")), "{fault}");
            assert!(fault.contains("like 2026-11-22T12:00:00Z") && fault.ends_with("ago like 2h"), "{fault}");
        }
        assert_eq!(parse_instant("-2h", now()), Err("`-2h` is negative; write 2h for 2h ago".to_owned()));
        let long = "`99999999d` is longer than 100 years; write a shorter duration".to_owned();
        assert_eq!(parse_instant("99999999d", now()), Err(long));
    }

    #[test]
    fn an_end_is_in_the_future_and_in_whole_seconds() {
        for (text, wanted) in [
            ("2h", "2026-11-23T14:00:01Z"),
            ("1ms", "2026-11-23T12:00:01Z"),
            ("2026-11-24", "2026-11-24T00:00:00Z"),
            ("2026-11-23T12:00:01Z", "2026-11-23T12:00:01Z"),
        ] {
            assert_eq!(parse_end(text, now()), Ok(at(wanted)), "{text}");
        }
        for (text, part) in [
            ("tomorrow", "like 2026-11-24T12:00:00Z, a date like 2026-11-24 (its midnight in UTC), or a duration from"),
            ("24:00", "or a duration from now like 2h"),
            ("1e3", "or a duration from now like 2h"),
            ("0s", "`0s` ends at its start; write a duration from now like 2h"),
            ("0d0h", "ends at its start"),
            ("now", "`now` ends at its start"),
            ("-1h", "`-1h` is negative; write 1h for 1h from now"),
            ("2020-01-01", "which has passed; write a later instant, or a duration from now like 2h"),
            ("2026-11-23T12:00:00Z", "which has passed"),
            ("99999999999999999999d", "a duration from now"),
            ("99999999d", "`99999999d` is longer than 100 years; write a shorter duration"),
        ] {
            let Err(Failure::Usage(messages)) = parse_end(text, now()) else { panic!("{text}") };
            assert!(messages[0].contains(part) && !messages[0].contains(".25"), "{text}: {}", messages[0]);
        }
    }

    #[test]
    fn a_span_that_ends_before_it_begins_has_the_remedy_for_what_was_written() {
        let span = |first, last| match parse_span(["--since", "--until"], [Some(first), Some(last)], now()) {
            Err(Failure::Usage(messages)) => messages[0].clone(),
            other => panic!("{first} {last}: {other:?}"),
        };
        assert_eq!(span("2026-01-02", "2026-01-01"), "--until 2026-01-01 is not after --since 2026-01-02; swap them");
        let counted = span("now", "24h");
        assert!(counted.contains("a duration counts back from now, so write an instant"), "{counted}");
        assert!(counted.starts_with("--until 24h (2026-11-22T12:00:00") && !counted.contains(".25"), "{counted}");
        assert!(span("0s", "0s").contains("counts back from now"));
        let open = parse_span(["--since", "--until"], [Some("2h"), None], now()).expect("a span");
        assert_eq!(open, [Some(at("2026-11-23T10:00:00.25Z")), None]);
    }
}
