//! Syslog: RFC 5424 with microseconds of the capture time, or RFC 3164, over UDP (RFC 5426), TCP (RFC 6587), TLS (RFC
//! 5425) or a local socket. Only the formats; the wires are shared with GELF.

use domain::document::Section;
use domain::line::Stream;

use crate::address::{self, Address, Scheme};
use crate::bracket_records;
use crate::feed::RunHeader;
use crate::frames::Frames;
use crate::record::{Piece, Record};
use crate::sink::Format;
use crate::stamp::{self, Digits, NUMBER_BYTES_MAX, PerSecond};
use crate::tls::TlsConfig;

/// Customary UDP and TCP port; TLS has its own (RFC 5425 section 4.1).
const PORT: u16 = 514;
const TLS_PORT: u16 = 6514;

/// RFC 5424 section 6: HOSTNAME and APP-NAME, printable ASCII. RFC 3164 section 4.1.3: TAG.
const HOSTNAME_BYTES_MAX: usize = 255;
const APP_NAME_BYTES_MAX: usize = 48;
const TAG_BYTES_MAX: usize = 32;
/// RFC 5424 section 6.3.2.
const SD_ID_BYTES_MAX: usize = 32;

/// Longest message: RFC 5425 section 4.3.1 (receivers should take 8192), RFC 5426 section 3.2 (2048), RFC 3164 section
/// 4.1 (1024; only where datagrams make it matter).
const STREAM_MESSAGE_BYTES: usize = 8192;
const DATAGRAM_MESSAGE_BYTES: usize = 2048;
const BSD_DATAGRAM_MESSAGE_BYTES: usize = 1024;

/// Default `sd_id`. RFC 5612 reserves the number 32473 for examples; an operator with a registered number sets
/// `sd_id`.
const SD_ID: &str = "run@32473";

/// Least bytes of text in a message, however long its header. Chosen: a shorter text would be useless.
const TEXT_BYTES_MIN: usize = 256;

/// Length of ` part="18446744073709551615" part_last="false"`.
const PART_BYTES_MAX: usize = 46;

