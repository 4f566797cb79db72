//! The collector's batches. Each record stands alone: one that cannot be read, or whose sender may not speak for its
//! group, is parked in the dead-letter queue and told, and keeps no other from being stored. What could not be stored
//! now is named in the answer and comes again; everything else, Lambda deletes.

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

pub struct Collector<'c> {
    pub ports: &'c Ports,
    pub packs: &'c Packs,
    pub senders: &'c Senders,
    pub dead_letters: &'c DeadLetterQueue,
    pub notifier: &'c dyn Notifier,
    pub worker: &'c str,
}

/// Why a record is not collected.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// Nobody will ever collect it. For people, and for the alert's name: one alert a day for the same cause.
    Permanent { reason: String, cause: String },
    /// It comes again.
    Retry(String),
}

impl Collector<'_> {
    /// Deals with a batch; the answer names the records that are to come again.
    pub async fn collect(&self, batch: SqsEvent, now: Timestamp) -> SqsBatchResponse {
        let mut answer = SqsBatchResponse::default();
        let mut deliveries = Vec::new();
        let count = batch.records.len();
        let mut parked = 0;
        for record in &batch.records {
            match self.decode(record).await {
                Ok(delivery) => deliveries.push(delivery),
                Err(Fault::Permanent { reason, cause }) => match self.reject(record, &reason, &cause, now).await {
                    Ok(()) => parked += 1,
                    Err(error) => {
                        tracing::error!(
                            message = message_id(record),
                            error,
                            "a record could not be parked and comes again"
                        );
                        answer.add_failure(message_id(record));
                    }
                },
                Err(Fault::Retry(reason)) => {
                    tracing::warn!(message = message_id(record), "a report comes again: {reason}");
                    answer.add_failure(message_id(record));
                }
            }
        }
        let again = self.store(deliveries, now).await;
        tracing::info!(received = count, parked, again = again.len() + answer.batch_item_failures.len(), "reports");
        again.into_iter().for_each(|id| answer.add_failure(id));
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
                reason: format!("it speaks for run {} and is refused: {reason}", event.run_id),
                cause: format!("refused:{}:{sender}", event.group),
            }),
            SenderCheck::Unknown(reason) => Err(Fault::Retry(reason)),
        }
    }

    /// Tells first: a record that is parked and not told would be forgotten.
    async fn reject(&self, record: &SqsMessage, reason: &str, cause: &str, now: Timestamp) -> Result<(), String> {
        let sender = record.attributes.get("SenderId").map(String::as_str).unwrap_or("an unknown sender");
        let alert_reason = format!("a report of {sender} was parked in {}: {reason}", self.dead_letters.queue());
        tracing::error!(message = message_id(record), sender, "{alert_reason}");
        let day = now.as_second().div_euclid(86_400);
        let id = format!("report:{cause}:{day}");
        let transition = Transition::new(id, AlertKind::BadJob, &JobKey::new("", ""), alert_reason, now);
        let step = AlertStep { state: None, transitions: vec![transition] };
        self.ports.alerts.raise(&step).await.map_err(|error| error.to_string())?;
        self.dead_letters.send(record.body.as_deref().unwrap_or_default(), reason).await
    }

    /// Stores, and returns the ids of what could not be stored.
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
            Err(error) => tracing::error!(%error, "reports could not be stored and come again"),
        }
        let received = received.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        all.into_iter().filter(|id| !received.contains(id)).collect()
    }

    /// What an end brings with it at once. The scheduler's tick repeats what fails here.
    async fn follow_up(&self, summary: &collector::CollectorSummary, now: Timestamp) {
        if let Err(error) = release::release_jobs(self.ports, &summary.ended_jobs, now).await {
            tracing::warn!(%error, "runs that waited are released by the next tick");
        }
        if let Err(error) = send_alerts(self.ports, self.notifier, self.worker, now).await {
            tracing::warn!(%error, "alerts are sent by the next tick");
        }
    }
}

fn message_id(record: &SqsMessage) -> &str {
    record.message_id.as_deref().unwrap_or_default()
}

/// The queue as Lambda sees it: the records are given, and those that were dealt with are remembered, as Lambda deletes
/// them itself.
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

/// The dead-letter queue of reports, as a place to put what nobody will ever collect.
pub struct DeadLetterQueue {
    client: Client,
    queue: String,
}

/// SQS SendMessage: an attribute's value counts towards the message's size; ours is for people.
const REASON_BYTES_MAX: usize = 1000;

impl DeadLetterQueue {
    pub fn new(client: Client, names: &Names) -> DeadLetterQueue {
        DeadLetterQueue { client, queue: names.reports_dead() }
    }

    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Parks a body as it is, with the reason as the attribute `why`.
    async fn send(&self, body: &str, why: &str) -> Result<(), String> {
        let send_error = |error: String| format!("the queue {} does not take it: {error}", self.queue);
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
