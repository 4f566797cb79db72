//! Checks that a reader returns an answer for any input, and that every accepted value can be used. Each check panics
//! otherwise. Called by `any_text.rs`.

use std::collections::BTreeSet;

use domain::crontab::Format;
use domain::event::Event;
use domain::job::Job;
use domain::line::{Block, Line, Position, parse, write_head};
use domain::order::Order;
use domain::plan::plan;
use domain::schedule::{Context, Schedule};
use jiff::Timestamp;

/// Panics if the reader has no answer for the input.
type Check = fn(&[u8]);

/// Each check with the name of its corpus.
pub(crate) const TARGETS: [(&str, Check); 5] = [
    ("schedule", |input| schedule(&String::from_utf8_lossy(input))),
    ("crontab", |input| crontab(&String::from_utf8_lossy(input))),
    ("jobs_file", |input| jobs_file(&String::from_utf8_lossy(input))),
    ("messages", messages),
    ("lines", lines),
];

pub(crate) fn schedule(text: &str) {
    for zone in ["UTC", "America/New_York"] {
        let context = Context { zone, seed: "a/b", anchor: Timestamp::UNIX_EPOCH };
        if let Ok(schedule) = Schedule::parse(text, &context) {
            schedule.warnings();
            let again = Schedule::parse(&schedule.resolved(), &context);
            let again = again.unwrap_or_else(|message| panic!("{text} resolves to {}: {message}", schedule.resolved()));
            for after in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
                assert_eq!(again.next_after(after), schedule.next_after(after), "{text}");
            }
            let mut earlier = Timestamp::UNIX_EPOCH;
            for firing in schedule.firings(earlier).take(5) {
                assert!(firing.at > earlier && !firing.nominal.is_empty(), "{text}: {firing:?}");
                earlier = firing.at;
            }
        }
    }
}

pub(crate) fn crontab(text: &str) {
    for format in [Format::User, Format::System] {
        let (jobs, _) = domain::crontab::parse("crontab", text, format);
        let window = plan(&jobs, Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let count = window.unwrap_or_else(|faults| panic!("{text}: {faults}")).take(10).count();
        assert!(count <= 10);
        let keys: BTreeSet<_> = jobs.iter().map(Job::key).collect();
        assert_eq!(keys.len(), jobs.len(), "{text}: two jobs of one name");
    }
}

pub(crate) fn jobs_file(text: &str) {
    let (jobs, _) = domain::jobs_file::parse("jobs.toml", text);
    let written = domain::jobs_file::write(&jobs).unwrap_or_else(|message| panic!("{text}: {message}"));
    assert_eq!(domain::jobs_file::parse("jobs.toml", &written).0, jobs, "{text}");
}

/// Orders and reports, as in queues.
fn messages(input: &[u8]) {
    if let Ok(order) = serde_json::from_slice::<Order>(input) {
        let again = serde_json::to_vec(&order).expect("written");
        assert_eq!(serde_json::from_slice::<Order>(&again).expect("read again"), order);
        order.key();
        order.run_key();
    }
    if let Ok(event) = serde_json::from_slice::<Event>(input) {
        let again = serde_json::to_vec(&event).expect("written");
        assert_eq!(serde_json::from_slice::<Event>(&again).expect("read again"), event);
    }
}

/// Records of a spool: whole, torn, or any bytes.
fn lines(input: &[u8]) {
    let block = Block { first_seq: 1, bytes: input.into(), end: Position::START };
    let (mut seq, mut bytes) = (0, 0);
    for line in block.lines() {
        seq += 1;
        bytes += line.text.len() + 1;
        assert_eq!(line.seq, seq);
        let mut record = Vec::new();
        write_head(line.stamp.try_into().expect("a stamp"), line.stream, line.tag, &mut record);
        record.extend_from_slice(line.text);
        let again = parse(&record, seq);
        let fields = |line: &Line<'_>| (line.at(), line.stream, line.tag, line.text.to_vec());
        assert_eq!(fields(&again), fields(&line), "a record that is written again reads the same");
    }
    assert!(bytes <= input.len() + 1, "a line is a part of its record");
}
