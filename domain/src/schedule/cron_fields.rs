//! Crontab's five fields (cronie `src/entry.c`, crontab(5)), with `H` and `~` as stable spreads.
//!
//! Stricter than cronie in two places, where cronie accepts an expression that never fires as written: descending
//! ranges other than `fri-sun`, and `x-0` in fields other than the weekday.

use super::calendar::{Calendar, DayRule, Days, LetterDays, Repair};
use super::{day_letters, hints, spread};

/// One field's name, range and names of values.
pub(super) struct Field {
    pub name: &'static str,
    pub low: u16,
    pub high: u16,
    /// Three-letter names, the first of which means `named_from`.
    pub names: &'static [&'static str],
    pub named_from: u16,
    /// The highest value that `H` and `~` choose without a range.
    spread_high: u16,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The last day that every month has: a spread must not skip February.
const SPREAD_DAY_MAX: u16 = 28;

pub(super) const MINUTE: Field = Field { name: "minute", low: 0, high: 59, names: &[], named_from: 0, spread_high: 59 };
pub(super) const HOUR: Field = Field { name: "hour", low: 0, high: 23, names: &[], named_from: 0, spread_high: 23 };
pub(super) const DAY: Field =
    Field { name: "day of month", low: 1, high: 31, names: &[], named_from: 0, spread_high: SPREAD_DAY_MAX };
pub(super) const MONTH: Field =
    Field { name: "month", low: 1, high: 12, names: &MONTHS, named_from: 1, spread_high: 12 };
pub(super) const WEEKDAY: Field =
    Field { name: "day of week", low: 0, high: 7, names: &WEEKDAYS, named_from: 0, spread_high: 6 };
/// AWS counts from 1 = Sunday.
pub(super) const AWS_WEEKDAY: Field =
    Field { name: "day of week", low: 1, high: 7, names: &WEEKDAYS, named_from: 1, spread_high: 7 };
pub(super) const AWS_YEAR: Field = Field {
    name: "year",
    low: super::calendar::YEAR_MIN,
    high: super::calendar::YEAR_MAX,
    names: &[],
    named_from: 0,
    spread_high: super::calendar::YEAR_MAX,
};

/// Parses five fields into bits, and returns their text with all spreads resolved.
///
/// # Errors
/// One lower-case sentence with the remedy.
pub(super) fn parse(text: &str, seed: &str, warnings: &mut Vec<String>) -> Result<(Calendar, String), String> {
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let mut next = || words.next();
    let (Some(minute), Some(hour), Some(day), Some(month), Some(weekday)) = (next(), next(), next(), next(), next())
    else {
        return Err(count_message(text));
    };
    if next().is_some() {
        return Err(count_message(text));
    }
    let mut resolved = String::with_capacity(text.len() + 8);
    let mut letters = LetterDays::default();
    let mut messages = Vec::new();
    let mut bits = |text: &str, field: &Field| {
        if !resolved.is_empty() {
            resolved.push(' ');
        }
        let mut reader = Reader { text, field, seed, resolved: &mut resolved, letters: &mut letters, warnings };
        reader.list().unwrap_or_else(|message| {
            messages.push(message);
            0
        })
    };
    let minutes = bits(minute, &MINUTE);
    let hours = bits(hour, &HOUR) as u32;
    let of_month = bits(day, &DAY) as u32;
    let months = bits(month, &MONTH) as u16;
    let of_week = bits(weekday, &WEEKDAY);
    if !messages.is_empty() {
        return Err(messages.join("; also "));
    }
    // cronie's flags depend on the first character of the field only: `*/2` counts as a star, and `10,*` does not.
    let star = |text: &str| text.starts_with('*');
    let of_week = (of_week | of_week >> 7) as u8 & 0x7f;
    let rule = if star(day) || star(weekday) { DayRule::Both } else { DayRule::Either };
    let days = match letters == LetterDays::default() {
        true => Days::Crontab { of_month, of_week, rule },
        false => Days::Letters { of_month, of_week, letters: Box::new(letters), rule },
    };
    let calendar = Calendar {
        minutes,
        hours,
        months,
        days,
        years: None,
        repair: if star(minute) || star(hour) { Repair::Wild } else { Repair::Fixed },
    };
    Ok((calendar, resolved))
}

