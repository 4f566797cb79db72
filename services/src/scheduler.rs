//! What is due becomes runs and orders. Called every minute, and earlier when [`next_wake`] says so.
//!
//! The due index holds one entry a job: its next firing. A tick reads the entries up to now, plans each job's firings
//! since its entry (`firing_plan`), creates the runs, sends the orders, puts the next entries, and only then removes the old
//! ones. A tick that dies between any two of these steps leaves the entry; the next one does the same again, finds the
//! runs there already, and sends their orders again, which the claim makes harmless.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use domain::job::{Concurrency, Job, JobKey};
use domain::order::Order;
use domain::ports::{AlertStep, Due, PortError, Ports, RunWrite, Stored, StoredJob, WriteResult};
use domain::run::{Outcome, Run, RunId, RunKey, State};
use domain::schedule::Schedule;
use jiff::Timestamp;

use crate::alerts::bad_job;
use crate::error::CONFLICTS_MAX;
use crate::firing_plan::{Intended, Intent, LATE_MAX, Situation, plan};
use crate::new_runs::{due_after, earlier, later, order_of, run_of_firing, schedule_of};
use crate::overlap::{Gate, admitted, hold, open_runs, replaced_by};
use crate::run_end::{Known, write_with_alerts};
use crate::settings::{self, SCHEDULER, SchedulerState};
use crate::{Error, Result, maintenance, overlap};

/// How far behind its cursor a tick looks again: entries written late by another scheduler or an edit.
pub const LOOK_BACK: Duration = Duration::from_secs(600);

/// How far the clocks of two machines that write entries may be apart, for the look back to see what was written late.
/// Ours: with NTP they differ by milliseconds. What a worse clock hides, the sweep finds.
pub const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(20);

/// The same for the very first tick of an installation.
pub const FIRST_LOOK_BACK: Duration = Duration::from_secs(86_400);

/// Entries dealt with together.
const CHUNK_MAX: usize = 500;

/// Entries dealt with in one tick; the rest wait for the next one, which [`Summary::more`] asks for at once.
const ENTRIES_PER_TICK_MAX: usize = 20_000;

/// The loop ticks at least this often.
pub const TICK_MAX: Duration = Duration::from_secs(60);

/// What a tick did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Runs that were created and ordered.
    pub started: u32,
    pub held: u32,
    pub skipped: u32,
    pub missed: u32,
    /// Orders sent again for runs that an earlier tick had created.
    pub again: u32,
    /// Entries of jobs that were edited or removed since.
    pub dropped: u32,
    pub bad_jobs: u32,
    /// Jobs that could not be dealt with now; the next tick tries again.
    pub failed: u32,
    /// There is more to do: tick again at once.
    pub more: bool,
}

/// Fires everything that is due at `now`.
///
/// # Errors
/// A port's. What was not done is done by the next tick.
pub async fn tick(ports: &Ports, now: Timestamp) -> Result<Summary> {
    let mut state = settings::read::<SchedulerState>(ports, SCHEDULER).await?;
    let windows = maintenance::read(ports).await?;
    let situation = Situation { now, ticked_at: state.value.ticked_at, windows: &windows };
    let windows_due = windows_due(&state.value, now);
    let mut tick = Tick { ports, situation, summary: Summary::default(), unfinished: None };
    for shard in 0..ports.due.shards() {
        for window in &windows_due {
            tick.window(shard, window).await?;
        }
    }
    let Tick { summary, unfinished, .. } = tick;
    let cursor = unfinished.map_or(now, |oldest| oldest.min(now));
    // A clock that was far ahead counts no more once it is right again.
    let before = state.value.ticked_at.filter(|before| *before <= later(now, LATE_MAX));
    state.value.ticked_at = Some(before.map_or(now, |before| before.max(now)));
    state.value.cursor = Some(cursor);
    // Another scheduler may have written first: then it has come as far.
    state.write(ports).await?;
    Ok(summary)
}

/// When it last ticked to the end; none on the first day.
///
/// # Errors
/// A port's.
pub async fn ticked_at(ports: &Ports) -> Result<Option<Timestamp>> {
    Ok(settings::read::<SchedulerState>(ports, SCHEDULER).await?.value.ticked_at)
}

