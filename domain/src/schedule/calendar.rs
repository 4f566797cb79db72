//! The minutes that a schedule matches, in local time without a zone: one set of bits per field, and the search for the
//! next match.
//!
//! Local time is in seconds since 1970-01-01T00:00:00 of the local clock. `clock_changes` maps it to instants.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;

/// Bit `n` of a field is set when the value `n` matches.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    pub minutes: u64,
    pub hours: u32,
    /// Bits 1 to 12.
    pub months: u16,
    pub days: Days,
    /// AWS only; every year when absent.
    pub years: Option<Box<Years>>,
    pub repair: Repair,
}

/// The effect of a clock change on the matching times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// cronie's wildcard jobs: fire in each real minute whose wall clock matches, so not in a gap, and in both passes
    /// of an overlap.
    Wild,
    /// cronie's fixed-time jobs: times in a gap fire at its end; an overlap fires in its first pass.
    Fixed,
    /// EventBridge: a gap is skipped, an overlap fires in its first pass.
    Skip,
}

#[derive(Clone, Debug)]
pub(super) enum Days {
    Crontab {
        /// Bits 1 to 31.
        of_month: u32,
        /// Bits 0 to 6, Sunday first.
        of_week: u8,
        rule: DayRule,
    },
    /// A crontab with `L`, `W` or `#`.
    Letters {
        /// Bits 1 to 31.
        of_month: u32,
        /// Bits 0 to 6, Sunday first.
        of_week: u8,
        letters: Box<LetterDays>,
        rule: DayRule,
    },
    Aws(Box<LetterDays>),
}

/// crontab(5): if one of the day fields starts with `*`, both must match; otherwise one is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DayRule {
    Both,
    Either,
}

/// The days of AWS's `cron()`, and those that letters name in a crontab.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LetterDays {
    /// Bits 1 to 31.
    pub of_month: u32,
    /// `L`
    pub last: bool,
    /// `LW`
    pub last_weekday: bool,
    /// `nW`, bits 1 to 31.
    pub nearest_weekday: u32,
    /// Bits 0 to 6, Sunday first.
    pub of_week: u8,
    /// `d#n`: bit d of element n - 1.
    pub nth_of_week: [u8; 5],
    /// `dL`, bits 0 to 6.
    pub last_of_week: u8,
}

/// First and last year of AWS's `cron()` (EventBridge Scheduler, Schedule types).
pub(super) const YEAR_MIN: u16 = 1970;
pub(super) const YEAR_MAX: u16 = 2199;

/// AWS's range of years, one bit each.
#[derive(Clone, Debug, Default)]
pub(super) struct Years([u64; 4]);

impl Years {
    pub(crate) fn insert(&mut self, year: u16) {
        let bit = usize::from(year.saturating_sub(YEAR_MIN));
        if let Some(word) = self.0.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    pub(crate) fn contains(&self, year: i16) -> bool {
        let bit = usize::try_from(i32::from(year) - i32::from(YEAR_MIN)).unwrap_or(usize::MAX);
        self.0.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }
}

impl Calendar {
    /// The first matching minute at or after a local time.
    pub(crate) fn next(&self, from: i64) -> Option<i64> {
        let from = from.checked_add(59)?.div_euclid(60) * 60;
        let from = civil(from)?;
        let (mut year, mut month) = (from.year(), from.month());
        let mut days = self.days_in(year, month) & (!0 << from.day());
        if days >> from.day() & 1 == 1 {
            if let Some((hour, minute)) = self.time_from(from.hour(), from.minute()) {
                return seconds(from.date().at(hour, minute, 0, 0));
            }
            days &= !(1 << from.day());
        }
        while days == 0 {
            (year, month) = self.month_after(year, month)?;
            days = self.days_in(year, month);
        }
        let date = Date::new(year, month, days.trailing_zeros() as i8).ok()?;
        seconds(date.at(self.hours.trailing_zeros() as i8, self.minutes.trailing_zeros() as i8, 0, 0))
    }

    /// The first matching time of a day at or after `hour:minute`.
    fn time_from(&self, hour: i8, minute: i8) -> Option<(i8, i8)> {
        let minutes = self.minutes & (!0 << minute);
        if self.hours >> hour & 1 == 1 && minutes != 0 {
            return Some((hour, minutes.trailing_zeros() as i8));
        }
        let hours = self.hours & (!0 << (hour + 1));
        (hours != 0).then(|| (hours.trailing_zeros() as i8, self.minutes.trailing_zeros() as i8))
    }

    /// The next month that is in the set, in a year that is in the set.
    fn month_after(&self, year: i16, month: i8) -> Option<(i16, i8)> {
        let later = self.months & (!0 << (month + 1));
        if later != 0 && self.has_year(year) {
            return Some((year, later.trailing_zeros() as i8));
        }
        let end = match self.years {
            Some(_) => YEAR_MAX as i16,
            None => Date::MAX.year(),
        };
        let year = (year.checked_add(1)?..=end).find(|year| self.has_year(*year))?;
        Some((year, self.months.trailing_zeros() as i8))
    }

