//! Ends runs whose keeper does not act: it was suspended, or it hangs. The runner acts when the run's limit, or a stop
//! request, and the kill grace are over. It kills the keeper and everything below it. A keeper that acts is left alone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use domain::event::Ended;
use domain::line::Position;
use domain::run::Leaked;
use domain::units::format_duration;
use jiff::Timestamp;
use keeper::directory::{Durability, write_json};
use keeper::leftovers::kill_leftovers;
use keeper::processes::{self, Process};
use keeper::records::Exit;
use keeper::spawn::find_keeper;
use keeper::spool;
use rustix::process::Signal;
use tokio::time::{Instant, sleep_until};

use crate::finish::recount_output;
use crate::local_run::LocalRun;

/// How long after limit and kill grace a keeper may begin to act. Chosen: the keeper of a loaded machine is not killed.
const MARGIN: Duration = Duration::from_secs(2);

/// The same for a keeper whose stop sequence has started: it kills for up to 10 s, and then reads the last output.
const MARGIN_ACTING: Duration = Duration::from_secs(15);

/// The same when a shutdown limits the grace: the time until then is the grace of all jobs. Chosen: with it, the end of
/// the run is still judged and reported in time ([`crate::options::SHUTDOWN_REPORT_TIME`]).
const MARGIN_SHUTDOWN: Duration = Duration::from_millis(100);

/// A process that survives KILL for this time hangs in the kernel. Chosen: as in the keeper's stop sequence.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Poll interval of processes that got KILL. Chosen, not measured.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Delay until a keeper that could not be killed is killed again. Chosen, not measured.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// The instants of a run's limit and of its stop request; absent where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Deadlines {
    limit: Option<Instant>,
    stop: Option<Instant>,
}

impl Deadlines {
    fn of(run: &LocalRun) -> Deadlines {
        // After its end, a run has no limit.
        let timeout = run.job().timeout.filter(|_| run.finished().is_none());
        Deadlines { limit: timeout.map(|timeout| limit_instant(run, timeout)), stop: run.stop_requested() }
    }

    /// What ends the run: the earlier of the two.
    fn first(self) -> Option<(Instant, Ended)> {
        let limit = self.limit.map(|at| (at, Ended::TimedOut));
        let stop = self.stop.map(|at| (at, Ended::Stopped));
        limit.into_iter().chain(stop).min_by_key(|(at, _)| *at)
    }
}

/// When the run's limit passes, on the monotonic clock that its keeper uses too.
fn limit_instant(run: &LocalRun, timeout: Duration) -> Instant {
    run.limit_at(|| {
        let started = run.started().ok().flatten().filter(|started| started.boot_id == processes::boot_id())?;
        let ran = processes::monotonic_ms().saturating_sub(started.monotonic_ms?);
        let (now, ran) = (Instant::now(), Duration::from_millis(ran));
        // A limit that has passed is in the past, so that it comes before a stop that was requested after it.
        now.checked_sub(ran).map(|started| started + timeout).or(Some(now + timeout.saturating_sub(ran)))
    })
    .unwrap_or_else(|| run.seen_at() + timeout)
}

/// Returns when the keeper should have ended the run long enough ago. Never returns without a limit or stop request.
pub(crate) async fn wait_until_overdue(run: &LocalRun) {
    match Deadlines::of(run).first() {
        None => std::future::pending().await,
        Some((at, _)) => {
            // A keeper gets its time also after a start of the runner, and when the clock was set forward.
            let over = at.max(run.seen_at()) + run.stop_grace();
            // A shutdown that must end in time cannot wait for the whole margin.
            let last = run.stop_by().map(|by| by + MARGIN_SHUTDOWN);
            sleep_until(last.map_or(over + MARGIN, |last| last.min(over + MARGIN))).await;
            if run.directory.stopping().exists() {
                sleep_until(over + MARGIN_ACTING).await;
            }
            if let Some(failed) = run.kill_failed_at() {
                sleep_until(failed + RETRY_DELAY).await;
            }
        }
    }
}

/// Kills the keeper of a run with all processes below it, and records the end of the run. Leaves a run alone that has
/// ended by then, and one that was not started: its state decides.
pub(crate) async fn end_run(run: &Arc<LocalRun>) {
    let Some((_, cause)) = Deadlines::of(run).first() else { return };
    tracing::error!(
        run_id = %run.run_id(), job = %run.job().key(),
        "the keeper of a run did not act at its limit or on a stop request; killing it and the run"
    );
    let task_run = run.clone();
    let killed = tokio::task::spawn_blocking(move || record_killed(&task_run, cause)).await;
    if let Err(error) = killed.unwrap_or_else(|error| Err(io::Error::other(error))) {
        run.note_kill_failed();
        tracing::error!(%error, run_id = %run.run_id(), "cannot end a run whose keeper does not act; retrying");
    }
    run.note_change();
}

