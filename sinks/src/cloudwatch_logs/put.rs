//! The calls for one stream, in order: put, create what is missing, put again. Spawned by the
//! sink.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::cloudwatch_logs::answer::{CallFailure, FailureCause, RejectedEvents};
use crate::cloudwatch_logs::batch::{LogStream, SealedBatch};
use crate::cloudwatch_logs::client::Client;
use crate::cloudwatch_logs::create::Creator;
use crate::cloudwatch_logs::flights::{Flight, PutResult};
use crate::cloudwatch_logs::message_limit::MessageLimit;
use crate::engine::locked;
use crate::error::{ErrorClass, SinkError, SinkResult};
use crate::refusals::{Parts, send_parts};
use crate::sink::NamedRefusal;

/// Longest body of a call that is kept to be sent again. Chosen: larger than most lines.
const ACCEPTED_BYTES_MAX: usize = 8192;

#[derive(Clone)]
pub(super) struct Putter {
    pub client: Arc<Client>,
    pub creator: Arc<Creator>,
    pub evidence: Arc<Mutex<Evidence>>,
    pub limit: MessageLimit,
}

/// Whether the service accepts any event, for all streams of the sink.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// The body of a call with one event, which was accepted.
    accepted: Option<Bytes>,
    refused_batches: u32,
}

impl Putter {
    pub(super) async fn put_all(self, flight: &Flight) -> PutResult {
        let mut result = PutResult::default();
        while let Some(batch) = flight.next() {
            match self.put(&batch, flight).await {
                Ok(refused) => flight.accept(&batch, refused),
                Err(error) => {
                    result.error = Some(error);
                    return result;
                }
            }
            result.spare.extend(batch.into_buffer());
        }
        result
    }

    async fn put(&self, batch: &SealedBatch, flight: &Flight) -> SinkResult<Vec<NamedRefusal>> {
        let refused_batches = locked(&self.evidence).refused_batches;
        let mut calls = Calls { putter: self, batch, flight, refused_batches };
        let sent = send_parts(&mut calls, std::iter::once(0..batch.len()).collect()).await;
        locked(&self.evidence).refused_batches = calls.refused_batches;
        sent
    }

    async fn put_or_create(&self, log_stream: &LogStream, body: Bytes) -> SinkResult<Bytes> {
        match self.client.call("PutLogEvents", body.clone()).await {
            Err(CallFailure { cause: FailureCause::NotFound, .. }) => {}
            answer => return answer.map_err(|failure| failure.error),
        }
        self.creator.create(&self.client, log_stream).await?;
        self.client.call("PutLogEvents", body).await.map_err(|failure| match failure.cause {
            // It was created a moment ago and is not visible everywhere yet.
            FailureCause::NotFound => SinkError { class: ErrorClass::Retry, ..failure.error },
            _ => failure.error,
        })
    }
}

/// The calls for one batch.
struct Calls<'p> {
    putter: &'p Putter,
    batch: &'p SealedBatch,
    flight: &'p Flight,
    refused_batches: u32,
}

impl Parts for Calls<'_> {
    type Refusal = NamedRefusal;

    async fn send(&mut self, range: Range<usize>) -> SinkResult<Vec<NamedRefusal>> {
        let batch = self.batch;
        let is_whole = range == (0..batch.len());
        let body = if is_whole { batch.body.clone() } else { batch.part(range.clone()) };
        let answer = self.putter.put_or_create(&batch.log_stream, body).await;
        self.flight.note_answer();
        if let Err(refused) = &answer
            && refused.class == ErrorClass::Permanent
            && range.len() == 1
            && let Some(limit) = self.putter.limit.learn(&refused.message, batch.event_bytes(range.start))
        {
            let message = "the endpoint refuses long lines; they are cut to its limit and sent again";
            return Err(SinkError::retry(format!("{message} ({limit} bytes): {}", refused.message)));
        }
        let answer = answer?;
        let last = batch.part(range.end.saturating_sub(1)..range.end);
        let rejected = rejected_records(&answer, batch, range);
        if rejected.is_empty() && last.len() <= ACCEPTED_BYTES_MAX {
            locked(&self.putter.evidence).accepted = Some(last);
        }
        Ok(rejected)
    }

    async fn send_accepted_again(&mut self) -> SinkResult<Option<bool>> {
        let Some(accepted) = locked(&self.putter.evidence).accepted.clone() else { return Ok(None) };
        match self.putter.client.call("PutLogEvents", accepted).await {
            Ok(_) => Ok(Some(true)),
            // Its stream was deleted since then.
            Err(CallFailure { cause: FailureCause::NotFound, .. }) => {
                locked(&self.putter.evidence).accepted = None;
                Ok(None)
            }
            Err(failure) if failure.error.class == ErrorClass::Permanent => Ok(Some(false)),
            Err(failure) => Err(failure.error),
        }
    }

    fn refusal(&self, record: usize, message: String) -> Option<NamedRefusal> {
        self.batch.refusal(record, message)
    }

    fn refused_batches(&mut self) -> &mut u32 {
        &mut self.refused_batches
    }
}

fn rejected_records(answer: &[u8], batch: &SealedBatch, range: Range<usize>) -> Vec<NamedRefusal> {
    let LogStream { group, stream } = &*batch.log_stream;
    let rejected_events = RejectedEvents::parse(answer);
    let message =
        |why| format!("CloudWatch Logs accepted the call, but not events that are {why} (stream {stream} of {group})");
    let refused = rejected_events.indices(range.len());
    refused.filter_map(|(index, why)| batch.refusal(range.start + index, message(why))).collect()
}
