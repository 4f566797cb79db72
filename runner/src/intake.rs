//! Takes orders: asks for as many as there is room for, claims each, puts it on disk, and only then deletes its message.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use domain::order::{FORMAT_VERSION, Order};
use domain::ports::{Claim, Claims, Delivery, Orders, PortError};
use domain::run::{AttemptKey, RunId};
use jiff::Timestamp;
use keeper::crash;
use keeper::directory::{Durability, RunDirectory, write_json};
use keeper::records::{Accepted, Refusal, RefusalKind};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::local_run::{LocalRun, locked};
use crate::options::{Mode, Ports};
use crate::required_sinks::FRESH;
use crate::runner_state::Shared;
use crate::supervise::attend;

/// Time to claim and store an order before its message comes again. Ours; SQS's own default is 30 s.
const LEASE: Duration = Duration::from_secs(60);

/// SQS's longest poll (ReceiveMessage, WaitTimeSeconds).
const WAIT: Duration = Duration::from_secs(20);

/// The same where a required sink may hold orders up: so soon is one that was left in the queue looked at again. Ours.
const HELD_LEASE: Duration = Duration::from_secs(5);

const RETRY_DELAY: Duration = Duration::from_secs(1);

fn lease(shared: &Shared) -> Duration {
    if shared.has_required_sinks() { HELD_LEASE } else { LEASE }
}

/// Takes orders until `stop`.
pub async fn take_orders(shared: Arc<Shared>, ports: Ports, stop: CancellationToken) {
    let mut told = false;
    while !stop.is_cancelled() {
        let changed = shared.admission_changed.notified();
        let room = locked(&shared.admission).room();
        if room == 0 {
            tokio::select! { () = changed => {}, () = stop.cancelled() => {} }
            continue;
        }
        if shared.all_held().await.is_some() {
            // Left in the queue: another runner may reach what this one cannot.
            tokio::select! { () = tokio::time::sleep(FRESH) => {}, () = stop.cancelled() => {} }
            continue;
        }
        let received = ports.orders.receive(&shared.options.groups, room, lease(&shared), WAIT);
        let received = match stop.run_until_cancelled(received).await {
            None => return,
            Some(Ok(received)) => received,
            Some(Err(error)) => {
                match std::mem::replace(&mut told, true) {
                    true => tracing::debug!(%error, "still no orders to be had"),
                    false => tracing::warn!(%error, "orders cannot be received; it is tried again"),
                }
                tokio::select! { () = tokio::time::sleep(RETRY_DELAY) => {}, () = stop.cancelled() => {} }
                continue;
            }
        };
        told = false;
        crash::point("received");
        match shared.options.mode {
            Mode::Free => take_beside(&shared, &ports, received).await,
            Mode::Serial | Mode::Resources { .. } => take_in_order(&shared, &ports, received).await,
        }
    }
}

/// Where everything starts at once, nobody waits for anybody's disk.
async fn take_beside(shared: &Arc<Shared>, ports: &Ports, received: Vec<Delivery<Order>>) {
    for delivery in received {
        let Ok(turn) = shared.takers.clone().acquire_owned().await else { return };
        let (shared_by_task, ports) = (shared.clone(), ports.clone());
        shared.attending.spawn(async move {
            if let Some(run) = take(shared_by_task.clone(), ports, delivery).await {
                locked(&shared_by_task.admission).enter(run.key(), run.job().needs);
                admit(&shared_by_task);
            }
            drop(turn);
        });
    }
}

/// In the order in which they were issued, whatever claim was answered first.
async fn take_in_order(shared: &Arc<Shared>, ports: &Ports, received: Vec<Delivery<Order>>) {
    let mut taking = JoinSet::new();
    for delivery in received {
        taking.spawn(take(shared.clone(), ports.clone(), delivery));
    }
    let mut taken: Vec<Arc<LocalRun>> = taking.join_all().await.into_iter().flatten().collect();
    taken.sort_by(|a, b| (a.accepted.order.issued_at, a.run_id()).cmp(&(b.accepted.order.issued_at, b.run_id())));
    for run in taken {
        locked(&shared.admission).enter(run.key(), run.job().needs);
    }
    admit(shared);
}

/// Starts whatever may start now.
pub fn admit(shared: &Arc<Shared>) {
    loop {
        let Some(key) = locked(&shared.admission).admit() else { return };
        match shared.run(&key) {
            Some(run) => drop(shared.attending.spawn(attend(shared.clone(), run))),
            None => locked(&shared.admission).release(domain::job::Needs::default()),
        }
    }
}

/// Admits whenever a run has ended.
pub async fn admit_always(shared: Arc<Shared>) {
    loop {
        let changed = shared.admission_changed.notified();
        admit(&shared);
        changed.await;
    }
}

/// Makes the order this runner's own. None when it is not to be run here, or not yet.
async fn take(shared: Arc<Shared>, ports: Ports, delivery: Delivery<Order>) -> Option<Arc<LocalRun>> {
    let order = delivery.message;
    let run_id = order.run_id.clone();
    // Its copy, come at the same moment, is left to come again; by then the first one's directory tells.
    let _taking = Taken::begin(&shared, (run_id.clone(), order.attempt))?;
    let taken = match claim(&shared, &*ports.claims, order).await {
        Taking::Later => return None,
        Taking::Drop => None,
        Taking::Ours(accepted) => Some(store(&shared, *accepted).await?),
    };
    if let Err(error) = delete(&*ports.orders, &delivery.receipt).await {
        tracing::warn!(%error, %run_id, "an order's message cannot be deleted; it will come again and be dropped");
    }
    crash::point("deleted");
    taken
}

