//! Sends messages in batches. Each message has its own result, and only those that failed for a moment are sent again.

use std::sync::PoisonError;
use std::time::Duration;

use aws_sdk_sqs::types::{BatchResultErrorEntry, SendMessageBatchRequestEntry};
use domain::ports::{PortError, PortResult, SendResult};
use jiff::Timestamp;

use super::{BATCH_MAX, FailedCall, SERVICE, Sqs, entry_status, place, whole_seconds};
use crate::dynamo::run_parallel;
use crate::fault::{CallName, Cause, code_error};

/// Bytes of one message, and of all messages of a batch together (SQS API reference, SendMessage, SendMessageBatch).
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Longest delay of a sent message (SQS API reference, SendMessage, DelaySeconds).
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(900);

/// The caller's knowledge of messages that are sent together.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The tick of the messages: a queue that does not exist is requested once in it.
    pub issued_at: Option<Timestamp>,
    /// What a missing queue means, with the remedy.
    pub absent: String,
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub(crate) struct OutgoingMessage {
    pub body: String,
    /// SQS hides the message for this time after the send. At most [`DELAY_MAX`].
    pub delay: Duration,
    /// Names the message in errors: `the order for db/dump`.
    pub name: String,
}

impl Sqs {
    /// Sends all messages, in as few calls as AWS permits. Sends none if one of them is too long or contains
    /// a character that SQS refuses.
    pub(crate) async fn send(&self, queue: &str, kind: &'static str, messages: Vec<OutgoingMessage>) -> PortResult<()> {
        for message in &messages {
            check_message(queue, message).map_err(PortError::Permanent)?;
        }
        let origin = Origin { issued_at: None, absent: format!("{} does not exist", place(queue)) };
        for result in self.send_each(queue, kind, messages, origin).await? {
            match result {
                SendResult::Sent => {}
                SendResult::Retry(message) => return Err(PortError::Retry(message)),
                SendResult::Denied(message) | SendResult::Never(message) => return Err(PortError::Permanent(message)),
            }
        }
        Ok(())
    }

    /// Sends messages, in as few calls as AWS permits; one that cannot be sent stops no other. A queue that does not
    /// exist is not requested again for messages of the same `issued_at`.
    pub(crate) async fn send_each(
        &self,
        queue: &str,
        kind: &'static str,
        messages: Vec<OutgoingMessage>,
        origin: Origin,
    ) -> PortResult<Vec<SendResult>> {
        let mut results = vec![SendResult::Sent; messages.len()];
        let mut sendable = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            match check_message(queue, &message) {
                Ok(()) => sendable.push((index, message)),
                Err(reason) => results[index] = SendResult::Never(reason),
            }
        }
        if sendable.is_empty() {
            return Ok(results);
        }
        let url = match self.find_queue_once(queue, kind, &origin).await {
            Ok(url) => url,
            Err(refused) => {
                for (index, _) in sendable {
                    results[index] = refused.clone();
                }
                return Ok(results);
            }
        };
        let (this, queue) = (self.clone(), queue.to_owned());
        let send = move |batch: Vec<(usize, OutgoingMessage)>| {
            let (this, url, queue, origin) = (this.clone(), url.clone(), queue.clone(), origin.clone());
            async move { Ok(this.send_batch(&url, &queue, kind, batch, &origin).await) }
        };
        for (index, result) in run_parallel(batches(sendable), send).await?.into_iter().flatten() {
            results[index] = result;
        }
        Ok(results)
    }

    /// The URL of a queue, or the result of every message to it.
    async fn find_queue_once(&self, queue: &str, kind: &str, origin: &Origin) -> Result<String, SendResult> {
        let absent_at = self.absent.lock().unwrap_or_else(PoisonError::into_inner).get(queue).copied();
        if absent_at.is_some() && absent_at == origin.issued_at {
            return Err(SendResult::Never(origin.absent.clone()));
        }
        self.find_queue(queue, kind).await.map_err(|failed| {
            if let (Cause::Absent, Some(at)) = (failed.cause, origin.issued_at) {
                self.absent.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned(), at);
            }
            failed.into_result(origin)
        })
    }

    /// Sends one batch; returns the result of each message.
    async fn send_batch(
        &self,
        url: &str,
        queue: &str,
        kind: &str,
        batch: Vec<(usize, OutgoingMessage)>,
        origin: &Origin,
    ) -> Vec<(usize, SendResult)> {
        let mut results: Vec<(usize, SendResult)> = Vec::with_capacity(batch.len());
        let mut entries = Vec::with_capacity(batch.len());
        for (position, (index, message)) in batch.into_iter().enumerate() {
            let entry = SendMessageBatchRequestEntry::builder()
                .id(position.to_string())
                .message_body(message.body)
                .delay_seconds(whole_seconds(message.delay.min(DELAY_MAX)));
            match entry.build() {
                Ok(entry) => {
                    results.push((index, SendResult::Sent));
                    entries.push(entry);
                }
                Err(error) => results.push((index, SendResult::Never(error.to_string()))),
            }
        }
        let mut backoff = self.retries.backoff();
        while !entries.is_empty() {
            let failed = match self.send_entries(url, queue, kind, &entries).await {
                Ok(failed) => failed,
                Err(failed) => {
                    let result = failed.into_result(origin);
                    entries.iter().for_each(|entry| set_result(&mut results, &entry.id, result.clone()));
                    return results;
                }
            };
            // Those that failed for a moment are sent again, after one wait for all of them.
            let transient = failed.iter().map(|(_, failed)| failed.cause).find(|cause| cause.is_transient());
            let again = match transient {
                Some(cause) => backoff.wait_after(cause, None).await,
                None => false,
            };
            let mut repeated = Vec::new();
            for (id, failed) in failed {
                match again && failed.cause.is_transient() {
                    true => repeated.extend(entries.iter().find(|entry| entry.id == id).cloned()),
                    false => set_result(&mut results, &id, failed.into_result(origin)),
                }
            }
            entries = repeated;
        }
        results
    }

    /// Makes one call; returns the id and error of each entry that was not accepted, or the error of the call.
    async fn send_entries(
        &self,
        url: &str,
        queue: &str,
        kind: &str,
        entries: &[SendMessageBatchRequestEntry],
    ) -> Result<Vec<(String, FailedCall)>, FailedCall> {
        let place = place(queue);
        let call_name = CallName { service: SERVICE, action: "SendMessageBatch", place: &place };
        let bytes = entries.iter().map(|entry| entry.message_body.len()).sum();
        let call = self.client.send_message_batch().queue_url(url).set_entries(Some(entries.to_vec()));
        let count = || self.add_request("SendMessageBatch", kind, bytes);
        match self.call(count, || call.clone().send()).await {
            Ok(sent) => Ok(sent.failed.into_iter().map(|entry| failed_entry(call_name, entry)).collect()),
            Err(error) => {
                let failed = FailedCall::new(call_name, &error);
                if !failed.cause.is_transient() {
                    self.drop_url(queue);
                }
                Err(failed)
            }
        }
    }
}

