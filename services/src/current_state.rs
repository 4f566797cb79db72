//! What an operator wants to know first: which jobs are bad, what runs, what is next. Read on request by the console,
//! for `sexton status` and `sexton jobs`. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use domain::alert::{AlertKind, JobState, Status};
use domain::job::{Job, JobKey};
use domain::jobs_file::{GROUP_RESERVED, fields};
use domain::plan::next_start;
use domain::ports::{Cursor, Ports, RunFilter, RunQuery, StoredJob};
use domain::run::{Outcome, Run, RunId, Trigger};
use jiff::Timestamp;
use serde::Serialize;

use crate::Result;
use crate::commands::maintenance_windows;
use crate::maintenance::{self, Window, Windows};

/// Jobs per read of the store.
const PAGE_JOBS: usize = 1000;

/// Bad jobs whose latest failure is read. Chosen: more than a screen shows.
const DETAILED_JOBS_MAX: usize = 50;

/// Runs of a bad job that are searched for its latest failure. Chosen: skipped and open runs come between.
const SEARCHED_RUNS_MAX: usize = 20;

/// Open runs that are listed. Chosen: more than a screen shows.
const OPEN_RUNS_MAX: usize = 100;

/// Firings that are listed. Chosen: a part of a screen.
const NEXT_FIRINGS_MAX: usize = 10;

/// The latest alerts, in which failing system jobs are found: system jobs are in no list.
const SEARCHED_ALERTS_MAX: usize = 1000;

/// The present series of failures of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failing {
    /// Kind of the latest failure.
    pub kind: AlertKind,
    /// When the first failed run of the series ended.
    pub since: Option<Timestamp>,
    /// Failed runs in a row.
    pub streak: u32,
}

impl Failing {
    /// The series of failures in this state; none while the job is good.
    pub fn of(state: &JobState) -> Option<Failing> {
        let kind = state.kind.unwrap_or(AlertKind::Failed);
        (state.status == Status::Bad).then_some(Failing { kind, since: state.since, streak: state.streak })
    }
}

/// A job that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadJob {
    /// The job; `sexton/...` is about Sexton itself.
    #[serde(flatten)]
    pub key: JobKey,
    /// Since when it fails, and how.
    #[serde(flatten)]
    pub failing: Failing,
    /// Why its latest failed run failed; none if that run is deleted, or for jobs beyond the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// That run; none for a system job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// A job of `sexton exec`, which is in no list of jobs.
    #[serde(skip_serializing_if = "is_false")]
    pub is_exec: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A firing that is due later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NextFiring {
    /// Its nominal time.
    pub at: Timestamp,
    /// The job.
    #[serde(flatten)]
    pub key: JobKey,
}

/// Numbers of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobCounts {
    /// All stored jobs.
    pub all: usize,
    /// Jobs that fail. Of system jobs and jobs of `exec`, those that fail are only in [`CurrentState::bad`].
    pub bad: usize,
    /// Jobs that are paused.
    pub paused: usize,
    /// Jobs that are disabled.
    pub disabled: usize,
    /// Jobs whose record cannot be read.
    pub unreadable: usize,
}

/// The state of an installation at an instant.
#[derive(Clone, Debug, Serialize)]
pub struct CurrentState {
    /// Numbers of jobs.
    pub jobs: JobCounts,
    /// The jobs that fail, also system jobs and jobs of `exec`; those that fail longest first.
    pub bad: Vec<BadJob>,
    /// Runs without an outcome, newest first; at most 100.
    pub open: Vec<Run>,
    /// Whether there are more open runs.
    pub more_open: bool,
    /// The next firings of all jobs, earliest first; at most 10.
    pub next: Vec<NextFiring>,
    /// Maintenance windows that are active or start later.
    pub maintenance: Vec<Window>,
}

/// A stored job with its series of failures.
pub type JobWithFailing = (StoredJob, Option<Failing>);

/// Reads a page of jobs with their series of failures.
///
/// # Errors
/// Returns the port's error.
pub async fn list_jobs(
    ports: &Ports,
    group: Option<&str>,
    after: Option<&Cursor>,
) -> Result<(Vec<JobWithFailing>, Option<Cursor>)> {
    let page = ports.jobs.list(group, after, PAGE_JOBS).await?;
    let keys: Vec<JobKey> = page.records.iter().map(|stored| stored.key.clone()).collect();
    let states = ports.alerts.states(&keys).await?;
    let failing = states.iter().map(|state| Failing::of(&state.record));
    Ok((page.records.into_iter().zip(failing).collect(), page.next))
}

/// The next nominal time of a job that starts a run; none when it is disabled, paused or under maintenance without an
/// end, or never fires again.
pub fn next_firing(job: &Job, windows: &Windows, now: Timestamp) -> Option<Timestamp> {
    let resumes = match &job.paused {
        None => now,
        Some(pause) => pause.until?.max(now),
    };
    let resumes = match windows.active_window(&job.group, now) {
        None => resumes,
        Some(window) => window.end()?.max(resumes),
    };
    let schedule = fields::schedule(job, Timestamp::UNIX_EPOCH).ok().filter(|_| job.enabled)?;
    next_start(job, &schedule, resumes).map(|(firing, _)| firing.at)
}

