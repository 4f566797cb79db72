//! Reads a run's record, its lines at each sink, and its processes from outside. Used by the tests with failures.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::{DEADLINE, LogServer, wait_until};

use crate::driver::{Folder, Up};

/// Memory limit of the keeper in tests, for any output of a job.
pub(crate) const KEEPER_BYTES_MAX: u64 = 64 << 20;

/// Memory limit of `up` in tests, for any output of a job: 40 MB of it are the unoptimised program.
pub(crate) const UP_BYTES_MAX: u64 = 96 << 20;

/// Deadline of tests that move gigabytes through an unoptimised build.
pub(crate) const LONG_DEADLINE: Duration = Duration::from_secs(600);

/// A jobs file with one job that only `run` starts.
pub(crate) fn job(name: &str, command: &str, more: &str) -> String {
    format!("[[job]]\ngroup = \"t\"\nname = \"{name}\"\nschedule = \"@manually\"\ncommand = '''{command}'''\n{more}\n")
}

pub(crate) fn sinks(folder: &Folder, server: std::net::SocketAddr) -> String {
    let text = format!(
        "[sink.central]\ntype = \"syslog\"\naddress = \"tcp://{server}\"\nframing = \"octet_counting\"\n\
         retry = {{ initial = \"50ms\", max = \"500ms\" }}\n\
         [sink.archive]\ntype = \"file\"\nformat = \"json\"\npath = \"{}/{{job}}.json\"\n",
        folder.text("archive")
    );
    folder.write("sinks.toml", &text)
}

/// A configuration with one channel, which appends each alert to a file as one line of JSON; and the file.
pub(crate) fn pager(folder: &Folder) -> (String, PathBuf) {
    let alert_file = folder.path("alerts");
    let text =
        format!("[channel.pager]\ntype = \"command\"\ncommand = '''\n(cat; echo) >> {0}'''\n", alert_file.display());
    (folder.write("sexton.toml", &text), alert_file)
}