/// When the loop is to tick next: at the next full minute, or when something is due before. What came due since the
/// last tick counts, so the answer may lie before `now`.
///
/// # Errors
/// A port's.
pub async fn next_wake(ports: &Ports, now: Timestamp) -> Result<Timestamp> {
    let minute = now.as_second().div_euclid(60) * 60 + TICK_MAX.as_secs() as i64;
    let mut wake = Timestamp::from_second(minute).unwrap_or(Timestamp::MAX);
    let ticked_at = ticked_at(ports).await?;
    let from = later(ticked_at.unwrap_or(now).min(now), Duration::from_nanos(1));
    for shard in 0..ports.due.shards() {
        let next = ports.due.list(shard, from, wake, 1).await?;
        wake = next.first().map_or(wake, |entry| entry.at.min(wake));
    }
    Ok(wake)
}

/// Instants whose entries a tick looks at, both ends included.
struct Window {
    from: Timestamp,
    until: Timestamp,
    /// All entries that were written earlier are dealt with.
    written_since: Option<Timestamp>,
}

/// What came due since the last tick, after what was written late for instants before it.
fn windows_due(state: &SchedulerState, now: Timestamp) -> Vec<Window> {
    let Some(cursor) = state.cursor else {
        return vec![Window { from: earlier(now, FIRST_LOOK_BACK), until: now, written_since: None }];
    };
    let (cursor, from) = (cursor.min(now), earlier(cursor.min(now), LOOK_BACK));
    let Some(ticked_at) = state.ticked_at.filter(|ticked_at| *ticked_at <= now) else {
        return vec![Window { from, until: now, written_since: None }];
    };
    // A tick that came to its end has dealt with its own instant too.
    let done_until = if ticked_at == cursor { cursor } else { earlier(cursor, Duration::from_nanos(1)) };
    let written_since = Some(earlier(ticked_at, CLOCKS_DIFFER_MAX));
    vec![
        Window { from, until: done_until, written_since },
        Window { from: later(done_until, Duration::from_nanos(1)), until: now, written_since: None },
    ]
}

struct Tick<'t> {
    ports: &'t Ports,
    situation: Situation<'t>,
    summary: Summary,
    /// The oldest instant that is not dealt with.
    unfinished: Option<Timestamp>,
}

/// The version of a run that is planned and not written yet.
const UNWRITTEN: u64 = 0;

/// What a chunk of entries comes to before anything is written.
#[derive(Default)]
struct Plan {
    /// Runs to create, and the order to send when it is theirs to start.
    runs: Vec<(Run, bool)>,
    next: Vec<Due>,
    done: Vec<Due>,
    jobs: BTreeMap<JobKey, Job>,
    gates: BTreeMap<JobKey, Gate>,
}

/// A job that is due, and the runs that its firings are worth.
struct Firing<'j> {
    job: &'j Job,
    schedule: Schedule,
    intended: Vec<Intended>,
}

impl Firing<'_> {
    fn names(&self) -> impl Iterator<Item = RunKey> {
        let key = self.job.key();
        self.intended.iter().map(move |one| RunKey::new(&key.group, RunId::scheduled(&key, one.nominal)))
    }
}

impl Plan {
    /// Skips those planned runs of the job that `by` replaces.
    fn replaced(&mut self, open: &mut Vec<Stored<Run>>, by: &Run, now: Timestamp) {
        for (run, start) in &mut self.runs {
            let unwritten = |other: &Stored<Run>| other.version == UNWRITTEN && other.record.run_id == run.run_id;
            if let Some(place) = open.iter().position(unwritten) {
                open.remove(place);
                run.finish(Outcome::Skipped, replaced_by(by), now);
                *start = false;
            }
        }
    }
}

