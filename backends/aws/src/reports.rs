//! The reports queue, with the sender of each report.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use domain::event::Event;
use domain::ports::{Delivery, PortError, PortResult, Reports};

use crate::Backend;
use crate::sqs::{OutgoingMessage, escape_for_sqs};

const METER_KIND: &str = "reports";

/// A report with its sender. The collector checks that the sender may report for the run's group.
#[derive(Clone, Debug)]
pub struct SentReport {
    /// The report and the receipt that deletes it.
    pub delivery: Delivery<Event>,
    /// `SenderId` of SQS: for a role `AROA...:SESSION`.
    pub sender_id: Option<String>,
}

#[async_trait]
impl Reports for Backend {
    async fn send(&self, events: &[Event]) -> PortResult<()> {
        let messages = events.iter().map(outgoing_message).collect::<PortResult<Vec<_>>>()?;
        self.sqs.send(&self.names.reports(), METER_KIND, messages).await
    }

    async fn receive(&self, most: usize, lease: Duration, wait: Duration) -> PortResult<Vec<Delivery<Event>>> {
        Ok(self.receive_sent(most, lease, wait).await?.into_iter().map(|sent| sent.delivery).collect())
    }

    async fn delete(&self, receipts: &[String]) -> PortResult<()> {
        let mut receipts = receipts.to_vec();
        receipts.sort();
        receipts.dedup();
        if receipts.is_empty() {
            return Ok(());
        }
        self.sqs.delete(&self.names.reports(), METER_KIND, receipts).await
    }
}

impl Backend {
    /// As [`Reports::receive`], with the senders.
    pub(crate) async fn receive_sent(
        &self,
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<SentReport>> {
        let messages = self.sqs.receive(&self.names.reports(), METER_KIND, most, lease, wait).await?;
        let mut reports = Vec::with_capacity(messages.len());
        for message in messages {
            reports.extend(self.parse_report(message).await);
        }
        Ok(reports)
    }

    /// Quarantines an unreadable report: it stays in the queue until SQS moves it to the dead-letter queue.
    async fn parse_report(&self, mut message: Message) -> Option<SentReport> {
        let sender_id = message.attributes.as_mut().and_then(|all| all.remove(&MessageSystemAttributeName::SenderId));
        match decode_report(message.body.as_deref().unwrap_or_default()) {
            Ok(event) => {
                let receipt = message.receipt_handle.unwrap_or_default();
                Some(SentReport { delivery: Delivery { message: event, receipt }, sender_id })
            }
            Err(why) => {
                self.quarantine("report", message.message_id.as_deref().unwrap_or("without an id"), &why).await;
                None
            }
        }
    }
}

/// Decodes the body of a message of the reports queue. The collector's Lambda receives such bodies in its event.
///
/// # Errors
/// Returns one sentence why the body is unreadable.
pub fn decode_report(body: &str) -> Result<Event, String> {
    serde_json::from_str(body).map_err(|error| format!("the message is not a report: {error}"))
}

fn outgoing_message(event: &Event) -> PortResult<OutgoingMessage> {
    let body = serde_json::to_string(event)
        .map_err(|error| PortError::Permanent(format!("a report cannot be written as json: {error}")))?;
    let name = format!("a report of run {}", event.run_id);
    Ok(OutgoingMessage { body: escape_for_sqs(&body), delay: Duration::ZERO, name })
}
