//! Sends the orders of stored runs, and handles those that cannot be sent. Called by every duty that
//! orders a run, so that a group without a queue, or one that refuses this process, affects no other.

use domain::alert::Occurrence;
use domain::order::Order;
use domain::ports::{PortError, Ports, RunWrite, SendResult, Stored};
use domain::run::{Outcome, Run, RunKey};
use jiff::Timestamp;

use crate::Result;
use crate::run_end::{write_run, write_with_alerts};
use crate::scheduler::waits_for_a_runner;
use crate::system_alerts::{self, Condition};

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// A runner can receive it.
    Sent,
    /// The next call must send it again; with the error.
    Retry(String),
    /// The run waits with this reason; `overdue` sends the order again at doubling intervals.
    Denied(String),
    /// No later send can succeed: the run has ended as `missed` with this reason.
    Ended(String),
}

/// Sends orders of stored runs; results are in their order.
///
/// # Errors
/// Returns the port's error when no order could be sent; resending is harmless.
pub(crate) async fn send_orders(ports: &Ports, orders: &[Order], now: Timestamp) -> Result<Vec<Ordered>> {
    let mut ordered = Vec::with_capacity(orders.len());
    if orders.is_empty() {
        return Ok(ordered);
    }
    let results = ports.orders.send(orders).await?;
    for (order, result) in orders.iter().zip(results) {
        ordered.push(match result {
            SendResult::Sent => Ordered::Sent,
            SendResult::Retry(error) => Ordered::Retry(error),
            SendResult::Denied(reason) => {
                tracing::error!(job = %order.job.key(), run_id = %order.run_id, reason, "order refused; it is sent again");
                if let Err(error) = note_reason(ports, order, &reason).await {
                    tracing::error!(run_id = %order.run_id, %error, "cannot store why a run waits");
                }
                Ordered::Denied(reason)
            }
            SendResult::Never(reason) => {
                tracing::error!(job = %order.job.key(), run_id = %order.run_id, reason, "order cannot be sent");
                match end_unsent(ports, order, &reason, now).await {
                    Ok(()) => Ordered::Ended(reason),
                    // The next call sends it again, and ends its run then.
                    Err(error) => Ordered::Retry(error.to_string()),
                }
            }
        });
    }
    Ok(ordered)
}

/// Ends the run of an order that can never be sent. A run that was claimed or changed since stays as it is.
async fn end_unsent(ports: &Ports, order: &Order, reason: &str, now: Timestamp) -> Result<()> {
    let Some(Stored { record: mut run, version }) = waiting_run(ports, order).await? else { return Ok(()) };
    run.finish(Outcome::Missed, reason, now);
    let occurrence = Occurrence::Ended(Outcome::Missed);
    write_with_alerts(ports, Some(&order.job), &run, Some(version), occurrence, now).await?;
    Ok(())
}

/// Stores why the run waits. Nothing is written when the reason is stored already.
async fn note_reason(ports: &Ports, order: &Order, reason: &str) -> Result<()> {
    let Some(Stored { record: mut run, version }) = waiting_run(ports, order).await? else { return Ok(()) };
    if run.reason.as_deref() != Some(reason) {
        run.reason = Some(reason.to_owned());
        write_run(ports, RunWrite { run, expected: Some(version), alert: None }).await?;
    }
    Ok(())
}

/// The run of an order that no runner has claimed.
async fn waiting_run(ports: &Ports, order: &Order) -> Result<Option<Stored<Run>>> {
    let key = RunKey::new(&order.job.group, order.run_id.clone());
    let found = ports.runs.get(&[key]).await?.into_iter().next();
    Ok(found.filter(|stored| waits_for_a_runner(&stored.record) && stored.record.attempt == order.attempt))
}

/// Sends the order of one run.
///
/// # Errors
/// Returns the port's error, also for [`Ordered::Retry`]; resending is harmless.
pub(crate) async fn send_order(ports: &Ports, order: Order, now: Timestamp) -> Result<Ordered> {
    match send_orders(ports, &[order], now).await?.into_iter().next() {
        Some(Ordered::Retry(error)) => Err(PortError::Retry(error).into()),
        Some(ordered) => Ok(ordered),
        None => Ok(Ordered::Sent),
    }
}

/// Records that orders of a group are refused until an operator changes something, or are accepted again, as the
/// failure and recovery of the system job `sexton/orders.GROUP`.
pub(crate) async fn alert_denied(ports: &Ports, group: &str, denied: Option<&str>, now: Timestamp) -> Result<()> {
    let (outcome, reason) = match denied {
        Some(reason) => (Outcome::Failed, format!("no run of group {group} can start: {reason}")),
        None => (Outcome::Succeeded, format!("orders of group {group} are accepted again")),
    };
    let (key, id_prefix) = (system_alerts::key(format!("orders.{group}")), format!("orders:{group}"));
    let condition = Condition { key: &key, id_prefix: &id_prefix, outcome, reason: &reason, sent_unrecorded: false };
    system_alerts::change(ports, condition, now).await?;
    Ok(())
}
