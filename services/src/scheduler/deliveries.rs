//! The orders of a tick: what could not be sent, and the alerts about groups that refuse orders.

use std::collections::{BTreeMap, BTreeSet};

use domain::job::JobKey;
use domain::order::Order;
use domain::ports::Ports;
use domain::run::RunId;
use jiff::Timestamp;

use super::Tick;
use crate::Result;
use crate::firing_plan::LATE_MAX;
use crate::new_runs::{due_at, elapsed_since};
use crate::ordering::{Ordered, alert_denied, send_orders};

/// Groups by what became of their orders in this tick.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// With the reason of the latest refusal.
    denied: BTreeMap<String, String>,
    accepted: BTreeSet<String>,
    /// Why a run could not be stored or ordered that the next tick stores or orders.
    unsent: Option<String>,
}

impl Deliveries {
    /// A run could not be stored; the next tick stores it.
    pub(super) fn note_failure(&mut self, error: String) {
        self.unsent = Some(error);
    }

    /// Alerts about groups that refuse orders, and about those that accept them again. `known` is stored between ticks.
    /// Returns why an order could not be sent that the next tick sends again.
    pub(super) async fn alert(
        self,
        ports: &Ports,
        known: &mut BTreeSet<String>,
        now: Timestamp,
    ) -> Result<Option<String>> {
        for group in known.iter().filter(|group| self.accepted.contains(*group) && !self.denied.contains_key(*group)) {
            alert_denied(ports, group, None, now).await?;
        }
        known.retain(|group| !self.accepted.contains(group));
        for (group, reason) in &self.denied {
            alert_denied(ports, group, Some(reason), now).await?;
            known.insert(group.clone());
        }
        Ok(self.unsent)
    }
}

impl Tick<'_> {
    fn is_late(&self, order: &Order) -> bool {
        elapsed_since(due_at(&order.job, order.nominal), self.context.now) > LATE_MAX
    }

    /// Sends orders, those of `resent` not for the first time. Returns the jobs whose orders the next tick must send
    /// again.
    pub(super) async fn send_orders(&mut self, orders: &[Order], resent: &BTreeSet<RunId>) -> Result<BTreeSet<JobKey>> {
        let mut again = BTreeSet::new();
        let sent = send_orders(self.ports, orders, self.context.now).await?;
        for (order, ordered) in orders.iter().zip(sent) {
            let group = &order.job.group;
            match ordered {
                Ordered::Sent => drop(self.deliveries.accepted.insert(group.clone())),
                // Its run waits since an earlier tick: `overdue` sends the order at doubling intervals.
                Ordered::Retry(error) if resent.contains(&order.run_id) && self.is_late(order) => {
                    tracing::warn!(run_id = %order.run_id, error, "order cannot be sent; it is sent again later");
                }
                Ordered::Retry(error) => {
                    again.insert(order.job.key());
                    self.deliveries.unsent = Some(error);
                }
                Ordered::Denied(reason) => drop(self.deliveries.denied.insert(group.clone(), reason)),
                Ordered::Ended(_) => self.summary.missed += 1,
            }
        }
        Ok(again)
    }
}
