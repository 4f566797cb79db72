//! Orders on their way to runners: a queue by group. What a message looks like is told in [`crate::signature`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::types::Message;
use domain::order::Order;
use domain::ports::{Delivery, Orders, PortError, PortResult};
use jiff::Timestamp;

use crate::Backend;
use crate::names::group_of_port;
use crate::signature::{self, NotOpened, Signer, Verifier};
use crate::signing_key::SigningKey;
use crate::sqs::{DELAY_MAX, Letter, sqs_text};

const KIND: &str = "orders";

/// What signs orders that are sent and verifies those that are received, where that is wanted.
#[derive(Clone, Debug, Default)]
pub struct Seal {
    pub signing_key: Option<Arc<SigningKey>>,
    pub verifier: Option<Arc<Verifier>>,
}

/// Messages that were received and not returned, since the start.
#[derive(Debug, Default)]
pub struct Refused {
    count: AtomicU64,
}

impl Refused {
    /// Orders that could not be read or did not verify.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Orders for Backend {
    async fn send(&self, orders: &[Order]) -> PortResult<()> {
        let now = Timestamp::now();
        let signer = match &self.seal.signing_key {
            Some(key) => key.signer().await?,
            None => None,
        };
        let mut by_group: BTreeMap<&str, Vec<Letter>> = BTreeMap::new();
        for order in orders {
            group_of_port(&self.names, &order.job.group)?;
            by_group.entry(&order.job.group).or_default().push(letter(order, signer, now)?);
        }
        for (group, letters) in by_group {
            self.sqs.send(&self.names.orders(group), KIND, letters).await?;
        }
        Ok(())
    }

    async fn receive(
        &self,
        groups: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<Order>>> {
        let queues = match groups {
            [] => self.queues_of_all().await?,
            groups => {
                for group in groups {
                    group_of_port(&self.names, group)?;
                }
                groups.iter().map(|group| self.names.orders(group)).collect()
            }
        };
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let (queue, messages) = self.first_of(&queues, most, lease, left).await?;
            let mut orders = Vec::with_capacity(messages.len());
            for message in messages {
                orders.extend(self.delivery(&queue, message).await?);
            }
            if !orders.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(orders);
            }
        }
    }

    async fn delete(&self, receipt: &str) -> PortResult<()> {
        let Some((queue, receipt)) = receipt.split_once(' ') else {
            return Err(PortError::Permanent(format!("`{receipt}` is no receipt of an order")));
        };
        self.sqs.delete(queue, KIND, vec![receipt.to_owned()]).await
    }
}

impl Backend {
    async fn queues_of_all(&self) -> PortResult<Vec<String>> {
        let queues = self.sqs.queues(&self.names.orders_of_all(), KIND).await?;
        Ok(queues.into_iter().filter(|queue| self.names.group_of_queue(queue).is_some()).collect())
    }

    /// The messages of the first queue that has some. One queue is waited for by SQS; several are asked in turn, each
    /// for its part of the wait, so that a message is never on its way to somebody who has stopped listening.
    async fn first_of(
        &self,
        queues: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<(String, Vec<Message>)> {
        let turn = match queues {
            [] => {
                tokio::time::sleep(wait).await;
                return Ok((String::new(), Vec::new()));
            }
            [_] => wait,
            _ => Duration::from_secs(wait.as_secs().min(1)),
        };
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for number in 0..queues.len() {
            let queue = &queues[(first + number) % queues.len()];
            let messages = self.sqs.receive(queue, KIND, most, lease, turn).await?;
            if !messages.is_empty() {
                return Ok((queue.clone(), messages));
            }
        }
        Ok((String::new(), Vec::new()))
    }

    /// The order of a message. One that comes too early is put back; one that cannot be read or does not verify is left
    /// to the dead-letter queue, counted and told.
    async fn delivery(&self, queue: &str, message: Message) -> PortResult<Option<Delivery<Order>>> {
        let (Some(body), Some(receipt)) = (message.body, message.receipt_handle) else { return Ok(None) };
        let order = match signature::open(&body, self.seal.verifier.as_deref(), Timestamp::now()) {
            Ok(order) => order,
            Err(NotOpened(why)) => {
                self.refused_orders.count.fetch_add(1, Ordering::Relaxed);
                let id = message.message_id.unwrap_or_default();
                tracing::error!(queue, message = id, why, "an order is not executed; it goes to the dead-letter queue");
                return Ok(None);
            }
        };
        let early = order.not_before.map(|not_before| not_before.duration_since(Timestamp::now()));
        if let Some(early) = early.and_then(|early| Duration::try_from(early).ok()).filter(|early| !early.is_zero()) {
            self.sqs.lease(queue, KIND, &receipt, early).await?;
            return Ok(None);
        }
        Ok(Some(Delivery { message: order, receipt: format!("{queue} {receipt}") }))
    }
}

fn letter(order: &Order, signer: Option<&Signer>, now: Timestamp) -> PortResult<Letter> {
    let what = format!("the order for {}", order.key());
    let permanent = |says: String| PortError::Permanent(format!("{what} cannot be sent: {says}"));
    let body = signature::seal(order, signer);
    let body = sqs_text(&body.map_err(|error| permanent(error.to_string()))?);
    let delay = order.not_before.and_then(|not_before| Duration::try_from(not_before.duration_since(now)).ok());
    Ok(Letter { body, delay: delay.unwrap_or_default().min(DELAY_MAX), what })
}
