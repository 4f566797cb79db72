//! Sends a file to `/api/apply` and prints the progress. No timeout limits the answer: the server reports each batch.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;

use crate::client::{ApiRequest, Client};
use crate::failure::{Failure, print_error_line};

/// Time between two lines of progress. Chosen: a short `apply` prints none.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Sends the request and returns the difference.
///
/// # Errors
/// As [`Client::send`].
pub(super) async fn send_file(client: &Client, body: Value) -> Result<Value, Failure> {
    let request = ApiRequest::post(&["apply"], body).accepting(console::LINES);
    let (_, mut answer) = client.stream(request).await?;
    let (mut waiting, mut printed_at) = (Vec::new(), Instant::now());
    while let Some(chunk) = answer.next().await {
        waiting.extend_from_slice(&chunk.map_err(|error| client.unreachable(&error))?);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            if let Some(difference) = read_line(client, &line, &mut printed_at)? {
                return Ok(difference);
            }
        }
    }
    // A server of an older build answers with the difference alone.
    serde_json::from_slice(&waiting).map_err(|error| {
        Failure::failed(format!(
            "the answer of the server is not complete ({error}); `sexton apply` again completes it"
        ))
    })
}

/// The difference, if it is in this line. Prints progress.
fn read_line(client: &Client, line: &[u8], printed_at: &mut Instant) -> Result<Option<Value>, Failure> {
    let mut record: Value = serde_json::from_slice(line)
        .map_err(|error| Failure::failed(format!("unexpected answer from the server: {error}")))?;
    if let Some(status) = record["status"].as_u64() {
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        return Err(client.refusal(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), line));
    }
    if let Some(processed) = record["processed"].as_u64() {
        if printed_at.elapsed() >= PROGRESS_INTERVAL {
            *printed_at = Instant::now();
            print_error_line(&format!("{processed} of {} jobs processed", record["jobs"]));
        }
        return Ok(None);
    }
    Ok(record.get_mut("difference").map(Value::take))
}
