//! `RANDOM_DELAY`: the longest delay of the entries below it, in minutes (crontab(5) of cronie).

use std::time::Duration;

/// The longest delay that cronie accepts: a day.
const MINUTES_MAX: u64 = 24 * 60;

/// Reads the value; zero and an empty value mean no delay.
///
/// # Errors
/// One lower-case sentence with the remedy. The entries then run without a delay, as with cron.
pub(super) fn read(value: &str) -> Result<Option<Duration>, String> {
    let value = value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    match value.parse::<u64>() {
        Ok(minutes) if minutes <= MINUTES_MAX => {
            Ok(Some(Duration::from_secs(minutes * 60)).filter(|delay| !delay.is_zero()))
        }
        _ => Err(format!(
            "not a number of minutes from 0 to {MINUTES_MAX}, so the entries run without a delay; write one, like \
             RANDOM_DELAY=10"
        )),
    }
}
