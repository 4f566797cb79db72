//! Schedules against tables: cronie's behaviour, faults, AWS's dialect, spreads and warnings.

use domain::schedule::{Context, Firing, Schedule, ScheduleKind};
use jiff::Timestamp;

const VECTORS: &str = include_str!("../data/cron_vectors.tsv");

fn instant(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn context(zone: &str) -> Context<'_> {
    Context { zone, seed: "db/nightly-dump", anchor: instant("2026-01-01T00:02:00Z") }
}

fn parse(text: &str, zone: &str) -> Schedule {
    Schedule::parse(text, &context(zone)).unwrap_or_else(|message| panic!("{text}: {message}"))
}

fn first(text: &str, zone: &str, from: &str, count: usize) -> Vec<Firing> {
    parse(text, zone).firings(instant(from)).take(count).collect()
}

fn check(text: &str, zone: &str, from: &str, expected: &[&str]) {
    let found: Vec<String> =
        first(text, zone, from, expected.len()).iter().map(|firing| firing.at.to_string()).collect();
    assert_eq!(found, expected, "{text} in {zone} from {from}");
}

fn refused(text: &str) -> String {
    Schedule::parse(text, &context("UTC")).err().unwrap_or_else(|| panic!("{text} is accepted"))
}

#[test]
fn every_test_vector_fires_when_cronie_does() {
    let mut rows = 0;
    for row in VECTORS.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        check(columns[0], columns[1], columns[2], &columns[3..6]);
        rows += 1;
    }
    assert_eq!(rows, 41);
}

#[test]
fn the_second_pass_is_found_from_the_last_minute_of_the_first() {
    check(
        "* 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T14:59:00Z",
        &["2026-04-04T15:00:00Z", "2026-04-04T15:01:00Z"],
    );
    check(
        "*/59 1 1 11 *",
        "America/New_York",
        "2026-11-01T05:59:00Z",
        &["2026-11-01T06:00:00Z", "2026-11-01T06:59:00Z"],
    );
}

#[test]
fn invalid_expressions_are_refused_with_the_remedy() {
    for (text, message) in [
        ("60 * * * *", "write 0 to 59"),
        ("* 24 * * *", "write 0 to 23"),
        ("* * 0 * *", "write 1 to 31"),
        ("* * * 13 *", "write 1 to 12"),
        ("* * * * 8", "write 0 to 7"),
        ("*/0 * * * *", "write a step of 1 or more"),
        ("5/15 * * * *", "write 5-59/15"),
        ("0 22-2 * * *", "write 22-23,0-2"),
        ("0 5-0 * * *", "runs backwards"),
        ("0 0 * * fri-mon", "write fri-sat,sun-mon"),
        ("0 0 * * monday", "write mon"),
        ("0 0 * january *", "write jan"),
        ("* * * *", "five fields, found 4"),
        ("1 * * * * *", "five fields, found 6"),
        ("", "five fields, found 0"),
        ("@fortnightly", "unknown nickname @fortnightly"),
        ("@dayly", "did you mean @daily?"),
        ("@Daily", "did you mean @daily?"),
        ("@daily x", "write @daily alone"),
        (",1 * * * *", "has an empty item"),
        ("1, * * * *", "has an empty item"),
        ("1--5 * * * *", "neither a number"),
        ("-5 * * * *", "has an empty item"),
        ("? * * * *", "write *"),
        ("0 L * * *", "is for days"),
        ("0 5#2 * * *", "is for the day of week"),
        ("0 0 5L * *", "write L for the last day"),
        ("0 0 L-3 * *", "write L"),
        ("0 0 32W * *", "write 1 to 31"),
        ("0 0 * * 5#6", "from 1 to 5"),
        ("0 0 * * 8L", "write 0 to 7"),
        ("0 0 * * xL", "neither a number"),
        ("60 24 * * *", "hour 24 is out of range"),
        ("1,60,61 * * * *", "minute 61 is out of range"),
        ("éL * * * *", "neither a number"),
        ("******", "five fields, found 1"),
        ("*5 * * * *", "neither a number"),
        ("**/5 * * * *", "neither a number"),
        ("1.5 * * * *", "neither a number"),
        ("99999999999999999999 * * * *", "out of range"),
        ("*/x * * * *", "is not a number"),
        ("H(5 * * * *", "write H, H(0-59) or H/15"),
        ("30~10 * * * *", "write 10~30"),
        ("@every soon", "not a duration"),
        ("@every 500ms", "write @every 1s or longer"),
        ("@at tomorrow", "RFC 3339"),
        ("rate(0 minutes)", "out of range"),
        ("rate(5 fortnights)", "rate(5 minutes)"),
        ("rate(minutes)", "rate(5 minutes)"),
        ("cron(0 10 * * * *)", "exactly one"),
        ("cron(0 10 ? * ? *)", "exactly one"),
        ("cron(0 10 * * ?)", "six fields, found 5"),
        ("cron(0 10 ? * 0 *)", "write 1 to 7"),
        ("cron(0 9 ? * 6#6 *)", "from 1 to 5"),
        ("cron(0 9 1 1 ? 2200)", "write 1970 to 2199"),
        ("at(2026-11-20T13:00:00Z)", "without a zone"),
        ("soon(5)", "write rate(...), cron(...) or at(...)"),
    ] {
        let found = refused(text);
        assert!(found.contains(message), "{text}: {found}");
        assert!(!found.contains('\n') && !found.ends_with('.'), "{text}: {found}");
    }
}