/// `id`: the place of an entry in its batch, as a text.
fn set_result(results: &mut [(usize, SendResult)], id: &str, result: SendResult) {
    if let Some(place) = id.parse::<usize>().ok().and_then(|position| results.get_mut(position)) {
        place.1 = result;
    }
}

fn failed_entry(call_name: CallName<'_>, entry: BatchResultErrorEntry) -> (String, FailedCall) {
    let status = entry_status(&entry);
    let message = entry.message.as_deref().unwrap_or("no message");
    let error = code_error(call_name, status, &entry.code, message);
    (entry.id, FailedCall { cause: Cause::of(status, &entry.code), error })
}

/// Escapes the two characters that SQS refuses and JSON writers leave as they are (SQS API reference, SendMessage). In
/// JSON they occur only within strings.
pub(crate) fn escape_for_sqs(json: &str) -> String {
    json.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

/// # Errors
/// Returns why SQS refuses the message.
fn check_message(queue: &str, message: &OutgoingMessage) -> Result<(), String> {
    let bytes = message.body.len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(format!(
            "{} has {bytes} bytes, and messages of the queue {queue} have at most {MESSAGE_BYTES_MAX}; \
             shorten its command, stdin or environment, or put them into a file on the runners",
            message.name
        ));
    }
    let is_legal =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    match message.body.chars().find(|c| !is_legal(*c)) {
        Some(wrong) => Err(format!("{} contains the character {wrong:?}, which SQS does not accept", message.name)),
        None if message.body.is_empty() => Err(format!("{} is empty, which SQS does not accept", message.name)),
        None => Ok(()),
    }
}

/// Splits messages, in order, into batches of at most [`BATCH_MAX`] entries and [`MESSAGE_BYTES_MAX`] bytes.
fn batches(messages: Vec<(usize, OutgoingMessage)>) -> Vec<Vec<(usize, OutgoingMessage)>> {
    let mut batches: Vec<Vec<(usize, OutgoingMessage)>> = Vec::new();
    let mut bytes = 0;
    for (index, message) in messages {
        let needs_new_batch = match batches.last() {
            Some(last) => last.len() == BATCH_MAX || bytes + message.body.len() > MESSAGE_BYTES_MAX,
            None => true,
        };
        if needs_new_batch {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += message.body.len();
        if let Some(last) = batches.last_mut() {
            last.push((index, message));
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> OutgoingMessage {
        OutgoingMessage { body: "x".repeat(bytes), delay: Duration::ZERO, name: "the order for db/dump".to_owned() }
    }

    #[test]
    fn a_batch_has_at_most_ten_messages_and_one_mebibyte() {
        let sizes = |messages: Vec<OutgoingMessage>| {
            batches(messages.into_iter().enumerate().collect()).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes((0..25).map(|_| message(10)).collect()), [10, 10, 5]);
        assert_eq!(sizes(vec![message(600_000), message(600_000), message(400_000), message(48_576)]), [1, 3]);
        assert_eq!(sizes(vec![message(MESSAGE_BYTES_MAX), message(1)]), [1, 1]);
        assert!(batches(Vec::new()).is_empty());
    }

    #[test]
    fn a_message_that_sqs_would_refuse_is_refused_before_it_is_sent() {
        assert!(check_message("q", &message(MESSAGE_BYTES_MAX)).is_ok());
        let text = check_message("q", &message(MESSAGE_BYTES_MAX + 1)).unwrap_err();
        assert!(text.starts_with("the order for db/dump has 1048577 bytes"), "{text}");
        for wrong in ["a\u{0}", "\u{b}", "\u{ffff}", "\u{fffe}", ""] {
            assert!(
                check_message("q", &OutgoingMessage { body: wrong.to_owned(), ..message(0) }).is_err(),
                "{wrong:?}"
            );
        }
        assert!(
            check_message("q", &OutgoingMessage { body: "\t\n\r é\u{7f}\u{10ffff}".to_owned(), ..message(0) }).is_ok()
        );
    }

    #[test]
    fn every_character_survives_the_escaping_for_sqs() {
        let text = "\u{0}\u{b}\u{1f}\u{fffe}\u{ffff}\"\\é\u{10ffff}";
        let json = escape_for_sqs(&serde_json::to_string(text).unwrap());
        assert!(check_message("q", &OutgoingMessage { body: json.clone(), ..message(0) }).is_ok());
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
