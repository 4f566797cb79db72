//! When a job fires: crontab's five fields and nicknames, `@every`, `@at`, and AWS's `rate()`, `cron()` and `at()`.
//!
//! A schedule is a function of its text and a [`Context`]; it never reads a clock. The scheduler, `sexton next`, `plan`
//! and `lint` compute the same firings.
//!
//! Schedules mean the same as in cronie (`src/entry.c`, `src/cron.c`), with two differences: a clock change is handled
//! in the job's own zone, and nominal times that fall on the same instant are one firing.

mod aws;
mod calendar;
mod clock_changes;
mod cron_fields;
mod day_letters;
mod explain;
pub(crate) mod hints;
mod spread;

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::units;
use crate::zones::zone_named;
use calendar::Calendar;

/// The arguments of a schedule besides its text.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// IANA name or `UTC`.
    pub zone: &'a str,
    /// `group/name`: `H` and `~` are a function of it, so that every host resolves them alike.
    pub seed: &'a str,
    /// `rate()` and `@every` count from this instant.
    pub anchor: Timestamp,
}

/// A parsed schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Expression,
    zone: TimeZone,
    anchor: Timestamp,
    resolved: String,
    /// Warnings about the text; [`Schedule::warnings`] adds those about the zone.
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
enum Expression {
    Calendar(Calendar),
    Every(Duration),
    Once(Once),
    /// A date that never comes.
    Never,
    Reboot,
    Manual,
}

impl Expression {
    fn of_calendar(calendar: Calendar, warnings: &mut Vec<String>) -> Expression {
        if calendar.never_fires() {
            warnings.push(NEVER_MESSAGE.to_owned());
            return Expression::Never;
        }
        Expression::Calendar(calendar)
    }
}

const NEVER_MESSAGE: &str =
    "never fires, because no month of the schedule has that day; write a day that one of them has";

#[derive(Clone, Debug)]
struct Once {
    at: Timestamp,
    nominal: DateTime,
    note: Option<String>,
}

/// What starts the runs of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// The clock.
    Timed,
    /// `@reboot`: a boot of the machine.
    Reboot,
    /// `@manually`: an operator or the API only.
    Manual,
}

/// One firing of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    /// When the job is due.
    pub at: Timestamp,
    /// The local times of the firing, in order; more than one when they fell into one gap of the clock.
    pub nominal: Vec<DateTime>,
    /// The effect of a clock change on this firing, one clause.
    pub note: Option<String>,
}

/// The shortest `@every`: run ids have whole seconds, so two firings differ by at least one.
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
    /// Parses a schedule of any dialect; the text decides which one.
    ///
    /// # Errors
    /// One lower-case sentence with the remedy, also for an unknown zone. A date that never comes, like February 31, is
    /// valid with a warning, as in cron. An `@at` in the past is valid too, because the present time is unknown here.
    pub fn parse(text: &str, context: &Context<'_>) -> Result<Schedule, String> {
        let text = text.trim_matches([' ', '\t']);
        let zone = zone_named(context.zone)?;
        let mut warnings = Vec::new();
        let (kind, resolved) = if text.starts_with('@') {
            nickname(text, &zone, context, &mut warnings)?
        } else if let Some((name, inner)) = text.strip_suffix(')').and_then(call) {
            aws::parse(name, inner, &zone, &mut warnings)?
        } else {
            let (calendar, resolved) = cron_fields::parse(text, context.seed, &mut warnings)?;
            (Expression::of_calendar(calendar, &mut warnings), resolved)
        };
        let resolved = if resolved.is_empty() { text.to_owned() } else { resolved };
        Ok(Schedule { kind, zone, anchor: context.anchor, resolved, warnings })
    }

    /// The first firing strictly after an instant; `None` after the last one.
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
            Expression::Never | Expression::Reboot | Expression::Manual => None,
        }
    }

    /// All firings strictly after an instant, in order. The iterator may be endless.
    pub fn firings(&self, after: Timestamp) -> impl Iterator<Item = Firing> + '_ {
        let mut cursor = after;
        std::iter::from_fn(move || {
            let firing = self.next_after(cursor)?;
            cursor = firing.at;
            Some(firing)
        })
    }

    /// The expression with nicknames, `H` and `~` resolved, like `42 3 * * *`.
    pub fn resolved(&self) -> String {
        self.resolved.clone()
    }

    /// Warnings, one lower-case sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        if let Expression::Calendar(calendar) = &self.kind {
            warnings.extend(explain::every_minute(calendar, &self.resolved));
            warnings.extend(explain::both_day_fields(calendar, &self.resolved));
            warnings.extend(explain::clock_changes(calendar, &self.zone));
        }
        warnings
    }

    /// What starts the runs of the job.
    pub fn kind(&self) -> ScheduleKind {
        match self.kind {
            Expression::Calendar(_) | Expression::Every(_) | Expression::Once(_) | Expression::Never => {
                ScheduleKind::Timed
            }
            Expression::Reboot => ScheduleKind::Reboot,
            Expression::Manual => ScheduleKind::Manual,
        }
    }
}

/// A number of seconds below `limit_seconds` that depends only on the job (`seed`); 0 when the limit is 0.
pub(crate) fn spread_seconds(seed: &str, limit_seconds: u64) -> u64 {
    spread::hash(seed, "delay").checked_rem(limit_seconds).unwrap_or(0)
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
        _ => Err(format!("unexpected `{argument}` after {name}; write {name} alone")),
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
                let (calendar, resolved) = cron_fields::parse(meaning, context.seed, warnings)?;
                Ok((Expression::Calendar(calendar), resolved))
            }
            None => {
                let known = NICKNAMES.iter().map(|(known, _)| *known).chain(OTHER_NICKNAMES);
                let all = known.clone().collect::<Vec<_>>().join(", ");
                let hint = hints::for_nickname(name, known);
                Err(format!("unknown nickname {name}{hint}; known are {all}"))
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
            .push("shorter than a minute: a scheduler that ticks once a minute starts several runs at once".to_owned());
    }
    Ok(interval)
}

/// Splits `cron(0 10 * * ? *` into its name and its arguments.
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
