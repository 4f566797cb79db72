//! Ports that fail one call, before or after it takes effect: a process that dies there leaves the same state.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domain::alert::{JobState, Transition};
use domain::event::Event;
use domain::job::{Job, JobKey};
use domain::ledger::Ledger;
use domain::order::Order;
use domain::ports::*;
use domain::run::{Run, RunKey};
use jiff::Timestamp;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    /// The call took effect, but its caller got an error.
    After,
    /// The process dies before the call: no later one is made either.
    Death,
}

/// Which call fails.
pub(crate) struct Plan {
    pub call: usize,
    pub moment: Moment,
    made: AtomicUsize,
    largest: AtomicUsize,
}

impl Plan {
    pub(crate) fn new(call: usize, moment: Moment) -> Arc<Plan> {
        Arc::new(Plan { call, moment, made: AtomicUsize::new(0), largest: AtomicUsize::new(0) })
    }

    /// The largest number of jobs or due entries that one call changed.
    pub(crate) fn largest(&self) -> usize {
        self.largest.load(Ordering::SeqCst)
    }

    fn note_changes(&self, count: usize) {
        self.largest.fetch_max(count, Ordering::SeqCst);
    }

    /// Calls made so far.
    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
pub(crate) struct Faulty {
    real: Ports,
    plan: Arc<Plan>,
}

impl Faulty {
    pub(crate) fn ports(real: &Ports, plan: &Arc<Plan>) -> Ports {
        let all = Arc::new(Faulty { real: real.clone(), plan: plan.clone() });
        Ports {
            jobs: all.clone(),
            due: all.clone(),
            runs: all.clone(),
            alerts: all.clone(),
            settings: all.clone(),
            orders: all.clone(),
            claims: all.clone(),
            enforces_max_open: real.enforces_max_open,
            reports: all,
        }
    }

