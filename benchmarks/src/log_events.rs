//! Replaces CloudWatch Logs, over plain HTTP: counts the events of every PutLogEvents and checks each limit of the API
//! reference at full speed. Answers any other action with an empty object. Checks that a request has a signature, but
//! not the signature itself.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::receiver::wait_for_count;
use crate::workload::now_nanoseconds;

/// PutLogEvents, API reference of CloudWatch Logs: a batch has at most 10,000 events and 1,048,576 bytes, counted as
/// the messages in UTF-8 and 26 bytes per event. It spans at most a day, in order. No event is older than 14 days or
/// more than two hours in the future.
pub(crate) const EVENTS_MAX: u64 = 10_000;
pub(crate) const BATCH_BYTES_MAX: u64 = 1_048_576;
pub(crate) const EVENT_OVERHEAD_BYTES: u64 = 26;
const SPAN_MAX_MS: i64 = 24 * 3_600_000;
const AGE_MAX_MS: i64 = 14 * SPAN_MAX_MS;
const FUTURE_MAX_MS: i64 = 2 * 3_600_000;

/// Longest request: a batch with every byte escaped as `\u0000`, and its envelope.
const REQUEST_BYTES_MAX: usize = 16 << 20;

const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The requests received so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub events: u64,
    pub batches: u64,
    /// How full each batch was, 0 to 1: the larger of its shares of the limits of events and of bytes.
    pub fullness: Vec<f64>,
    /// Broken limits, and the first of them as text.
    pub violations: u64,
    pub first_violation: Option<String>,
}

pub(crate) struct LogEvents {
    address: SocketAddr,
    counts: Arc<Mutex<Counts>>,
    is_over: Arc<AtomicBool>,
}

impl LogEvents {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is available.
    pub(crate) fn start() -> Result<LogEvents> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for PutLogEvents")?;
        let address = listener.local_addr()?;
        let (counts, is_over) = (Arc::new(Mutex::new(Counts::default())), Arc::new(AtomicBool::new(false)));
        let (shared, over) = (Arc::clone(&counts), Arc::clone(&is_over));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (shared, over) = (Arc::clone(&shared), Arc::clone(&over));
                thread::spawn(move || {
                    if let Err(error) = serve(stream, &shared, &over) {
                        note(&shared, |counts| counts.violation(format!("{error:#}")));
                    }
                });
            }
        });
        Ok(LogEvents { address, counts, is_over })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for `events` events as [`wait_for_count`] does.
    pub(crate) fn wait_for(&self, events: u64) -> Counts {
        wait_for_count(events, || self.counts.lock().unwrap_or_else(PoisonError::into_inner).events);
        self.counts()
    }
}

impl Drop for LogEvents {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts, so that it ends.
        let _ended = TcpStream::connect(self.address);
    }
}

impl Counts {
    fn violation(&mut self, message: String) {
        self.violations += 1;
        self.first_violation.get_or_insert(message);
    }

    /// Mean fullness without the last batch, which ends with the output.
    pub(crate) fn mean_fullness(&self) -> f64 {
        let full = &self.fullness[..self.fullness.len().saturating_sub(1)];
        if full.is_empty() { 0.0 } else { full.iter().sum::<f64>() / full.len() as f64 }
    }
}

