//! Starts `@reboot` jobs once a boot, as cronie does. Called once when `sexton up` starts.

use std::time::Duration;

use domain::job::Job;
use domain::ports::{Ports, RunQuery, RunWrite, StoredJob, WriteResult};
use domain::restored::RestoredLedger;
use domain::run::{Outcome, Trigger};
use domain::schedule;
use jiff::Timestamp;

use crate::new_runs::{due_at, new_order, new_run, saturating_add, saturating_sub, schedule_of, start_by};
use crate::ordering::send_order;
use crate::run_end::write_with_alerts;
use crate::scheduler::waits_for_a_runner;
use crate::settings::{self, BOOT, BootState, SCHEDULER, SchedulerState};
use crate::sweep::PAGE_MAX;
use crate::{Result, maintenance};

/// Largest difference between two readings of one boot's time, by clock and uptime. Chosen: a clock that is set by NTP
/// after the boot.
const BOOT_TIME_ERROR_MAX: Duration = Duration::from_secs(120);

/// Starts all `@reboot` jobs, unless they were started for this boot already, and returns how many were started.
/// `boot_id` identifies the boot (Linux: `/proc/sys/kernel/random/boot_id`), or the start of a container. `booted_at`
/// is the nominal time of the runs; the first value given for a boot is kept. The next call completes one that was
/// interrupted.
///
/// # Errors
/// Returns the port's error; calling it again is harmless.
pub async fn start_reboot_jobs(ports: &Ports, boot_id: &str, booted_at: Timestamp, now: Timestamp) -> Result<u32> {
    let mut state = settings::read::<BootState>(ports, BOOT).await?;
    if state.value.boot_id == boot_id && state.value.done {
        return Ok(0);
    }
    if state.value.boot_id != boot_id {
        state.value = BootState { boot_id: boot_id.to_owned(), booted_at: Some(booted_at), done: false };
        state.write(ports).await?;
        state = settings::read(ports, BOOT).await?;
    }
    let nominal = state.value.booted_at.unwrap_or(booted_at);
    let restored = settings::read::<SchedulerState>(ports, SCHEDULER).await?.value.restored;
    // The jobs of this boot may have been started before the ledger was restored.
    let restored = restored.filter(|restored| nominal <= restored.restored_at);
    let windows = maintenance::read(ports).await?;
    let (mut started, mut after) = (0, None);
    loop {
        let page = ports.jobs.list(None, after.as_ref(), PAGE_MAX).await?;
        for stored in page.records {
            started += u32::from(match &restored {
                None => start_job(ports, &stored, nominal, now, &windows).await?,
                Some(restored) => lose_run(ports, &stored, nominal, now, restored).await?,
            });
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    state.value.done = true;
    state.write(ports).await?;
    Ok(started)
}

async fn start_job(
    ports: &Ports,
    stored: &StoredJob,
    nominal: Timestamp,
    now: Timestamp,
    windows: &maintenance::Windows,
) -> Result<bool> {
    let Some(job) = reboot_job(stored) else { return Ok(false) };
    let mut run = new_run(job, nominal, Trigger::Schedule, now);
    let due = due_at(job, now);
    run.not_before = Some(due).filter(|due| *due > now);
    run.start_by = Some(start_by(job, due));
    let blocked = match (&job.paused, windows.active_window(&job.group, now)) {
        (Some(pause), _) if pause.until.is_none_or(|until| now < until) => {
            Some(format!("paused since {}", pause.since))
        }
        (_, Some(window)) => Some(window.reason()),
        _ => None,
    };
    if let Some(reason) = blocked {
        run.finish(domain::run::Outcome::Skipped, reason, now);
    }
    let write = RunWrite { run: run.clone(), expected: None, alert: None };
    let run = match crate::run_end::write_run(ports, write).await? {
        WriteResult::Done => run,
        WriteResult::Conflict(Some(existing)) => existing.record,
        _ => return Ok(false),
    };
    if waits_for_a_runner(&run) {
        send_order(ports, new_order(&run, job, now), now).await?;
    }
    Ok(run.is_open())
}

/// The job, if it starts at each boot. The sweep alerts about jobs that are unreadable.
fn reboot_job(stored: &StoredJob) -> Option<&Job> {
    let job = stored.job.as_ref().ok().filter(|job| job.enabled)?;
    schedule_of(job).is_ok_and(|schedule| schedule.kind() == schedule::ScheduleKind::Reboot).then_some(job)
}

/// Records the run of a boot that the restored ledger does not know, unless it left a trace. Starts nothing.
async fn lose_run(
    ports: &Ports,
    stored: &StoredJob,
    nominal: Timestamp,
    now: Timestamp,
    restored: &RestoredLedger,
) -> Result<bool> {
    let Some(job) = reboot_job(stored) else { return Ok(false) };
    let query = RunQuery {
        since: Some(saturating_sub(nominal, BOOT_TIME_ERROR_MAX)),
        until: Some(saturating_add(nominal, BOOT_TIME_ERROR_MAX)),
        ..RunQuery::of_job(&job.key())
    };
    if ports.runs.list(&query, None, 1).await?.records.is_empty() {
        let mut run = new_run(job, nominal, Trigger::Schedule, now);
        run.finish(Outcome::Lost, restored.reason(), now);
        let occurrence = domain::alert::Occurrence::Ended(Outcome::Lost);
        write_with_alerts(ports, Some(job), &run, None, occurrence, now).await?;
    }
    Ok(false)
}
