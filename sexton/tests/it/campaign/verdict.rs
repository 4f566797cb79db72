//! Checks runs, attempts, sinks and alerts after all runs have ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use domain::alert::{DeliveryState, Transition};
use domain::event::Ended;
use domain::line::Stream;
use domain::run::{Outcome, Run};
use keeper::directory::{RunDirectory, read_json};
use keeper::output::{LineFormat, Output, Piece};
use keeper::records::Exit;
use serde_json::Value;
use testbed::{DEADLINE, LogServer};

use super::shipped::{ByAttempt, of_file, of_syslog, unshipped};
use crate::driver::Up;
use crate::evidence::alerts;

/// Longest wait. Orders and reports leased by a killed `up` are redelivered after a minute, and alerts are limited per
/// minute.
const WAIT_MAX: Duration = Duration::from_secs(240);

pub(crate) struct Verdict<'v> {
    pub state: &'v Path,
    /// One file per attempt, with one line per real start.
    pub starts: &'v Path,
    /// One file per attempt, with its output.
    pub written: &'v Path,
    /// The file of the file sink.
    pub archive: &'v Path,
    /// The receivers of the other sinks.
    pub servers: [&'v LogServer; 2],
    pub alert_file: &'v Path,
    pub kills_of_up: usize,
    pub log: &'v [String],
}

