//! AWS's dialect: `rate(5 minutes)`, `cron(0 10 * * ? *)`, `at(2026-12-24T18:00:00)`.
//!
//! EventBridge Scheduler user guide, "Schedule types". Weekdays count from 1 = Sunday, exactly one of the day fields is
//! `?`, a number can have a step (`0/15`), and the day fields accept `L`, `W` and `#`.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use super::calendar::{Calendar, Days, LetterDays, Repair, Years};
use super::cron_fields::{AWS_WEEKDAY, AWS_YEAR, DAY, Field, HOUR, MINUTE, MONTH, digits, every};
use super::{Expression, Once};

/// Parses the text between the parentheses of `name(...)`.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub(super) fn parse(
    name: &str,
    inner: &str,
    zone: &TimeZone,
    warnings: &mut Vec<String>,
) -> Result<(Expression, String), String> {
    let kind = match name {
        "rate" => Expression::Every(rate(inner)?),
        "cron" => Expression::of_calendar(cron(inner)?, warnings),
        "at" => Expression::Once(at(inner, zone)?),
        _ => return Err(format!("unknown form `{name}(...)`; write rate(...), cron(...) or at(...)")),
    };
    Ok((kind, String::new()))
}

fn rate(inner: &str) -> Result<Duration, String> {
    let message = || {
        format!("`rate({inner})` is not a rate; write a whole number and minutes, hours or days, like rate(5 minutes)")
    };
    let (number, unit) = inner.trim().split_once(' ').ok_or_else(message)?;
    let unit_seconds = match unit.trim() {
        "minute" | "minutes" => 60,
        "hour" | "hours" => 3_600,
        "day" | "days" => 86_400,
        _ => return Err(message()),
    };
    match digits(number) {
        Some(number) if number > 0 && number < RATE_MAX => Ok(Duration::from_secs(u64::from(number) * unit_seconds)),
        Some(_) => Err(format!("`rate({inner})` is out of range; write a number from 1 to {}", RATE_MAX - 1)),
        None => Err(message()),
    }
}

/// Rates are smaller than this. Chosen: the largest number that [`digits`] reads exactly.
const RATE_MAX: u16 = 9999;

fn at(inner: &str, zone: &TimeZone) -> Result<Once, String> {
    let message =
        || format!("`at({inner})` is not a local time; write it without a zone, like at(2026-12-24T18:00:00)");
    let text = inner.trim();
    if text.ends_with('Z') {
        return Err(message());
    }
    let nominal: DateTime = text.parse().map_err(|_| message())?;
    let ambiguous = zone.to_ambiguous_timestamp(nominal);
    let note = match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => None,
        AmbiguousOffset::Gap { .. } => Some("this local time does not exist: the clocks go forward over it".to_owned()),
        AmbiguousOffset::Fold { .. } => Some("this local time occurs twice: runs the first time".to_owned()),
    };
    Ok(Once { at: ambiguous.compatible().map_err(|_| message())?, nominal, note })
}

fn cron(inner: &str) -> Result<Calendar, String> {
    let words: Vec<&str> = inner.split_whitespace().collect();
    let [minute, hour, day, month, weekday, year] = words[..] else {
        return Err(format!(
            "cron(...) has six fields, found {}; write minute, hour, day of month, month, day of week, year",
            words.len()
        ));
    };
    if (day == "?") == (weekday == "?") {
        return Err(format!(
            "cron(...) needs `?` in exactly one of day of month `{day}` and day of week `{weekday}`; \
             write ? in the one that does not matter"
        ));
    }
    let mut days = LetterDays::default();
    if day != "?" {
        day.split(',').try_for_each(|element| day_of_month(element, &mut days))?;
    } else {
        weekday.split(',').try_for_each(|element| day_of_week(element, &mut days))?;
    }
    Ok(Calendar {
        minutes: bits(minute, &MINUTE)?,
        hours: bits(hour, &HOUR)? as u32,
        months: bits(month, &MONTH)? as u16,
        days: Days::Aws(Box::new(days)),
        years: years(year)?,
        repair: Repair::Skip,
    })
}

fn bits(text: &str, field: &Field) -> Result<u64, String> {
    text.split(',').try_fold(0, |bits, element| {
        let (low, high, step) = range(element, field)?;
        Ok(bits | every(low, high, step))
    })
}

fn years(text: &str) -> Result<Option<Box<Years>>, String> {
    if text == "*" {
        return Ok(None);
    }
    let mut years = Years::default();
    for element in text.split(',') {
        let (low, high, step) = range(element, &AWS_YEAR)?;
        (low..=high).step_by(usize::from(step)).for_each(|year| years.insert(year));
    }
    Ok(Some(Box::new(years)))
}

/// `*`, `n`, `n-m`, each with an optional step; a step on `n` counts from there to the end.
fn range(element: &str, field: &Field) -> Result<(u16, u16, u16), String> {
    let (range, step) = match element.split_once('/') {
        Some((range, step)) => match digits(step) {
            Some(step) if step > 0 => (range, Some(step)),
            _ => return Err(format!("step `{step}` of the {} is not 1 or more; write a whole number", field.name)),
        },
        None => (element, None),
    };
    let (low, high) = match (range, range.split_once('-')) {
        ("*", _) => (field.low, field.high),
        (_, Some((low, high))) => field.range(low, high)?,
        (_, None) => {
            let value = field.value(range)?;
            (value, if step.is_some() { field.high } else { value })
        }
    };
    Ok((low, high, step.unwrap_or(1)))
}

fn day_of_month(element: &str, days: &mut LetterDays) -> Result<(), String> {
    match element {
        "L" => days.last = true,
        "LW" => days.last_weekday = true,
        _ => match element.strip_suffix('W') {
            Some(day) => days.nearest_weekday |= 1 << DAY.value(day)?,
            None => days.of_month |= bits(element, &DAY)? as u32,
        },
    }
    Ok(())
}

fn day_of_week(element: &str, days: &mut LetterDays) -> Result<(), String> {
    let bit = |text: &str| AWS_WEEKDAY.value(text).map(|value| 1_u8 << (value - 1));
    if element == "L" {
        days.of_week |= bit("7")?;
    } else if let Some(weekday) = element.strip_suffix('L') {
        days.last_of_week |= bit(weekday)?;
    } else if let Some((weekday, nth)) = element.split_once('#') {
        let place = digits(nth).and_then(|nth| days.nth_of_week.get_mut(usize::from(nth).checked_sub(1)?));
        match place {
            Some(place) => *place |= bit(weekday)?,
            None => return Err(format!("`{element}` is not a week of the month; write a number from 1 to 5 after #")),
        }
    } else {
        days.of_week |= (bits(element, &AWS_WEEKDAY)? >> 1) as u8;
    }
    Ok(())
}
