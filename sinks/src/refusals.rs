//! Finds the records that a receiver refuses while it accepts others. Called by sinks whose receiver answers; sends
//! only through them.
//!
//! A refusal alone proves nothing: a server that is misconfigured, or a proxy in front of it, refuses every record with
//! the same answer. A record is refused permanently only when it was refused, another record was then accepted, and it
//! was refused again each time that it was sent after that.

use std::ops::Range;

use crate::error::{ErrorClass, SinkError, SinkResult};

/// Refused records without an accepted one in between, before a record that the receiver accepted earlier is sent
/// again. Chosen: more than a batch usually has bad records, and few requests.
const SUSPECTS_MAX: usize = 32;
/// How often a refused record is sent again after the receiver accepted another. Chosen: a load balancer in front of a
/// good and a bad server sends one of two consecutive requests to the good one.
const VERIFICATIONS: usize = 2;

/// The remedy when every record is refused, where the refusal has none of its own.
pub(crate) const REFUSES_ALL: &str =
    "every record is refused, so the server, a proxy in front of it or the address is wrong";

/// The way to a receiver, for the parts of one batch.
pub(crate) trait Parts {
    /// How a refused record is reported.
    type Refusal: Send;

    /// Sends the records of the range. Returns those that an accepting answer named as refused.
    ///
    /// # Errors
    /// `Permanent` when the receiver refused the whole range.
    fn send(&mut self, range: Range<usize>) -> impl Future<Output = SinkResult<Vec<Self::Refusal>>> + Send;

    /// Sends a record again that the receiver accepted before; the copy is a duplicate. Returns whether it was accepted
    /// again; `None` without such a record.
    ///
    /// # Errors
    /// The error of the call, unless it is `Permanent`.
    fn send_accepted_again(&mut self) -> impl Future<Output = SinkResult<Option<bool>>> + Send;

    /// Reports a refused record.
    fn refusal(&self, record: usize, message: String) -> Option<Self::Refusal>;

    /// The sentence for a receiver that refuses every record; `message` is its latest refusal.
    fn refuses_all(&self, message: String) -> String {
        format!("{message}; {REFUSES_ALL}")
    }

    /// Number of consecutive batches that were refused completely. Kept across connections.
    fn refused_batches(&mut self) -> &mut u32;
}

/// After a batch that was refused completely, only each fourth one is sent beyond its first refused record: a record
/// that is accepted there would arrive before the refused ones. Chosen, not measured.
const LOOK_AHEAD_EVERY: u32 = 4;

struct Suspect {
    record: usize,
    message: String,
}

/// Sends the ranges, the last one first, and halves what is refused until each bad record is alone. The records keep
/// their order, except where a receiver accepts a record that it refused before the next one.
///
/// # Errors
/// `Misconfigured` when the receiver refuses every record; no record counts as refused then.
pub(crate) async fn send_parts<P: Parts + Send>(
    parts: &mut P,
    ranges: Vec<Range<usize>>,
) -> SinkResult<Vec<P::Refusal>> {
    let mut refused = Vec::new();
    let mut suspects: Vec<Suspect> = Vec::new();
    let mut accepted = 0_u64;
    // Each with the number of accepted ranges when a longer range around it was refused.
    let mut ranges: Vec<(Range<usize>, Option<u64>)> = ranges.into_iter().map(|range| (range, None)).collect();
    while let Some((range, refused_at)) = ranges.pop() {
        match parts.send(range.clone()).await {
            Ok(named) => {
                refused.extend(named);
                accepted += 1;
                *parts.refused_batches() = 0;
                verify(parts, &mut suspects, &mut refused).await?;
            }
            Err(SinkError { class: ErrorClass::Permanent, message }) if range.len() <= 1 => {
                suspects.push(Suspect { record: range.start, message });
                let has_next = suspects.len() < SUSPECTS_MAX && !ranges.is_empty();
                if suspects.len() == 1 && refused_at.is_some_and(|at| accepted > at) {
                    verify(parts, &mut suspects, &mut refused).await?;
                } else if !has_next || !(*parts.refused_batches()).is_multiple_of(LOOK_AHEAD_EVERY) {
                    judge(parts, &mut suspects, &mut refused).await?;
                }
            }
            Err(error) if error.class == ErrorClass::Permanent => {
                let middle = range.start + range.len() / 2;
                let refused_at = refused_at.or(Some(accepted));
                ranges.extend([(middle..range.end, refused_at), (range.start..middle, refused_at)]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// Decides about refused records with one that the receiver accepted earlier.
async fn judge<P: Parts + Send>(
    parts: &mut P,
    suspects: &mut Vec<Suspect>,
    refused: &mut Vec<P::Refusal>,
) -> SinkResult<()> {
    match parts.send_accepted_again().await? {
        Some(true) => {
            *parts.refused_batches() = 0;
            verify(parts, suspects, refused).await
        }
        _ => {
            *parts.refused_batches() += 1;
            let message = suspects.pop().map(|suspect| suspect.message).unwrap_or_default();
            Err(SinkError::misconfigured(parts.refuses_all(message)))
        }
    }
}

/// The receiver has just accepted another record: what it still refuses is refused permanently.
async fn verify<P: Parts + Send>(
    parts: &mut P,
    suspects: &mut Vec<Suspect>,
    refused: &mut Vec<P::Refusal>,
) -> SinkResult<()> {
    'suspects: for Suspect { record, mut message } in suspects.drain(..) {
        for _ in 0..VERIFICATIONS {
            match parts.send(record..record + 1).await {
                Ok(named) => {
                    refused.extend(named);
                    continue 'suspects;
                }
                Err(error) if error.class == ErrorClass::Permanent => message = error.message,
                Err(error) => return Err(error),
            }
        }
        refused.extend(parts.refusal(record, message));
    }
    Ok(())
}
