//! Collects the batches of the reports queue. Records are independent: an unreadable one, or one whose sender may not
//! report for its group, raises an alert, moves to the dead-letter queue, and blocks no other.
//!
//! The answer names the records that could not be stored, and SQS redelivers them. Lambda deletes all others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws::Names;
use aws_lambda_events::event::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use domain::alert::{AlertKind, Transition};
use domain::event::Event;
use domain::job::JobKey;
use domain::ports::{AlertStep, Delivery, Notifier, PortResult, Ports, Reports};
use jiff::Timestamp;
use rules::Packs;
use services::{collector, release};

use crate::scheduler::send_alerts;
use crate::senders::{SenderCheck, Senders};

/// Messages to a topic after one batch. Five a second are published, and the Lambda has 30 s; the scheduler's tick
/// sends the rest.
const MESSAGES_MAX: u32 = 40;

/// Collects batches of reports.
pub struct Collector<'c> {
    /// All ports but `reports`, which the batch replaces.
    pub ports: &'c Ports,
    /// Rule packs, for runs that are judged again.
    pub packs: &'c Packs,
    /// Checks the sender of each report.
    pub senders: &'c Senders,
    /// Receives the reports that can never be collected.
    pub dead_letters: &'c DeadLetterQueue,
    /// Sends alerts.
    pub notifier: &'c dyn Notifier,
    /// Name of this process in claims of alerts.
    pub worker: &'c str,
}

/// Reasons why a record is not collected.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// The record can never be collected. `reason` is for operators; `cause` is part of the alert's id, so each cause
    /// raises at most one alert a day.
    Permanent { reason: String, cause: String },
    /// SQS redelivers the record.
    Retry(String),
}

impl Collector<'_> {
    /// Collects a batch. The answer names the records that SQS has to redeliver.
    pub async fn collect(&self, batch: SqsEvent, now: Timestamp) -> SqsBatchResponse {
        let mut answer = SqsBatchResponse::default();
        let mut deliveries = Vec::new();
        let count = batch.records.len();
        let mut rejected = 0;
        for record in &batch.records {
            match self.decode(record).await {
                Ok(delivery) => deliveries.push(delivery),
                Err(Fault::Permanent { reason, cause }) => match self.reject(record, &reason, &cause, now).await {
                    Ok(()) => rejected += 1,
                    Err(error) => {
                        tracing::error!(
                            message = message_id(record),
                            error,
                            "cannot move a report to the dead-letter queue; it will be redelivered"
                        );
                        answer.add_failure(message_id(record));
                    }
                },
                Err(Fault::Retry(reason)) => {
                    tracing::warn!(
                        message = message_id(record),
                        "cannot check the sender of a report; it will be redelivered: {reason}"
                    );
                    answer.add_failure(message_id(record));
                }
            }
        }
        let unstored = self.store(deliveries, now).await;
        tracing::info!(
            received = count,
            rejected,
            redelivered = unstored.len() + answer.batch_item_failures.len(),
            "reports collected"
        );
        unstored.into_iter().for_each(|id| answer.add_failure(id));
        answer
    }

    async fn decode(&self, record: &SqsMessage) -> Result<Delivery<Event>, Fault> {
        let body = record.body.as_deref().unwrap_or_default();
        let event =
            aws::decode_report(body).map_err(|reason| Fault::Permanent { reason, cause: "unreadable".to_owned() })?;
        let sender = record.attributes.get("SenderId").map(String::as_str).unwrap_or_default();
        match self.senders.check(&event.group, sender).await {
            SenderCheck::Accepted => Ok(Delivery { message: event, receipt: message_id(record).to_owned() }),
            SenderCheck::Refused(reason) => Err(Fault::Permanent {
                reason: format!("for run {}: {reason}", event.run_id),
                cause: format!("refused:{}:{sender}", event.group),
            }),
            SenderCheck::Unknown(reason) => Err(Fault::Retry(reason)),
        }
    }

    /// Raises the alert first: without it, nothing points to the record in the dead-letter queue.
    async fn reject(&self, record: &SqsMessage, reason: &str, cause: &str, now: Timestamp) -> Result<(), String> {
        let sender = record.attributes.get("SenderId").map(String::as_str).unwrap_or("an unknown sender");
        let alert_reason = format!("a report from {sender} was moved to {}: {reason}", self.dead_letters.queue());
        tracing::error!(message = message_id(record), sender, "{alert_reason}");
        let day = now.as_second().div_euclid(86_400);
        let id = format!("report:{cause}:{day}");
        let transition = Transition::new(id, AlertKind::BadJob, &JobKey::new("", ""), alert_reason, now);
        let step = AlertStep { state: None, transitions: vec![transition] };
        self.ports.alerts.raise(&step).await.map_err(|error| error.to_string())?;
        self.dead_letters.send(record.body.as_deref().unwrap_or_default(), reason).await
    }

    /// Stores reports, and returns the message ids of those that could not be stored.
    async fn store(&self, deliveries: Vec<Delivery<Event>>, now: Timestamp) -> Vec<String> {
        let all: Vec<String> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
        if all.is_empty() {
            return Vec::new();
        }
        let received = Arc::new(ReceivedReports::default());
        let ports = Ports { reports: received.clone(), ..self.ports.clone() };
        match collector::collect(&ports, self.packs, deliveries, now).await {
            Ok(summary) if summary.ended > 0 => self.follow_up(&summary, now).await,
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "cannot store reports; they will be redelivered"),
        }
        let received = received.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        all.into_iter().filter(|id| !received.contains(id)).collect()
    }

    /// Releases held runs and sends alerts after a run's end. If this fails, the scheduler's next tick does it.
    async fn follow_up(&self, summary: &collector::CollectorSummary, now: Timestamp) {
        if let Err(error) = release::release_jobs(self.ports, &summary.ended_jobs, now).await {
            tracing::warn!(%error, "cannot release held runs; the next tick releases them");
        }
        if let Err(error) = send_alerts(self.ports, self.notifier, self.worker, MESSAGES_MAX, now).await {
            tracing::warn!(%error, "cannot send alerts; the next tick sends them");
        }
    }
}