    fn has_year(&self, year: i16) -> bool {
        self.years.as_ref().is_none_or(|years| years.contains(year))
    }

    /// The matching days of a month, bits 1 to 31.
    fn days_in(&self, year: i16, month: i8) -> u32 {
        let Ok(first) = Date::new(year, month, 1) else { return 0 };
        if self.months >> month & 1 == 0 || !self.has_year(year) {
            return 0;
        }
        let month =
            Month { length: first.days_in_month() as u32, first: first.weekday().to_sunday_zero_offset() as u32 };
        let within = ((1_u64 << (month.length + 1)) - 2) as u32;
        within
            & match &self.days {
                Days::Crontab { of_month, of_week, rule: DayRule::Both } => of_month & month.weekly(*of_week),
                Days::Crontab { of_month, of_week, rule: DayRule::Either } => of_month | month.weekly(*of_week),
                Days::Letters { of_month, of_week, letters, rule } => {
                    let of_month = of_month | letters.by_date(month);
                    let of_week = month.weekly(*of_week) | letters.by_weekday(month);
                    match rule {
                        DayRule::Both => of_month & of_week,
                        DayRule::Either => of_month | of_week,
                    }
                }
                Days::Aws(days) => days.by_date(month) | days.by_weekday(month),
            }
    }

    /// Whether no date ever matches. Constant time: in 28 years without an exception from the leap year rule, each date
    /// falls on each weekday.
    pub(crate) fn never_fires(&self) -> bool {
        const LONGEST: [u32; 13] = [0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        if self.minutes == 0 || self.hours == 0 || self.months == 0 {
            return true;
        }
        match (&self.days, &self.years) {
            (Days::Crontab { of_month, of_week, rule }, None) => {
                let dated = (1..=12)
                    .any(|month| self.months >> month & 1 == 1 && of_month.trailing_zeros() <= LONGEST[month as usize]);
                match rule {
                    DayRule::Both => !dated || *of_week == 0,
                    DayRule::Either => !dated && *of_week == 0,
                }
            }
            (_, None) => !self.fires_between(2000, 2027),
            (_, Some(_)) => !self.fires_between(YEAR_MIN as i16, YEAR_MAX as i16),
        }
    }

    fn fires_between(&self, first: i16, last: i16) -> bool {
        (first..=last).any(|year| self.has_year(year) && (1..=12).any(|month| self.days_in(year, month) != 0))
    }

    /// The first matching time of day in a span of local time, on any date.
    pub(crate) fn time_within(&self, from: i64, to: i64) -> Option<i64> {
        (from.div_euclid(60)..to.div_euclid(60))
            .take(24 * 60)
            .find(|minute| {
                let of_day = minute.rem_euclid(24 * 60);
                self.hours >> (of_day / 60) & 1 == 1 && self.minutes >> (of_day % 60) & 1 == 1
            })
            .map(|minute| minute * 60)
    }
}

#[derive(Clone, Copy)]
struct Month {
    /// Days.
    length: u32,
    /// Weekday of the 1st, Sunday is 0.
    first: u32,
}

impl Month {
    /// The days that fall on the weekdays of a set, bits 1 to 37.
    fn weekly(self, of_week: u8) -> u32 {
        /// As a factor, repeats the seven bits of a week six times.
        const WEEKS: u64 = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28 | 1 << 35;
        ((u64::from(of_week & 0x7f) * WEEKS) >> self.first << 1) as u32
    }

    fn weekday(self, day: u32) -> u32 {
        (self.first + day - 1) % 7
    }

    /// The weekday nearest to a day without leaving the month.
    fn nearest_weekday(self, day: u32) -> u32 {
        match self.weekday(day) {
            6 if day > 1 => day - 1,
            6 => day + 2,
            0 if day < self.length => day + 1,
            0 => day - 2,
            _ => day,
        }
    }
}

impl LetterDays {
    fn by_date(&self, month: Month) -> u32 {
        let mut days = self.of_month;
        if self.last {
            days |= 1 << month.length;
        }
        if self.last_weekday {
            days |= 1 << month.nearest_weekday(month.length);
        }
        for day in (1..=month.length).filter(|day| self.nearest_weekday >> day & 1 == 1) {
            days |= 1 << month.nearest_weekday(day);
        }
        days
    }

    fn by_weekday(&self, month: Month) -> u32 {
        let mut days = month.weekly(self.of_week);
        for (nth, of_week) in self.nth_of_week.iter().enumerate() {
            days |= month.weekly(*of_week) & (0x7f << (1 + 7 * nth));
        }
        days | month.weekly(self.last_of_week) & (0x7f << (month.length - 6))
    }
}

/// Local seconds as a date and time.
pub(super) fn civil(local: i64) -> Option<DateTime> {
    Timestamp::from_second(local).ok().map(|stamp| Offset::UTC.to_datetime(stamp))
}

/// A date and time as local seconds.
fn seconds(civil: DateTime) -> Option<i64> {
    Offset::UTC.to_timestamp(civil).ok().map(Timestamp::as_second)
}