fn count_message(text: &str) -> String {
    let words: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    format!("crontab has five fields, found {}; {}", words.len(), hints::for_count(&words))
}

/// Reads one field.
struct Reader<'a, 'o> {
    text: &'a str,
    field: &'a Field,
    seed: &'a str,
    resolved: &'o mut String,
    letters: &'o mut LetterDays,
    warnings: &'o mut Vec<String>,
}

impl Reader<'_, '_> {
    fn list(&mut self) -> Result<u64, String> {
        let mut bits = 0;
        let mut messages = Vec::new();
        for (index, element) in self.text.split(',').enumerate() {
            if index > 0 {
                self.resolved.push(',');
            }
            match self.letters(element).map_or_else(|| self.element(element), |read| read.map(|()| 0)) {
                Ok(element) => bits |= element,
                Err(message) => messages.push(message),
            }
        }
        if messages.is_empty() { Ok(bits) } else { Err(messages.join("; also ")) }
    }

    fn letters(&mut self, element: &str) -> Option<Result<(), String>> {
        let read = match self.field.name {
            "day of month" => day_letters::of_month(element, self.letters)?,
            "day of week" => day_letters::of_week(element, self.letters)?,
            _ => return None,
        };
        self.resolved.push_str(element);
        Some(read)
    }

    fn element(&mut self, element: &str) -> Result<u64, String> {
        let field = self.field;
        let (range, step) = match element.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (element, None),
        };
        if range == "*" {
            self.resolved.push_str(element);
            self.warn_of_step(element, step);
            return Ok(every(field.low, field.high, step.unwrap_or(1)));
        }
        if let Some((low, high)) = self.spread(range)? {
            return Ok(self.spread_over(low, high, step));
        }
        let (low, high) = match range.split_once('-') {
            Some((low, high)) => field.range(low, high)?,
            None => {
                let value = field.value(range)?;
                if step.is_some() {
                    let highest = field.high_written(value);
                    return Err(format!(
                        "step on the single {} `{element}`; write {value}-{highest}/{}",
                        field.name,
                        step.unwrap_or(1)
                    ));
                }
                (value, value)
            }
        };
        self.resolved.push_str(element);
        if let Some(step) = step.filter(|step| *step > high - low && high > low) {
            self.warnings.push(format!(
                "step {step} of the {} `{element}` is larger than its range: it means {low} alone",
                field.name
            ));
        }
        Ok(every(low, high, step.unwrap_or(1)))
    }

    fn step(&self, text: &str) -> Result<u16, String> {
        match digits(text) {
            Some(0) => Err(format!("step 0 in the {} `{}`; write a step of 1 or more", self.field.name, self.text)),
            Some(step) => Ok(step),
            None => Err(format!(
                "step `{text}` of the {} is not a number; write one, like */{}",
                self.field.name,
                self.field.high.div_ceil(4)
            )),
        }
    }

    fn warn_of_step(&mut self, element: &str, step: Option<u16>) {
        let Field { name, low, high, .. } = *self.field;
        let Some(step) = step else { return };
        if step > high - low {
            self.warnings
                .push(format!("step {step} of the {name} `{element}` is larger than its range: it means {low} alone"));
        } else if matches!(name, "minute" | "hour") && !(high + 1).is_multiple_of(step) {
            let rest = (high + 1) % step;
            self.warnings.push(format!(
                "`{element}` starts again at {name} {low}, so the last step is {rest} {name}s long and not {step}"
            ));
        }
    }

    /// The range of values of `H`, `H(a-b)`, `~`, `a~b`.
    fn spread(&self, text: &str) -> Result<Option<(u16, u16)>, String> {
        let field = self.field;
        if let Some((low, high)) = text.split_once('~') {
            let low = if low.is_empty() { field.low } else { field.value(low)? };
            let high = if high.is_empty() { field.spread_high.max(low) } else { field.value(high)? };
            return self.spread_range(low, high).map(Some);
        }
        let Some(rest) = text.strip_prefix('H') else { return Ok(None) };
        if rest.is_empty() {
            return Ok(Some((field.low, field.spread_high)));
        }
        let inside =
            rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).and_then(|rest| rest.split_once('-'));
        match inside {
            Some((low, high)) => self.spread_range(field.value(low)?, field.value(high)?).map(Some),
            None => Err(format!(
                "`{text}` is not a spread of the {}; write H, H({}-{}) or H/15",
                field.name, field.low, field.high
            )),
        }
    }

    fn spread_range(&self, low: u16, high: u16) -> Result<(u16, u16), String> {
        if low > high {
            return Err(format!(
                "the range of the {} `{}` runs backwards; write {high}~{low}",
                self.field.name, self.text
            ));
        }
        let capped = if low <= self.field.spread_high { high.min(self.field.spread_high) } else { high };
        Ok((low, capped))
    }

    fn spread_over(&mut self, low: u16, high: u16, step: Option<u16>) -> u64 {
        let hash = spread::hash(self.seed, self.field.name);
        let width = high - low + 1;
        let Some(step) = step.filter(|step| *step < width) else {
            let value = spread::within(low, high, hash);
            self.resolved.push_str(&value.to_string());
            return 1 << value;
        };
        let first = spread::within(low, low + step - 1, hash);
        match first + step <= high {
            true => self.resolved.push_str(&format!("{first}-{high}/{step}")),
            false => self.resolved.push_str(&first.to_string()),
        }
        every(first, high, step)
    }
}

