//! The calls for one stream, one after the other: put, make what is missing, put again; halve what is refused.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::cloudwatch_logs::answer::{Failure, Fault, Rejected};
use crate::cloudwatch_logs::batch::{Room, Sealed, Target};
use crate::cloudwatch_logs::client::Client;
use crate::cloudwatch_logs::create::Creator;
use crate::error::{Class, SinkError, SinkResult};
use crate::sink::Refused;

/// When so many events of a call are refused alone and none is taken, the fault is not in the events.
const REFUSED_ALONE_MAX: usize = 32;

pub struct Putter {
    pub client: Arc<Client>,
    pub creator: Arc<Creator>,
}

/// What became of the batches of one stream: those before the error were taken.
#[derive(Default)]
pub struct Outcome {
    pub refused: Vec<Refused>,
    /// For the next batches.
    pub spare: Vec<Room>,
    pub error: Option<SinkError>,
}

impl Outcome {
    pub fn failed(says: String) -> Outcome {
        Outcome { error: Some(SinkError::retry(says)), ..Outcome::default() }
    }
}

impl Putter {
    pub async fn put_all(self, mut batches: VecDeque<Sealed>) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(batch) = batches.pop_front() {
            match self.put(&batch).await {
                Ok(refused) => outcome.refused.extend(refused),
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            }
            for (run, mark) in &batch.marks {
                run.accepted(*mark);
            }
            outcome.spare.extend(batch.into_room());
        }
        outcome
    }

    async fn put(&self, batch: &Sealed) -> SinkResult<Vec<Refused>> {
        match self.put_or_make(&batch.target, batch.body.clone()).await {
            Ok(answer) => Ok(rejected(&answer, batch, 0..batch.len())),
            Err(error) if error.class == Class::Permanent => self.halve(batch, error).await,
            Err(error) => Err(error),
        }
    }

    /// Puts a refused batch in halves, until every event at fault is alone and set aside. The order stays.
    async fn halve(&self, batch: &Sealed, error: SinkError) -> SinkResult<Vec<Refused>> {
        let mut refused = Vec::new();
        let mut alone = 0;
        let mut any_taken = false;
        // The whole is known to be refused.
        let mut ranges = halves(0..batch.len());
        if ranges.is_empty() {
            return Ok(vec![Refused { frame: batch.frame(0), says: error.says }]);
        }
        while let Some(range) = ranges.pop() {
            match self.put_or_make(&batch.target, batch.part(range.clone())).await {
                Ok(answer) => {
                    any_taken = true;
                    refused.extend(rejected(&answer, batch, range));
                }
                Err(error) if error.class == Class::Permanent && range.len() == 1 => {
                    alone += 1;
                    if alone >= REFUSED_ALONE_MAX && !any_taken {
                        return Err(SinkError::misconfigured(format!("{} (for every event)", error.says)));
                    }
                    refused.push(Refused { frame: batch.frame(range.start), says: error.says });
                }
                Err(error) if error.class == Class::Permanent => ranges.extend(halves(range)),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    async fn put_or_make(&self, target: &Target, body: Bytes) -> SinkResult<Bytes> {
        self.creator.settle(&self.client, &target.group).await?;
        match self.client.call("PutLogEvents", body.clone()).await {
            Err(Failure { fault: Fault::NotFound, .. }) => {}
            answer => return answer.map_err(|failure| failure.error),
        }
        self.creator.make(&self.client, target).await?;
        self.client.call("PutLogEvents", body).await.map_err(|failure| match failure.fault {
            // It was made a moment ago; the service does not show it everywhere yet.
            Fault::NotFound => SinkError { class: Class::Retry, ..failure.error },
            _ => failure.error,
        })
    }
}

/// The second half first: the first is taken from the end.
fn halves(range: Range<usize>) -> Vec<Range<usize>> {
    let middle = range.start + range.len() / 2;
    match range.len() {
        0 | 1 => Vec::new(),
        _ => vec![middle..range.end, range.start..middle],
    }
}

fn rejected(answer: &[u8], batch: &Sealed, range: Range<usize>) -> Vec<Refused> {
    let Target { group, stream } = &*batch.target;
    let told = Rejected::of(answer);
    let says =
        |why| format!("CloudWatch Logs took the call, but not events that are {why} (stream {stream} of {group})");
    let refused = told.indices(range.len());
    refused.map(|(index, why)| Refused { frame: batch.frame(range.start + index), says: says(why) }).collect()
}