    async fn call<T>(&self, real: impl Future<Output = PortResult<T>>) -> PortResult<T> {
        let number = self.plan.made.fetch_add(1, Ordering::SeqCst);
        let is_dead = self.plan.moment == Moment::Death && number > self.plan.call;
        if number != self.plan.call && !is_dead {
            return real.await;
        }
        if self.plan.moment == Moment::After {
            real.await?;
        }
        Err(PortError::Retry("broken on purpose".to_owned()))
    }
}

#[async_trait]
impl JobStore for Faulty {
    async fn get(&self, keys: &[JobKey]) -> PortResult<Vec<StoredJob>> {
        self.call(self.real.jobs.get(keys)).await
    }
    async fn put(&self, job: &Job, expected: Option<u64>) -> PortResult<bool> {
        self.call(self.real.jobs.put(job, expected)).await
    }
    async fn put_all(&self, writes: Vec<JobWrite>) -> PortResult<Vec<bool>> {
        self.plan.note_changes(writes.len());
        self.call(self.real.jobs.put_all(writes)).await
    }
    async fn remove(&self, keys: &[JobKey]) -> PortResult<()> {
        self.plan.note_changes(keys.len());
        self.call(self.real.jobs.remove(keys)).await
    }
    async fn list(&self, group: Option<&str>, after: Option<&Cursor>, most: usize) -> PortResult<Page<StoredJob>> {
        self.call(self.real.jobs.list(group, after, most)).await
    }
}

#[async_trait]
impl DueIndex for Faulty {
    fn shards(&self) -> u32 {
        self.real.due.shards()
    }
    async fn put(&self, entries: &[Due]) -> PortResult<()> {
        self.plan.note_changes(entries.len());
        self.call(self.real.due.put(entries)).await
    }
    async fn list(&self, shard: u32, from: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Due>> {
        self.call(self.real.due.list(shard, from, until, most)).await
    }
    async fn list_from(
        &self,
        shard: u32,
        from: Timestamp,
        job: &JobKey,
        until: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Due>> {
        self.call(self.real.due.list_from(shard, from, job, until, most)).await
    }
    async fn list_late(
        &self,
        shard: u32,
        from: Timestamp,
        until: Timestamp,
        written_since: Timestamp,
        most: usize,
    ) -> PortResult<Vec<Due>> {
        self.call(self.real.due.list_late(shard, from, until, written_since, most)).await
    }
    async fn remove(&self, entries: &[Due]) -> PortResult<()> {
        self.plan.note_changes(entries.len());
        self.call(self.real.due.remove(entries)).await
    }
}

#[async_trait]
impl RunStore for Faulty {
    async fn get(&self, runs: &[RunKey]) -> PortResult<Vec<Stored<Run>>> {
        self.call(self.real.runs.get(runs)).await
    }
    async fn write(&self, writes: &[RunWrite]) -> PortResult<Vec<WriteResult>> {
        self.call(self.real.runs.write(writes)).await
    }
    async fn list(&self, query: &RunQuery, after: Option<&Cursor>, most: usize) -> PortResult<Page<Stored<Run>>> {
        self.call(self.real.runs.list(query, after, most)).await
    }
    async fn count(&self, query: &RunQuery) -> PortResult<Ledger> {
        self.call(self.real.runs.count(query)).await
    }
    async fn remove(&self, runs: &[RunKey]) -> PortResult<()> {
        self.call(self.real.runs.remove(runs)).await
    }
}

#[async_trait]
impl AlertStore for Faulty {
    async fn states(&self, keys: &[JobKey]) -> PortResult<Vec<Stored<JobState>>> {
        self.call(self.real.alerts.states(keys)).await
    }
    async fn raise(&self, step: &AlertStep) -> PortResult<bool> {
        self.call(self.real.alerts.raise(step)).await
    }
    async fn claim(&self, worker: &str, at: Timestamp, until: Timestamp, most: usize) -> PortResult<Vec<Transition>> {
        self.call(self.real.alerts.claim(worker, at, until, most)).await
    }
    async fn settle(&self, worker: &str, transitions: &[Transition], kept_until: Option<Timestamp>) -> PortResult<()> {
        self.call(self.real.alerts.settle(worker, transitions, kept_until)).await
    }
    async fn list(&self, after: Option<&Cursor>, most: usize) -> PortResult<Page<Transition>> {
        self.call(self.real.alerts.list(after, most)).await
    }
}

#[async_trait]
impl Settings for Faulty {
    async fn read(&self, name: &str) -> PortResult<Option<Stored<Value>>> {
        self.call(self.real.settings.read(name)).await
    }
    async fn write(&self, name: &str, value: &Value, expected: Option<u64>) -> PortResult<bool> {
        self.call(self.real.settings.write(name, value, expected)).await
    }
    async fn heartbeats(&self) -> PortResult<Vec<Heartbeat>> {
        self.call(self.real.settings.heartbeats()).await
    }
    async fn delete_heartbeats(&self, before: Timestamp) -> PortResult<()> {
        self.call(self.real.settings.delete_heartbeats(before)).await
    }
    async fn quarantined(&self) -> PortResult<Vec<Quarantined>> {
        self.call(self.real.settings.quarantined()).await
    }
}

#[async_trait]
impl Orders for Faulty {
    async fn send(&self, orders: &[Order]) -> PortResult<Vec<SendResult>> {
        self.call(self.real.orders.send(orders)).await
    }
    async fn receive(
        &self,
        groups: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<Order>>> {
        self.call(self.real.orders.receive(groups, most, lease, wait)).await
    }
    async fn delete(&self, receipt: &str) -> PortResult<()> {
        self.call(self.real.orders.delete(receipt)).await
    }
}

#[async_trait]
impl Claims for Faulty {
    async fn claim(&self, run: &RunKey, attempt: u32, by: Claimant<'_>, at: Timestamp) -> PortResult<Claim> {
        self.call(self.real.claims.claim(run, attempt, by, at)).await
    }
    async fn heartbeat(&self, beat: &Heartbeat) -> PortResult<HeartbeatAnswer> {
        self.call(self.real.claims.heartbeat(beat)).await
    }
}

#[async_trait]
impl Reports for Faulty {
    async fn send(&self, events: &[Event]) -> PortResult<()> {
        self.call(self.real.reports.send(events)).await
    }
    async fn receive(&self, most: usize, lease: Duration, wait: Duration) -> PortResult<Vec<Delivery<Event>>> {
        self.call(self.real.reports.receive(most, lease, wait)).await
    }
    async fn delete(&self, receipts: &[String]) -> PortResult<()> {
        self.call(self.real.reports.delete(receipts)).await
    }
}
