//! Warnings about crontab expressions whose meaning is easily misread.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::calendar::{Calendar, DayRule, Days, Repair, civil};
use super::clock_changes::{next_change, time_of};

/// Warns when both day fields restrict: states whether that is an OR or an AND.
pub(super) fn both_day_fields(calendar: &Calendar, expression: &str) -> Option<String> {
    let rule = match &calendar.days {
        Days::Crontab { rule, .. } | Days::Letters { rule, .. } => rule,
        Days::Aws(_) => return None,
    };
    let mut words = expression.split_whitespace();
    let (day, weekday) = (words.nth(2)?, words.nth(1)?);
    if day == "*" || weekday == "*" {
        return None;
    }
    let (dates, weekdays) = match &calendar.days {
        Days::Crontab { of_month, of_week, .. } => (dates(*of_month, day), weekdays(*of_week)),
        _ => (format!("on the days {day} of the month"), format!("the days {weekday} of the week")),
    };
    Some(match rule {
        DayRule::Either => format!(
            "runs {dates} OR on {weekdays}; for AND, leave one of them * and test the other in the command, like \
             [ \"$(date +\\%u)\" = 5 ] && ..."
        ),
        DayRule::Both => format!(
            "runs only on days that are both: {dates} AND on {weekdays}, because a day field starts with *; \
             for OR, write the day field without *"
        ),
    })
}

/// Warns when a minute field of `*` makes a job run in each minute of single hours or single days.
pub(super) fn every_minute(calendar: &Calendar, expression: &str) -> Option<String> {
    let words: Vec<&str> = expression.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = words[..] else { return None };
    if !matches!(minute, "*" | "*/1" | "0-59") {
        return None;
    }
    // A range of hours or days is how a job that shall run in each of their minutes is written.
    let single = |field: &str| field != "*" && !field.split(',').any(|item| item.contains('-') && !item.contains('/'));
    let first = calendar.hours.trailing_zeros();
    if single(hour) && hour != "*/1" {
        let count = calendar.hours.count_ones();
        let more = match count {
            1 => String::new(),
            _ => format!(", and in {} more {}", count - 1, if count == 2 { "hour" } else { "hours" }),
        };
        return Some(format!(
            "runs 60 times between {first:02}:00 and {first:02}:59{more}; once is `0 {hour} {day} {month} {weekday}`"
        ));
    }
    (hour == "*" && (single(day) || single(weekday)))
        .then(|| format!("runs 1440 times on each of its days; once a day is `0 0 {day} {month} {weekday}`"))
}

/// Warns of times of day that clock changes of the zone skip or repeat.
pub(super) fn clock_changes(calendar: &Calendar, zone: &TimeZone) -> Vec<String> {
    const EVERY_HOUR: u32 = (1 << 24) - 1;
    // A job that runs every hour skips or repeats an hour as every clock does.
    if calendar.hours == EVERY_HOUR {
        return Vec::new();
    }
    let name = zone.iana_name().unwrap_or("its zone");
    let mut warnings = Vec::new();
    let mut cursor = RULES_SETTLED;
    // The changes of one year.
    for _ in 0..CHANGES_MAX {
        let Some(change) = next_change(zone, cursor) else { break };
        let Ok(at) = Timestamp::from_second(change.at) else { break };
        cursor = at;
        let (before, after) = (change.at + change.before, change.at + change.after);
        let Some(local) = calendar.time_within(before.min(after), before.max(after)).and_then(civil) else { continue };
        let (way, what) = match (before < after, calendar.repair) {
            (true, Repair::Fixed) => ("forward", "does not exist, and the run starts right after the gap"),
            (true, _) => ("forward", "does not exist, and there is no run"),
            (false, Repair::Wild) => ("back", "occurs twice, and it runs both times"),
            (false, _) => ("back", "occurs twice, and it runs the first time only"),
        };
        let warning = format!(
            "when the clocks go {way} in {name}, {} {what}; to avoid it choose another hour or a zone like UTC",
            time_of(local)
        );
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings
}

/// 2038-01-01: the tables of zones end in 2037; from then on each zone keeps its present rule.
const RULES_SETTLED: Timestamp = Timestamp::constant(2_145_916_800, 0);

/// Clock changes in one year: four in zones that suspend summer time during Ramadan, two elsewhere.
const CHANGES_MAX: usize = 4;

fn dates(bits: u32, text: &str) -> String {
    const NAMED_MAX: u32 = 4;
    if bits.count_ones() > NAMED_MAX {
        return format!("on the days {text} of the month");
    }
    let named: Vec<String> = (1..=31).filter(|day| bits >> day & 1 == 1).map(ordinal).collect();
    format!("on the {}", named.join(", "))
}

fn ordinal(day: u32) -> String {
    let suffix = match (day % 10, day / 10) {
        (_, 1) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{day}{suffix}")
}

fn weekdays(bits: u8) -> String {
    const NAMES: [&str; 7] = ["Sundays", "Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays"];
    let named: Vec<&str> =
        NAMES.iter().enumerate().filter(|(day, _)| bits >> day & 1 == 1).map(|(_, name)| *name).collect();
    named.join(", ")
}