/// The same for a run that has ended, and whose output is still open.
pub(crate) async fn kill_late(run: &Arc<LocalRun>) {
    let task_run = run.clone();
    let killed = tokio::task::spawn_blocking(move || kill_keeper(&task_run).map(drop)).await;
    if let Err(error) = killed.unwrap_or_else(|error| Err(io::Error::other(error))) {
        run.note_kill_failed();
        tracing::error!(%error, run_id = %run.run_id(), "cannot stop a run whose keeper does not act; retrying");
    }
    run.note_change();
}

fn record_killed(run: &LocalRun, cause: Ended) -> io::Result<()> {
    let leaked = kill_keeper(run)?;
    // It may have recorded the end before it died.
    if run.directory.exit().exists() || !run.directory.starting().exists() {
        return Ok(());
    }
    let started_at = run.started().ok().flatten().map(|started| started.started_at);
    let repair = spool::repair_tail(&run.directory.spool())?;
    let now = Timestamp::now();
    let ran = started_at.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
    let mut output = recount_output(run, Position::START)?;
    output.last_seq = repair.last_seq;
    let exit = Exit {
        ended: cause,
        note: Some(note(run, cause, &leaked)),
        exit_code: None,
        signal: None,
        started_at,
        finished_at: now,
        duration_ms: ran.unwrap_or_default().as_millis() as u64,
        output,
        cpu_ms: None,
        max_rss_bytes: None,
        guard: None,
        leaked,
        output_open: false,
    };
    write_json(&run.directory.exit(), &exit, Durability::Disk)?;
    let _ = std::fs::remove_file(run.directory.file("reserve"));
    Ok(())
}

fn note(run: &LocalRun, cause: Ended, leaked: &[Leaked]) -> String {
    let by = match cause {
        Ended::Stopped => format!("stop requested by {}: ", run.stop_requester()),
        _ => String::new(),
    };
    let killed = leaked.iter().filter(|process| process.killed).count();
    let left = match leaked.len() - killed {
        0 => "no process left".to_owned(),
        left => format!("{left} of its processes cannot be killed"),
    };
    let grace = format_duration(run.stop_grace());
    let processes = if killed == 1 { "1 process".to_owned() } else { format!("{killed} processes") };
    format!("{by}its keeper did not act within the grace of {grace}; KILL to the keeper and {processes}; {left}")
}

/// Kills all processes below the keeper, then the keeper, then what is left of the run elsewhere. Returns the processes
/// of the run.
fn kill_keeper(run: &LocalRun) -> io::Result<Vec<Leaked>> {
    let mut leaked: Vec<Leaked> = Vec::new();
    if let Some(keeper) = find_keeper(&run.directory) {
        // A keeper is a child subreaper: what forks now stays below it.
        kill_all(|| processes::descendants(keeper.pid).unwrap_or_default(), &mut leaked);
        kill_all(
            || processes::find(keeper.pid).filter(|now| now.is_same(&keeper)).into_iter().collect(),
            &mut Vec::new(),
        );
    }
    let end = std::time::Instant::now() + KILL_TIMEOUT;
    while run.directory.has_keeper()? {
        if std::time::Instant::now() > end {
            return Err(io::Error::other("its keeper cannot be killed; it hangs in the kernel"));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let started = run.started().unwrap_or_default();
    for left in kill_leftovers(&run.key(), started.as_ref()) {
        if !leaked.iter().any(|known| known.pid == left.pid) {
            leaked.push(left);
        }
    }
    Ok(leaked)
}

/// Sends KILL until none of the processes is running, or the time is over.
fn kill_all(find: impl Fn() -> Vec<Process>, leaked: &mut Vec<Leaked>) {
    let end = std::time::Instant::now() + KILL_TIMEOUT;
    let mut seen: Vec<Process> = Vec::new();
    let left = loop {
        let left: Vec<Process> = find().into_iter().filter(|process| !process.is_zombie()).collect();
        if left.is_empty() || std::time::Instant::now() > end {
            break left;
        }
        for process in left {
            processes::send_signal(&process, Signal::KILL);
            if !seen.iter().any(|known| known.is_same(&process)) {
                seen.push(process);
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    leaked.extend(seen.into_iter().map(|process| {
        let killed = !left.iter().any(|alive| alive.is_same(&process));
        Leaked { pid: process.pid, name: process.name, killed }
    }));
}
