//! The calls for one stream, in order: put, create what is missing, put again; halve what is refused. Spawned by the
//! sink.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::cloudwatch_logs::answer::{CallFailure, FailureCause, RejectedEvents};
use crate::cloudwatch_logs::batch::{BodyBuffer, LogStream, SealedBatch};
use crate::cloudwatch_logs::client::Client;
use crate::cloudwatch_logs::create::Creator;
use crate::error::{ErrorClass, SinkError, SinkResult};
use crate::sink::Refused;

/// After this many refused single events without an accepted one, the error is not in the events. Chosen: far more than
/// a batch has bad events.
const REFUSED_ALONE_MAX: usize = 32;

pub(super) struct Putter {
    pub client: Arc<Client>,
    pub creator: Arc<Creator>,
}

/// The result for the batches of one stream: those before the error were accepted.
#[derive(Default)]
pub(super) struct PutResult {
    pub refused: Vec<Refused>,
    /// For reuse by the next batches.
    pub spare: Vec<BodyBuffer>,
    pub error: Option<SinkError>,
}

impl PutResult {
    pub(super) fn failed(message: String) -> PutResult {
        PutResult { error: Some(SinkError::retry(message)), ..PutResult::default() }
    }
}

impl Putter {
    pub(super) async fn put_all(self, mut batches: VecDeque<SealedBatch>) -> PutResult {
        let mut result = PutResult::default();
        while let Some(batch) = batches.pop_front() {
            match self.put(&batch).await {
                Ok(refused) => result.refused.extend(refused),
                Err(error) => {
                    result.error = Some(error);
                    return result;
                }
            }
            for (run, mark) in &batch.marks {
                run.mark_accepted(*mark);
            }
            result.spare.extend(batch.into_buffer());
        }
        result
    }

    async fn put(&self, batch: &SealedBatch) -> SinkResult<Vec<Refused>> {
        match self.put_or_create(&batch.log_stream, batch.body.clone()).await {
            Ok(answer) => Ok(rejected_records(&answer, batch, 0..batch.len())),
            Err(error) if error.class == ErrorClass::Permanent => self.put_halves(batch, error).await,
            Err(error) => Err(error),
        }
    }

    /// Sends a refused batch in halves until each bad event is alone; these are returned as refused. The order is kept.
    async fn put_halves(&self, batch: &SealedBatch, error: SinkError) -> SinkResult<Vec<Refused>> {
        let mut refused = Vec::new();
        let mut alone = 0;
        let mut any_taken = false;
        // The whole batch is already known to be refused.
        let mut ranges = halves(0..batch.len());
        if ranges.is_empty() {
            return Ok(vec![Refused { frame: batch.frame(0), message: error.message }]);
        }
        while let Some(range) = ranges.pop() {
            match self.put_or_create(&batch.log_stream, batch.part(range.clone())).await {
                Ok(answer) => {
                    any_taken = true;
                    refused.extend(rejected_records(&answer, batch, range));
                }
                Err(error) if error.class == ErrorClass::Permanent && range.len() == 1 => {
                    alone += 1;
                    if alone >= REFUSED_ALONE_MAX && !any_taken {
                        return Err(SinkError::misconfigured(format!("{} (for every event)", error.message)));
                    }
                    refused.push(Refused { frame: batch.frame(range.start), message: error.message });
                }
                Err(error) if error.class == ErrorClass::Permanent => ranges.extend(halves(range)),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    async fn put_or_create(&self, log_stream: &LogStream, body: Bytes) -> SinkResult<Bytes> {
        self.creator.apply_retention(&self.client, &log_stream.group).await?;
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

/// The second half first: `pop` takes from the end.
fn halves(range: Range<usize>) -> Vec<Range<usize>> {
    let middle = range.start + range.len() / 2;
    match range.len() {
        0 | 1 => Vec::new(),
        _ => vec![middle..range.end, range.start..middle],
    }
}

fn rejected_records(answer: &[u8], batch: &SealedBatch, range: Range<usize>) -> Vec<Refused> {
    let LogStream { group, stream } = &*batch.log_stream;
    let rejected_events = RejectedEvents::parse(answer);
    let message =
        |why| format!("CloudWatch Logs accepted the call, but not events that are {why} (stream {stream} of {group})");
    let refused = rejected_events.indices(range.len());
    refused.map(|(index, why)| Refused { frame: batch.frame(range.start + index), message: message(why) }).collect()
}
