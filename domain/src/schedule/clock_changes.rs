//! Maps local times to instants, and applies clock changes to a schedule.
//!
//! A zone is a sequence of segments with one offset from UTC each. Within a segment local time is continuous, so the
//! search in the calendar needs no zone; only the borders do:
//!
//! | job | gap | overlap |
//! |---|---|---|
//! | wild | no firing in it | both passes |
//! | fixed | fires at the first minute after it | first pass |
//! | AWS | skipped | first pass |
//! | fixed, change longer than three hours | lost | both passes |

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::Firing;
use super::calendar::{Calendar, Repair, civil};

/// Seconds. cronie (`src/cron.c`) treats a larger change as a correction of the clock, and repairs nothing.
const REPAIR_MAX: i64 = 3 * 3_600;

/// Seconds that local time can be ahead of UTC (jiff's bound on offsets is 26 hours), and a repair on top.
const LOCAL_AHEAD_MAX: i64 = 30 * 3_600;

/// A span of time with one offset from UTC. Instants and offsets in seconds.
struct Segment {
    start: i64,
    /// First instant after it.
    end: i64,
    offset: i64,
    /// The offset before `start`; the same as `offset` when nothing changed shortly before.
    before: i64,
    /// The offset from `end` on.
    after: i64,
}

/// The first firing of a calendar strictly after an instant.
pub(super) fn next_firing(calendar: &Calendar, zone: &TimeZone, after: Timestamp) -> Option<Firing> {
    let mut first = after.as_nanosecond().div_euclid(1_000_000_000) as i64 + 1;
    let mut segment = Segment::around(zone, first)?;
    loop {
        if let Some(firing) = segment.repaired(calendar, first) {
            return Some(firing);
        }
        let from = segment.from(calendar.repair, first);
        let local = calendar.next(from)?;
        if local - segment.offset < segment.end {
            return Some(Firing {
                at: Timestamp::from_second(local - segment.offset).ok()?,
                nominal: vec![civil(local)?],
                note: segment.note(calendar.repair, local),
            });
        }
        // Nothing matches between `from` and `local`, so the search can skip the clock changes before `local`, unless
        // the clocks go back before `from`, to times that were not searched.
        let ahead = local - LOCAL_AHEAD_MAX;
        if segment.end + segment.after >= from && ahead > segment.end {
            first = ahead;
            segment = Segment::around(zone, first)?;
        } else {
            first = segment.end;
            segment = segment.following(zone)?;
        }
    }
}

/// The next clock change of a zone, with the offsets before and after it.
pub(super) fn next_change(zone: &TimeZone, after: Timestamp) -> Option<Change> {
    zone.following(after).find_map(|transition| {
        let at = transition.timestamp().as_second();
        let before = offset_at(zone, at - 1)?;
        let after = i64::from(transition.offset().seconds());
        (before != after).then_some(Change { at, before, after })
    })
}

/// A clock change. Seconds.
pub(super) struct Change {
    pub at: i64,
    pub before: i64,
    pub after: i64,
}

impl Segment {
    fn around(zone: &TimeZone, instant: i64) -> Option<Segment> {
        let offset = offset_at(zone, instant)?;
        if zone.to_fixed_offset().is_ok() {
            return Some(Segment { start: i64::MIN, end: i64::MAX, offset, before: offset, after: offset });
        }
        // The start matters only where the clock changed within the reach of a repair.
        let (mut start, mut before) = (i64::MIN, offset);
        if offset_at(zone, instant - REPAIR_MAX).is_some_and(|earlier| earlier != offset)
            && let Some(transition) = zone.preceding(Timestamp::from_second(instant + 1).ok()?).next()
        {
            start = transition.timestamp().as_second();
            before = offset_at(zone, start - 1)?;
        }
        let (end, after) = end_after(zone, instant, offset);
        Some(Segment { start, end, offset, before, after })
    }

    fn following(&self, zone: &TimeZone) -> Option<Segment> {
        let (end, after) = end_after(zone, self.end, self.after);
        Some(Segment { start: self.end, end, offset: self.after, before: self.offset, after })
    }

    /// The local time from which matches count: times of the first pass of an overlap are not repeated.
    fn from(&self, repair: Repair, first: i64) -> i64 {
        let from = first + self.offset;
        match repair {
            Repair::Wild => from,
            Repair::Fixed | Repair::Skip if self.overlaps() => from.max(self.start + self.before),
            Repair::Fixed | Repair::Skip => from,
        }
    }

    fn overlaps(&self) -> bool {
        (1..=REPAIR_MAX).contains(&(self.before - self.offset))
    }

    /// The one firing for all times in the gap before this segment.
    fn repaired(&self, calendar: &Calendar, first: i64) -> Option<Firing> {
        if calendar.repair != Repair::Fixed || !(1..=REPAIR_MAX).contains(&(self.offset - self.before)) {
            return None;
        }
        // Offsets of the 19th century have seconds, but a firing is on a whole minute of the local clock.
        let landing = (self.start + self.offset + 59).div_euclid(60) * 60;
        let at = landing - self.offset;
        if at < first {
            return None;
        }
        let mut nominal = Vec::new();
        let mut from = self.start + self.before;
        while let Some(local) = calendar.next(from).filter(|local| *local < landing) {
            nominal.push(civil(local)?);
            from = local + 60;
        }
        if nominal.is_empty() {
            return None;
        }
        let note = gap_note(&nominal, civil(landing)?);
        if calendar.next(landing) == Some(landing) {
            nominal.push(civil(landing)?);
        }
        Some(Firing { at: Timestamp::from_second(at).ok()?, nominal, note: Some(note) })
    }

    fn note(&self, repair: Repair, local: i64) -> Option<String> {
        let first_pass = self.end != i64::MAX
            && self.after < self.offset
            && self.offset - self.after <= REPAIR_MAX
            && local >= self.end + self.after;
        let second_pass = self.overlaps() && local < self.start + self.before;
        let time = || civil(local).map(time_of).unwrap_or_default();
        match (first_pass, second_pass, repair) {
            (true, _, Repair::Wild) => Some(format!("clocks go back: {} occurs twice, this is the first", time())),
            (true, _, _) => Some(format!("clocks go back: {} occurs twice, runs the first time only", time())),
            (false, true, _) => Some(format!("clocks went back: {} occurs twice, this is the second", time())),
            (false, false, _) => None,
        }
    }
}

fn end_after(zone: &TimeZone, instant: i64, offset: i64) -> (i64, i64) {
    let transition = Timestamp::from_second(instant).ok().and_then(|instant| zone.following(instant).next());
    transition.map_or((i64::MAX, offset), |transition| {
        (transition.timestamp().as_second(), i64::from(transition.offset().seconds()))
    })
}

fn offset_at(zone: &TimeZone, instant: i64) -> Option<i64> {
    Timestamp::from_second(instant).ok().map(|instant| i64::from(zone.to_offset(instant).seconds()))
}

fn gap_note(nominal: &[DateTime], landing: DateTime) -> String {
    let times: Vec<String> = nominal.iter().take(NOTE_TIMES_MAX).map(|time| time_of(*time)).collect();
    let more = match nominal.len().saturating_sub(NOTE_TIMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let verb = if nominal.len() == 1 { "does" } else { "do" };
    format!("clocks go forward: {}{more} {verb} not exist, runs at {}", times.join(", "), time_of(landing))
}

/// Times that a note names. Chosen: a gap of three hours has up to 180 of them.
const NOTE_TIMES_MAX: usize = 4;

pub(super) fn time_of(local: DateTime) -> String {
    format!("{:02}:{:02}", local.hour(), local.minute())
}
