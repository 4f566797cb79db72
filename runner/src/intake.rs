//! Takes orders: receives as many as admission allows, claims each, stores it on disk, and only then deletes its
//! message.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::order::{FORMAT_VERSION, Order};
use domain::ports::{Claim, Claimant, Claims, Delivery, Orders, PortError};
use domain::run::{AttemptKey, RunId};
use jiff::Timestamp;
use keeper::crash;
use keeper::directory::RunDirectory;
use keeper::records::{Accepted, Refusal, RefusalKind};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::local_run::{LocalRun, lock};
use crate::options::{Mode, Policy, Ports};
use crate::reporting::report_again;
use crate::runner_state::RunnerState;
use crate::supervise::supervise;

/// Time to claim and store an order before its message is redelivered. Chosen: twice the default of SQS (30 s).
const ORDER_LEASE: Duration = Duration::from_secs(60);

/// The longest poll of SQS (ReceiveMessage, WaitTimeSeconds).
const RECEIVE_WAIT_MAX: Duration = Duration::from_secs(20);

/// Lease on a runner with a required sink, which leaves orders in the queue while that sink is unreachable. Chosen:
/// they are redelivered soon after the sink recovers.
const HELD_LEASE: Duration = Duration::from_secs(5);

/// A held order is not taken when its message is redelivered sooner than this. Chosen: a claim and the write of the
/// order take less; a redelivery that comes first is dropped.
const TAKE_TIME: Duration = Duration::from_secs(1);

/// Delay after a failed call to a port. Chosen, not measured.
const RETRY_DELAY: Duration = Duration::from_secs(1);

fn lease(shared: &RunnerState) -> Duration {
    if shared.has_required_sinks() { HELD_LEASE } else { ORDER_LEASE }
}

/// Takes orders until `stop`.
pub(crate) async fn take_orders(shared: Arc<RunnerState>, ports: Ports, stop: CancellationToken) {
    let mut logged = false;
    stop.run_until_cancelled(shared.first_heartbeat.cancelled()).await;
    while !stop.is_cancelled() {
        let changed = shared.admission_changed.notified();
        let room = lock(&shared.admission).receive_max();
        if room == 0 {
            tokio::select! { () = changed => {}, () = stop.cancelled() => {} }
            continue;
        }
        if shared.is_name_refused.load(Ordering::Relaxed) {
            tokio::select! { () = tokio::time::sleep(RETRY_DELAY) => {}, () = stop.cancelled() => {} }
            continue;
        }
        if shared.blocking_reason_for_all().await.is_some() {
            // The orders stay in the queue: another runner may reach the sink.
            stop.run_until_cancelled(shared.wait_while_held()).await;
            continue;
        }
        let lease = lease(&shared);
        let received = ports.orders.receive(&shared.options.groups, room, lease, RECEIVE_WAIT_MAX);
        let received = match stop.run_until_cancelled(received).await {
            None => return,
            Some(Ok(received)) => received,
            Some(Err(error)) => {
                match std::mem::replace(&mut logged, true) {
                    true => tracing::debug!(%error, "receiving orders failed again"),
                    false => tracing::warn!(%error, "receiving orders failed; retrying"),
                }
                tokio::select! { () = tokio::time::sleep(RETRY_DELAY) => {}, () = stop.cancelled() => {} }
                continue;
            }
        };
        logged = false;
        crash::point("received");
        let taker = Taker { shared: &shared, ports: &ports, stop: &stop, until: Instant::now() + lease };
        match shared.options.mode {
            Mode::Free => taker.take_concurrently(received).await,
            Mode::Serial | Mode::Resources { .. } => taker.take_sequentially(received).await,
        }
    }
}

/// Takes the orders of one call.
struct Taker<'t> {
    shared: &'t Arc<RunnerState>,
    ports: &'t Ports,
    stop: &'t CancellationToken,
    /// When they are redelivered.
    until: Instant,
}

impl Taker<'_> {
    /// Takes orders when all may start at once: no order waits for the disk write of another.
    async fn take_concurrently(&self, received: Vec<Delivery<Order>>) {
        for delivery in received {
            let Ok(turn) = self.shared.claim_permits.clone().acquire_owned().await else { return };
            let (shared, ports, stop, until) = (self.shared.clone(), self.ports.clone(), self.stop.clone(), self.until);
            self.shared.supervisors.spawn(async move {
                match take_order(shared.clone(), ports.clone(), delivery).await {
                    TakeResult::Taken(run) => start_taken(&shared, &run),
                    TakeResult::Held(delivery) => take_later(&shared, ports, stop, *delivery, until),
                    TakeResult::Nothing => {}
                }
                drop(turn);
            });
        }
    }

    /// Takes orders that must start in the order of issue: claims all at once, then sorts them.
    async fn take_sequentially(&self, received: Vec<Delivery<Order>>) {
        let mut taking = JoinSet::new();
        for delivery in received {
            taking.spawn(take_order(self.shared.clone(), self.ports.clone(), delivery));
        }
        let mut taken: Vec<Arc<LocalRun>> = Vec::new();
        for result in taking.join_all().await {
            match result {
                TakeResult::Taken(run) => taken.push(run),
                TakeResult::Held(delivery) => {
                    take_later(self.shared, self.ports.clone(), self.stop.clone(), *delivery, self.until);
                }
                TakeResult::Nothing => {}
            }
        }
        taken.sort_by(|a, b| (a.accepted.order.issued_at, a.run_id()).cmp(&(b.accepted.order.issued_at, b.run_id())));
        for run in taken {
            lock(&self.shared.admission).enqueue(run.key(), run.job().needs);
        }
        admit(self.shared);
    }
}

