//! GELF 1.1 (Graylog) over UDP with chunks and compression, TCP and TLS with NUL after each message, or HTTP(S). Only
//! the format; the wires are shared with syslog.

use std::io::Write;

use domain::document::Section;
use domain::line::Stream;
use flate2::Compression as Level;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::address::{self, Address, Scheme};
use crate::bracket_records;
use crate::feed::RunHeader;
use crate::frames::Frames;
use crate::json::{self, number_member, text_member};
use crate::record::{Piece, Record};
use crate::sink::Format;
use crate::stamp::{self, Digits, PerSecond};
use crate::tls::TlsConfig;

/// The customary port of every transport, also of Graylog's HTTP input.
const PORT: u16 = 12201;
/// Path of Graylog's HTTP input.
const HTTP_PATH: &str = "/gelf";

/// Head of a chunk: `1e 0f`, message id, number, count (GELF specification, chunking).
const CHUNK_MAGIC: [u8; 2] = [0x1e, 0x0f];
const CHUNK_HEAD_BYTES: usize = 12;
const CHUNKS_MAX: usize = 128;
/// Default datagram size: fits an Ethernet frame; the default of Docker and go-gelf. The largest is 8192 bytes (GELF
/// specification).
const CHUNK_BYTES: i64 = 1420;
const CHUNK_BYTES_MAX: i64 = 8192;

/// Lucene refuses a longer term, and with it the whole message, in an index that does not analyse a field.
const MESSAGE_BYTES_MAX: usize = 32_766;
/// Bytes of a message beside the text: names of group, job and host, escaped twice. Chosen: above the limits of these
/// names.
const AROUND_BYTES_MAX: usize = 8192;
/// A control character becomes `\u0000`.
const ESCAPED_BYTES_MAX: usize = 6;

/// Replaces the text of an empty line: Graylog rejects a blank `short_message`. A line of blanks is also sent in
/// `full_message`.
pub(crate) const EMPTY_LINE: &str = "(empty line)";

#[derive(Clone, Debug, PartialEq)]
pub struct GelfConfig {
    pub address: Address,
    pub compression: Compression,
    /// Largest datagram in bytes, with its head.
    pub max_chunk_size: usize,
    /// HTTP: many messages, one a line, in one request. Graylog accepts it when the input's bulk option is on.
    pub bulk: bool,
    pub tls: TlsConfig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zlib,
}

/// Reads the options of `type = "gelf"`. Reports every fault; returns `None` when a required option is missing.
pub(crate) fn read(section: &mut Section) -> Option<GelfConfig> {
    let schemes = [Scheme::Udp, Scheme::Tcp, Scheme::Tls, Scheme::Http, Scheme::Https];
    let address_and_tls = address::read(section, &schemes, |_| PORT);
    let compression_line = section.line_of("compression");
    let words = [("none", Compression::None), ("gzip", Compression::Gzip), ("zlib", Compression::Zlib)];
    let compression = section.choice("compression", &words).unwrap_or(Compression::None);
    let chunk_line = section.line_of("max_chunk_size");
    let chunk = section.integer("max_chunk_size", 512..=CHUNK_BYTES_MAX);
    let bulk_line = section.line_of("bulk");
    let bulk = section.flag("bulk");
    let (mut address, tls) = address_and_tls?;
    let web = matches!(address.scheme, Scheme::Http | Scheme::Https);
    if web && matches!(address.path.as_str(), "" | "/") {
        address.path = HTTP_PATH.to_owned();
    }
    let scheme = address.scheme.name();
    if compression != Compression::None && matches!(address.scheme, Scheme::Tcp | Scheme::Tls) {
        section.fault(compression_line, "", format!("GELF over {scheme} cannot be compressed; remove `compression`"));
    }
    if web && compression == Compression::Zlib {
        section.fault(compression_line, "zlib", "HTTP servers accept gzip; write compression = \"gzip\" or remove it");
    }
    if chunk.is_some() && address.scheme != Scheme::Udp {
        section.fault(chunk_line, "", "`max_chunk_size` is for udp; remove it");
    }
    if bulk.is_some() && !web {
        section.fault(bulk_line, "", "`bulk` is for http and https; remove it");
    }
    let max_chunk_size = chunk.unwrap_or(CHUNK_BYTES) as usize;
    Some(GelfConfig { address, compression, max_chunk_size, bulk: bulk.unwrap_or(false), tls })
}

