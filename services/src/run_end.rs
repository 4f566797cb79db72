//! Ends runs: writes a run together with the alert that its end causes. Called by every duty that can end a run.

use std::collections::BTreeMap;

use domain::alert::{AlertKind, FLAP_CALM_RUNS, FLAP_CHANGES, JobState, Occurrence, Transition, decide};
use domain::job::{AlertPolicy, Job, JobKey};
use domain::order::Order;
use domain::ports::{AlertStep, PortError, Ports, RunWrite, StateChange, Stored, WriteResult};
use domain::run::{Outcome, Run};
use domain::units::format_lines;
use jiff::Timestamp;

use crate::error::CONFLICTS_MAX;
use crate::new_runs::{new_order, saturating_add, start_by};
use crate::ordering::send_order;
use crate::{Error, Result, system_alerts};

/// The job's alert policy; the default when the job was deleted.
fn alert_policy(job: Option<&Job>) -> AlertPolicy {
    job.map(|job| job.alert.clone()).unwrap_or_default()
}

/// Writes a run that has ended (or is silent) with its alert step. Retries after [`WriteResult::AlertConflict`].
pub(crate) async fn write_with_alerts(
    ports: &Ports,
    job: Option<&Job>,
    run: &Run,
    expected: Option<u64>,
    occurrence: Occurrence,
    at: Timestamp,
) -> Result<WriteResult> {
    for _ in 0..CONFLICTS_MAX {
        let before = ports.alerts.state(&run.key()).await?;
        let alert = alert_step(job, run, &before, occurrence, at);
        let write = RunWrite { run: run.clone(), expected, alert };
        match write_run(ports, write).await? {
            WriteResult::AlertConflict => {}
            written => return Ok(written),
        }
    }
    Err(Error::Conflict(format!("the alert state of job {}", run.key())))
}

/// The alert step of a run that ended (or is silent). `before`: its job's state. `None` when nothing changes.
pub(crate) fn alert_step(
    job: Option<&Job>,
    run: &Run,
    before: &Stored<JobState>,
    occurrence: Occurrence,
    at: Timestamp,
) -> Option<AlertStep> {
    let policy = alert_policy(job);
    let (state, kind) = decide(&policy, &before.record, occurrence, at);
    let change_of_job = kind.map(|kind| new_transition(kind, run, &before.record, &state, &policy, at));
    let transitions: Vec<Transition> = change_of_job.into_iter().chain(spool_loss_alert(run, at)).collect();
    let change = (state != before.record).then(|| StateChange { key: run.key(), expected: before.version, state });
    (change.is_some() || !transitions.is_empty()).then_some(AlertStep { state: change, transitions })
}

/// Writes a run. The result is none of [`WriteResult::Retry`] and [`WriteResult::Never`], which are errors.
pub(crate) async fn write_run(ports: &Ports, write: RunWrite) -> Result<WriteResult> {
    let run_id = write.run.run_id.clone();
    let written = ports.runs.write(&[write]).await?;
    match written.into_iter().next() {
        Some(WriteResult::Retry(error)) => Err(PortError::Retry(error).into()),
        Some(WriteResult::Never(reason)) => Err(Error::Unstorable(reason)),
        Some(written) => Ok(written),
        None => Err(Error::Conflict(format!("run {run_id}"))),
    }
}

/// Ends an open run without a report (`skipped`, `missed`, `lost`, `stopped`), or orders its next attempt if the job's
/// `retries` allow one. Returns `None` when the run is no longer open, or another process changed it.
pub(crate) async fn end_without_report(
    ports: &Ports,
    job: Option<&Job>,
    stored: &Stored<Run>,
    outcome: Outcome,
    reason: String,
    at: Timestamp,
) -> Result<Option<Run>> {
    if !stored.record.is_open() {
        return Ok(None);
    }
    let mut run = stored.record.clone();
    run.finish(outcome, reason, at);
    let order = next_attempt(job, &mut run, at);
    let written = match &order {
        Some(_) => write_run(ports, RunWrite { run: run.clone(), expected: Some(stored.version), alert: None }).await?,
        None => write_with_alerts(ports, job, &run, Some(stored.version), Occurrence::Ended(outcome), at).await?,
    };
    if written != WriteResult::Done {
        return Ok(None);
    }
    if let Some(order) = order {
        send_order(ports, order, at).await?;
    }
    Ok(Some(run))
}