impl Tick<'_> {
    async fn window(&mut self, shard: u32, window: &Window) -> Result<()> {
        let mut seen: HashSet<Due> = HashSet::new();
        let mut from = window.from;
        while from <= window.until {
            let most = CHUNK_MAX + seen.iter().filter(|entry| entry.at >= from).count();
            let due = &self.ports.due;
            let entries = match window.written_since {
                Some(written_since) => due.list_late(shard, from, window.until, written_since, most).await?,
                None => due.list(shard, from, window.until, most).await?,
            };
            let mut fresh: Vec<Due> = entries.into_iter().filter(|entry| !seen.contains(entry)).collect();
            fresh.truncate(CHUNK_MAX);
            let (Some(first), Some(last)) = (fresh.first(), fresh.last()) else { return Ok(()) };
            // What lies before is dealt with, whether the adapter forgets it or not.
            from = last.at;
            if seen.len() >= ENTRIES_PER_TICK_MAX {
                self.left(first.at);
                self.summary.more = true;
                return Ok(());
            }
            seen.extend(fresh.iter().cloned());
            self.entries(fresh).await?;
        }
        Ok(())
    }

    fn left(&mut self, at: Timestamp) {
        self.unfinished = Some(self.unfinished.map_or(at, |oldest| oldest.min(at)));
    }

    /// Deals with a chunk; when a port refuses it for good, with each job alone, so that one job stops no other.
    async fn entries(&mut self, entries: Vec<Due>) -> Result<()> {
        let by_job = by_job(entries);
        let keys: Vec<JobKey> = by_job.keys().cloned().collect();
        let jobs: BTreeMap<JobKey, StoredJob> =
            self.ports.jobs.get(&keys).await?.into_iter().map(|stored| (stored.key.clone(), stored)).collect();
        match self.deal_with(&by_job, &jobs).await {
            Err(Error::Port(PortError::Permanent(_))) if by_job.len() > 1 => {}
            Err(Error::Port(PortError::Permanent(says))) => return self.failed(&by_job, &says).await,
            other => return other,
        }
        for (key, entries) in by_job {
            let alone = BTreeMap::from([(key, entries)]);
            match self.deal_with(&alone, &jobs).await {
                Err(Error::Port(PortError::Permanent(says))) => self.failed(&alone, &says).await?,
                other => other?,
            }
        }
        Ok(())
    }

    async fn failed(&mut self, by_job: &BTreeMap<JobKey, Vec<Due>>, says: &str) -> Result<()> {
        for (key, entries) in by_job {
            tracing::error!(job = %key, error = says, "the firings of a job could not be recorded");
            self.summary.failed += 1;
            self.tell_bad(key, says).await?;
            if let Some(first) = entries.iter().map(|entry| entry.at).min() {
                self.left(first);
            }
        }
        Ok(())
    }

    /// Deals with a chunk; again with those jobs of which somebody else let a run in meanwhile.
    async fn deal_with(
        &mut self,
        by_job: &BTreeMap<JobKey, Vec<Due>>,
        jobs: &BTreeMap<JobKey, StoredJob>,
    ) -> Result<()> {
        let mut overtaken = self.chunk(by_job, jobs).await?;
        for _ in 1..CONFLICTS_MAX {
            let mut again = by_job.clone();
            again.retain(|key, _| overtaken.contains(key));
            if again.is_empty() {
                return Ok(());
            }
            overtaken = self.chunk(&again, jobs).await?;
        }
        for (_, entries) in by_job.iter().filter(|(key, _)| overtaken.contains(key)) {
            entries.iter().for_each(|entry| self.left(entry.at));
        }
        Ok(())
    }

    /// The jobs that somebody else was faster with: nothing of them is done.
    async fn chunk(
        &mut self,
        by_job: &BTreeMap<JobKey, Vec<Due>>,
        jobs: &BTreeMap<JobKey, StoredJob>,
    ) -> Result<BTreeSet<JobKey>> {
        let mut chunk = Plan::default();
        let mut firing = Vec::with_capacity(by_job.len());
        for (key, entries) in by_job {
            match jobs.get(key).map(|stored| &stored.job) {
                None => self.summary.dropped += entries.len() as u32,
                Some(Err(says)) => self.tell_bad(key, says).await?,
                Some(Ok(job)) => match schedule_of(job) {
                    Err(says) => self.tell_bad(key, &says).await?,
                    Ok(schedule) => firing.extend(self.firing(job, schedule, entries)),
                },
            }
            chunk.done.extend(entries.iter().cloned());
        }
        chunk.gates = overlap::read(self.ports, firing.iter().map(|firing| firing.job)).await?;
        let dealt_with = self.dealt_with(&firing).await?;
        for firing in firing {
            self.job(&mut chunk, firing, &dealt_with).await?;
        }
        self.carry_out(chunk).await
    }

    /// What a job's entries come to; `None`: it was edited since they were written.
    fn firing<'j>(&mut self, job: &'j Job, schedule: Schedule, entries: &[Due]) -> Option<Firing<'j>> {
        let timing = job.timing();
        let valid = entries.iter().filter(|entry| entry.timing == timing).map(|entry| entry.at);
        let Some(from) = valid.min() else {
            self.summary.dropped += entries.len() as u32;
            return None;
        };
        let intended = plan(job, &schedule, from, &self.situation);
        Some(Firing { job, schedule, intended })
    }

    async fn tell_bad(&mut self, key: &JobKey, says: &str) -> Result<()> {
        self.summary.bad_jobs += 1;
        let transitions = vec![bad_job(key, says, self.situation.now)];
        self.ports.alerts.raise(&AlertStep { state: None, transitions }).await?;
        Ok(())
    }

    /// Plans one job. What ends at once with an alert (missed) is written here, as each moves the job's alert state.
    async fn job(&mut self, chunk: &mut Plan, firing: Firing<'_>, dealt_with: &BTreeSet<RunId>) -> Result<()> {
        let Firing { job, schedule, intended } = firing;
        let mut open = match job.concurrency {
            Concurrency::Allow => Vec::new(),
            _ => open_runs(self.ports, &job.key(), chunk.gates.get(&job.key())).await?,
        };
        for one in intended {
            if !dealt_with.contains(&RunId::scheduled(&job.key(), one.nominal)) {
                self.intended(chunk, job, one, &mut open).await?;
            }
        }
        chunk.next.extend(due_after(job, &schedule, self.situation.now));
        chunk.jobs.insert(job.key(), job.clone());
        Ok(())
    }

    /// Firings whose runs an earlier tick made and that wait for nothing: an entry may be read twice, and what is over
    /// must keep no other run of its job from starting.
    async fn dealt_with(&self, firing: &[Firing<'_>]) -> Result<BTreeSet<RunId>> {
        let alone = firing.iter().filter(|firing| firing.job.concurrency != Concurrency::Allow);
        let names: Vec<RunKey> = alone.flat_map(Firing::names).collect();
        if names.is_empty() {
            return Ok(BTreeSet::new());
        }
        let stored = self.ports.runs.get(&names).await?.into_iter().map(|stored| stored.record);
        Ok(stored.filter(|run| !waits_for_a_runner(run)).map(|run| run.run_id).collect())
    }

    async fn intended(
        &mut self,
        chunk: &mut Plan,
        job: &Job,
        one: Intended,
        open: &mut Vec<Stored<Run>>,
    ) -> Result<()> {
        let now = self.situation.now;
        let trigger = match &one.intent {
            Intent::Start(trigger) => *trigger,
            Intent::Hold(_) => domain::run::Trigger::CatchUp,
            Intent::Skip(_) | Intent::Miss(_) => domain::run::Trigger::Schedule,
        };
        let mut run = run_of_firing(job, one.nominal, trigger, now);
        match one.intent {
            Intent::Skip(reason) => run.finish(Outcome::Skipped, reason, now),
            Intent::Hold(reason) => hold(&mut run, reason),
            Intent::Miss(reason) => {
                run.finish(Outcome::Missed, reason, now);
                let occurrence = domain::alert::Occurrence::Ended(Outcome::Missed);
                let written = write_with_alerts(self.ports, Known(Some(job)), &run, None, occurrence, now).await?;
                self.summary.missed += u32::from(written == WriteResult::Done);
                return Ok(());
            }
            Intent::Start(_) => {
                if job.concurrency == Concurrency::Replace {
                    chunk.replaced(open, &run, now);
                }
                admitted(self.ports, job, &mut run, open, now).await?;
            }
        }
        // An earlier tick may have created it, and a runner may have it by now.
        if run.is_open() && !open.iter().any(|other| other.record.run_id == run.run_id) {
            open.push(Stored { record: run.clone(), version: UNWRITTEN });
        }
        let start = run.is_open() && !run.held;
        chunk.runs.push((run, start));
        Ok(())
    }

    /// The jobs that somebody else was faster with.
    async fn carry_out(&mut self, chunk: Plan) -> Result<BTreeSet<JobKey>> {
        let mut overtaken = BTreeSet::new();
        let write = |(run, start): &(Run, bool)| {
            let alert = chunk.gates.get(&run.key()).filter(|_| *start).map(|gate| gate.step(run));
            RunWrite { run: run.clone(), expected: None, alert }
        };
        let writes: Vec<RunWrite> = chunk.runs.iter().map(write).collect();
        let written = if writes.is_empty() { Vec::new() } else { self.ports.runs.write(&writes).await? };
        let mut orders: Vec<Order> = Vec::new();
        let mut undone: Vec<RunWrite> = Vec::new();
        for ((run, start), written) in chunk.runs.iter().zip(written) {
            let Some(job) = chunk.jobs.get(&run.key()) else { continue };
            match written {
                WriteResult::Done if *start => {
                    self.summary.started += 1;
                    orders.push(order_of(run, job, self.situation.now));
                }
                WriteResult::Done if run.held => self.summary.held += 1,
                WriteResult::Done => self.summary.skipped += 1,
                WriteResult::Conflict(Some(stored))
                    if run.is_open() && declared_ahead(&stored.record, self.situation.now) =>
                {
                    undone.push(RunWrite { run: run.clone(), expected: Some(stored.version), alert: None });
                }
                WriteResult::Conflict(Some(stored)) if waits_for_a_runner(&stored.record) => {
                    self.summary.again += 1;
                    orders.push(order_of(&stored.record, job, self.situation.now));
                }
                WriteResult::Conflict(_) => {}
                WriteResult::AlertConflict => drop(overtaken.insert(run.key())),
            }
        }
        orders.extend(self.undo(undone, &chunk.jobs).await?);
        if !orders.is_empty() {
            self.ports.orders.send(&orders).await?;
        }
        let is_ours = |entry: &&Due| !overtaken.contains(&entry.key);
        let next: BTreeSet<Due> = chunk.next.iter().filter(is_ours).cloned().collect();
        if !next.is_empty() {
            self.ports.due.put(&next.iter().cloned().collect::<Vec<_>>()).await?;
        }
        // An entry may be its own successor where somebody set the clock back; it must then stay.
        let done = chunk.done.iter().filter(is_ours).filter(|entry| !next.contains(entry));
        self.ports.due.remove(&done.cloned().collect::<Vec<_>>()).await?;
        Ok(overtaken)
    }

    /// Starts, in their time, runs that a wrong clock had declared over; gives their orders.
    async fn undo(&mut self, writes: Vec<RunWrite>, jobs: &BTreeMap<JobKey, Job>) -> Result<Vec<Order>> {
        let mut orders = Vec::new();
        if writes.is_empty() {
            return Ok(orders);
        }
        let written = self.ports.runs.write(&writes).await?;
        for (write, _) in writes.iter().zip(written).filter(|(_, written)| *written == WriteResult::Done) {
            match jobs.get(&write.run.key()) {
                Some(job) if !write.run.held => {
                    self.summary.started += 1;
                    orders.push(order_of(&write.run, job, self.situation.now));
                }
                _ => self.summary.held += 1,
            }
        }
        Ok(orders)
    }
}

/// Whether the run was declared over by a clock that showed another time, and no runner ever had it.
fn declared_ahead(run: &Run, now: Timestamp) -> bool {
    let declared = matches!(run.outcome, Some(Outcome::Missed | Outcome::Skipped));
    let untouched = run.attempt == 1 && run.claimed_at.is_none() && !run.has_report();
    declared && untouched && run.finished_at.is_some_and(|at| at > later(now, LATE_MAX))
}

fn by_job(entries: Vec<Due>) -> BTreeMap<JobKey, Vec<Due>> {
    let mut by_job: BTreeMap<JobKey, Vec<Due>> = BTreeMap::new();
    for entry in entries {
        by_job.entry(entry.key.clone()).or_default().push(entry);
    }
    by_job
}

/// Whether its order may be on its way, or may never have been sent.
pub(crate) fn waits_for_a_runner(run: &Run) -> bool {
    run.state == State::Scheduled && !run.held
}