/// While it lives, nobody else takes the same attempt.
struct Taken<'s> {
    shared: &'s Shared,
    key: AttemptKey,
}

impl Taken<'_> {
    fn begin(shared: &Shared, key: AttemptKey) -> Option<Taken<'_>> {
        let is_first = locked(&shared.taking).insert(key.clone());
        is_first.then(|| Taken { shared, key })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        locked(&self.shared.taking).remove(&self.key);
    }
}

enum Taking {
    Ours(Box<Accepted>),
    /// Somebody has it, or it can never be run.
    Drop,
    /// The message comes again.
    Later,
}

async fn claim(shared: &Shared, claims: &dyn Claims, order: Order) -> Taking {
    let (run_id, attempt) = (order.run_id.clone(), order.attempt);
    if !RunId::is_valid(run_id.as_str()) || attempt == 0 {
        tracing::error!(%run_id, attempt, "an order without a proper name is dropped");
        return Taking::Drop;
    }
    if shared.run(&(run_id.clone(), attempt)).is_some() {
        return Taking::Drop;
    }
    if let Some(says) = shared.held(&order.job).await {
        tracing::debug!(says, %run_id, "an order is left in the queue");
        return Taking::Later;
    }
    let now = Timestamp::now();
    match answer_to_claim(shared, claims, &order).await {
        Ok(Claim::Granted) => {}
        Ok(Claim::Refused) => return Taking::Drop,
        Err(PortError::Retry(says)) => {
            tracing::warn!(says, %run_id, "an order cannot be claimed now; it comes again");
            return Taking::Later;
        }
        Err(PortError::Permanent(says)) => {
            tracing::error!(says, %run_id, "an order cannot be claimed");
            return Taking::Later;
        }
    }
    crash::point("claimed");
    let refused = refusal(shared, &order, now);
    Taking::Ours(Box::new(Accepted { order, accepted_at: now, boot_id: shared.boot_id.clone(), refused }))
}

/// Claims again until there is an answer, for as long as nobody else gets the message. A claim that worked and was not
/// answered makes the run this runner's, and another one would drop its order.
async fn answer_to_claim(shared: &Shared, claims: &dyn Claims, order: &Order) -> Result<Claim, PortError> {
    let (runner, host) = (&shared.options.runner, &shared.options.host);
    let until = Instant::now() + lease(shared);
    loop {
        let claimed = claims.claim(&order.run_key(), order.attempt, runner, host, Timestamp::now()).await;
        match claimed {
            Err(PortError::Retry(says)) if Instant::now() + RETRY_DELAY < until && !shared.leave.is_cancelled() => {
                tracing::debug!(says, run_id = %order.run_id, "a claim was not answered and is made again");
            }
            answer => return answer,
        }
        shared.leave.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
    }
}

/// Why the order, once claimed, is not executed here; it ends with that reason instead.
fn refusal(shared: &Shared, order: &Order, now: Timestamp) -> Option<Refusal> {
    let refused = |why, says| Some(Refusal { why, says });
    if order.version > FORMAT_VERSION {
        let says = format!(
            "the order has version {}, this runner reads up to {FORMAT_VERSION}; upgrade the runner on {}",
            order.version, shared.options.host
        );
        return refused(RefusalKind::Impossible, says);
    }
    if let Some(refusal) = refused_by_policy(shared, order) {
        return Some(refusal);
    }
    match order.start_by {
        Some(start_by) if start_by < now => {
            refused(RefusalKind::TooLate, format!("the order came at {now}, to be started by {start_by}"))
        }
        _ => None,
    }
}

/// What this machine's policy has against the order.
pub fn refused_by_policy(shared: &Shared, order: &Order) -> Option<Refusal> {
    let says = shared.options.policy.allows(order).err()?;
    let says = format!("refused by the policy of runner {}: {says}", shared.options.runner);
    Some(Refusal { why: RefusalKind::Policy, says })
}

/// Puts the order on disk. None when the disk does not take it: the message comes again.
pub async fn store(shared: &Shared, accepted: Accepted) -> Option<Arc<LocalRun>> {
    let directory = RunDirectory::of(&shared.runs_folder, &accepted.order.run_id, accepted.order.attempt);
    let run = Arc::new(LocalRun::new(directory, accepted));
    let of_run = run.clone();
    let turn = shared.storers.acquire().await;
    let stored = tokio::task::spawn_blocking(move || -> io::Result<()> {
        of_run.directory.create()?;
        write_json(&of_run.directory.order(), &of_run.accepted, Durability::Disk)
    })
    .await;
    drop(turn);
    match stored.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(()) => {
            crash::point("ordered");
            locked(&shared.runs).insert(run.key(), run.clone());
            Some(run)
        }
        Err(error) => {
            tracing::error!(%error, run_id = %run.run_id(), "an order cannot be stored; it comes again");
            None
        }
    }
}

async fn delete(orders: &dyn Orders, receipt: &str) -> Result<(), PortError> {
    match orders.delete(receipt).await {
        Err(PortError::Retry(_)) => orders.delete(receipt).await,
        done => done,
    }
}
