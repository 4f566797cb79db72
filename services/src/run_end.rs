//! Ends runs: writes a run together with what its end means for its job's alerts. Called by every duty that can end
//! one.

use std::collections::BTreeMap;

use domain::alert::{AlertKind, FLAP_CALM_RUNS, FLAP_CHANGES, JobState, Occurrence, Transition, decide};
use domain::job::{AlertPolicy, Job, JobKey};
use domain::order::Order;
use domain::ports::{AlertStep, Ports, RunWrite, StateChange, Stored, WriteResult};
use domain::run::{Outcome, Run};
use domain::units::format_lines;
use jiff::Timestamp;

use crate::error::CONFLICTS_MAX;
use crate::new_runs::{later, order_of, start_by};
use crate::{Error, Result, system_alerts};

/// What a run's end needs to know of its job. A job that was removed meanwhile has no policy any more.
#[derive(Clone, Copy)]
pub struct Known<'j>(pub Option<&'j Job>);

impl Known<'_> {
    fn policy(&self) -> AlertPolicy {
        self.0.map(|job| job.alert.clone()).unwrap_or_default()
    }
}

/// Writes a run that has ended (or fell silent) with its alert step. [`WriteResult::AlertConflict`] is dealt with here.
pub async fn write_with_alerts(
    ports: &Ports,
    known: Known<'_>,
    run: &Run,
    expected: Option<u64>,
    occurrence: Occurrence,
    at: Timestamp,
) -> Result<WriteResult> {
    for _ in 0..CONFLICTS_MAX {
        let before = ports.alerts.state(&run.key()).await?;
        let alert = alert_step(known, run, &before, occurrence, at);
        let write = RunWrite { run: run.clone(), expected, alert };
        match write_one(ports, write).await? {
            WriteResult::AlertConflict => {}
            written => return Ok(written),
        }
    }
    Err(Error::Contended(format!("the alert state of job {}", run.key())))
}

/// What a run's end (or silence) means for its job's alerts, whose state is `before`; `None`: nothing.
pub fn alert_step(
    known: Known<'_>,
    run: &Run,
    before: &Stored<JobState>,
    occurrence: Occurrence,
    at: Timestamp,
) -> Option<AlertStep> {
    let policy = known.policy();
    let (state, kind) = decide(&policy, &before.record, occurrence, at);
    let change_of_job = kind.map(|kind| transition(kind, run, &before.record, &state, &policy, at));
    let transitions: Vec<Transition> = change_of_job.into_iter().chain(loss(run, at)).collect();
    let change = (state != before.record).then(|| StateChange { key: run.key(), expected: before.version, state });
    (change.is_some() || !transitions.is_empty()).then_some(AlertStep { state: change, transitions })
}

pub async fn write_one(ports: &Ports, write: RunWrite) -> Result<WriteResult> {
    let name = write.run.run_id.clone();
    let written = ports.runs.write(&[write]).await?;
    written.into_iter().next().ok_or_else(|| Error::Contended(format!("run {name}")))
}

/// Ends an open run by declaration (`skipped`, `missed`, `lost`, `stopped`), or orders its next attempt when the job
/// wants one. `None`: the run is not open any more, or somebody else moved it.
pub async fn declare(
    ports: &Ports,
    known: Known<'_>,
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
    let order = retry(known, &mut run, at);
    let written = match &order {
        Some(_) => write_one(ports, RunWrite { run: run.clone(), expected: Some(stored.version), alert: None }).await?,
        None => write_with_alerts(ports, known, &run, Some(stored.version), Occurrence::Ended(outcome), at).await?,
    };
    if written != WriteResult::Done {
        return Ok(None);
    }
    if let Some(order) = order {
        ports.orders.send(&[order]).await?;
    }
    Ok(Some(run))
}

/// Gives a run that has just ended its next attempt, when its job wants one, with the order for it.
pub fn retry(known: Known<'_>, run: &mut Run, at: Timestamp) -> Option<Order> {
    let job = known.0?;
    let retries = job.retries.as_ref()?;
    let outcome = run.outcome?;
    if !retries.on.contains(&outcome) || run.attempt > retries.max || run.stop_requested_at.is_some() {
        return None;
    }
    let not_before = later(at, retries.delay_before(run.attempt + 1));
    run.retry(not_before);
    run.start_by = Some(start_by(job, not_before));
    Some(order_of(run, job, at))
}

fn transition(
    kind: AlertKind,
    run: &Run,
    before: &JobState,
    after: &JobState,
    policy: &AlertPolicy,
    at: Timestamp,
) -> Transition {
    let mark = match (kind, run.quiet_since) {
        (AlertKind::Quiet, Some(since)) => format!("quiet-{}", since.as_second()),
        _ => kind.name().to_owned(),
    };
    let said = run.reason.clone().unwrap_or_default();
    let reason = match (kind, before.since) {
        (AlertKind::Recovered, Some(since)) => {
            format!("good again after {} since {since}: {said}", bad_runs(before.streak))
        }
        (AlertKind::Flapping, _) => format!(
            "changed between good and bad {FLAP_CHANGES} times within a day; silent until {FLAP_CALM_RUNS} runs in a \
             row agree; last: {said}"
        ),
        (AlertKind::Quiet, _) => match run.quiet_since {
            Some(since) => format!("it runs and has printed nothing since {since}"),
            None => "it runs and prints nothing".to_owned(),
        },
        _ => said,
    };
    let mut told = Transition::new(format!("{}:{}:{mark}", run.run_id, run.attempt), kind, &run.key(), reason, at);
    told.run_id = Some(run.run_id.clone());
    told.nominal = Some(run.nominal);
    told.outcome = run.outcome;
    told.since = if kind == AlertKind::Recovered { before.since } else { after.since };
    told.count = if kind == AlertKind::Recovered { before.streak } else { after.streak.max(1) };
    told.channels = policy.channels.clone();
    told
}

/// Lines that the disk under the runner's spools did not take, as the pseudo job `sexton/spool.RUNNER` that failed: the
/// job itself may be as good as ever.
fn loss(run: &Run, at: Timestamp) -> Option<Transition> {
    if run.is_open() || run.dropped_lines == 0 {
        return None;
    }
    let runner = run.runner.as_deref().unwrap_or("unknown");
    let lines = format_lines(run.dropped_lines);
    let reason = format!(
        "{lines} of run {} of {} are lost, because the disk under the spools of runner {runner} was full; free some room \
         there",
        run.run_id,
        run.key()
    );
    let key = system_alerts::key(format!("spool.{runner}"));
    let mut told = system_alerts::loss_transition(&key, &format!("spool_loss:{runner}"), reason, at);
    told.run_id = Some(run.run_id.clone());
    told.nominal = Some(run.nominal);
    Some(told)
}

fn bad_runs(count: u32) -> String {
    match count {
        1 => "1 bad run".to_owned(),
        _ => format!("{count} bad runs"),
    }
}

/// The jobs of these keys that can be read.
pub async fn jobs_of(ports: &Ports, keys: impl IntoIterator<Item = JobKey>) -> Result<BTreeMap<JobKey, Job>> {
    let mut keys: Vec<JobKey> = keys.into_iter().collect();
    keys.sort();
    keys.dedup();
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let found = ports.jobs.get(&keys).await?;
    Ok(found.into_iter().filter_map(|stored| Some((stored.key, stored.job.ok()?))).collect())
}
