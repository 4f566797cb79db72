//! Tests of GELF: golden bytes, and that joined chunks are the message.

use std::io::Read;

use super::*;
use crate::record::tests::piece;
use crate::sample_records::{finished, header, output_ended};

fn gelf(address: &str, compression: Compression) -> Gelf {
    let schemes = [Scheme::Udp, Scheme::Tcp, Scheme::Http];
    let address = Address::parse(address, &schemes, |_| PORT).expect("address");
    let max_chunk_size = CHUNK_BYTES as usize;
    let config = GelfConfig { address, compression, max_chunk_size, bulk: false, tls: TlsConfig::default() };
    let bytes_max = text_bytes_max(&config);
    Gelf::new(config, bytes_max, || 0x0102_0304_0506_0708)
}

fn frames_of(mut gelf: Gelf, record: &Record<'_>) -> Vec<Vec<u8>> {
    let run = gelf.open(&header());
    let mut frames = Frames::default();
    gelf.write(&run, record, &mut frames);
    frames.iter().map(<[u8]>::to_vec).collect()
}

fn check(record: Record<'_>, wanted: &str) {
    let frames = frames_of(gelf("tcp://x", Compression::None), &record);
    assert_eq!(frames.len(), 1);
    assert_eq!(String::from_utf8_lossy(&frames[0]), format!("{wanted}\0"));
    serde_json::from_slice::<serde_json::Value>(&frames[0][..frames[0].len() - 1]).expect("JSON");
}

const HEAD: &str = r#"{"version":"1.1","host":"host1","_run_id":"20261123T075000Z-3f9a1c0e7b2d","_group":"db","_job":"nightly-dump","_attempt":1,"#;

#[test]
fn lines_match_the_golden_bytes() {
    let stdout = format!(r#"{HEAD}"_stream":"stdout","level":6,"timestamp":1795420200.123456,"#);
    for (text, wanted) in [
        (&b"plain"[..], r#""short_message":"plain""#),
        (b"a\x00b\"c\\", r#""short_message":"a\u0000b\"c\\""#),
        (b"\xffx", "\"short_message\":\"\u{fffd}x\""),
        (b"", r#""short_message":"(empty line)""#),
        (b" \t", r#""short_message":"(empty line)","full_message":" \t""#),
        (" \u{e9}".as_bytes(), "\"short_message\":\" \u{e9}\""),
    ] {
        check(Record::Line(piece(7, Stream::Stdout, text)), &format!("{stdout}\"_seq\":7,{wanted}}}"));
    }
    let part = Piece { part: 3, part_last: false, ..piece(8, Stream::Stderr, b"x") };
    check(
        Record::Line(part),
        &format!(
            r#"{HEAD}"_stream":"stderr","level":3,"timestamp":1795420200.123456,"_seq":8,"_part":3,"_part_last":"false","short_message":"x"}}"#
        ),
    );
}

#[test]
fn brackets_match_the_golden_bytes() {
    check(
        Record::Started,
        &format!(
            r#"{HEAD}"level":6,"timestamp":1795420200.250000,"_event":"run.started","_nominal":"2026-11-23T07:50:00Z","_trigger":"schedule","_runner":"runner1","_pid":4242,"_command":"dump.sh \"all\"","short_message":"run started: dump.sh \"all\""}}"#
        ),
    );
    check(
        Record::Finished(&finished()),
        &format!(
            r#"{HEAD}"level":3,"timestamp":1795420201.750000,"_event":"run.finished","_outcome":"failed","_reason":"exit code 3","_exit_code":3,"_duration_ms":1500,"_stdout_lines":2,"_stderr_lines":1,"_stdout_bytes":20,"_stderr_bytes":10,"_last_seq":3,"_dropped_lines":0,"short_message":"run failed after 1s500ms: exit code 3 (3 lines)"}}"#
        ),
    );
    check(
        Record::OutputEnded(&output_ended()),
        &format!(
            r#"{HEAD}"level":6,"timestamp":1795420207.500000,"_event":"run.output_ended","_late_lines":2,"_stdout_lines":4,"_stderr_lines":1,"_stdout_bytes":40,"_stderr_bytes":10,"_last_seq":5,"_dropped_lines":0,"short_message":"run output ended: 2 late lines (5 lines)"}}"#
        ),
    );
}

fn join(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, chunk) in chunks.iter().enumerate() {
        assert_eq!(&chunk[..10], [0x1e, 0x0f, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((usize::from(chunk[10]), usize::from(chunk[11])), (number, chunks.len()));
        assert!(chunk.len() <= CHUNK_BYTES as usize);
        message.extend_from_slice(&chunk[12..]);
    }
    message
}

#[test]
fn the_chunks_of_a_long_message_join_to_the_message() {
    let plain = frames_of(gelf("tcp://x", Compression::None), &Record::Line(piece(1, Stream::Stdout, &[b'x'; 9000])));
    let plain = &plain[0][..plain[0].len() - 1];
    let chunks = frames_of(gelf("udp://x", Compression::None), &Record::Line(piece(1, Stream::Stdout, &[b'x'; 9000])));
    assert_eq!(join(&chunks), plain);
    for compression in [Compression::Gzip, Compression::Zlib] {
        let packed = frames_of(gelf("udp://x", compression), &Record::Line(piece(1, Stream::Stdout, &[b'x'; 9000])));
        assert_eq!(packed.len(), 1);
        let mut read = Vec::new();
        match compression {
            Compression::Gzip => flate2::read::GzDecoder::new(&packed[0][..]).read_to_end(&mut read),
            _ => flate2::read::ZlibDecoder::new(&packed[0][..]).read_to_end(&mut read),
        }
        .expect("unpacks");
        assert_eq!(read, plain);
    }
}

#[test]
fn a_fully_escaped_text_fits_into_128_chunks() {
    for chunk in [512, CHUNK_BYTES as usize, CHUNK_BYTES_MAX as usize] {
        let mut gelf = gelf("udp://x", Compression::None);
        gelf.config.max_chunk_size = chunk;
        gelf.text_bytes_max = text_bytes_max(&gelf.config);
        let text = vec![1; gelf.text_bytes_max];
        let frames = frames_of(gelf, &Record::Line(piece(u64::MAX, Stream::Stdout, &text)));
        assert!(frames.len() <= CHUNKS_MAX && frames.len() > 1, "{} chunks of {chunk}", frames.len());
    }
}