fn message_id(record: &SqsMessage) -> &str {
    record.message_id.as_deref().unwrap_or_default()
}

/// The reports port over a batch that Lambda has received. Collects the receipts of processed reports, which Lambda
/// deletes itself.
#[derive(Default)]
struct ReceivedReports {
    receipts: Mutex<Vec<String>>,
}

#[async_trait]
impl Reports for ReceivedReports {
    async fn send(&self, _: &[Event]) -> PortResult<()> {
        Ok(())
    }

    async fn receive(&self, _: usize, _: Duration, _: Duration) -> PortResult<Vec<Delivery<Event>>> {
        Ok(Vec::new())
    }

    async fn delete(&self, receipts: &[String]) -> PortResult<()> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(receipts);
        Ok(())
    }
}

/// The dead-letter queue of reports, for reports that can never be collected.
pub struct DeadLetterQueue {
    client: Client,
    queue: String,
}

/// Bytes of the attribute with the reason. Chosen: enough for one sentence; it counts towards the size of the message.
const REASON_BYTES_MAX: usize = 1000;

impl DeadLetterQueue {
    /// Makes no call.
    pub fn new(client: Client, names: &Names) -> DeadLetterQueue {
        DeadLetterQueue { client, queue: names.reports_dead() }
    }

    /// Returns the name of the queue.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Sends a body unchanged, with the reason as the attribute `why`.
    async fn send(&self, body: &str, why: &str) -> Result<(), String> {
        let send_error = |error: String| format!("cannot send to the queue {}: {error}", self.queue);
        let url = self.client.get_queue_url().queue_name(&self.queue).send().await;
        let url =
            url.map_err(|error| send_error(DisplayErrorContext(error).to_string()))?.queue_url.unwrap_or_default();
        let why: String = why.chars().take(REASON_BYTES_MAX / 4).collect();
        let attribute = aws_sdk_sqs::types::MessageAttributeValue::builder().data_type("String").string_value(why);
        let attribute = attribute.build().map_err(|error| send_error(error.to_string()))?;
        let sent = self.client.send_message().queue_url(url).message_body(body).message_attributes("why", attribute);
        sent.send().await.map(drop).map_err(|error| send_error(DisplayErrorContext(error).to_string()))
    }
}
