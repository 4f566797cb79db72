//! The loops around the services. Each duty is called periodically with the time. A failed call is logged once and
//! retried. A panic is logged and stops no other duty.

use std::sync::Arc;
use std::time::Duration;

use domain::ports::Ports;
use jiff::Timestamp;
use keeper::crash;
use services::pruner::RetentionPolicy;
use services::{Links, boot, collector, liveness, overdue, pruner, release, scheduler, sweep};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::alert_queues::AlertQueues;
use super::notifier::ChannelNotifier;
use crate::configuration::{Configuration, HistorySection};
use crate::local_runner::SharedPacks;
use crate::sd_notify::Pulse;

/// Longest wait of the collector for a report. Chosen: short, so that a stop takes effect soon.
const REPORT_WAIT_MAX: Duration = Duration::from_millis(500);

/// Interval of queueing alerts; a run that ends triggers it immediately. Chosen, not measured.
const ALERT_INTERVAL: Duration = Duration::from_secs(5);

const MINUTE: Duration = Duration::from_secs(60);

/// Interval of deleting old runs. Chosen, not measured.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);

/// Delay after a failed call. Chosen: keeps the log short, and is short against the one-minute tick.
const RETRY_DELAY: Duration = Duration::from_secs(2);

pub(crate) struct Duties {
    pub(crate) ports: Ports,
    pub(crate) packs: SharedPacks,
    pub(crate) notifier: Arc<ChannelNotifier>,
    pub(crate) links: Links,
    pub(crate) keep: RetentionPolicy,
    /// Wakes the scheduler when something may be due earlier than planned.
    pub(crate) nudge: Arc<Notify>,
    /// Ends the duties that start runs.
    pub(crate) stop_starting: CancellationToken,
    /// Ends the others.
    pub(crate) stop: CancellationToken,
    /// Beats when the scheduler finishes a call.
    pub(crate) pulse: Arc<Pulse>,
}

/// The running loops.
pub(crate) struct RunningDuties {
    tasks: Vec<JoinHandle<()>>,
    channel_tasks: Vec<JoinHandle<()>>,
    duties: Arc<DutyContext>,
}

struct DutyContext {
    duties: Duties,
    alerts: AlertQueues,
    /// A run ended: an alert may be due.
    alert_due: Notify,
    /// A run ended: a held run may be due.
    release_due: Notify,
}

impl DutyContext {
    fn notify_run_ended(&self) {
        self.alert_due.notify_one();
        self.release_due.notify_one();
    }
}

/// A service that is called periodically.
#[derive(Clone, Copy, Debug)]
enum Duty {
    Scheduler,
    Collector,
    Alerts,
    Overdue,
    Release,
    Pruner,
}

impl Duty {
    const ALL: [Duty; 6] = [Duty::Scheduler, Duty::Collector, Duty::Alerts, Duty::Overdue, Duty::Release, Duty::Pruner];

    async fn call(self, context: &DutyContext) -> services::Result<NextCall> {
        match self {
            Duty::Scheduler => run_scheduler(context).await,
            Duty::Collector => run_collector(context, REPORT_WAIT_MAX).await.map(|_| NextCall::AtOnce),
            Duty::Alerts => queue_alerts(context).await,
            Duty::Overdue => run_overdue(context).await,
            Duty::Release => run_release(context).await,
            Duty::Pruner => run_pruner(context).await,
        }
    }
}

/// The time of a duty's next call.
enum NextCall {
    AtOnce,
    After(Duration),
    At(Timestamp),
}

fn retention_policy(history: &HistorySection) -> RetentionPolicy {
    let default = RetentionPolicy::default();
    RetentionPolicy {
        age_max: history.keep.unwrap_or(default.age_max),
        runs_per_job_max: history.runs_per_job.unwrap_or(default.runs_per_job_max),
    }
}

