//! Schedules against the crate `cron`, which shares nothing with this one. In UTC, and only where both dialects mean
//! the same: at most one of the two day fields is limited, and weekdays are written as names.

use std::str::FromStr;

use domain::schedule::{Context, Schedule};
use jiff::Timestamp;
use proptest::prelude::*;

/// Firings compared for each schedule.
const FIRINGS: usize = 40;

const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A field: all, a step of all, a list, a range, or a range with a step.
fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    let value = low..=high;
    let range = (value.clone(), value.clone()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        2 => Just("*".to_owned()),
        1 => (1..=high - low).prop_map(|step| format!("*/{step}")),
        2 => proptest::collection::btree_set(value, 1..5)
            .prop_map(|values| values.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        1 => range.clone().prop_map(|(a, b)| format!("{a}-{b}")),
        1 => (range, 1..=high).prop_map(|((a, b), step)| format!("{a}-{b}/{step}")),
    ]
}

/// Day of month and day of week.
fn days() -> impl Strategy<Value = (String, String)> {
    let names = proptest::collection::btree_set(0_usize..7, 1..4)
        .prop_map(|days| days.into_iter().map(|day| WEEKDAYS[day]).collect::<Vec<_>>().join(","));
    // The 30th and 31st are left out: with some months they never come, and the other crate then searches for long.
    prop_oneof![field(1, 29).prop_map(|day| (day, "*".to_owned())), names.prop_map(|weekday| ("*".to_owned(), weekday)),]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_fires_as_a_second_parser_computes_it(
        minute in field(0, 59),
        hour in field(0, 23),
        (day, weekday) in days(),
        month in field(1, 12),
        start in 946_684_800_i64..3_000_000_000,
    ) {
        let text = format!("{minute} {hour} {day} {month} {weekday}");
        let context = Context { zone: "UTC", seed: "default/x", anchor: Timestamp::UNIX_EPOCH };
        let own = Schedule::parse(&text, &context).expect("valid");
        let from = Timestamp::from_second(start).expect("in range");
        let found: Vec<i64> = own.firings(from).take(FIRINGS).map(|firing| firing.at.as_second()).collect();

        let other = cron::Schedule::from_str(&format!("0 {text}")).expect("valid for the other, too");
        let start = chrono::DateTime::from_timestamp(start, 0).expect("in range");
        // The other crate ends at the year 2100.
        let expected: Vec<i64> = other.after(&start).take(FIRINGS).map(|at| at.timestamp()).collect();
        prop_assert_eq!(&found[..expected.len().min(found.len())], &expected[..], "{}", text);
        prop_assert!(expected.len() >= FIRINGS.min(found.len()), "{}: {} of {}", text, expected.len(), found.len());
    }
}
