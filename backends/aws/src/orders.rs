//! The order queues, one per group. [`crate::signature`] defines the format of a message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::types::Message;
use domain::order::Order;
use domain::ports::{Delivery, Orders, PortError, PortResult, SendResult};
use jiff::Timestamp;

use crate::Backend;
use crate::dynamo::run_parallel;
use crate::names::{check_group, check_group_for_port};
use crate::signature::{self, Signer, Verifier, VerifyError};
use crate::signing_key::SigningKey;
use crate::sqs::{DELAY_MAX, Origin, OutgoingMessage, escape_for_sqs};

const METER_KIND: &str = "orders";

/// Key that signs sent orders, and verifier of received orders.
#[derive(Clone, Debug, Default)]
pub struct OrderSigning {
    /// The installation's key; none sends unsigned orders, for tests.
    pub signing_key: Option<Arc<SigningKey>>,
    /// Without a verifier, every readable order is accepted.
    pub verifier: Option<Arc<Verifier>>,
}

/// Counts received messages that are not passed on, since the start of the process.
#[derive(Debug, Default)]
pub struct RefusedOrders {
    count: AtomicU64,
}

impl RefusedOrders {
    /// Returns the number of orders that were unreadable, expired or not signed correctly. A redelivered message counts
    /// each time.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Orders for Backend {
    async fn send(&self, orders: &[Order]) -> PortResult<Vec<SendResult>> {
        let now = Timestamp::now();
        let signer = match self.order_signer().await? {
            Ok(signer) => signer,
            Err(reason) => return Ok(vec![SendResult::Denied(reason); orders.len()]),
        };
        let mut results = vec![SendResult::Sent; orders.len()];
        let mut by_group: BTreeMap<&str, OrdersOfGroup> = BTreeMap::new();
        for (index, order) in orders.iter().enumerate() {
            let group = &order.job.group;
            let message =
                check_group(&self.names, group).and_then(|()| outgoing_message(order, signer.as_deref(), now));
            match message {
                Ok(message) => by_group.entry(group).or_default().push((index, message)),
                Err(reason) => results[index] = SendResult::Never(reason),
            }
        }
        let issued_at = orders.first().map(|order| order.issued_at);
        let this = self.clone();
        let send = move |(group, messages): (String, OrdersOfGroup)| {
            let this = this.clone();
            async move {
                let queue = this.names.orders(&group);
                let absent = format!(
                    "group {group} has no queue: the queue {queue} does not exist; add the group to the installation, \
                     or correct the group of the job"
                );
                let origin = Origin { issued_at, absent };
                let (indexes, messages): (Vec<usize>, Vec<OutgoingMessage>) = messages.into_iter().unzip();
                let sent = this.sqs.send_each(&queue, METER_KIND, messages, origin).await?;
                Ok(indexes.into_iter().zip(sent).collect::<Vec<_>>())
            }
        };
        let groups = by_group.into_iter().map(|(group, messages)| (group.to_owned(), messages)).collect();
        for (index, result) in run_parallel(groups, send).await?.into_iter().flatten() {
            results[index] = result;
        }
        Ok(results)
    }

    async fn receive(
        &self,
        groups: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<Order>>> {
        let queues = match groups {
            [] => self.list_order_queues().await?,
            groups => {
                for group in groups {
                    check_group_for_port(&self.names, group)?;
                }
                groups.iter().map(|group| self.names.orders(group)).collect()
            }
        };
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let (queue, messages) = self.receive_from_next_queue(&queues, most, lease, left).await?;
            let mut orders = Vec::with_capacity(messages.len());
            for message in messages {
                orders.extend(self.verify_delivery(&queue, message).await?);
            }
            if !orders.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(orders);
            }
        }
    }

    async fn delete(&self, receipt: &str) -> PortResult<()> {
        let Some((queue, receipt)) = receipt.split_once(' ') else {
            return Err(PortError::Permanent(format!("`{receipt}` is not the receipt of an order")));
        };
        self.sqs.delete(queue, METER_KIND, vec![receipt.to_owned()]).await
    }
}

impl Backend {
    async fn list_order_queues(&self) -> PortResult<Vec<String>> {
        let queues = self.sqs.list_queues(&self.names.orders_prefix(), METER_KIND).await?;
        Ok(queues.into_iter().filter(|queue| self.names.group_of_queue(queue).is_some()).collect())
    }

    /// Receives from the first queue with messages. For one queue, SQS waits. Several queues are polled one after the
    /// other, up to 1 s each, so that no receive is abandoned while a message is on its way to it.
    async fn receive_from_next_queue(
        &self,
        queues: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<(String, Vec<Message>)> {
        let wait_per_queue = match queues {
            [] => {
                tokio::time::sleep(wait).await;
                return Ok((String::new(), Vec::new()));
            }
            [_] => wait,
            _ => Duration::from_secs(wait.as_secs().min(1)),
        };
        let first = self.next_queue.fetch_add(1, Ordering::Relaxed);
        for number in 0..queues.len() {
            let queue = &queues[(first + number) % queues.len()];
            let messages = self.sqs.receive(queue, METER_KIND, most, lease, wait_per_queue).await?;
            if !messages.is_empty() {
                return Ok((queue.clone(), messages));
            }
        }
        Ok((String::new(), Vec::new()))
    }

    /// Returns the order of a message. An order before its start time is hidden until then. A refused order is logged
    /// and counted, and stays in the queue until SQS moves it to the dead-letter queue.
    async fn verify_delivery(&self, queue: &str, message: Message) -> PortResult<Option<Delivery<Order>>> {
        let (Some(body), Some(receipt)) = (message.body, message.receipt_handle) else { return Ok(None) };
        let order = match signature::verify_order(&body, self.signing.verifier.as_deref(), Timestamp::now()) {
            Ok(order) => order,
            Err(VerifyError(reason)) => {
                self.refused_orders.count.fetch_add(1, Ordering::Relaxed);
                let id = message.message_id.unwrap_or_default();
                tracing::error!(
                    queue,
                    message = id,
                    why = reason,
                    "order refused; SQS moves it to the dead-letter queue"
                );
                return Ok(None);
            }
        };
        let early = order.not_before.map(|not_before| not_before.duration_since(Timestamp::now()));
        if let Some(early) = early.and_then(|early| Duration::try_from(early).ok()).filter(|early| !early.is_zero()) {
            self.sqs.change_lease(queue, METER_KIND, &receipt, early).await?;
            return Ok(None);
        }
        Ok(Some(Delivery { message: order, receipt: format!("{queue} {receipt}") }))
    }
}

/// Messages to one queue, each with the place of its order in the call.
type OrdersOfGroup = Vec<(usize, OutgoingMessage)>;

/// # Errors
/// Returns why the order cannot be written.
fn outgoing_message(order: &Order, signer: Option<&Signer>, now: Timestamp) -> Result<OutgoingMessage, String> {
    let name = format!("the order for {}", order.key());
    let body = signature::sign_order(order, signer);
    let body = escape_for_sqs(&body.map_err(|error| format!("{name} cannot be sent: {error}"))?);
    let delay = order.not_before.and_then(|not_before| Duration::try_from(not_before.duration_since(now)).ok());
    Ok(OutgoingMessage { body, delay: delay.unwrap_or_default().min(DELAY_MAX), name })
}