fn start_taken(shared: &Arc<RunnerState>, run: &LocalRun) {
    lock(&shared.admission).enqueue(run.key(), run.job().needs);
    admit(shared);
}

/// Retries a held order while its message is hidden from all runners. So an order that came with the long lease, before
/// its sink became required, does not wait for the end of that lease.
fn take_later(
    shared: &Arc<RunnerState>,
    ports: Ports,
    stop: CancellationToken,
    mut delivery: Delivery<Order>,
    until: Instant,
) {
    let shared = shared.clone();
    tokio::spawn(async move {
        while Instant::now() + TAKE_TIME < until && stop.run_until_cancelled(shared.wait_while_held()).await.is_some() {
            match take_order(shared.clone(), ports.clone(), delivery).await {
                TakeResult::Taken(run) => return start_taken(&shared, &run),
                TakeResult::Held(held) => delivery = *held,
                TakeResult::Nothing => return,
            }
        }
    });
}

/// Starts every run that may start now.
pub(crate) fn admit(shared: &Arc<RunnerState>) {
    while shared.admits_runs() {
        let Some(key) = lock(&shared.admission).admit_next() else { return note_delay(shared) };
        match shared.run(&key) {
            Some(run) => drop(shared.supervisors.spawn(supervise(shared.clone(), run))),
            None => lock(&shared.admission).release(domain::job::Needs::default()),
        }
    }
}

/// Notes for the waiting runs that a limit of the machine delays them.
fn note_delay(shared: &RunnerState) {
    let (running, waiting) = {
        let admission = lock(&shared.admission);
        let Some(running) = admission.running_at_limit() else { return };
        (running, admission.waiting().cloned().collect::<Vec<_>>())
    };
    for run in waiting.iter().filter_map(|key| shared.run(key)) {
        if run.delayed_by.set(shared.open_files.waiting_reason(running)).is_ok() {
            let error = shared.open_files.limit_reached(running);
            tracing::warn!(error, run_id = %run.run_id(), "a run waits for a limit of this machine");
        }
    }
}

/// Admits runs each time a run has ended.
pub(crate) async fn admit_when_possible(shared: Arc<RunnerState>) {
    loop {
        let changed = shared.admission_changed.notified();
        admit(&shared);
        changed.await;
    }
}

enum TakeResult {
    Taken(Arc<LocalRun>),
    /// A required sink is unreachable.
    Held(Box<Delivery<Order>>),
    /// It must not run here, or its message is redelivered.
    Nothing,
}

/// Claims and stores an order, unless a required sink for its output is unreachable.
async fn take_order(shared: Arc<RunnerState>, ports: Ports, delivery: Delivery<Order>) -> TakeResult {
    let run_id = delivery.message.run_id.clone();
    // A copy that arrives during this take is redelivered later, when the directory of the first exists.
    let Some(_taking) = TakingGuard::new(&shared, (run_id.clone(), delivery.message.attempt)) else {
        return TakeResult::Nothing;
    };
    let taken = match claim(&shared, &*ports.claims, delivery.message.clone()).await {
        ClaimResult::Later => return TakeResult::Nothing,
        ClaimResult::Held => return TakeResult::Held(Box::new(delivery)),
        ClaimResult::Drop => TakeResult::Nothing,
        ClaimResult::Taken(accepted) => match store_order(&shared, *accepted).await {
            Some(run) => TakeResult::Taken(run),
            None => return TakeResult::Nothing,
        },
    };
    if let Err(error) = delete_order(&*ports.orders, &delivery.receipt).await {
        tracing::warn!(%error, %run_id, "cannot delete an order's message; it will be redelivered and dropped");
    }
    crash::point("deleted");
    taken
}

/// Prevents a second take of the same attempt until it is dropped.
struct TakingGuard<'s> {
    shared: &'s RunnerState,
    key: AttemptKey,
}

impl TakingGuard<'_> {
    fn new(shared: &RunnerState, key: AttemptKey) -> Option<TakingGuard<'_>> {
        let is_first = lock(&shared.taking).insert(key.clone());
        is_first.then(|| TakingGuard { shared, key })
    }
}

impl Drop for TakingGuard<'_> {
    fn drop(&mut self) {
        lock(&self.shared.taking).remove(&self.key);
    }
}

enum ClaimResult {
    Taken(Box<Accepted>),
    /// Another runner has it, or it can never run.
    Drop,
    /// The message is redelivered.
    Later,
    /// A required sink is unreachable.
    Held,
}