fn note(counts: &Mutex<Counts>, change: impl FnOnce(&mut Counts)) {
    change(&mut counts.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Serves the requests of one connection until the client closes it.
fn serve(mut stream: TcpStream, counts: &Mutex<Counts>, is_over: &AtomicBool) -> Result<()> {
    stream.set_read_timeout(Some(STOP_CHECK_INTERVAL))?;
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(2 << 20);
    loop {
        let Some(head_bytes) = read_until(&mut stream, &mut bytes, is_over, |bytes| {
            Ok(memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4))
        })?
        else {
            return Ok(());
        };
        let head = Head::parse(&bytes[..head_bytes])?;
        if head.expects_continue {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let request_bytes = head_bytes + head.body_bytes;
        let all = |bytes: &[u8]| Ok((bytes.len() >= request_bytes).then_some(request_bytes));
        if read_until(&mut stream, &mut bytes, is_over, all)?.is_none() {
            return Ok(());
        }
        if head.is_put {
            let batch = check(&bytes[head_bytes..request_bytes], now_ms());
            note(counts, |counts| {
                if !head.is_signed {
                    counts.violation("a request without a signature".to_owned());
                }
                match batch {
                    Ok(batch) => {
                        counts.events += batch.events;
                        counts.batches += 1;
                        let events = batch.events as f64 / EVENTS_MAX as f64;
                        counts.fullness.push(events.max(batch.bytes as f64 / BATCH_BYTES_MAX as f64));
                        batch.faults.into_iter().for_each(|fault| counts.violation(fault));
                    }
                    Err(error) => counts.violation(format!("{error:#}")),
                }
            });
        }
        bytes.drain(..request_bytes);
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: 1\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 2\r\n\r\n{}")?;
    }
}

/// Reads until `end` finds the end; `None` when the client has closed the connection between requests, or on shutdown.
fn read_until(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    is_over: &AtomicBool,
    end: impl Fn(&[u8]) -> Result<Option<usize>>,
) -> Result<Option<usize>> {
    const READ_BYTES: usize = 256 << 10;
    loop {
        if let Some(at) = end(bytes)? {
            return Ok(Some(at));
        }
        if bytes.len() > REQUEST_BYTES_MAX {
            bail!("a request of more than {REQUEST_BYTES_MAX} bytes");
        }
        let had = bytes.len();
        bytes.resize(had + READ_BYTES, 0);
        let got = stream.read(&mut bytes[had..]);
        bytes.truncate(had + got.as_ref().map_or(0, |got| *got));
        match got {
            Ok(0) if had > 0 => bail!("an incomplete request"),
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return Ok(None),
        }
        if is_over.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
}

/// The parts of a request's head that matter.
struct Head {
    body_bytes: usize,
    is_put: bool,
    is_signed: bool,
    expects_continue: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Head> {
        let text = String::from_utf8_lossy(bytes);
        let mut head = Head { body_bytes: 0, is_put: false, is_signed: false, expects_continue: false };
        for line in text.lines().skip(1) {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.body_bytes = value.parse().context("content-length is not a number")?,
                "x-amz-target" => head.is_put = value == "Logs_20140328.PutLogEvents",
                "authorization" => head.is_signed = value.starts_with("AWS4-HMAC-SHA256 Credential="),
                "expect" => head.expects_continue = value.eq_ignore_ascii_case("100-continue"),
                "content-encoding" => bail!("a body in the encoding {value}, which is not supported"),
                "transfer-encoding" => bail!("a body without its length, in the encoding {value}"),
                _ => {}
            }
        }
        if head.body_bytes > REQUEST_BYTES_MAX {
            bail!("a body of {} bytes", head.body_bytes);
        }
        Ok(head)
    }
}

fn now_ms() -> i64 {
    (now_nanoseconds() / 1_000_000) as i64
}

#[derive(Debug, Default)]
struct Batch {
    events: u64,
    bytes: u64,
    faults: Vec<String>,
}

/// Parses a PutLogEvents body in one pass. Skips strings by a search for their end, not byte by byte.
fn check(body: &[u8], now_ms: i64) -> Result<Batch> {
    let key = memchr::memmem::find(body, b"\"logEvents\"").context("no logEvents")?;
    let mut walk = Walk { body, at: key + b"\"logEvents\"".len() };
    walk.expect(b':')?;
    walk.expect(b'[')?;
    let mut batch = Batch::default();
    let (mut first_ms, mut last_ms) = (None, i64::MIN);
    if walk.peek() == Some(b']') {
        batch.faults.push("a batch without events".to_owned());
    } else {
        loop {
            let event = walk.event()?;
            batch.events += 1;
            batch.bytes += event.message_bytes + EVENT_OVERHEAD_BYTES;
            let first_ms = *first_ms.get_or_insert(event.at_ms);
            let faults = [
                (event.message_bytes == 0, "an empty message"),
                (event.message_bytes + EVENT_OVERHEAD_BYTES > BATCH_BYTES_MAX, "a message longer than a batch"),
                (event.at_ms < last_ms, "events out of order"),
                (event.at_ms - first_ms > SPAN_MAX_MS, "events of more than a day"),
                (event.at_ms < now_ms - AGE_MAX_MS, "an event older than 14 days"),
                (event.at_ms > now_ms + FUTURE_MAX_MS, "an event from the future"),
            ];
            let faults = faults.into_iter().filter(|(is_one, _)| *is_one).map(|(_, fault)| fault);
            batch.faults.extend(faults.map(|fault| format!("event {} of a batch: {fault}", batch.events)));
            last_ms = event.at_ms;
            match walk.next() {
                Some(b',') => {}
                Some(b']') => break,
                _ => bail!("a batch that is not JSON after event {}", batch.events),
            }
        }
    }
    if batch.events > EVENTS_MAX {
        batch.faults.push(format!("{} events in a batch", batch.events));
    }
    if batch.bytes > BATCH_BYTES_MAX {
        batch.faults.push(format!("{} bytes in a batch", batch.bytes));
    }
    check_names(body, key, &mut batch.faults);
    Ok(batch)
}

/// Checks that the rest of the body names group and stream, without parsing the events again.
fn check_names(body: &[u8], events_at: usize, faults: &mut Vec<String>) {
    let end = memchr::memrchr(b']', body).unwrap_or(body.len());
    let rest = [&body[..events_at], b"\"logEvents\":[", &body[end..]].concat();
    let rest: Value = serde_json::from_slice(&rest).unwrap_or_default();
    for name in ["logGroupName", "logStreamName"] {
        if rest[name].as_str().is_none_or(str::is_empty) {
            faults.push(format!("a batch without {name}"));
        }
    }
}

struct Event {
    at_ms: i64,
    /// Length in UTF-8, as the service counts.
    message_bytes: u64,
}

struct Walk<'b> {
    body: &'b [u8],
    at: usize,
}

impl Walk<'_> {
    fn peek(&mut self) -> Option<u8> {
        while self.body.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.body.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        match self.next() {
            Some(found) if found == byte => Ok(()),
            _ => bail!("not JSON: {} is missing at byte {}", char::from(byte), self.at),
        }
    }

    fn event(&mut self) -> Result<Event> {
        self.expect(b'{')?;
        let (mut at_ms, mut message_bytes) = (None, None);
        loop {
            self.expect(b'"')?;
            let key_at = self.at;
            self.text()?;
            let key = &self.body[key_at..self.at - 1];
            self.expect(b':')?;
            match key {
                b"timestamp" => at_ms = Some(self.number()?),
                b"message" => {
                    self.expect(b'"')?;
                    message_bytes = Some(self.text()?);
                }
                _ => bail!("an event with the key {}", String::from_utf8_lossy(key)),
            }
            match self.next() {
                Some(b',') => {}
                Some(b'}') => break,
                _ => bail!("an event that is not JSON at byte {}", self.at),
            }
        }
        let at_ms = at_ms.context("an event without a timestamp")?;
        Ok(Event { at_ms, message_bytes: message_bytes.context("an event without a message")? })
    }

    fn number(&mut self) -> Result<i64> {
        self.peek();
        let digits = self.body[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&self.body[self.at..self.at + digits])?;
        self.at += digits;
        text.parse().context("a timestamp that is not a number")
    }

    /// Skips a string after its first quote, and returns its length in UTF-8.
    fn text(&mut self) -> Result<u64> {
        let mut bytes = 0;
        loop {
            let plain = memchr::memchr2(b'"', b'\\', &self.body[self.at..]).context("a string without an end")?;
            bytes += plain as u64;
            self.at += plain + 1;
            if self.body[self.at - 1] == b'"' {
                return Ok(bytes);
            }
            let escape = *self.body.get(self.at).context("a string without an end")?;
            self.at += 1;
            bytes += if escape == b'u' { self.code_unit()? } else { 1 };
        }
    }

    /// The UTF-8 length of a UTF-16 code unit in four hexadecimal digits. Half of a surrogate pair counts as two bytes.
    fn code_unit(&mut self) -> Result<u64> {
        let digits = self.body.get(self.at..self.at + 4).context("an escape without its digits")?;
        let unit = u16::from_str_radix(std::str::from_utf8(digits)?, 16).context("an escape without its digits")?;
        self.at += 4;
        Ok(match unit {
            0..0x80 => 1,
            0x80..0x800 => 2,
            0xd800..0xe000 => 2,
            _ => 3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_795_420_200_000;

    fn body(events: &str) -> Vec<u8> {
        format!(r#"{{"logGroupName":"g","logEvents":[{events}],"logStreamName":"s"}}"#).into_bytes()
    }

    fn event(at_ms: i64, message: &str) -> String {
        format!(r#"{{"message":"{message}","timestamp":{at_ms}}}"#)
    }

    #[test]
    fn messages_are_measured_in_utf_8() {
        for (message, bytes) in
            [("abc", 3), ("ä", 2), (r"\u00e4", 2), (r"\ud83d\ude00", 4), (r#"\"\\\n"#, 3), (r"\u20ac]}", 5)]
        {
            let batch = check(&body(&event(NOW_MS, message)), NOW_MS).expect("a batch");
            assert_eq!((batch.events, batch.bytes, batch.faults.len()), (1, bytes + 26, 0), "{message}: {batch:?}");
        }
    }

    #[test]
    fn every_limit_is_enforced_exactly() {
        let many = |count: u64| vec![event(NOW_MS, "x"); count as usize].join(",");
        let two = |from: i64, to: i64| [event(from, "x"), event(to, "x")].join(",");
        let long = |bytes: u64| event(NOW_MS, &"x".repeat((bytes - EVENT_OVERHEAD_BYTES) as usize));
        for (part, good, bad) in [
            ("10001 events", many(EVENTS_MAX), many(EVENTS_MAX + 1)),
            ("bytes in a batch", long(BATCH_BYTES_MAX), long(BATCH_BYTES_MAX + 1)),
            ("out of order", two(NOW_MS, NOW_MS), two(NOW_MS, NOW_MS - 1)),
            ("more than a day", two(NOW_MS - SPAN_MAX_MS, NOW_MS), two(NOW_MS - SPAN_MAX_MS - 1, NOW_MS)),
            ("older", event(NOW_MS - AGE_MAX_MS, "x"), event(NOW_MS - AGE_MAX_MS - 1, "x")),
            ("future", event(NOW_MS + FUTURE_MAX_MS, "x"), event(NOW_MS + FUTURE_MAX_MS + 1, "x")),
            ("empty message", event(NOW_MS, "x"), event(NOW_MS, "")),
            ("without events", event(NOW_MS, "x"), String::new()),
        ] {
            let faults = |events: &str| check(&body(events), NOW_MS).expect("a batch").faults;
            assert_eq!(faults(&good), [""; 0], "{part}");
            assert!(faults(&bad).iter().any(|fault| fault.contains(part)), "{part}: {:?}", faults(&bad));
        }
    }

    #[test]
    fn a_body_that_is_not_a_batch_is_refused() {
        for bad in
            [&b"{}"[..], br#"{"logEvents":[{"message":"x"}]}"#, br#"{"logEvents":[{"message":"x","timestamp":1}"#]
        {
            assert!(check(bad, NOW_MS).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let nameless = br#"{"logEvents":[{"message":"x","timestamp":1795420200000}]}"#;
        assert_eq!(check(nameless, NOW_MS).expect("a batch").faults.len(), 2);
    }
}
