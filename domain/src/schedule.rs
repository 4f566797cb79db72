//! When a job fires: crontab's five fields and nicknames, `@every`, `@at`, and AWS's `rate()`, `cron()` and `at()`.
//!
//! A schedule is a function of its text and a [`Context`]; it never reads a clock. The scheduler asks for the firings
//! after its cursor; `sexton next`, `plan`, `lint` and the console show the same firings to people.
//!
//! The meaning is cronie's (`src/entry.c`, `src/cron.c`), with two rules of our own: the repairs for a change of
//! clocks are made in the job's own zone, and nominal times that fall together are one firing.

mod aws;
mod calendar;
mod clock_changes;
mod explain;
mod fields;
mod spread;

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::fault::nearest_name;
use crate::units;
use calendar::Calendar;

/// What a schedule's text is read against.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// IANA name or `UTC`.
    pub zone: &'a str,
    /// `group/name`: what `H` and `~` are a function of, so that every host resolves them alike.
    pub seed: &'a str,
    /// Where `rate()` and `@every` start counting.
    pub anchor: Timestamp,
}

/// A schedule that was read and can fire.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Expression,
    zone: TimeZone,
    anchor: Timestamp,
    resolved: String,
    /// What was odd in the text; what is odd in the zone is found in [`Schedule::warnings`].
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
enum Expression {
    Calendar(Calendar),
    Every(Duration),
    Once(Once),
    Reboot,
    Manual,
}

#[derive(Clone, Debug)]
struct Once {
    at: Timestamp,
    nominal: DateTime,
    note: Option<String>,
}

/// What makes a job run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// The clock.
    Timed,
    /// The runner's boot.
    Reboot,
    /// People only.
    Manual,
}

/// One instant at which a job is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    pub at: Timestamp,
    /// The local times it stands for, in order; several when they fell into one gap of the clock.
    pub nominal: Vec<DateTime>,
    /// What a change of clocks did to it, in words.
    pub note: Option<String>,
}

/// The shortest `@every`: firings are told apart by the second (`run_id` names no smaller unit).
const EVERY_MIN: Duration = Duration::from_secs(1);

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const OTHER_NICKNAMES: [&str; 4] = ["@reboot", "@manually", "@every", "@at"];

impl Schedule {
    /// Reads a schedule in any of its dialects; which one is told by the text itself.
    ///
    /// # Errors
    /// One lower-case sentence with the remedy, also for a zone that is unknown and for an expression that can never
    /// fire. An `@at` in the past is no error (nothing here knows what is past): it has no firings.
    pub fn parse(text: &str, context: &Context<'_>) -> Result<Schedule, String> {
        let text = text.trim_matches([' ', '\t']);
        let zone = zone_named(context.zone)?;
        let mut warnings = Vec::new();
        let (kind, resolved) = if text.starts_with('@') {
            nickname(text, &zone, context, &mut warnings)?
        } else if let Some((name, inner)) = text.strip_suffix(')').and_then(call) {
            aws::parse(name, inner, &zone)?
        } else {
            let (calendar, resolved) = fields::parse(text, context.seed, &mut warnings)?;
            (Expression::Calendar(calendar), resolved)
        };
        let resolved = if resolved.is_empty() { text.to_owned() } else { resolved };
        Ok(Schedule { kind, zone, anchor: context.anchor, resolved, warnings })
    }

    /// The first firing strictly after an instant; `None` when there is none any more.
    pub fn next_after(&self, after: Timestamp) -> Option<Firing> {
        match &self.kind {
            Expression::Calendar(calendar) => clock_changes::next_firing(calendar, &self.zone, after),
            Expression::Every(interval) => {
                let at = next_multiple(self.anchor, *interval, after)?;
                Some(Firing { at, nominal: vec![self.zone.to_datetime(at)], note: None })
            }
            Expression::Once(once) => {
                (once.at > after).then(|| Firing { at: once.at, nominal: vec![once.nominal], note: once.note.clone() })
            }
            Expression::Reboot | Expression::Manual => None,
        }
    }