impl Field {
    /// A number or a name.
    pub(crate) fn value(&self, text: &str) -> Result<u16, String> {
        let Field { name, low, high, .. } = self;
        if let Some(value) = digits(text) {
            return match (*low..=*high).contains(&value) {
                true => Ok(value),
                false => Err(format!("{name} {text} is out of range; write {low} to {high}")),
            };
        }
        let named = |text: &str| self.names.iter().position(|known| known.eq_ignore_ascii_case(text));
        if let Some(index) = named(text) {
            return Ok(self.named_from + index as u16);
        }
        Err(match text {
            "" => {
                format!("the {name} has an empty item; write numbers, ranges like 1-5, or *, with commas between")
            }
            "?" => format!("`?` is not valid in a crontab; write * in the {name}"),
            "L" | "W" | "LW" => format!("`{text}` is for days, not for the {name}; write numbers or *"),
            _ if text.contains('#') => {
                format!("`{text}` is for the day of week, like 5#1; write numbers in the {name}")
            }
            _ => match text.get(..3).filter(|prefix| named(prefix).is_some()) {
                Some(prefix) => {
                    format!(
                        "{name} `{text}` is too long: names have three letters; write {}",
                        prefix.to_ascii_lowercase()
                    )
                }
                None => {
                    format!("{name} `{text}` is neither a number from {low} to {high} nor a name of three letters")
                        + if self.names.is_empty() {
                            " (this field has no names); write a number"
                        } else {
                            "; write one"
                        }
                }
            },
        })
    }

    /// Both ends of `low-high`.
    pub(crate) fn range(&self, low_text: &str, high_text: &str) -> Result<(u16, u16), String> {
        let (low, mut high) = (self.value(low_text)?, self.value(high_text)?);
        // cronie: Sunday may end a range, as in `fri-sun`.
        if high == 0 && low > 0 && self.high == 7 && self.low == 0 {
            high = 7;
        }
        if low > high {
            let named = low_text.starts_with(|c: char| c.is_ascii_alphabetic()) && self.name == "day of week";
            let (last, first) = match named {
                true => ("sat".to_owned(), "sun".to_owned()),
                false => (self.high_written(low).to_string(), self.low.to_string()),
            };
            return Err(format!(
                "{} range `{low_text}-{high_text}` runs backwards; write {low_text}-{last},{first}-{high_text}",
                self.name
            ));
        }
        Ok((low, high))
    }

    /// The highest value for a hint: Saturday, not a second Sunday.
    fn high_written(&self, low: u16) -> u16 {
        if self.high == 7 && self.low == 0 { 6.max(low) } else { self.high }
    }
}

/// Every `step`-th value from `low` to `high`, as bits.
pub(super) fn every(low: u16, high: u16, step: u16) -> u64 {
    if step == 1 {
        return (!0 >> (63 - high)) & (!0 << low);
    }
    (low..=high).step_by(usize::from(step)).fold(0, |bits, value| bits | 1 << value)
}

/// Reads a number of any length, capped at 9999: no field has a larger value.
pub(super) fn digits(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = text.trim_start_matches('0');
    if significant.len() > 4 {
        return Some(9999);
    }
    Some(significant.bytes().fold(0, |value, digit| value * 10 + u16::from(digit - b'0')))
}
