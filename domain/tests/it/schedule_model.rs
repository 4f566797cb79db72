//! Schedules against a slow model: cronie's main loop, minute by minute, over the local clock.
//!
//! The model shares nothing with the crate but jiff's table of zones. It keeps a virtual clock as cronie does: when
//! the wall clock jumps ahead, it processes the minutes in between; when it is set back, it waits.

use std::collections::BTreeSet;

use domain::schedule::{Context, Schedule};
use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};
use proptest::prelude::*;

/// One field: its text, and the values that it matches.
#[derive(Clone, Debug)]
struct Field {
    text: String,
    values: BTreeSet<i8>,
}

#[derive(Clone, Debug)]
struct Expression {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

impl Expression {
    fn text(&self) -> String {
        [&self.minute, &self.hour, &self.day, &self.month, &self.weekday].map(|field| field.text.as_str()).join(" ")
    }

    fn wild(&self) -> bool {
        self.minute.text.starts_with('*') || self.hour.text.starts_with('*')
    }

    fn matches(&self, local: DateTime) -> bool {
        let day = self.day.values.contains(&local.day());
        let number = match local.weekday() {
            Weekday::Sunday => 0,
            other => other.to_monday_one_offset(),
        };
        let weekday = self.weekday.values.contains(&number) || number == 0 && self.weekday.values.contains(&7);
        let narrowing = self.day.text.starts_with('*') || self.weekday.text.starts_with('*');
        self.minute.values.contains(&local.minute())
            && self.hour.values.contains(&local.hour())
            && self.month.values.contains(&local.month())
            && if narrowing { day && weekday } else { day || weekday }
    }
}

/// The firings in (from, from + minutes], each with its local nominal times.
fn model(expression: &Expression, zone: &TimeZone, from: Timestamp, minutes: i64) -> Vec<(Timestamp, Vec<DateTime>)> {
    const WARM_UP: i64 = 24 * 60;
    let mut found = Vec::new();
    let start = from - Span::new().minutes(WARM_UP);
    // The local minute up to which fixed jobs have run.
    let mut done = zone.to_datetime(start - 1.minute());
    for step in 0..WARM_UP + minutes + 1 {
        let at = start + Span::new().minutes(step);
        let local = zone.to_datetime(at);
        let mut nominal = Vec::new();
        if expression.wild() {
            nominal.extend(expression.matches(local).then_some(local));
        } else {
            let jump = local.since((jiff::Unit::Minute, done)).expect("a span").get_minutes();
            if !(-180..=181).contains(&jump) {
                done = local - 1.minute();
            }
            while done < local {
                done += 1.minute();
                nominal.extend(expression.matches(done).then_some(done));
            }
        }
        if !nominal.is_empty() && at > from {
            found.push((at, nominal));
        }
    }
    found
}

fn field(low: i8, high: i8) -> impl Strategy<Value = Field> {
    let whole = (low..=high).collect::<BTreeSet<_>>();
    let star = Just(Field { text: "*".to_owned(), values: whole });
    let stepped = (1..=high / 2).prop_map(move |step| Field {
        text: format!("*/{step}"),
        values: (low..=high).step_by(step as usize).collect(),
    });
    let list = proptest::collection::vec((low..=high, low..=high, 1_i8..5), 1..4).prop_map(move |elements| {
        let mut values = BTreeSet::new();
        let mut words = Vec::new();
        for (one, other, step) in elements {
            let (from, to) = (one.min(other), one.max(other));
            if step == 1 {
                values.insert(from);
                words.push(from.to_string());
            } else {
                values.extend((from..=to).step_by(step as usize));
                words.push(format!("{from}-{to}/{step}"));
            }
        }
        Field { text: words.join(","), values }
    });
    let starred_list =
        (low..=high).prop_map(move |value| Field { text: format!("*,{value}"), values: (low..=high).collect() });
    prop_oneof![4 => star, 2 => stepped, 5 => list, 1 => starred_list]
}

/// Early hours more often than others, because clocks change then.
fn hours() -> impl Strategy<Value = Field> {
    let early = (0_i8..4).prop_map(|hour| Field { text: hour.to_string(), values: BTreeSet::from([hour]) });
    let early_range = (0_i8..3, 1_i8..4).prop_map(|(from, width)| Field {
        text: format!("{from}-{}", from + width),
        values: (from..=from + width).collect(),
    });
    prop_oneof![3 => field(0, 23), 2 => early, 2 => early_range]
}

fn expressions() -> impl Strategy<Value = Expression> {
    let all = |field: &Field, text: &str| Field { text: text.to_owned(), values: field.values.clone() };
    (field(0, 59), hours(), field(1, 31), field(1, 12), field(0, 7)).prop_map(
        move |(minute, hour, day, month, weekday)| {
            let day = if day.text.starts_with("*/") { all(&day, &day.text) } else { day };
            Expression { minute, hour, day, month, weekday }
        },
    )
}

/// A zone and an instant shortly before one of its clock changes: by an hour, half an hour, two hours, at midnight, for
/// Ramadan, and a skipped day.
const CHANGES: [(&str, &str); 20] = [
    ("UTC", "2026-02-27T00:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Europe/London", "2026-03-29T01:00:00Z"),
    ("Europe/London", "2026-10-25T01:00:00Z"),
    ("Europe/Dublin", "2026-10-25T01:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Antarctica/Troll", "2026-03-29T01:00:00Z"),
    ("Antarctica/Troll", "2026-10-25T01:00:00Z"),
    ("America/Havana", "2026-03-08T05:00:00Z"),
    ("America/Sao_Paulo", "2018-11-04T03:00:00Z"),
    ("America/Sao_Paulo", "2018-02-18T02:00:00Z"),
    ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
    ("Africa/Casablanca", "2026-03-22T02:00:00Z"),
    ("Pacific/Chatham", "2026-09-26T14:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("Asia/Kathmandu", "2026-12-31T18:15:00Z"),
    ("America/New_York", "2050-03-13T07:00:00Z"),
    ("Pacific/Kwajalein", "1993-08-21T12:00:00Z"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn schedules_fire_exactly_when_the_model_does(
        expression in expressions(),
        change in 0..CHANGES.len(),
        lead in 0_i64..2000,
    ) {
        const WINDOW: i64 = 3 * 24 * 60;
        let (zone_name, near) = CHANGES[change];
        let from = near.parse::<Timestamp>().expect("an instant") - Span::new().minutes(lead);
        let zone = TimeZone::get(zone_name).expect("a zone");
        let expected = model(&expression, &zone, from, WINDOW);
        let context = Context { zone: zone_name, seed: "a/b", anchor: from };
        let schedule = Schedule::parse(&expression.text(), &context).expect("valid");
        let found: Vec<_> = schedule
            .firings(from)
            .take_while(|firing| firing.at <= from + Span::new().minutes(WINDOW))
            .map(|firing| (firing.at, firing.nominal))
            .collect();
        prop_assert_eq!(found, expected, "{} in {} from {}", expression.text(), zone_name, from);
    }
}