/// The longest text in bytes unless `max_line` is smaller. Over UDP no message needs more than 128 chunks, even when it
/// does not compress and every byte is escaped.
pub(crate) fn text_bytes_max(config: &GelfConfig) -> usize {
    let chunks_hold = CHUNKS_MAX * (config.max_chunk_size - CHUNK_HEAD_BYTES);
    match config.address.scheme {
        Scheme::Udp => MESSAGE_BYTES_MAX.min(chunks_hold.saturating_sub(AROUND_BYTES_MAX) / ESCAPED_BYTES_MAX),
        _ => MESSAGE_BYTES_MAX,
    }
}

pub(crate) struct Gelf {
    config: GelfConfig,
    text_bytes_max: usize,
    epoch: PerSecond,
    seq: Digits,
    scratch: Vec<u8>,
    random: fn() -> u64,
}

/// The constant parts of `before TIME ,"_seq": SEQ ,"short_message":"`.
pub(crate) struct GelfRun {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    info: Vec<u8>,
    warning: Vec<u8>,
    error: Vec<u8>,
    /// The whole message of `run.started`.
    started: Vec<u8>,
}

impl Gelf {
    /// `random` gives the ids of chunked messages.
    pub(crate) fn new(config: GelfConfig, text_bytes_max: usize, random: fn() -> u64) -> Gelf {
        Gelf { config, text_bytes_max, epoch: PerSecond::epoch(), seq: Digits::default(), scratch: Vec::new(), random }
    }

    fn write_piece(&mut self, run: &GelfRun, piece: &Piece<'_>, out: &mut Vec<u8>) {
        let head = if piece.stream == Stream::Stdout { &run.stdout } else { &run.stderr };
        self.write_head(head, piece.stamp, out);
        out.extend_from_slice(b",\"_seq\":");
        out.extend_from_slice(self.seq.text(piece.seq));
        if piece.part > 0 {
            out.extend_from_slice(b",\"_part\":");
            stamp::write_number(piece.part, out);
            // As text: Graylog drops booleans.
            let last: &[u8] = if piece.part_last { b",\"_part_last\":\"true\"" } else { b",\"_part_last\":\"false\"" };
            out.extend_from_slice(last);
        }
        if piece.gap {
            out.extend_from_slice(b",\"_event\":\"gap\"");
        }
        out.extend_from_slice(b",\"short_message\":\"");
        if is_blank(piece.text) {
            out.extend_from_slice(EMPTY_LINE.as_bytes());
            if !piece.text.is_empty() {
                out.extend_from_slice(b"\",\"full_message\":\"");
                json::escape(piece.text, out);
            }
        } else {
            json::escape(piece.text, out);
        }
        out.extend_from_slice(b"\"}");
    }

    fn write_head(&mut self, head: &[u8], stamp: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(head);
        out.extend_from_slice(self.epoch.text(stamp));
        out.extend_from_slice(stamp::micros(stamp));
    }

    fn write_event(&mut self, head: &[u8], stamp: &[u8], event: &str, text: &str, rest: &[u8], out: &mut Vec<u8>) {
        self.write_head(head, stamp, out);
        out.push(b',');
        text_member("_event", event, out);
        out.extend_from_slice(rest);
        text_member("short_message", text, out);
        json::close(out);
    }

    fn write_json(&mut self, run: &GelfRun, record: &Record<'_>, out: &mut Vec<u8>) {
        match record {
            Record::Line(piece) => self.write_piece(run, piece, out),
            Record::Started => out.extend_from_slice(&run.started),
            Record::Gap(gap) => {
                self.write_event(&run.warning, &stamp::format(gap.at), bracket_records::GAP, &gap.text(), &[], out);
            }
            Record::Finished(finished) => {
                let mut rest = Vec::with_capacity(256);
                bracket_records::write_members(bracket_records::finished_pairs(finished), "_", &mut rest);
                let text = bracket_records::finished_text(finished);
                let head = if finished.outcome.is_failure() { &run.error } else { &run.info };
                let stamp = stamp::format(finished.finished_at);
                self.write_event(head, &stamp, bracket_records::FINISHED, &text, &rest, out);
            }
            Record::OutputEnded(ended) => {
                let mut rest = Vec::with_capacity(256);
                bracket_records::write_members(bracket_records::output_ended_pairs(ended), "_", &mut rest);
                let text = bracket_records::output_ended_text(ended);
                let stamp = stamp::format(ended.ended_at);
                self.write_event(&run.info, &stamp, bracket_records::OUTPUT_ENDED, &text, &rest, out);
            }
        }
    }