impl Duties {
    /// The duties of `up`, which nothing stops or wakes yet.
    pub(crate) fn new(
        configuration: &Configuration,
        ports: Ports,
        packs: SharedPacks,
        notifier: Arc<ChannelNotifier>,
    ) -> Duties {
        Duties {
            ports,
            packs,
            notifier,
            links: Links(configuration.links.clone()),
            keep: retention_policy(&configuration.history),
            nudge: Arc::default(),
            stop_starting: CancellationToken::new(),
            stop: CancellationToken::new(),
            pulse: Arc::default(),
        }
    }

    pub(crate) fn start(self) -> RunningDuties {
        let alerts = AlertQueues::new(self.ports.clone(), self.notifier.clone(), self.links.clone());
        let channel_tasks = alerts.start();
        let (alert_due, release_due) = (Notify::new(), Notify::new());
        let context = Arc::new(DutyContext { duties: self, alerts, alert_due, release_due });
        let tasks = Duty::ALL.into_iter().map(|duty| tokio::spawn(run_duty(duty, context.clone()))).collect();
        RunningDuties { tasks, channel_tasks, duties: context }
    }
}

impl RunningDuties {
    /// Waits for the tasks after `stop`; then collects the last reports and sends the alerts that they cause.
    pub(crate) async fn finish(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "duty task failed");
            }
        }
        for _ in 0..FINAL_CALLS_MAX {
            let collected = run_collector(&self.duties, Duration::ZERO).await;
            match collected {
                Ok(summary) if summary.received > 0 => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "collecting the last reports failed; the next start collects them");
                    break;
                }
            }
        }
        self.duties.alerts.close(self.channel_tasks).await;
    }
}

/// Calls of the collector at the end. Chosen: enough for a few thousand reports; the rest stays stored.
const FINAL_CALLS_MAX: usize = 50;

async fn run_duty(duty: Duty, context: Arc<DutyContext>) {
    let mut last_error: Option<String> = None;
    let stop = match duty {
        Duty::Scheduler | Duty::Release => context.duties.stop_starting.clone(),
        _ => context.duties.stop.clone(),
    };
    while !stop.is_cancelled() {
        let called = context.clone();
        let wait = match tokio::spawn(async move { duty.call(&called).await }).await {
            Ok(Ok(wait)) => {
                if last_error.take().is_some() {
                    tracing::info!(?duty, "recovered");
                }
                wait
            }
            Ok(Err(error)) => {
                let message = error.to_string();
                if last_error.as_ref() != Some(&message) {
                    tracing::warn!(?duty, "failed, retrying: {message}");
                    last_error = Some(message);
                }
                NextCall::After(RETRY_DELAY)
            }
            Err(error) => {
                tracing::error!(?duty, %error, "internal error in a periodic duty; it continues");
                NextCall::After(RETRY_DELAY)
            }
        };
        if matches!(duty, Duty::Scheduler) {
            context.duties.pulse.beat();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = wait_for_next_call(duty, wait, &context) => {}
        }
    }
}

/// Waits for the next call; an event that concerns the duty ends the wait.
async fn wait_for_next_call(duty: Duty, wait: NextCall, context: &DutyContext) {
    let span = match wait {
        NextCall::AtOnce => return,
        NextCall::After(span) => span,
        NextCall::At(at) => Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO),
    };
    let sleep = tokio::time::sleep(span);
    match duty {
        Duty::Scheduler => tokio::select! { () = sleep => {}, () = context.duties.nudge.notified() => {} },
        Duty::Alerts => tokio::select! { () = sleep => {}, () = context.alert_due.notified() => {} },
        Duty::Release => tokio::select! { () = sleep => {}, () = context.release_due.notified() => {} },
        Duty::Collector | Duty::Overdue | Duty::Pruner => sleep.await,
    }
}