#[test]
fn a_date_that_never_comes_is_valid_with_a_warning_and_has_no_firing() {
    for text in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 31 2 0", "cron(0 9 30 2 ? *)", "cron(0 9 29 2 ? 2027)"] {
        let context = Context { zone: "Europe/Paris", seed: "a/b", anchor: Timestamp::UNIX_EPOCH };
        let schedule = Schedule::parse(text, &context).expect(text);
        let fires = schedule.next_after(Timestamp::UNIX_EPOCH).is_some();
        // cron fires on Sundays too, because one day field is enough.
        assert_eq!(fires, text == "0 0 31 2 0", "{text}");
        assert_eq!(schedule.warnings().iter().any(|warning| warning.contains("never fires")), !fires, "{text}");
        assert_eq!(schedule.kind(), ScheduleKind::Timed, "{text}");
    }
}

#[test]
fn schedules_of_other_programs_are_refused_with_the_same_schedule_as_a_crontab_has_it() {
    for (text, message) in [
        ("0 0 12 * * MON-FRI", "without the seconds write `0 12 * * MON-FRI`"),
        ("30 6 1 * * ?", "without the seconds write `6 1 * * *`"),
        ("0 10 * * ? 2027", "write `0 10 * * *`, or AWS's form `cron(0 10 * * ? 2027)`"),
        ("0 10 ? * MON *", "write `0 10 * * MON`, or AWS's form `cron(0 10 ? * MON *)`"),
        ("0 0 12 ? * WED 2027", "without the seconds and the year write `0 12 * * WED`"),
        ("@minutely", "write * * * * *"),
        ("@every_minute", "write * * * * *"),
        ("@quarterly", "write 0 0 1 1,4,7,10 *"),
        ("@weekdays", "write 0 0 * * 1-5"),
        ("@10", "write @every 10s"),
    ] {
        let found = refused(text);
        assert!(found.contains(message), "{text}: {found}");
    }
}

#[test]
fn an_unknown_zone_is_refused_with_the_nearest() {
    let message = Schedule::parse("@daily", &context("Europe/Pariss")).expect_err("refused");
    assert_eq!(message, "unknown time zone `Europe/Pariss`; did you mean `Europe/Paris`?");
}

