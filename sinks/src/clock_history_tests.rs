use std::cell::Cell;

use super::*;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// An instant of the wall clock at the boot.
const BOOT_MS: i64 = 1_800_000_000_000;

thread_local! {
    static AHEAD_MS: Cell<i64> = const { Cell::new(BOOT_MS) };
    static SINCE_BOOT_MS: Cell<i64> = const { Cell::new(0) };
}

fn wall() -> Timestamp {
    Timestamp::from_millisecond(AHEAD_MS.get() + SINCE_BOOT_MS.get()).expect("an instant")
}

fn boot() -> Duration {
    Duration::from_millis(SINCE_BOOT_MS.get() as u64)
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).expect("an instant")
}

fn is_too_old(history: &ClockHistory, captured: Timestamp) -> bool {
    history.limits(SignedDuration::from_hours(14 * 24)).is_too_old(&stamp::format(captured))
}

#[test]
fn age_counts_from_capture_although_the_clock_is_set() {
    for step_ms in [20 * DAY_MS, 400 * DAY_MS, 2 * DAY_MS, -20 * DAY_MS, -HOUR_MS, 2000] {
        AHEAD_MS.set(BOOT_MS);
        SINCE_BOOT_MS.set(30 * DAY_MS);
        let history = ClockHistory::with_clocks(wall, boot);
        let before = wall();
        SINCE_BOOT_MS.set(SINCE_BOOT_MS.get() + HOUR_MS);
        AHEAD_MS.set(AHEAD_MS.get() + step_ms);
        assert!(!is_too_old(&history, before), "{step_ms}: captured 1 h ago, before the step");
        // After a step back by 1 h, the same stamp may have been captured now.
        let youngest = if step_ms == -HOUR_MS { 0 } else { 3600 };
        assert_eq!(history.age(before), Duration::from_secs(youngest), "{step_ms}");
        let after = wall();
        assert!(!is_too_old(&history, after), "{step_ms}: captured now");
        assert_eq!(history.age(after), Duration::ZERO, "{step_ms}");
        SINCE_BOOT_MS.set(SINCE_BOOT_MS.get() + 13 * DAY_MS);
        assert!(!is_too_old(&history, before) && !is_too_old(&history, after), "{step_ms}: 13 days later");
        SINCE_BOOT_MS.set(SINCE_BOOT_MS.get() + 2 * DAY_MS);
        assert!(is_too_old(&history, after), "{step_ms}: 15 days later");
        // A line that may have been captured later, by the clock after a step back, is kept until it is old by both.
        if step_ms > -DAY_MS {
            assert!(is_too_old(&history, before), "{step_ms}: 15 days later");
        }
        SINCE_BOOT_MS.set(SINCE_BOOT_MS.get() + 40 * DAY_MS);
        assert!(is_too_old(&history, before), "{step_ms}: in the end");
    }
}

#[test]
fn lines_from_before_the_boot_have_the_age_of_the_wall_clock() {
    SINCE_BOOT_MS.set(HOUR_MS);
    // A machine without a battery starts in the past, and NTP sets its clock.
    AHEAD_MS.set(HOUR_MS);
    let history = ClockHistory::with_clocks(wall, boot);
    AHEAD_MS.set(BOOT_MS);
    assert!(!is_too_old(&history, at(BOOT_MS - 13 * DAY_MS)));
    assert!(is_too_old(&history, at(BOOT_MS - 15 * DAY_MS)));
    assert_eq!(history.age(at(BOOT_MS - 2 * DAY_MS)), Duration::from_millis((2 * DAY_MS + HOUR_MS) as u64));
    assert!(!is_too_old(&history, at(2 * HOUR_MS - 1)), "captured before the clock was set");
    let untouched = ClockHistory::with_clocks(wall, boot);
    assert!(is_too_old(&untouched, at(BOOT_MS - 15 * DAY_MS)) && !is_too_old(&untouched, at(BOOT_MS - DAY_MS)));
}

#[test]
fn settings_survive_a_restart_and_end_with_the_boot() {
    let directory = tempfile::tempdir().expect("folder");
    let path = directory.path().join(FILE_NAME);
    SINCE_BOOT_MS.set(HOUR_MS);
    let first = ClockHistory::with_clocks(wall, boot);
    first.keep_in(directory.path());
    let captured = wall();
    // The clock is set while no process of Sexton runs.
    AHEAD_MS.set(AHEAD_MS.get() + 20 * DAY_MS);
    let second = ClockHistory::with_clocks(wall, boot);
    assert!(is_too_old(&second, captured), "a process without the file knows only the wall clock");
    second.keep_in(directory.path());
    assert!(!is_too_old(&second, captured));
    let text = std::fs::read_to_string(&path).expect("written");
    let stored: Settings = serde_json::from_str(&text).expect("settings");
    assert_eq!(stored.settings.len(), 2, "{text}");
    std::fs::write(&path, text.replace(&stored.boot_id, "another boot")).expect("written");
    let third = ClockHistory::with_clocks(wall, boot);
    third.keep_in(directory.path());
    assert!(is_too_old(&third, captured), "after a reboot");
    std::fs::write(&path, "damaged").expect("written");
    ClockHistory::with_clocks(wall, boot).keep_in(directory.path());
    assert!(std::fs::read_to_string(&path).expect("written").contains("boot_id"));
}

#[test]
fn slow_corrections_make_no_setting_and_many_settings_are_limited() {
    SINCE_BOOT_MS.set(HOUR_MS);
    let history = ClockHistory::with_clocks(wall, boot);
    let captured = wall();
    for _ in 0..10_000 {
        SINCE_BOOT_MS.set(SINCE_BOOT_MS.get() + 100_000);
        AHEAD_MS.set(AHEAD_MS.get() + 50);
        history.limits(SignedDuration::from_hours(1));
    }
    assert_eq!(locked(&history.kept).settings.settings.len(), 1);
    assert!(!is_too_old(&history, captured));
    for _ in 0..1000 {
        AHEAD_MS.set(AHEAD_MS.get() + HOUR_MS);
        history.limits(SignedDuration::from_hours(1));
    }
    assert_eq!(locked(&history.kept).settings.settings.len(), SETTINGS_MAX);
}
