//! Counts the firings of a job that could not start, one after another, because earlier runs had not ended.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{AlertKind, JobState, Settled, settle};

/// Firings in a row that could not start, after which a job is stuck. Chosen: a single long run is no fault yet.
pub const STUCK_FIRINGS: u32 = 3;

/// Firings in a row that could not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Their number.
    pub firings: u32,
    /// Nominal time of the first of them.
    pub since: Timestamp,
}

impl Blocked {
    /// Whether they are enough for an alert.
    pub fn is_stuck(self) -> bool {
        self.firings >= STUCK_FIRINGS
    }
}

/// Counts a firing that could not start at `at`. Returns the kind of the alert to send, if one is due.
pub fn block(state: &mut JobState, nominal: Timestamp, at: Timestamp) -> Option<AlertKind> {
    let before = state.blocked.unwrap_or(Blocked { firings: 0, since: nominal });
    let after = Blocked { firings: before.firings.saturating_add(1), ..before };
    state.blocked = Some(after);
    if before.is_stuck() || !after.is_stuck() {
        return None;
    }
    changed(state, AlertKind::Stuck, at)
}

/// Ends the count, because a run starts at `at`. Returns the counted firings and the kind of the alert to send, if one
/// is due.
pub fn unblock(state: &mut JobState, at: Timestamp) -> Option<(Blocked, AlertKind)> {
    let blocked = state.blocked.take().filter(|blocked| blocked.is_stuck())?;
    Some((blocked, changed(state, AlertKind::Recovered, at)?))
}

fn changed(state: &mut JobState, kind: AlertKind, at: Timestamp) -> Option<AlertKind> {
    match settle(state, true, at) {
        Settled::Alert => Some(kind),
        Settled::Flapping => Some(AlertKind::Flapping),
        Settled::Silent => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter per minute. Firings: `x` could not start, `.` started. Alerts: `-` none, `S` stuck, `R` recovered,
    /// `~` flapping.
    #[track_caller]
    fn check(firings: &str, expected: &str) {
        let mut state = JobState::default();
        let mut alerts = String::new();
        for (minute, letter) in firings.chars().enumerate() {
            let at = Timestamp::from_second(minute as i64 * 60).unwrap();
            let kind = match letter {
                'x' => block(&mut state, at, at),
                _ => unblock(&mut state, at).map(|(_, kind)| kind),
            };
            alerts.push(match kind {
                None => '-',
                Some(AlertKind::Stuck) => 'S',
                Some(AlertKind::Recovered) => 'R',
                Some(AlertKind::Flapping) => '~',
                Some(other) => panic!("{other:?}"),
            });
        }
        assert_eq!(alerts, expected, "{firings}");
    }

    #[test]
    fn three_firings_in_a_row_are_stuck_and_the_next_start_is_the_recovery() {
        check("xx.xx.", "------");
        check("xxxxx..x", "--S--R--");
        check("xxx.xxx.", "--SR--SR");
    }

    #[test]
    fn a_job_that_is_stuck_again_and_again_is_flapping() {
        check("xxx.xxx.xxx.xxx.xxx.", "--SR--SR--S~--------");
    }
}
