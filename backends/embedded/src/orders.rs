//! The order queue, which runners receive from by group.

use std::time::Duration;

use async_trait::async_trait;
use domain::order::Order;
use domain::ports::{Delivery, Orders, PortError, PortResult, SendResult};
use jiff::Timestamp;

use crate::Embedded;
use crate::database::Durability;
use crate::queue::QueuedMessage;

#[async_trait]
impl Orders for Embedded {
    async fn send(&self, orders: &[Order]) -> PortResult<Vec<SendResult>> {
        let messages = orders.iter().map(queued_message).collect::<PortResult<Vec<_>>>()?;
        self.orders.send(messages, Durability::Normal).await?;
        Ok(vec![SendResult::Sent; orders.len()])
    }

    async fn receive(
        &self,
        groups: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<Order>>> {
        self.orders.receive(groups, most, lease, wait).await
    }

    async fn delete(&self, receipt: &str) -> PortResult<()> {
        self.orders.delete(&[receipt.to_owned()]).await
    }
}

fn queued_message(order: &Order) -> PortResult<QueuedMessage> {
    Ok(QueuedMessage {
        key: format!("{}:{}", order.run_id, order.attempt),
        group: order.job.group.clone(),
        ready: order.not_before.unwrap_or(Timestamp::UNIX_EPOCH),
        body: serde_json::to_string(order).map_err(|error| PortError::Permanent(error.to_string()))?,
    })
}
