//! The reports queue. A report is synced to the disk before it counts as accepted.

use std::time::Duration;

use async_trait::async_trait;
use domain::event::Event;
use domain::ports::{Delivery, PortError, PortResult, Reports};
use jiff::Timestamp;

use crate::Embedded;
use crate::database::Durability;
use crate::queue::QueuedMessage;

#[async_trait]
impl Reports for Embedded {
    async fn send(&self, events: &[Event]) -> PortResult<()> {
        let messages = events.iter().map(queued_message).collect::<PortResult<Vec<_>>>()?;
        self.reports.send(messages, Durability::Full).await
    }

    async fn receive(&self, most: usize, lease: Duration, wait: Duration) -> PortResult<Vec<Delivery<Event>>> {
        self.reports.receive(&[], most, lease, wait).await
    }

    async fn delete(&self, receipts: &[String]) -> PortResult<()> {
        self.reports.delete(receipts).await
    }
}

fn queued_message(event: &Event) -> PortResult<QueuedMessage> {
    Ok(QueuedMessage {
        key: event.id(),
        group: event.group.clone(),
        ready: Timestamp::UNIX_EPOCH,
        body: serde_json::to_string(event).map_err(|error| PortError::Permanent(error.to_string()))?,
    })
}