async fn run_scheduler(context: &DutyContext) -> services::Result<NextCall> {
    let summary = scheduler::tick(&context.duties.ports, Timestamp::now()).await?;
    if summary.missed > 0 || summary.bad_jobs > 0 {
        context.notify_run_ended();
    }
    if summary.more {
        return Ok(NextCall::AtOnce);
    }
    let now = Timestamp::now();
    let wake = scheduler::next_wake(&context.duties.ports, now).await?;
    Ok(NextCall::At(wake))
}

async fn run_collector(context: &DutyContext, wait: Duration) -> services::Result<collector::CollectorSummary> {
    let reports = collector::receive(&context.duties.ports, wait).await?;
    if !reports.is_empty() {
        crash::point("received_reports");
    }
    let packs = context.duties.packs.current();
    let summary = collector::collect(&context.duties.ports, &packs, reports, Timestamp::now()).await?;
    if summary.ended > 0 {
        crash::point("judged_reports");
    }
    if summary.ended > 0 {
        context.notify_run_ended();
    }
    Ok(summary)
}

async fn queue_alerts(context: &DutyContext) -> services::Result<NextCall> {
    context.alerts.advance(Timestamp::now()).await?;
    Ok(NextCall::After(ALERT_INTERVAL))
}

async fn run_overdue(context: &DutyContext) -> services::Result<NextCall> {
    let (ports, now) = (&context.duties.ports, Timestamp::now());
    if let Some((boot_id, booted_at)) = this_boot(now) {
        boot::start_reboot_jobs(ports, &boot_id, booted_at, now).await?;
    }
    let open = overdue::list_open_runs(ports).await?;
    let start_by = overdue::next_start_by(&open, now).and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    let summary = overdue::tick(ports, &open, now).await?;
    liveness::tick(ports, &open, now).await?;
    sweep::tick(ports, now).await?;
    if summary.missed > 0 || summary.lost > 0 {
        context.notify_run_ended();
    }
    // Right after the latest start of a waiting run.
    Ok(NextCall::After(start_by.map_or(MINUTE, |wait| (wait + Duration::from_millis(1)).min(MINUTE))))
}

/// The id and the time of this boot of the machine. In a container, those of its start: a boot of the machine has many.
fn this_boot(now: Timestamp) -> Option<(String, Timestamp)> {
    let boot_id = keeper::processes::boot_id();
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let container = container_start();
    let ran = container.map_or(uptime, |(_, since_boot)| uptime - since_boot);
    let booted_at = Timestamp::from_second(now.as_second().checked_sub(ran)?).ok()?;
    let id = container.map_or_else(|| boot_id.clone(), |(ticks, _)| format!("{boot_id}/{ticks}"));
    (!boot_id.is_empty()).then_some((id, booted_at))
}

/// The start of the first process of this container, in ticks and seconds since the machine's boot. None outside of a
/// container.
fn container_start() -> Option<(u64, i64)> {
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    if namespace.as_os_str() == FIRST_PID_NAMESPACE {
        return None;
    }
    let ticks = keeper::processes::find(1)?.start_ticks;
    Some((ticks, (ticks / rustix::param::clock_ticks_per_second()) as i64))
}

/// The pid namespace of the machine itself has this number (PROC_PID_INIT_INO of Linux).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

async fn run_release(context: &DutyContext) -> services::Result<NextCall> {
    let ports = &context.duties.ports;
    let open = overdue::list_open_runs(ports).await?;
    let summary = release::release_due(ports, &open, Timestamp::now()).await?;
    if summary.skipped > 0 || summary.missed > 0 {
        context.notify_run_ended();
    }
    Ok(NextCall::After(MINUTE))
}

async fn run_pruner(context: &DutyContext) -> services::Result<NextCall> {
    let summary = pruner::tick(&context.duties.ports, &context.duties.keep, Timestamp::now()).await?;
    Ok(if summary.more { NextCall::After(Duration::from_secs(1)) } else { NextCall::After(PRUNE_INTERVAL) })
}