#[derive(Clone, Debug, PartialEq)]
pub struct SyslogConfig {
    pub address: Address,
    pub format: SyslogFormat,
    pub framing: Framing,
    /// 0 to 23 (RFC 5424 section 6.2.1).
    pub facility: u8,
    pub sd_id: String,
    pub tls: TlsConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogFormat {
    Rfc5424,
    Rfc3164,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// RFC 6587 section 3.4.1: `MSG-LEN SP MSG`.
    OctetCounting,
    /// RFC 6587 section 3.4.2.
    Newline,
    /// One frame per datagram.
    None,
}

const FACILITIES: [(&str, u8); 20] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// Reads the options of `type = "syslog"`. Reports every fault; returns `None` when a required option is missing.
pub(crate) fn read(section: &mut Section) -> Option<SyslogConfig> {
    let port = |scheme| if scheme == Scheme::Tls { TLS_PORT } else { PORT };
    let address_and_tls = address::read(section, &[Scheme::Udp, Scheme::Tcp, Scheme::Tls, Scheme::Unix], port);
    let format = section.choice("format", &[("rfc5424", SyslogFormat::Rfc5424), ("rfc3164", SyslogFormat::Rfc3164)]);
    let framing_line = section.line_of("framing");
    let framing =
        section.choice("framing", &[("octet_counting", Framing::OctetCounting), ("newline", Framing::Newline)]);
    let facility = section.choice_by_meaning("facility", &FACILITIES, facility_by_number).unwrap_or(9);
    let (sd_id_line, sd_id) = (section.line_of("sd_id"), section.text("sd_id").unwrap_or_else(|| SD_ID.to_owned()));
    if sd_id.is_empty() || sd_id.len() > SD_ID_BYTES_MAX || !sd_id.bytes().all(is_sd_name) {
        section.fault(sd_id_line, &*sd_id, "not an SD-ID; write up to 32 printable characters without = ] \" or space");
    }
    let (address, tls) = address_and_tls?;
    let default = match address.scheme {
        Scheme::Tls => Framing::OctetCounting,
        Scheme::Udp => Framing::None,
        _ => Framing::Newline,
    };
    if framing.is_some() && !matches!(address.scheme, Scheme::Tcp | Scheme::Tls) {
        section.fault(
            framing_line,
            "",
            format!("`framing` is for tcp and tcp+tls; remove it for {}", address.scheme.name()),
        );
    }
    // Local daemons, journald among them, read only RFC 3164.
    let local = address.scheme == Scheme::Unix;
    let format = format.unwrap_or(if local { SyslogFormat::Rfc3164 } else { SyslogFormat::Rfc5424 });
    Some(SyslogConfig { address, format, framing: framing.unwrap_or(default), facility, sd_id, tls })
}

/// Bytes of the longest message by default.
pub(crate) fn message_bytes_max(config: &SyslogConfig) -> usize {
    match (config.address.scheme, config.format) {
        (Scheme::Udp, SyslogFormat::Rfc3164) => BSD_DATAGRAM_MESSAGE_BYTES,
        (Scheme::Udp, SyslogFormat::Rfc5424) => DATAGRAM_MESSAGE_BYTES,
        _ => STREAM_MESSAGE_BYTES,
    }
}

/// RFC 5424, table 1, numbers the facilities. 12 to 15 have no name that receivers agree on.
fn facility_by_number(text: &str) -> Option<String> {
    let number: u8 = text.parse().ok()?;
    Some(match FACILITIES.iter().find(|(_, known)| *known == number) {
        Some((name, _)) => format!("facility {number} has a name: write facility = \"{name}\""),
        None => "write the name of a facility, for example facility = \"local0\"".to_owned(),
    })
}

fn is_sd_name(byte: u8) -> bool {
    (33..=126).contains(&byte) && !matches!(byte, b'=' | b']' | b'"')
}

pub(crate) struct Syslog {
    config: SyslogConfig,
    message_bytes_max: usize,
    bsd_time: PerSecond,
    seq: Digits,
}

/// The constant parts of a run's messages.
pub(crate) struct SyslogRun {
    stdout: Head,
    stderr: Head,
    started: Head,
    finished: Head,
    finished_failed: Head,
    output_ended: Head,
    gap: Head,
    stamp_started: [u8; domain::line::STAMP_BYTES],
    started_text: String,
    started_params: Vec<u8>,
}

/// `before TIME middle SEQ after parameters close text`
struct Head {
    before: Vec<u8>,
    middle: Vec<u8>,
    after: Vec<u8>,
    /// `after` and the end of the structured data: most lines have no parameters between them.
    closed: Vec<u8>,
}

/// The end of the structured data.
const CLOSE: &[u8] = b"] ";

/// RFC 5424 section 6.2.1.
#[derive(Clone, Copy)]
enum Severity {
    Error = 3,
    Warning = 4,
    Info = 6,
}

impl Syslog {
    pub(crate) fn new(config: SyslogConfig, message_bytes_max: usize) -> Syslog {
        Syslog { config, message_bytes_max, bsd_time: PerSecond::bsd(), seq: Digits::default() }
    }

    fn head(&self, header: &RunHeader, severity: Severity, msgid: &str, stream: Option<Stream>) -> Head {
        let priority = u16::from(self.config.facility) * 8 + severity as u16;
        let mut middle = Vec::with_capacity(256);
        match self.config.format {
            SyslogFormat::Rfc5424 => {
                let host = printable(&header.host, HOSTNAME_BYTES_MAX);
                let app = printable(&header.job, APP_NAME_BYTES_MAX);
                let pid = header.pid.map_or("-".to_owned(), |pid| pid.to_string());
                let sd_id = &self.config.sd_id;
                middle.extend_from_slice(format!(" {host} {app} {pid} {msgid} [{sd_id}").as_bytes());
                param("id", header.run_id.as_str(), &mut middle);
                param("group", &header.group, &mut middle);
                param("job", &header.job, &mut middle);
                param("attempt", &header.attempt.to_string(), &mut middle);
                if stream.is_some() {
                    middle.extend_from_slice(b" seq=\"");
                }
                let after = stream.map_or(Vec::new(), |stream| format!("\" stream=\"{}\"", stream.name()).into_bytes());
                let closed = [&after, CLOSE].concat();
                Head { before: format!("<{priority}>1 ").into_bytes(), middle, after, closed }
            }
            SyslogFormat::Rfc3164 => {
                if self.config.address.scheme != Scheme::Unix {
                    middle.extend_from_slice(format!(" {}", printable(&header.host, HOSTNAME_BYTES_MAX)).as_bytes());
                }
                middle.extend_from_slice(format!(" {}", printable(&header.job, TAG_BYTES_MAX)).as_bytes());
                if let Some(pid) = header.pid {
                    middle.extend_from_slice(format!("[{pid}]").as_bytes());
                }
                middle.extend_from_slice(b": ");
                Head { before: format!("<{priority}>").into_bytes(), middle, after: Vec::new(), closed: Vec::new() }
            }
        }
    }