#[test]
fn aws_schedules_fire_as_documented() {
    let utc = "2026-01-01T00:00:00Z";
    for (text, zone, from, expected) in [
        ("cron(0 10 * * ? *)", "UTC", utc, ["2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z", "2026-01-03T10:00:00Z"]),
        (
            "cron(0 18 ? * MON-FRI *)",
            "UTC",
            "2026-01-02T19:00:00Z",
            ["2026-01-05T18:00:00Z", "2026-01-06T18:00:00Z", "2026-01-07T18:00:00Z"],
        ),
        ("cron(15 12 ? * 1 *)", "UTC", utc, ["2026-01-04T12:15:00Z", "2026-01-11T12:15:00Z", "2026-01-18T12:15:00Z"]),
        ("cron(0 8 L * ? *)", "UTC", utc, ["2026-01-31T08:00:00Z", "2026-02-28T08:00:00Z", "2026-03-31T08:00:00Z"]),
        ("cron(0 9 ? * 6#3 *)", "UTC", utc, ["2026-01-16T09:00:00Z", "2026-02-20T09:00:00Z", "2026-03-20T09:00:00Z"]),
        ("cron(0 9 ? * 6L *)", "UTC", utc, ["2026-01-30T09:00:00Z", "2026-02-27T09:00:00Z", "2026-03-27T09:00:00Z"]),
        ("cron(0 9 ? * L *)", "UTC", utc, ["2026-01-03T09:00:00Z", "2026-01-10T09:00:00Z", "2026-01-17T09:00:00Z"]),
        ("cron(0 9 1W * ? *)", "UTC", utc, ["2026-01-01T09:00:00Z", "2026-02-02T09:00:00Z", "2026-03-02T09:00:00Z"]),
        ("cron(0 9 31W * ? *)", "UTC", utc, ["2026-01-30T09:00:00Z", "2026-03-31T09:00:00Z", "2026-05-29T09:00:00Z"]),
        ("cron(0 9 LW * ? *)", "UTC", utc, ["2026-01-30T09:00:00Z", "2026-02-27T09:00:00Z", "2026-03-31T09:00:00Z"]),
        ("cron(0/20 10 * * ? *)", "UTC", utc, ["2026-01-01T10:00:00Z", "2026-01-01T10:20:00Z", "2026-01-01T10:40:00Z"]),
        ("cron(0 0 29 2 ? *)", "UTC", utc, ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z", "2036-02-29T00:00:00Z"]),
        (
            "cron(0 0 1 JAN ? 2030/10)",
            "UTC",
            utc,
            ["2030-01-01T00:00:00Z", "2040-01-01T00:00:00Z", "2050-01-01T00:00:00Z"],
        ),
        (
            "cron(30 2 * * ? *)",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            ["2026-03-09T06:30:00Z", "2026-03-10T06:30:00Z", "2026-03-11T06:30:00Z"],
        ),
        (
            "cron(30 1 * * ? *)",
            "America/New_York",
            "2026-10-31T12:00:00Z",
            ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z", "2026-11-03T06:30:00Z"],
        ),
        ("rate(5 minutes)", "UTC", utc, ["2026-01-01T00:02:00Z", "2026-01-01T00:07:00Z", "2026-01-01T00:12:00Z"]),
        (
            "rate(1 days)",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            ["2026-03-08T00:02:00Z", "2026-03-09T00:02:00Z", "2026-03-10T00:02:00Z"],
        ),
    ] {
        check(text, zone, from, &expected);
    }
}

#[test]
fn a_year_in_the_past_and_an_instant_in_the_past_have_no_firings() {
    for text in ["cron(0 9 1 1 ? 2020)", "@at 2025-12-24T18:00:00Z", "at(2025-12-24T18:00:00)", "@manually", "@reboot"]
    {
        check(text, "Europe/Paris", "2026-01-01T00:00:00Z", &[]);
        assert_eq!(parse(text, "Europe/Paris").next_after(instant("2026-01-01T00:00:00Z")), None, "{text}");
    }
}

#[test]
fn letters_in_a_crontab_mean_what_they_mean_for_aws_and_digits_do_not_change() {
    let utc = "2026-01-01T00:00:00Z";
    for (text, same_for_aws) in [
        ("0 9 L * *", "cron(0 9 L * ? *)"),
        ("0 9 LW * *", "cron(0 9 LW * ? *)"),
        ("0 9 15W * *", "cron(0 9 15W * ? *)"),
        ("0 9 31W * *", "cron(0 9 31W * ? *)"),
        ("0 9 1,L * *", "cron(0 9 1,L * ? *)"),
        // 5 is Friday here; AWS counts from 1 = Sunday.
        ("0 9 * * 5L", "cron(0 9 ? * 6L *)"),
        ("0 9 * * friL", "cron(0 9 ? * FRIL *)"),
        ("0 9 * * 5#3", "cron(0 9 ? * 6#3 *)"),
        ("0 9 * * SUN#1", "cron(0 9 ? * 1#1 *)"),
        ("0 9 * * 0#1", "cron(0 9 ? * 1#1 *)"),
        ("0 9 * * 7L", "cron(0 9 ? * 1L *)"),
        ("0 9 * * L", "cron(0 9 ? * L *)"),
        ("0 9 * 2 1#5", "cron(0 9 ? 2 2#5 *)"),
    ] {
        let expected: Vec<String> =
            first(same_for_aws, "UTC", utc, 30).iter().map(|firing| firing.at.to_string()).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(text, "UTC", utc, &expected);
    }
    check("0 9 * * 5L", "UTC", utc, &["2026-01-30T09:00:00Z", "2026-02-27T09:00:00Z"]);
    // Both day fields restrict: either is enough, and with a star first, both must match.
    check("0 9 15 * 5L", "UTC", utc, &["2026-01-15T09:00:00Z", "2026-01-30T09:00:00Z", "2026-02-15T09:00:00Z"]);
    check("0 9 */2 * 5L", "UTC", utc, &["2026-02-27T09:00:00Z", "2026-03-27T09:00:00Z", "2026-05-29T09:00:00Z"]);
}

#[test]
fn an_unknown_zone_is_refused_with_the_zone_that_was_meant() {
    for (zone, hint) in [
        ("UTC+2", "Etc/GMT-2 for this fixed offset"),
        ("GMT-5", "Etc/GMT+5 for this fixed offset"),
        ("+05:30", "write the place"),
        ("CEST", "write one, like Europe/Paris"),
        ("PST", "write one, like America/Los_Angeles"),
        ("Paris", "did you mean `Europe/Paris`?"),
        ("new york", "did you mean `America/New_York`?"),
        ("Europe/Pari", "did you mean `Europe/Paris`?"),
    ] {
        let found = Schedule::parse("0 1 * * *", &context(zone)).expect_err(zone);
        assert!(found.contains(hint), "{zone}: {found}");
    }
}

#[test]
fn one_shots_fire_once() {
    for (text, zone, at) in [
        ("at(2026-11-20T13:00:00)", "Europe/Paris", "2026-11-20T12:00:00Z"),
        ("@at 2026-11-20T13:00:00+01:00", "UTC", "2026-11-20T12:00:00Z"),
        ("at(2026-03-29T02:30:00)", "Europe/Paris", "2026-03-29T01:30:00Z"),
    ] {
        let found = first(text, zone, "2026-01-01T00:00:00Z", 5);
        assert_eq!(found.iter().map(|firing| firing.at).collect::<Vec<_>>(), [instant(at)], "{text}");
    }
}

#[test]
fn every_counts_from_its_anchor() {
    let expected = ["2026-01-01T00:02:00Z", "2026-01-01T00:03:30Z", "2026-01-01T00:05:00Z"];
    check("@every 90s", "UTC", "2025-06-01T00:00:00Z", &expected);
    check("@every 90s", "UTC", "2026-01-01T00:02:00Z", &expected[1..]);
    check("@every 90s", "UTC", "2026-01-01T00:03:29.999999999Z", &expected[1..]);
}

#[test]
fn every_schedule_has_its_kind() {
    for (text, trigger) in [
        ("@reboot", ScheduleKind::Reboot),
        ("@manually", ScheduleKind::Manual),
        ("@hourly", ScheduleKind::Timed),
        ("@every 1h", ScheduleKind::Timed),
        ("@at 2026-11-20T13:00:00Z", ScheduleKind::Timed),
    ] {
        assert_eq!(parse(text, "UTC").kind(), trigger, "{text}");
    }
}

#[test]
fn times_that_fall_into_one_gap_are_one_firing_that_names_them_all() {
    let firing = &first("0,30 2,3 * * *", "America/New_York", "2026-03-08T05:00:00Z", 1)[0];
    let nominal: Vec<String> = firing.nominal.iter().map(ToString::to_string).collect();
    assert_eq!(nominal, ["2026-03-08T02:00:00", "2026-03-08T02:30:00", "2026-03-08T03:00:00"]);
    assert_eq!(firing.note.as_deref(), Some("clocks go forward: 02:00, 02:30 do not exist, runs at 03:00"));
}

#[test]
fn repeated_times_have_a_note_with_their_pass() {
    let notes = |text: &str| -> Vec<Option<String>> {
        first(text, "America/New_York", "2026-11-01T05:15:00Z", 3).into_iter().map(|firing| firing.note).collect()
    };
    let message = |text: &str| Some(text.to_owned());
    assert_eq!(
        notes("30 * * * *"),
        [
            message("clocks go back: 01:30 occurs twice, this is the first"),
            message("clocks went back: 01:30 occurs twice, this is the second"),
            None
        ]
    );
    assert_eq!(
        notes("30 1 * * *"),
        [message("clocks go back: 01:30 occurs twice, runs the first time only"), None, None]
    );
}

#[test]
fn spreads_are_stable_and_equal_their_resolved_form() {
    for text in [
        "H H * * *",
        "H/15 * * * *",
        "H(0-29)/10 H(2-4) * * *",
        "~ ~ ~ ~ ~",
        "10~20 1~5 * * *",
        "H H H H H",
        "H H 1~31 * *",
        "H/40 H/20 * * *",
    ] {
        let schedule = parse(text, "UTC");
        let resolved = schedule.resolved();
        assert!(!resolved.contains(['H', '~']), "{text}: {resolved}");
        assert_eq!(resolved, parse(text, "UTC").resolved(), "{text}");
        let from = instant("2026-01-01T00:00:00Z");
        let meant: Vec<Firing> = schedule.firings(from).take(100).collect();
        assert_eq!(meant, parse(&resolved, "UTC").firings(from).take(100).collect::<Vec<_>>(), "{text} is {resolved}");
    }
}

#[test]
fn spreads_stay_in_their_range_and_every_month_has_their_day() {
    for job in 0..500 {
        let seed = format!("group/job-{job}");
        let context = Context { seed: &seed, ..context("UTC") };
        let read = |text: &str| Schedule::parse(text, &context).expect("a schedule").resolved();
        let number = |text: &str, field: usize| -> u32 {
            read(text).split(' ').nth(field).and_then(|value| value.parse().ok()).expect("a number")
        };
        assert!((1..=28).contains(&number("0 0 H * *", 2)));
        assert!((1..=28).contains(&number("0 0 ~ * *", 2)));
        assert!((1..=28).contains(&number("0 0 1~31 * *", 2)));
        assert!((29..=31).contains(&number("0 0 29~31 1 *", 2)));
        assert!((10..=20).contains(&number("10~20 * * * *", 0)));
        assert!((0..=6).contains(&number("0 0 * * H", 4)));
        let starts: u32 =
            read("H(0-29)/10 * * * *").split('-').next().and_then(|first| first.parse().ok()).expect("a start");
        assert!(starts < 10);
    }
}

#[test]
fn the_fields_of_one_job_are_independent() {
    let mut pairs = std::collections::BTreeSet::new();
    for job in 0..500 {
        let seed = format!("group/job-{job}");
        pairs.insert(
            Schedule::parse("H H * * *", &Context { seed: &seed, ..context("UTC") }).expect("a schedule").resolved(),
        );
    }
    assert!(pairs.len() > 350, "500 jobs share {} times of day", pairs.len());
}

#[test]
fn nicknames_resolve_to_their_fields() {
    for (text, resolved) in [
        ("@annually", "0 0 1 1 *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("@every 90s", "@every 90s"),
        ("  5 4  * * sun\t", "5 4 * * sun"),
        ("rate(5 minutes)", "rate(5 minutes)"),
    ] {
        assert_eq!(parse(text, "UTC").resolved(), resolved, "{text}");
    }
}

#[test]
fn surprising_definitions_cause_warnings() {
    for (text, zone, message) in [
        ("*/90 * * * *", "UTC", &["larger than its range: it means 0 alone"][..]),
        ("1-5/9 * * * *", "UTC", &["it means 1 alone"]),
        ("*/45 * * * *", "UTC", &["the last step is 15 minutes long and not 45"]),
        ("0 0 13 * 5", "UTC", &["runs on the 13th OR on Fridays"]),
        ("0 0 */2 * 0", "UTC", &["AND on Sundays"]),
        ("30 2 * * *", "America/New_York", &["when the clocks go forward in America/New_York, 02:30 does not exist"]),
        ("*/15 2 * * *", "America/New_York", &["02:00 does not exist, and there is no run"]),
        ("30 1 * * *", "America/New_York", &["when the clocks go back in America/New_York, 01:30 occurs twice"]),
        ("@every 5s", "UTC", &["shorter than a minute"]),
        ("0 0 * * 1-5", "UTC", &[]),
        ("30 2 * * *", "UTC", &[]),
        ("30 12 * * *", "America/New_York", &[]),
        ("30 * * * *", "America/New_York", &[]),
        ("30 2 * * *", "Asia/Kolkata", &[]),
        ("*/15 * * * *", "UTC", &[]),
    ] {
        let found = parse(text, zone).warnings();
        assert_eq!(found.len(), message.len(), "{text}: {found:?}");
        for (found, message) in found.iter().zip(message) {
            assert!(found.contains(message), "{text}: {found}");
        }
    }
}

#[test]
fn firings_end_at_the_end_of_time() {
    let late = instant("9999-12-30T00:00:00Z");
    for text in ["* * * * *", "0 0 29 2 *", "@every 1d", "cron(0 10 * * ? *)"] {
        for zone in ["UTC", "America/New_York", "Pacific/Kiritimati"] {
            assert!(parse(text, zone).firings(late).take(10_000).count() < 10_000, "{text} in {zone}");
            parse(text, zone).next_after(Timestamp::MIN);
            assert_eq!(parse(text, zone).next_after(Timestamp::MAX), None, "{text} in {zone}");
        }
    }
}
