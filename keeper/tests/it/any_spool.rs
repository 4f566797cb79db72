//! Reads spools with any bytes: incomplete, damaged, in segments of any size.

use std::fs;

use domain::line::Position;
use keeper::spool::{SpoolReader, segment_name};
use tempfile::TempDir;
use testbed::try_inputs;

#[test]
fn any_bytes_are_read_as_whole_records_in_order_and_none_is_left_out() {
    let folder = TempDir::new().expect("a folder");
    try_inputs("lines", |input| {
        let (first, second) = input.split_at(input.len() / 2);
        let whole = first.iter().filter(|byte| **byte == b'\n').count() as u64;
        let next = whole + 1;
        fs::write(folder.path().join(segment_name(1)), first).expect("written");
        let names = [(1, first), (next.max(2), second)];
        fs::write(folder.path().join(segment_name(names[1].0)), second).expect("written");
        for bytes_max in [1, 50, 1 << 16] {
            let mut reader = SpoolReader::open(folder.path(), Position { seq: 1, segment: 1, ..Position::START });
            let mut seen = Vec::new();
            while let Some(block) = reader.read(bytes_max).expect("read") {
                assert_eq!(block.bytes.last(), Some(&b'\n'), "whole records only");
                assert!(block.lines().count() > 0 && block.end > Position::START);
                seen.extend_from_slice(&block.bytes);
            }
            let records =
                |bytes: &[u8]| bytes[..bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)].to_vec();
            assert_eq!(seen, [records(first), records(second)].concat());
        }
        for (name, _) in names {
            fs::remove_file(folder.path().join(segment_name(name))).expect("removed");
        }
    });
}