    fn write_piece(&mut self, head: &Head, piece: &Piece<'_>, frames: &mut Frames) {
        if self.config.format == SyslogFormat::Rfc3164 {
            return self.write_message(head, piece.stamp, &[], piece.text, frames);
        }
        let (time, seq) = (stamp::to_micros(piece.stamp), self.seq.text(piece.seq));
        let framing = self.config.framing;
        if piece.part == 0 && !piece.gap {
            return write_frame(framing, head, &time, &[seq, &head.closed], piece.text, frames);
        }
        let mut part = [0; PART_BYTES_MAX];
        let part = if piece.part > 0 { part_params(piece, &mut part) } else { &[] };
        let gap: &[u8] = if piece.gap { b" event=\"gap\"" } else { &[] };
        write_frame(framing, head, &time, &[seq, &head.after, part, gap, CLOSE], piece.text, frames);
    }

    /// Writes one message: `rest` follows `middle`, the text comes last.
    fn write_message(&mut self, head: &Head, stamp: &[u8], rest: &[&[u8]], text: &[u8], frames: &mut Frames) {
        match self.config.format {
            SyslogFormat::Rfc5424 => {
                write_frame(self.config.framing, head, &stamp::to_micros(stamp), rest, text, frames);
            }
            SyslogFormat::Rfc3164 => {
                write_frame(self.config.framing, head, self.bsd_time.text(stamp), rest, text, frames);
            }
        }
    }

    /// Writes a record that is not a line: its parameters instead of seq and stream.
    fn write_event(&mut self, head: &Head, stamp: &[u8], params: &[u8], text: &str, frames: &mut Frames) {
        let room = self.message_bytes_max.saturating_sub(head.middle.len() + params.len()).max(TEXT_BYTES_MIN);
        let text = bracket_records::shortened(text, room);
        let rest: &[&[u8]] = match self.config.format {
            SyslogFormat::Rfc5424 => &[params, CLOSE],
            SyslogFormat::Rfc3164 => &[],
        };
        self.write_message(head, stamp, rest, text.as_bytes(), frames);
    }
}

impl Format for Syslog {
    type Run = SyslogRun;

    fn open(&self, header: &RunHeader) -> SyslogRun {
        let mut started_params = Vec::with_capacity(128);
        param("event", bracket_records::STARTED, &mut started_params);
        param("nominal", &header.nominal.to_string(), &mut started_params);
        param("trigger", bracket_records::trigger_name(header.trigger), &mut started_params);
        param("runner", &header.runner, &mut started_params);
        SyslogRun {
            stdout: self.head(header, Severity::Info, Stream::Stdout.name(), Some(Stream::Stdout)),
            stderr: self.head(header, Severity::Error, Stream::Stderr.name(), Some(Stream::Stderr)),
            started: self.head(header, Severity::Info, bracket_records::STARTED, None),
            finished: self.head(header, Severity::Info, bracket_records::FINISHED, None),
            finished_failed: self.head(header, Severity::Error, bracket_records::FINISHED, None),
            output_ended: self.head(header, Severity::Info, bracket_records::OUTPUT_ENDED, None),
            gap: self.head(header, Severity::Warning, bracket_records::GAP, None),
            stamp_started: stamp::format(header.started_at),
            started_text: bracket_records::started_text(header),
            started_params,
        }
    }

    fn text_bytes_max(&self, run: &SyslogRun) -> usize {
        const AROUND_BYTES: usize = 6 + 27 + NUMBER_BYTES_MAX + 2 + 12 + PART_BYTES_MAX;
        let head = run.stderr.middle.len() + run.stderr.after.len() + AROUND_BYTES;
        self.message_bytes_max.saturating_sub(head).max(TEXT_BYTES_MIN)
    }

