//! What each sink received of each attempt, and what it lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use keeper::records::Exit;
use serde_json::Value;
use testbed::LogServer;

/// What one sink received of one attempt.
#[derive(Default)]
pub(crate) struct Shipped {
    seqs: BTreeSet<u64>,
    brackets: BTreeSet<String>,
    /// A line that arrived before its predecessor.
    early: Option<u64>,
}

/// By `RUN_ID.ATTEMPT`.
pub(crate) type ByAttempt = BTreeMap<String, Shipped>;

impl Shipped {
    fn line(&mut self, seq: u64) {
        let highest = self.seqs.last().copied().unwrap_or(0);
        if seq > highest + 1 {
            self.early.get_or_insert(seq);
        }
        self.seqs.insert(seq);
    }
}

/// What the file contains. A line that a kill cut off is repeated in full.
pub(crate) fn of_file(file: &Path) -> ByAttempt {
    let mut all = ByAttempt::new();
    let bytes = std::fs::read(file).expect("read");
    for record in bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
        let (Some(run_id), Some(attempt)) = (record["run_id"].as_str(), record["attempt"].as_u64()) else { continue };
        let shipped = all.entry(format!("{run_id}.{attempt}")).or_default();
        match (record["event"].as_str(), record["seq"].as_u64()) {
            (Some(event), _) => drop(shipped.brackets.insert(event.to_owned())),
            (None, Some(seq)) => shipped.line(seq),
            (None, None) => {}
        }
    }
    all
}

/// What rsyslog has written. Its order is not checked: lines of a closed connection can be written late.
pub(crate) fn of_syslog(server: &LogServer) -> ByAttempt {
    let mut all = ByAttempt::new();
    for record in server.records() {
        let sd = record["sd"].as_str().expect("structured data");
        let value = |name: &str| sd.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split('"').next());
        let (Some(run_id), Some(attempt)) = (value("id"), value("attempt")) else { continue };
        let shipped = all.entry(format!("{run_id}.{attempt}")).or_default();
        match record["msgid"].as_str().expect("msgid") {
            "stdout" | "stderr" => {
                let seq = value("seq").and_then(|seq| seq.parse().ok());
                shipped.seqs.insert(seq.expect("a line has a number"));
            }
            event => drop(shipped.brackets.insert(event.to_owned())),
        }
    }
    all
}

/// The first difference between an attempt and what a sink received; none if all is well.
pub(crate) fn unshipped(got: Option<&Shipped>, name: &str, exit: &Exit) -> Option<String> {
    let Some(got) = got else { return Some(format!("nothing of {name}: {exit:?}")) };
    let (last_seq, dropped) = (exit.output.last_seq, exit.output.dropped_lines);
    let missing: Vec<u64> = (1..=last_seq).filter(|seq| !got.seqs.contains(seq)).collect();
    if missing.len() as u64 > dropped {
        return Some(format!("lines {missing:?} of {name}, {dropped} were dropped: {exit:?}"));
    }
    if let Some(seq) = got.seqs.range(last_seq + 1..).next() {
        return Some(format!("line {seq} of {name} is there and never was: {exit:?}"));
    }
    if let Some(seq) = got.early.filter(|_| dropped == 0) {
        return Some(format!("line {seq} of {name} came before those before it: {exit:?}"));
    }
    let lacking = ["run.started", "run.finished"].into_iter().find(|bracket| !got.brackets.contains(*bracket));
    lacking.map(|bracket| format!("{bracket} of {name}"))
}