    /// All firings strictly after an instant, in order. May be endless.
    pub fn firings(&self, after: Timestamp) -> impl Iterator<Item = Firing> + '_ {
        let mut cursor = after;
        std::iter::from_fn(move || {
            let firing = self.next_after(cursor)?;
            cursor = firing.at;
            Some(firing)
        })
    }

    /// The expression with nicknames, `H` and `~` replaced by what they mean here, like `42 3 * * *`.
    pub fn resolved(&self) -> String {
        self.resolved.clone()
    }

    /// What is legal and may surprise, one lower-case sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        if let Expression::Calendar(calendar) = &self.kind {
            warnings.extend(explain::both_day_fields(calendar, &self.resolved));
            warnings.extend(explain::clock_changes(calendar, &self.zone));
        }
        warnings
    }

    pub fn kind(&self) -> ScheduleKind {
        match self.kind {
            Expression::Calendar(_) | Expression::Every(_) | Expression::Once(_) => ScheduleKind::Timed,
            Expression::Reboot => ScheduleKind::Reboot,
            Expression::Manual => ScheduleKind::Manual,
        }
    }
}

/// Finds a zone by its IANA name, in the system's database or else in the one built in.
///
/// # Errors
/// One lower-case sentence that names the nearest zone.
pub fn zone_named(name: &str) -> Result<TimeZone, String> {
    if name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| {
        let known: Vec<String> = jiff::tz::db().available().map(|known| known.to_string()).collect();
        match nearest_name(name, known.iter().map(String::as_str)) {
            Some(near) => format!("unknown time zone `{name}`; did you mean `{near}`?"),
            None => format!("unknown time zone `{name}`; write an IANA name like Europe/Paris, or UTC"),
        }
    })
}

fn nickname(
    text: &str,
    zone: &TimeZone,
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Result<(Expression, String), String> {
    let (name, argument) = text.split_once([' ', '\t']).map_or((text, ""), |(name, rest)| (name, rest.trim()));
    let alone = |kind| match argument {
        "" => Ok((kind, String::new())),
        _ => Err(format!("`{argument}` after {name}; write {name} alone")),
    };
    match name {
        "@reboot" => alone(Expression::Reboot),
        "@manually" => alone(Expression::Manual),
        "@every" => Ok((Expression::Every(interval(argument, warnings)?), String::new())),
        "@at" => {
            let at: Timestamp = argument.parse().map_err(|_| {
                format!("`{argument}` is not an instant; write RFC 3339, like @at 2026-12-24T18:00:00Z")
            })?;
            Ok((Expression::Once(Once { at, nominal: zone.to_datetime(at), note: None }), String::new()))
        }
        _ => match NICKNAMES.iter().find(|(known, _)| *known == name) {
            Some((_, meaning)) => {
                alone(Expression::Manual)?;
                let (calendar, resolved) = fields::parse(meaning, context.seed, warnings)?;
                Ok((Expression::Calendar(calendar), resolved))
            }
            None => {
                let known = NICKNAMES.iter().map(|(known, _)| *known).chain(OTHER_NICKNAMES);
                let all = known.clone().collect::<Vec<_>>().join(", ");
                let near = nearest_name(name, known).map_or(String::new(), |near| format!("; did you mean {near}?"));
                Err(format!("unknown nickname {name}{near}; known are {all}"))
            }
        },
    }
}

fn interval(text: &str, warnings: &mut Vec<String>) -> Result<Duration, String> {
    let interval = units::parse_duration(text).map_err(|message| format!("the interval of @every is {message}"))?;
    if interval < EVERY_MIN || interval.subsec_nanos() != 0 {
        return Err(format!("@every `{text}` is not a whole number of seconds; write @every 1s or longer"));
    }
    if interval < Duration::from_secs(60) {
        warnings
            .push("shorter than a minute: a scheduler that wakes once a minute starts several runs at once".to_owned());
    }
    Ok(interval)
}

/// Splits `cron(0 10 * * ? *` into name and inside.
fn call(text: &str) -> Option<(&str, &str)> {
    text.split_once('(').filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_alphabetic()) && !name.is_empty())
}

/// The first of anchor, anchor + interval, anchor + 2 intervals, ... that is strictly after an instant.
fn next_multiple(anchor: Timestamp, interval: Duration, after: Timestamp) -> Option<Timestamp> {
    let anchor = anchor.as_nanosecond();
    let step = i128::try_from(interval.as_nanos()).ok().filter(|step| *step > 0)?;
    let passed = (after.as_nanosecond() - anchor).div_euclid(step) + 1;
    Timestamp::from_nanosecond(anchor + passed.max(0).checked_mul(step)?).ok()
}