/// The alerts sent so far.
pub(crate) fn alerts(alert_file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(alert_file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until every sent alert is recorded as sent: an `up` that is killed before may send it again.
#[track_caller]
pub(crate) fn wait_for_recorded_alerts(state: &Path) {
    wait_until(DEADLINE, || {
        let page = page(state, "/metrics");
        assert!(page.contains("sexton_alerts_pending "), "{page}");
        page.lines().any(|line| line == "sexton_alerts_pending 0")
    });
}

/// A page of the API, with its head.
#[track_caller]
pub(crate) fn page(state: &Path, path: &str) -> String {
    let token = std::fs::read_to_string(state.join("token")).expect("a token");
    let server = std::fs::read_to_string(state.join("server.json")).expect("a server");
    let server: Value = serde_json::from_str(&server).expect("JSON");
    let address = server["url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an address");
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(stream, "GET {path} HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n", token.trim()).expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    page
}

/// The folder of a run's first attempt.
pub(crate) fn directory(state: &Path, run_id: &str) -> PathBuf {
    state.join(format!("runner/runs/{run_id}.1"))
}

/// Waits for the pid of the keeper of a run's first attempt.
#[track_caller]
pub(crate) fn keeper(state: &Path, run_id: &str) -> u32 {
    let mut pid = None;
    wait_until(DEADLINE, || {
        let text = std::fs::read_to_string(directory(state, run_id).join("keeper")).unwrap_or_default();
        pid = text.trim().parse().ok();
        pid.is_some()
    });
    pid.expect("it was waited for")
}

#[track_caller]
pub(crate) fn start_run(up: &Up, job: &str) -> String {
    let output = up.run(&["run", &format!("t/{job}"), "--json"]).expect(0);
    output.records()[0]["run_id"].as_str().expect("a run id").to_owned()
}

pub(crate) fn show(up: &Up, run_id: &str) -> Value {
    up.records(&["show", run_id]).remove(0)
}

#[track_caller]
pub(crate) fn wait_for_end(up: &Up, run_id: &str, deadline: Duration) -> Value {
    let start = Instant::now();
    loop {
        let run = show(up, run_id);
        if run["state"] == "finished" {
            return run;
        }
        assert!(start.elapsed() < deadline, "{run_id} has not ended: {run}\n{}", up.printed());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What one sink received of a run: `seq`s in order of arrival, lines by `seq`, and bracket records.
#[derive(Default)]
pub(crate) struct Arrived {
    pub order: Vec<u64>,
    pub lines: BTreeMap<u64, String>,
    pub brackets: Vec<String>,
}

impl Arrived {
    fn take(&mut self, seq: Option<u64>, kind: &str, text: &str) {
        match seq {
            Some(seq) => {
                self.order.push(seq);
                if let Some(before) = self.lines.insert(seq, text.to_owned()) {
                    assert_eq!(before, text, "line {seq} arrived twice and differs");
                }
            }
            None => self.brackets.push(kind.to_owned()),
        }
    }

    pub(crate) fn of_syslog(server: &LogServer, run_id: &str) -> Arrived {
        let mut arrived = Arrived::default();
        for record in server.records() {
            let sd = record["sd"].as_str().expect("structured data");
            if sd.contains(&format!("id=\"{run_id}\"")) {
                let kind = record["msgid"].as_str().expect("msgid");
                let seq = sd.split(" seq=\"").nth(1).and_then(|rest| rest.split('"').next());
                let seq = seq.filter(|_| kind.starts_with("std")).map(|digits| digits.parse().expect("a number"));
                arrived.take(seq, kind, record["msg"].as_str().expect("msg"));
            }
        }
        arrived
    }

    pub(crate) fn of_file(path: &Path, run_id: &str) -> Arrived {
        let mut arrived = Arrived::default();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let record: Value = serde_json::from_str(line).expect("one object a line");
            if record["run_id"] == run_id {
                let kind = record["event"].as_str().unwrap_or_default();
                let seq = if kind.is_empty() { record["seq"].as_u64() } else { None };
                arrived.take(seq, kind, record["message"].as_str().unwrap_or_default());
            }
        }
        arrived
    }

    pub(crate) fn is_complete(&self, last_seq: u64) -> bool {
        self.lines.len() as u64 == last_seq && self.brackets.iter().any(|kind| kind == "run.finished")
    }

    /// Checks that no line is missing and that first arrivals are in order; a resend goes back but never skips ahead.
    #[track_caller]
    pub(crate) fn check(&self, last_seq: u64) {
        assert_eq!(self.lines.keys().copied().collect::<Vec<_>>(), (1..=last_seq).collect::<Vec<_>>());
        let mut highest = 0;
        for seq in &self.order {
            assert!(*seq <= highest + 1, "line {seq} came before line {}", highest + 1);
            highest = highest.max(*seq);
        }
        assert_eq!(self.brackets.first().map(String::as_str), Some("run.started"));
        assert_eq!(self.brackets.last().map(String::as_str), Some("run.finished"));
    }
}

#[track_caller]
pub(crate) fn check_sinks(server: &LogServer, archive: &Path, run_id: &str, last_seq: u64) {
    wait_until(DEADLINE, || {
        Arrived::of_syslog(server, run_id).is_complete(last_seq)
            && Arrived::of_file(archive, run_id).is_complete(last_seq)
    });
    Arrived::of_syslog(server, run_id).check(last_seq);
    Arrived::of_file(archive, run_id).check(last_seq);
}

#[track_caller]
pub(crate) fn check_ledger(up: &Up) {
    let ledger = up.run(&["ledger", "--json"]).expect(0).records().remove(0);
    assert_eq!(ledger["open"], 0, "{ledger}");
}

/// VmHWM of proc_pid_status(5); 0 after the process has exited.
pub(crate) fn peak_memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

pub(crate) fn shell(text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text]);
    command
}

/// SHA-256 of what a command prints, by coreutils.
#[track_caller]
pub(crate) fn checksum(mut command: Command) -> String {
    let mut printing = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let output = printing.stdout.take().expect("piped");
    let sum = Command::new("sha256sum").stdin(output).output().expect("sha256sum runs");
    assert!(printing.wait().expect("waited for").success());
    String::from_utf8_lossy(&sum.stdout).into_owned()
}

/// Processes with the run's id in their environment: the job and its descendants.
pub(crate) fn processes_of(run_id: &str) -> Vec<u32> {
    let wanted = format!("SEXTON_RUN_ID={run_id}").into_bytes();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
        })
        .collect()
}
