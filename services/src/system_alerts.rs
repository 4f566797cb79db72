//! Alerts about Sexton itself, as alerts of system jobs: `sexton/disk`, `sexton/sink.NAME`, `sexton/file.NAME`,
//! `sexton/spool.RUNNER`.
//! Called by the watchers of disks and sinks, and where a run ends. Thresholds are the callers'. Never sends anything.

use domain::alert::{AlertKind, JobState, Occurrence, Status, Transition, decide};
use domain::job::{AlertPolicy, JobKey};
use domain::ports::{AlertStep, PortResult, Ports, StateChange, Stored};
use domain::run::Outcome;
use jiff::Timestamp;

/// At most one loss of each sink, and of each runner's disk, becomes an alert in this time. Chosen: one message an hour
/// names the next step; every loss is in Sexton's log and in the numbers of the sink or run.
const LOSS_SPAN_S: i64 = 3600;

/// The key of a system job. System jobs have no schedule and no runs.
pub fn key(name: impl Into<String>) -> JobKey {
    JobKey::new("sexton", name)
}

/// The condition that a system job was found in.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    /// The system job: [`key`].
    pub key: &'a JobKey,
    /// Start of the ids of its transitions; kind and milliseconds follow.
    pub id_prefix: &'a str,
    /// [`Outcome::Failed`] or [`Outcome::Succeeded`].
    pub outcome: Outcome,
    /// The text of the alert, with the next step for the operator.
    pub reason: &'a str,
    /// An alert of its failure was sent while the store was unable to record it. The failure is then recorded without
    /// a second alert, and the recovery is sent even if the failure was never recorded.
    pub sent_unrecorded: bool,
}

/// Records a change of a system job between good and bad, with the alert about it. Returns whether it was recorded:
/// not when nothing changed, and not when another process recorded it first. Repeating it is harmless.
///
/// # Errors
/// Returns the port's error; nothing was recorded then.
pub async fn change(ports: &Ports, condition: Condition<'_>, now: Timestamp) -> PortResult<bool> {
    change_of_kind(ports, AlertKind::Failed, condition, now).await
}

/// As [`change`], with another kind of alert for the failure.
///
/// # Errors
/// Returns the port's error; nothing was recorded then.
pub async fn change_of_kind(
    ports: &Ports,
    failure: AlertKind,
    condition: Condition<'_>,
    now: Timestamp,
) -> PortResult<bool> {
    let before = ports.alerts.state(condition.key).await?;
    let Some(mut step) = change_step(&before, condition, now) else { return Ok(false) };
    for transition in step.transitions.iter_mut().filter(|transition| transition.kind == AlertKind::Failed) {
        transition.kind = failure;
    }
    ports.alerts.raise(&step).await
}

fn change_step(before: &Stored<JobState>, condition: Condition<'_>, now: Timestamp) -> Option<AlertStep> {
    let Condition { key, id_prefix, outcome, reason, sent_unrecorded } = condition;
    let was_bad = before.record.status == Status::Bad;
    let is_change = match outcome {
        Outcome::Failed => !was_bad,
        _ => was_bad || sent_unrecorded,
    };
    if !is_change {
        return None;
    }
    let policy = AlertPolicy { after: 1, remind: None, channels: Vec::new() };
    let (state, kind) = decide(&policy, &before.record, Occurrence::Ended(outcome), now);
    let kind = match (outcome, sent_unrecorded) {
        (Outcome::Failed, true) => None,
        (Outcome::Succeeded, true) if !was_bad => Some(AlertKind::Recovered),
        _ => kind,
    };
    let since = state.since.or(before.record.since);
    let transition = |kind: AlertKind| {
        let id = format!("{id_prefix}:{}:{}", kind.name(), now.as_millisecond());
        Transition { since, ..Transition::new(id, kind, key, reason, now) }
    };
    let transitions = kind.map(transition).into_iter().collect();
    Some(AlertStep { state: Some(StateChange { key: key.clone(), expected: before.version, state }), transitions })
}

/// Records that a system job is bad, with an alert also where it was bad before: something else has happened. Of
/// several with the same `id`, the first is sent. Returns whether it was recorded, as [`change`].
///
/// # Errors
/// Returns the port's error; nothing was recorded then.
pub async fn failure(ports: &Ports, key: &JobKey, id: &str, reason: &str, now: Timestamp) -> PortResult<bool> {
    let before = ports.alerts.state(key).await?;
    let policy = AlertPolicy { after: 1, remind: None, channels: Vec::new() };
    let (state, _) = decide(&policy, &before.record, Occurrence::Ended(Outcome::Failed), now);
    let transition =
        Transition { since: state.since, ..Transition::new(id.to_owned(), AlertKind::Failed, key, reason, now) };
    let state = Some(StateChange { key: key.clone(), expected: before.version, state });
    ports.alerts.raise(&AlertStep { state, transitions: vec![transition] }).await
}

/// Records an alert that lines are lost permanently, at most one an hour for each `id_prefix`.
///
/// # Errors
/// Returns the port's error; nothing was recorded then.
pub async fn loss(ports: &Ports, key: &JobKey, id_prefix: &str, reason: String, now: Timestamp) -> PortResult<()> {
    let transitions = vec![loss_transition(key, id_prefix, reason, now)];
    ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
    Ok(())
}

/// The transition of a loss. All losses of one `id_prefix` within an hour have the same id, and the first is kept.
pub(crate) fn loss_transition(key: &JobKey, id_prefix: &str, reason: String, now: Timestamp) -> Transition {
    let span = now.as_second().div_euclid(LOSS_SPAN_S);
    Transition::new(format!("{id_prefix}:{span}"), AlertKind::Failed, key, reason, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_alerted_and_an_unrecorded_alert_is_not_repeated() {
        use Outcome::{Failed, Succeeded};
        let key = key("disk");
        let now = Timestamp::from_second(7).expect("instant");
        // Was it bad, what is it now, was an alert sent without a record; then the recorded alert, if one is recorded.
        let cases = [
            (false, Failed, false, Some(Some("disk:failed:7000"))),
            (false, Failed, true, Some(None)),
            (true, Failed, false, None),
            (true, Failed, true, None),
            (false, Succeeded, false, None),
            (false, Succeeded, true, Some(Some("disk:recovered:7000"))),
            (true, Succeeded, false, Some(Some("disk:recovered:7000"))),
            (true, Succeeded, true, Some(Some("disk:recovered:7000"))),
        ];
        for (was_bad, outcome, sent_unrecorded, expected) in cases {
            let status = if was_bad { Status::Bad } else { Status::Good };
            let before = Stored { record: JobState { status, ..JobState::default() }, version: 3 };
            let condition = Condition { key: &key, id_prefix: "disk", outcome, reason: "why", sent_unrecorded };
            let step = change_step(&before, condition, now);
            let ids = step.map(|step| step.transitions.into_iter().map(|one| one.id).next());
            let expected = expected.map(|id| id.map(str::to_owned));
            assert_eq!(ids, expected, "{was_bad} {outcome:?} {sent_unrecorded}");
        }
    }
}