async fn claim(shared: &Arc<RunnerState>, claims: &dyn Claims, order: Order) -> ClaimResult {
    let (run_id, attempt) = (order.run_id.clone(), order.attempt);
    if !RunId::is_valid(run_id.as_str()) || attempt == 0 {
        tracing::error!(%run_id, attempt, "order with an invalid run id dropped");
        return ClaimResult::Drop;
    }
    if let Some(run) = shared.run(&(run_id.clone(), attempt)) {
        // The sender of the order may have lost the reports: its store may be a restored copy.
        let shared_by_task = shared.clone();
        shared.supervisors.spawn(async move { report_again(&shared_by_task, &run).await });
        return ClaimResult::Drop;
    }
    if let Some(message) = shared.blocking_reason(&order.job).await {
        tracing::debug!(error = message, %run_id, "order left in the queue");
        return ClaimResult::Held;
    }
    let now = Timestamp::now();
    match claim_with_retry(shared, claims, &order).await {
        Ok(Claim::Granted) => {}
        Ok(Claim::Refused) => return ClaimResult::Drop,
        Err(PortError::Retry(message)) => {
            tracing::warn!(error = message, %run_id, "claim failed; the order will be redelivered");
            return ClaimResult::Later;
        }
        Err(PortError::Permanent(message)) => {
            tracing::error!(error = message, %run_id, "claim failed permanently");
            return ClaimResult::Later;
        }
    }
    crash::point("claimed");
    let refused = refusal_reason(shared, &order, now);
    ClaimResult::Taken(Box::new(Accepted { order, accepted_at: now, boot_id: shared.boot_id.clone(), refused }))
}

/// Repeats a claim until there is an answer, at most until the lease ends. If a claim succeeded and its answer was
/// lost, this runner has the attempt, and every other runner drops the order.
async fn claim_with_retry(shared: &RunnerState, claims: &dyn Claims, order: &Order) -> Result<Claim, PortError> {
    let options = &shared.options;
    let by = Claimant { runner: &options.runner, host: &options.host, id: options.id.as_deref() };
    let until = Instant::now() + lease(shared);
    loop {
        let claimed = claims.claim(&order.run_key(), order.attempt, by, Timestamp::now()).await;
        match claimed {
            Err(PortError::Retry(message)) if Instant::now() + RETRY_DELAY < until && !shared.leave.is_cancelled() => {
                tracing::debug!(error = message, run_id = %order.run_id, "claim unanswered; retrying");
            }
            answer => return answer,
        }
        shared.leave.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
    }
}

/// Why a claimed order is not executed here. The run ends with this reason.
fn refusal_reason(shared: &RunnerState, order: &Order, now: Timestamp) -> Option<Refusal> {
    let refused = |why, message| Some(Refusal { why, message });
    if order.version > FORMAT_VERSION {
        let message = format!(
            "the order has version {}, this runner reads up to {FORMAT_VERSION}; upgrade the runner on {}",
            order.version, shared.options.host
        );
        return refused(RefusalKind::Impossible, message);
    }
    if let Some(refusal) = policy_refusal(shared, order) {
        return Some(refusal);
    }
    match order.start_by {
        Some(start_by) if start_by < now => {
            refused(RefusalKind::TooLate, format!("the order arrived at {now}, after its latest start time {start_by}"))
        }
        _ => None,
    }
}

/// The refusal by this machine's policy, if any.
fn policy_refusal(shared: &RunnerState, order: &Order) -> Option<Refusal> {
    refusal_of(&*shared.options.policy, &shared.options.runner, order)
}

/// The refusal by a policy, if any.
pub(crate) fn refusal_of(policy: &dyn Policy, runner: &str, order: &Order) -> Option<Refusal> {
    let message = policy.check_order(order).err()?;
    let message = format!("refused by the policy of runner {runner}: {message}");
    Some(Refusal { why: RefusalKind::Policy, message })
}

/// Stores the order on disk. None when the disk refuses it: the message is then redelivered.
pub(crate) async fn store_order(shared: &RunnerState, accepted: Accepted) -> Option<Arc<LocalRun>> {
    let directory = RunDirectory::new(&shared.runs_folder, &accepted.order.run_id, accepted.order.attempt);
    let run = Arc::new(LocalRun::new(directory, accepted));
    // Reads only the free space, unless the disk is full.
    shared.start_reserve.make_room();
    match shared.order_store.store(run.clone()).await {
        Ok(()) => {
            crash::point("ordered");
            lock(&shared.runs).insert(run.key(), run.clone());
            Some(run)
        }
        Err(error) => {
            tracing::error!(%error, run_id = %run.run_id(), "cannot store order; it will be redelivered");
            None
        }
    }
}

async fn delete_order(orders: &dyn Orders, receipt: &str) -> Result<(), PortError> {
    match orders.delete(receipt).await {
        Err(PortError::Retry(_)) => orders.delete(receipt).await,
        done => done,
    }
}
