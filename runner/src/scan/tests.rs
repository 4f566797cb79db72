use std::fs;

use domain::line::{Stream, Tag, stamp, write_head};
use jiff::Timestamp;
use rules::{Packs, RuleSet};

use super::*;

/// A run whose spool has segments with these texts.
fn run_of(segments: &[Vec<String>]) -> (tempfile::TempDir, RunDirectory, OutputCounts) {
    let folder = tempfile::tempdir().expect("folder");
    let run = RunDirectory::open(folder.path());
    fs::create_dir_all(run.spool()).expect("spool");
    fs::create_dir_all(run.cursors()).expect("cursors");
    let mut counts = OutputCounts::default();
    for texts in segments {
        let mut records = Vec::new();
        for text in texts {
            write_head(&stamp(Timestamp::UNIX_EPOCH), Stream::Stdout, Tag::WHOLE, &mut records);
            records.extend_from_slice(text.as_bytes());
            records.push(b'\n');
            counts.stdout_bytes += text.len() as u64 + 1;
        }
        fs::write(run.spool().join(segment_name(counts.last_seq + 1)), records).expect("segment");
        counts.last_seq += texts.len() as u64;
        counts.stdout_lines = counts.last_seq;
    }
    (folder, run, counts)
}

fn some_rules() -> Arc<RuleSet> {
    let packs = Packs::builtin();
    let names: Vec<String> = packs.names().map(str::to_owned).collect();
    RuleSet::compile(&packs, &names).expect("rules")
}

fn end(scan: &mut Scan, counts: OutputCounts) {
    while scan.read_turn(OutputState::Whole(counts)).expect("turn") {}
    assert_eq!(scan.position().seq, counts.last_seq + 1);
}

fn texts(count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|number| format!("{number} {}", "x".repeat(bytes))).collect()
}

#[test]
fn without_rules_the_excerpt_equals_that_of_a_full_read() {
    let check = |segments: &[Vec<String>]| {
        let (_folder, run, counts) = run_of(segments);
        let mut whole = Scan::open(&run, some_rules());
        end(&mut whole, counts);
        let shape: Vec<usize> = segments.iter().map(Vec::len).collect();
        let nowhere = Position::START;
        for seen in [None, Some((nowhere, false)), Some((nowhere, true)), Some((whole.position(), true))] {
            let mut scan = Scan::open(&run, RuleSet::none());
            for (seen, is_sent) in seen.into_iter().cycle().take(5) {
                scan.read_turn(OutputState::Growing { seen, is_sent }).expect("turn");
                scan.store().expect("stored");
            }
            let mut later = Scan::open(&run, RuleSet::none());
            for scan in [&mut scan, &mut later] {
                end(scan, counts);
                assert_eq!(scan.excerpt().lines(), whole.excerpt().lines(), "{shape:?} {seen:?}");
                assert_eq!(scan.matcher().unseen_lines(), 0, "{shape:?}");
            }
        }
    };
    check(&[]);
    check(&[texts(1, 0)]);
    check(&[texts(300, 10)]);
    check(&[texts(50_000, 10)]);
    check(&[texts(50_000, 100)]);
    check(&[texts(3_000, 900)]);
    check(&[texts(20, 400_000)]);
    check(&[texts(20_000, 100), texts(5, 3)]);
    check(&[texts(20_000, 100), texts(30_000, 3)]);
    check(&[texts(5, 100), texts(5, 3), texts(40_000, 20)]);
}

#[test]
fn without_rules_a_long_output_is_not_read_back() {
    let (_folder, run, counts) = run_of(&[texts(50_000, 100)]);
    let mut scan = Scan::open(&run, RuleSet::none());
    assert!(scan.read_turn(OutputState::Growing { seen: Position::START, is_sent: false }).expect("head"));
    let head = scan.position();
    assert!(!scan.read_turn(OutputState::Growing { seen: Position::START, is_sent: false }).expect("grown"));
    assert_eq!((scan.position(), scan.scanned_position()), (head, head));
    let mut counted = Scan::open(&run, RuleSet::none());
    while counted.read_turn(OutputState::Growing { seen: Position::START, is_sent: true }).expect("sent") {}
    assert_eq!(
        (counted.position(), counted.scanned_position().seq),
        (head, counts.last_seq + 1),
        "a sink's lag is counted"
    );
    assert!(scan.skip_to_tail(&counts).expect("whole"));
    assert_eq!(scan.position(), counted.scanned_position());
}

#[test]
fn an_output_with_other_counts_is_read_completely() {
    let (_folder, run, counts) = run_of(&[texts(50_000, 100)]);
    for wrong in [
        OutputCounts { last_seq: counts.last_seq + 1, ..counts },
        OutputCounts { stdout_bytes: counts.stdout_bytes + 1, ..counts },
        OutputCounts { stderr_lines: 1, last_seq: counts.last_seq + 1, ..counts },
        OutputCounts { dropped_lines: 1, ..counts },
    ] {
        let mut scan = Scan::open(&run, RuleSet::none());
        assert!(scan.read_turn(OutputState::Whole(wrong)).expect("head"));
        assert!(!scan.skip_to_tail(&wrong).expect("refused"), "{wrong:?}");
        while scan.read_turn(OutputState::Whole(wrong)).expect("turn") {}
        assert_eq!(scan.position().seq, counts.last_seq + 1, "{wrong:?}");
    }
}

/// `cursors/rules.scan`, which a later build resumes from.
#[test]
fn a_stored_scan_keeps_its_json() {
    let (_folder, run, counts) = run_of(&[texts(2, 3)]);
    let mut scan = Scan::open(&run, RuleSet::none());
    end(&mut scan, counts);
    scan.needed_from = Some(Position { seq: 2, segment: 1, offset: 7, stage: Stage::Lines });
    scan.store().expect("stored");
    let stored = read_json::<StoredScan>(&run.cursors().join(RULES_CURSOR)).expect("read").expect("stored");
    testbed::golden(env!("CARGO_MANIFEST_DIR"), "rules_scan", &stored);
}