impl Verdict<'_> {
    #[track_caller]
    pub(crate) fn check(&self, up: Up) {
        self.wait("every run to end", || up.records(&["ledger"])[0]["open"] == 0, &up);
        self.wait("every alert to be sent", || pending(&self.transitions()) == 0, &up);
        let lag = || up.records(&["sinks"]).iter().map(|sink| sink["lag_lines"].as_u64().unwrap_or(1)).sum::<u64>();
        self.wait("every line to be delivered", || lag() == 0, &up);
        let ledger = up.run(&["ledger", "--json"]).expect(0).records().remove(0);
        let runs: Vec<Run> = up
            .records(&["runs", "--limit", "1000000"])
            .into_iter()
            .map(|record| serde_json::from_value(record).expect("a run"))
            .collect();
        assert!(!up.printed().contains("panicked at"), "{}", up.printed());
        // Also stops its sinks; only then is everything confirmed.
        up.stop();
        self.check_runs(&runs);
        let attempts = self.check_attempts();
        self.check_alerts(&runs);
        println!("{ledger}; {attempts} attempts, {} faults, {} alerts", self.log.len(), alerts(self.alert_file).len());
    }

    #[track_caller]
    fn wait(&self, what: &str, mut holds: impl FnMut() -> bool, up: &Up) {
        let start = Instant::now();
        while !holds() {
            if start.elapsed() > WAIT_MAX {
                let open: Vec<Value> =
                    up.records(&["runs"]).into_iter().filter(|run| run["outcome"].is_null()).collect();
                panic!("waited for {what}; open: {open:#?}\n{}\n{}", up.printed(), self.log.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Every run has one outcome, and nothing was started twice.
    #[track_caller]
    fn check_runs(&self, runs: &[Run]) {
        assert!(runs.iter().all(|run| run.outcome.is_some()));
        let mut by_nominal = BTreeMap::new();
        for run in runs {
            let started_by = by_nominal.insert((run.key(), run.nominal), &run.run_id);
            assert_eq!(started_by, None, "two runs of {} at {}", run.key(), run.nominal);
        }
        let by_id: BTreeMap<&str, &Run> = runs.iter().map(|run| (run.run_id.as_str(), run)).collect();
        for file in files(self.starts) {
            let (name, starts) = (name_of(&file), std::fs::read_to_string(&file).expect("read"));
            // None: the job was killed after its shell had created the file, and before it wrote the line.
            assert!(starts.lines().count() <= 1, "{name} was started more than once:\n{}", self.log.join("\n"));
            let run = by_id[name.split('.').next().expect("a run id")];
            let never_began = matches!(run.outcome, Some(Outcome::Missed | Outcome::Skipped));
            assert!(!never_began, "{name} was started and counts as {:?}", run.outcome);
        }
    }

    /// Checks that the output of each attempt is in its spool and at each sink. Returns the number of attempts.
    #[track_caller]
    fn check_attempts(&self) -> usize {
        let ended: Vec<(String, Exit)> = files(&self.state.join("runner/runs"))
            .iter()
            .filter_map(|path| Some((name_of(path), read_json(&RunDirectory::open(path).exit()).expect("read")?)))
            .collect();
        assert!(!ended.is_empty(), "nothing has run");
        self.check_sink("the file", &ended, &mut || of_file(self.archive));
        for (server, name) in self.servers.into_iter().zip(["s0", "s1"]) {
            self.check_sink(name, &ended, &mut || of_syslog(server));
        }
        for (name, exit) in &ended {
            let printed = printed(RunDirectory::open(self.state.join("runner/runs").join(name)));
            let written = std::fs::read(self.written.join(name)).unwrap_or_default();
            // Jobs print a line before they append it to the file; what a killed keeper had not read is lost.
            let may_lack_lines = exit.output.dropped_lines > 0 || exit.ended == Ended::Lost;
            let (lines, log) = (exit.output.last_seq, self.log.join("\n"));
            assert!(
                may_lack_lines || printed.starts_with(&written),
                "{name} wrote {} bytes, of which its spool of {lines} lines lacks some:\n{log}",
                written.len()
            );
        }
        ended.len()
    }

    /// Checks every line of every attempt, waiting until the receiver has written it.
    #[track_caller]
    fn check_sink(&self, sink: &str, ended: &[(String, Exit)], read: &mut dyn FnMut() -> ByAttempt) {
        let start = Instant::now();
        loop {
            let shipped = read();
            let faults: Vec<String> =
                ended.iter().filter_map(|(name, exit)| unshipped(shipped.get(name), name, exit)).collect();
            if faults.is_empty() {
                return;
            }
            let log = self.log.join("\n");
            assert!(start.elapsed() < DEADLINE, "{sink}: {}\n{log}", faults.join("\n"));
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Checks that every due alert was sent, and twice only where a kill may have hit between sending and recording.
    #[track_caller]
    fn check_alerts(&self, runs: &[Run]) {
        let transitions = self.transitions();
        let sent = alerts(self.alert_file);
        let count = |transition: &Transition| {
            let same = |alert: &&Value| {
                alert["kind"] == transition.kind.name()
                    && alert["run_id"] == transition.run_id.as_ref().map_or(Value::Null, |id| id.as_str().into())
                    && alert["reason"] == transition.reason.as_str()
            };
            sent.iter().filter(same).count()
        };
        let mut twice = 0;
        for transition in transitions.iter().filter(|transition| transition.delivery == DeliveryState::Sent) {
            let times = count(transition);
            assert!(times > 0, "never sent: {transition:?}\n{}", self.log.join("\n"));
            twice += times - 1;
        }
        assert!(
            twice <= self.kills_of_up,
            "{twice} alerts were sent twice, and up was killed {} times",
            self.kills_of_up
        );
        let given_up: Vec<&Transition> =
            transitions.iter().filter(|one| one.delivery == DeliveryState::GivenUp).collect();
        assert!(given_up.is_empty(), "{given_up:?}");
        for (job, outcome) in [("failing", Outcome::Failed), ("lying", Outcome::FalseSuccess)] {
            let was_bad = runs.iter().any(|run| run.job == job && run.outcome == Some(outcome));
            let is_due =
                transitions.iter().any(|transition| transition.job == job && transition.outcome == Some(outcome));
            let other = transitions.iter().any(|transition| transition.job == job);
            assert!(!was_bad || is_due || other, "no alert of {job}");
        }
    }

    fn transitions(&self) -> Vec<Transition> {
        let store = embedded::Embedded::open(&self.state.join("sexton.db")).expect("opened");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (alerts, mut all, mut after) = (store.ports().alerts, Vec::new(), None);
            loop {
                let page = alerts.list(after.as_ref(), 500).await.expect("listed");
                all.extend(page.records);
                after = page.next;
                if after.is_none() {
                    return all;
                }
            }
        })
    }
}

fn pending(transitions: &[Transition]) -> usize {
    transitions.iter().filter(|transition| transition.delivery == DeliveryState::Pending).count()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.path()).filter(|path| !name_of(path).starts_with('.')).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn printed(run: RunDirectory) -> Vec<u8> {
    let mut output = Output::open(run, Some(Stream::Stdout), LineFormat::Raw);
    let mut bytes = Vec::new();
    loop {
        match output.read().expect("read") {
            Piece::Bytes(more) => bytes.extend(more),
            Piece::Missing(_) => {}
            Piece::Pending | Piece::End => return bytes,
        }
    }
}