/// Turns a run that has just ended into its next attempt, if the job's `retries` allow one. Returns the order for it.
pub(crate) fn next_attempt(job: Option<&Job>, run: &mut Run, at: Timestamp) -> Option<Order> {
    let job = job?;
    let retries = job.retries.as_ref()?;
    let outcome = run.outcome?;
    if !retries.on.contains(&outcome) || run.attempt > retries.max || run.stop_requested_at.is_some() {
        return None;
    }
    // The ledger cannot know whether the next attempt was started before the restore.
    if run.restored_from.is_some() {
        return None;
    }
    let not_before = saturating_add(at, retries.delay_before(run.attempt + 1));
    run.retry(not_before);
    run.start_by = Some(start_by(job, not_before));
    Some(new_order(run, job, at))
}

fn new_transition(
    kind: AlertKind,
    run: &Run,
    before: &JobState,
    after: &JobState,
    policy: &AlertPolicy,
    at: Timestamp,
) -> Transition {
    let suffix = match (kind, run.quiet_since) {
        (AlertKind::Quiet, Some(since)) => format!("quiet-{}", since.as_second()),
        _ => kind.name().to_owned(),
    };
    let run_reason = run.reason.clone().unwrap_or_default();
    let reason = match (kind, before.since) {
        (AlertKind::Recovered, Some(since)) => {
            format!("recovered after {} since {since}: {run_reason}", failed_runs(before.streak))
        }
        (AlertKind::Flapping, _) => format!(
            "flapping: {FLAP_CHANGES} changes in 24 h; no further alerts until {FLAP_CALM_RUNS} runs in a row agree; \
             last: {run_reason}"
        ),
        (AlertKind::Quiet, _) => match run.quiet_since {
            Some(since) => format!("running, no output since {since}"),
            None => "running, no output".to_owned(),
        },
        _ => run_reason,
    };
    let mut transition =
        Transition::new(format!("{}:{}:{suffix}", run.run_id, run.attempt), kind, &run.key(), reason, at);
    transition.run_id = Some(run.run_id.clone());
    transition.nominal = Some(run.nominal);
    transition.outcome = run.outcome;
    transition.since = match kind {
        // A job that was flapping recovers with a success after successes.
        AlertKind::Recovered => before.since.or(before.changes.first().copied()),
        AlertKind::Flapping => after.changes.first().copied(),
        AlertKind::Quiet => run.quiet_since,
        _ => after.since,
    };
    transition.count = if kind == AlertKind::Recovered { before.streak } else { after.streak.max(1) };
    transition.channels = policy.channels.clone();
    transition
}

/// The loss of lines that the disk of the runner's spools did not take, as a failure of the system job
/// `sexton/spool.RUNNER`. The outcome of the job itself does not depend on it.
fn spool_loss_alert(run: &Run, at: Timestamp) -> Option<Transition> {
    if run.is_open() || run.dropped_lines == 0 {
        return None;
    }
    let runner = run.runner.as_deref().unwrap_or("unknown");
    let lines = format_lines(run.dropped_lines);
    let reason = format!(
        "{lines} of run {} of {} are lost: the disk of the spools of runner {runner} was full; free some space there",
        run.run_id,
        run.key()
    );
    let key = system_alerts::key(format!("spool.{runner}"));
    let mut transition = system_alerts::loss_transition(&key, &format!("spool_loss:{runner}"), reason, at);
    transition.run_id = Some(run.run_id.clone());
    transition.nominal = Some(run.nominal);
    Some(transition)
}

/// The alert about late lines that the disk of the runner's spools did not take.
pub(crate) fn late_loss_step(run: &Run, at: Timestamp) -> Option<AlertStep> {
    Some(AlertStep { state: None, transitions: vec![spool_loss_alert(run, at)?] })
}

fn failed_runs(count: u32) -> String {
    match count {
        1 => "1 failed run".to_owned(),
        _ => format!("{count} failed runs"),
    }
}

/// The readable jobs of these keys.
pub(crate) async fn load_jobs(ports: &Ports, keys: impl IntoIterator<Item = JobKey>) -> Result<BTreeMap<JobKey, Job>> {
    let mut keys: Vec<JobKey> = keys.into_iter().collect();
    keys.sort();
    keys.dedup();
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = ports.jobs.get(&keys).await?;
    Ok(found.into_iter().filter_map(|stored| Some((stored.key, stored.job.ok()?))).collect())
}