/// Reads the state of the installation: every job once, and the open runs.
///
/// # Errors
/// Returns the port's error.
pub async fn read(ports: &Ports, now: Timestamp) -> Result<CurrentState> {
    let mut jobs = JobCounts::default();
    let mut bad = failing_system_jobs(ports).await?;
    let windows = maintenance::read(ports).await?;
    let mut next: Vec<NextFiring> = Vec::new();
    let mut after = None;
    loop {
        let (page, following) = list_jobs(ports, None, after.as_ref()).await?;
        for (stored, failing) in page {
            let key = stored.key.clone();
            bad.extend(failing.map(|failing| BadJob { key, failing, reason: None, run_id: None, is_exec: false }));
            jobs.count(&stored);
            let at = stored.job.as_ref().ok().and_then(|job| next_firing(job, &windows, now));
            next.extend(at.map(|at| NextFiring { at, key: stored.key }));
        }
        next.sort_unstable();
        next.truncate(NEXT_FIRINGS_MAX);
        after = following;
        if after.is_none() {
            break;
        }
    }
    bad.extend(failing_exec_jobs(ports).await?);
    jobs.bad = bad.iter().filter(|job| job.key.group != GROUP_RESERVED && !job.is_exec).count();
    bad.sort_by(|one, other| (one.failing.since, &one.key).cmp(&(other.failing.since, &other.key)));
    for job in bad.iter_mut().filter(|job| job.reason.is_none()).take(DETAILED_JOBS_MAX) {
        let failed = latest_failure(ports, &job.key).await?;
        job.reason = failed.as_ref().and_then(|run| run.reason.clone());
        job.run_id = failed.map(|run| run.run_id);
    }
    let open = ports.runs.list(&RunQuery::open(), None, OPEN_RUNS_MAX).await?;
    let maintenance = maintenance_windows(ports, now).await?;
    let more_open = open.next.is_some();
    let open = open.records.into_iter().map(|stored| stored.record).collect();
    Ok(CurrentState { jobs, bad, open, more_open, next, maintenance })
}

impl JobCounts {
    fn count(&mut self, stored: &StoredJob) {
        self.all += 1;
        match &stored.job {
            Err(_) => self.unreadable += 1,
            Ok(job) if !job.enabled => self.disabled += 1,
            Ok(job) if job.paused.is_some() => self.paused += 1,
            Ok(_) => {}
        }
    }
}

/// The system jobs that fail, with the reason of their latest alert.
async fn failing_system_jobs(ports: &Ports) -> Result<Vec<BadJob>> {
    let alerts = ports.alerts.list(None, SEARCHED_ALERTS_MAX).await?.records;
    let mut reasons: BTreeMap<JobKey, String> = BTreeMap::new();
    for alert in alerts.into_iter().filter(|alert| alert.group == GROUP_RESERVED && !alert.job.is_empty()) {
        // Newest first.
        reasons.entry(JobKey::new(alert.group, alert.job)).or_insert(alert.reason);
    }
    let keys: Vec<JobKey> = reasons.keys().cloned().collect();
    let states = ports.alerts.states(&keys).await?;
    let failing = states.iter().map(|state| Failing::of(&state.record));
    let found = reasons.into_iter().zip(failing);
    let bad = found.filter_map(|((key, reason), failing)| {
        Some(BadJob { key, failing: failing?, reason: Some(reason), run_id: None, is_exec: false })
    });
    Ok(bad.collect())
}

/// The jobs of `sexton exec` that fail: jobs that no file and no API defines.
///
/// # Errors
/// Returns the port's error.
pub async fn failing_exec_jobs(ports: &Ports) -> Result<Vec<BadJob>> {
    let alerts = ports.alerts.list(None, SEARCHED_ALERTS_MAX).await?.records;
    let named = alerts.into_iter().filter(|alert| alert.group != GROUP_RESERVED && !alert.job.is_empty());
    let keys: BTreeSet<JobKey> = named.map(|alert| JobKey::new(alert.group, alert.job)).collect();
    let keys: Vec<JobKey> = keys.into_iter().collect();
    let states = ports.alerts.states(&keys).await?;
    let mut bad = Vec::new();
    for (key, state) in keys.into_iter().zip(states) {
        let Some(failing) = Failing::of(&state.record) else { continue };
        if !ports.jobs.get(std::slice::from_ref(&key)).await?.is_empty() {
            continue;
        }
        // The job may also be one that was removed.
        let failed = latest_failure(ports, &key).await?;
        let Some(run) = failed.filter(|run| run.trigger == Trigger::Exec) else { continue };
        bad.push(BadJob { key, failing, reason: run.reason, run_id: Some(run.run_id), is_exec: true });
    }
    Ok(bad)
}

/// The latest failed run of a job among its latest runs.
async fn latest_failure(ports: &Ports, key: &JobKey) -> Result<Option<Run>> {
    let query = RunQuery { filter: RunFilter::All, ..RunQuery::of_job(key) };
    let page = ports.runs.list(&query, None, SEARCHED_RUNS_MAX).await?;
    let runs = page.records.into_iter().map(|stored| stored.record);
    Ok(runs.into_iter().find(|run| run.outcome.is_some_and(Outcome::is_failure)))
}