    /// Appends the message as one datagram, or as chunks when it is longer.
    fn write_datagrams(&self, message: &[u8], frames: &mut Frames) {
        if message.len() <= self.config.max_chunk_size {
            frames.bytes.extend_from_slice(message);
            frames.end_frame();
            return;
        }
        let id = (self.random)().to_be_bytes();
        let chunks = message.chunks(self.config.max_chunk_size - CHUNK_HEAD_BYTES);
        let count = chunks.len();
        for (number, chunk) in chunks.enumerate() {
            frames.bytes.extend_from_slice(&CHUNK_MAGIC);
            frames.bytes.extend_from_slice(&id);
            frames.bytes.extend_from_slice(&[number as u8, count as u8]);
            frames.bytes.extend_from_slice(chunk);
            frames.end_frame();
        }
    }
}

impl Format for Gelf {
    type Run = GelfRun;

    fn open(&self, header: &RunHeader) -> GelfRun {
        let head = |level: u8, stream: Option<Stream>| {
            let mut head = b"{\"version\":\"1.1\",".to_vec();
            text_member("host", if header.host.is_empty() { "-" } else { &header.host }, &mut head);
            text_member("_run_id", header.run_id.as_str(), &mut head);
            text_member("_group", &header.group, &mut head);
            text_member("_job", &header.job, &mut head);
            number_member("_attempt", header.attempt, &mut head);
            if let Some(stream) = stream {
                text_member("_stream", stream.name(), &mut head);
            }
            // Always present: Graylog classes a message without a level as an alert.
            number_member("level", level, &mut head);
            head.extend_from_slice(b"\"timestamp\":");
            head
        };
        let mut rest = Vec::with_capacity(256);
        text_member("_nominal", &header.nominal.to_string(), &mut rest);
        text_member("_trigger", bracket_records::trigger_name(header.trigger), &mut rest);
        text_member("_runner", &header.runner, &mut rest);
        if let Some(pid) = header.pid {
            number_member("_pid", pid, &mut rest);
        }
        text_member(
            "_command",
            &bracket_records::shortened(&header.command, bracket_records::COMMAND_BYTES_MAX),
            &mut rest,
        );
        let stamp_started = stamp::format(header.started_at);
        let info = head(6, None);
        let mut started = Vec::with_capacity(512);
        let mut this = Gelf::new(self.config.clone(), self.text_bytes_max, self.random);
        let text = bracket_records::started_text(header);
        this.write_event(&info, &stamp_started, bracket_records::STARTED, &text, &rest, &mut started);
        GelfRun {
            stdout: head(6, Some(Stream::Stdout)),
            stderr: head(3, Some(Stream::Stderr)),
            warning: head(4, None),
            error: head(3, None),
            info,
            started,
        }
    }

    fn text_bytes_max(&self, _: &GelfRun) -> usize {
        self.text_bytes_max
    }

    fn write(&mut self, run: &GelfRun, record: &Record<'_>, frames: &mut Frames) {
        match self.config.address.scheme {
            Scheme::Udp => {
                let mut message = std::mem::take(&mut self.scratch);
                message.clear();
                self.write_json(run, record, &mut message);
                match self.config.compression {
                    Compression::None => self.write_datagrams(&message, frames),
                    how => self.write_datagrams(&compress(&message, how), frames),
                }
                self.scratch = message;
            }
            Scheme::Http | Scheme::Https => {
                self.write_json(run, record, &mut frames.bytes);
                if self.config.bulk {
                    frames.bytes.push(b'\n');
                }
                frames.end_frame();
            }
            _ => {
                self.write_json(run, record, &mut frames.bytes);
                frames.bytes.push(0);
                frames.end_frame();
            }
        }
    }
}

/// Level 1: compression already costs more than any other step of a line.
pub(crate) fn compress(message: &[u8], how: Compression) -> Vec<u8> {
    // Writing to a Vec cannot fail. If it did, the message would be sent uncompressed, which every receiver accepts.
    let packed = match how {
        Compression::None => return message.to_vec(),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 2 + 64), Level::fast());
            encoder.write_all(message).and_then(|()| encoder.finish())
        }
        Compression::Zlib => {
            let mut encoder = ZlibEncoder::new(Vec::with_capacity(message.len() / 2 + 64), Level::fast());
            encoder.write_all(message).and_then(|()| encoder.finish())
        }
    };
    packed.unwrap_or_else(|_| message.to_vec())
}

/// Whether Graylog would treat the text as blank: only white space and control characters.
fn is_blank(text: &[u8]) -> bool {
    match text.first() {
        Some(first) if first.is_ascii_graphic() => false,
        _ => match std::str::from_utf8(text) {
            Ok(text) => text.chars().all(|c| c.is_whitespace() || c.is_control()),
            Err(_) => false,
        },
    }
}

#[cfg(test)]
#[path = "gelf_tests.rs"]
mod tests;