    fn write(&mut self, run: &SyslogRun, record: &Record<'_>, frames: &mut Frames) {
        match record {
            Record::Line(piece) => {
                let head = if piece.stream == Stream::Stdout { &run.stdout } else { &run.stderr };
                self.write_piece(head, piece, frames);
            }
            Record::Started => {
                self.write_event(&run.started, &run.stamp_started, &run.started_params, &run.started_text, frames);
            }
            Record::Gap(gap) => {
                let mut params = Vec::new();
                param("event", bracket_records::GAP, &mut params);
                self.write_event(&run.gap, &stamp::format(gap.at), &params, &gap.text(), frames);
            }
            Record::Finished(finished) => {
                let params = event_params(bracket_records::FINISHED, bracket_records::finished_pairs(finished));
                let text = bracket_records::finished_text(finished);
                let head = if finished.outcome.is_failure() { &run.finished_failed } else { &run.finished };
                self.write_event(head, &stamp::format(finished.finished_at), &params, &text, frames);
            }
            Record::OutputEnded(ended) => {
                let params = event_params(bracket_records::OUTPUT_ENDED, bracket_records::output_ended_pairs(ended));
                let text = bracket_records::output_ended_text(ended);
                self.write_event(&run.output_ended, &stamp::format(ended.ended_at), &params, &text, frames);
            }
        }
    }
}

fn event_params(event: &str, pairs: Vec<(&'static str, bracket_records::Value)>) -> Vec<u8> {
    let mut params = Vec::with_capacity(256);
    param("event", event, &mut params);
    for (name, value) in pairs {
        match value {
            bracket_records::Value::Text(text) if name == "reason" => {
                param(name, &bracket_records::shortened(&text, TEXT_BYTES_MIN), &mut params);
            }
            bracket_records::Value::Text(text) => param(name, &text, &mut params),
            bracket_records::Value::Number(number) => param(name, &number.to_string(), &mut params),
            bracket_records::Value::Flag(flag) => param(name, &flag.to_string(), &mut params),
        }
    }
    params
}

fn write_frame(framing: Framing, head: &Head, time: &[u8], rest: &[&[u8]], text: &[u8], frames: &mut Frames) {
    let rest_bytes: usize = rest.iter().map(|part| part.len()).sum();
    let bytes = head.before.len() + time.len() + head.middle.len() + rest_bytes + text.len();
    let out = &mut frames.bytes;
    out.reserve(bytes + NUMBER_BYTES_MAX + 1);
    if framing == Framing::OctetCounting {
        stamp::write_number(bytes as u64, out);
        out.push(b' ');
    }
    for part in [&head.before, time, &head.middle].into_iter().chain(rest.iter().copied()) {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(text);
    if framing == Framing::Newline {
        out.push(b'\n');
    }
    frames.end_frame();
}

fn part_params<'p>(piece: &Piece<'_>, room: &'p mut [u8; PART_BYTES_MAX]) -> &'p [u8] {
    let mut digits = [0; NUMBER_BYTES_MAX];
    let last: &[u8] = if piece.part_last { b"\" part_last=\"true\"" } else { b"\" part_last=\"false\"" };
    let mut end = 0;
    for text in [b" part=\"", stamp::digits_of(piece.part, &mut digits), last] {
        room[end..end + text.len()].copy_from_slice(text);
        end += text.len();
    }
    &room[..end]
}

/// Appends ` name="value"` with `"`, `\` and `]` escaped (RFC 5424 section 6.3.3). Line ends and NUL, which end a
/// frame, become a backslash and a letter.
fn param(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' | b']' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\\\n"),
            b'\r' => out.extend_from_slice(b"\\\\r"),
            0 => out.extend_from_slice(b"\\\\0"),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Printable ASCII without spaces (RFC 5424 section 6, PRINTUSASCII): any other character becomes `_`; an empty name
/// becomes `-`.
fn printable(name: &str, bytes_max: usize) -> String {
    let printable: String =
        name.chars().take(bytes_max).map(|c| if ('\u{21}'..='\u{7e}').contains(&c) { c } else { '_' }).collect();
    if printable.is_empty() { "-".to_owned() } else { printable }
}

#[cfg(test)]
#[path = "syslog_tests.rs"]
mod tests;
