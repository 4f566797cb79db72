//! What must hold when things break: `up` is killed, a log server is down, a job floods, hangs, or leaves something behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::{DEADLINE, LogServer, Proxy, Rsyslog, RsyslogOptions, wait_until};

use crate::driver::{Folder, Up, command, signal};

/// No process of ours may need more, whatever a job prints.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// For what moves gigabytes through an unoptimised build.
const LONG_DEADLINE: Duration = Duration::from_secs(600);

/// A jobs file with one job that only `run` starts.
fn job(name: &str, command: &str, more: &str) -> String {
    format!("[[job]]\ngroup = \"t\"\nname = \"{name}\"\nschedule = \"@manually\"\ncommand = '''{command}'''\n{more}\n")
}

fn sinks(folder: &Folder, server: std::net::SocketAddr) -> String {
    let text = format!(
        "[sink.central]\ntype = \"syslog\"\naddress = \"tcp://{server}\"\nframing = \"octet_counting\"\n\
         retry = {{ initial = \"50ms\", max = \"500ms\" }}\n\
         [sink.archive]\ntype = \"file\"\nformat = \"json\"\npath = \"{}/{{job}}.json\"\n",
        folder.text("archive")
    );
    folder.write("sinks.toml", &text)
}

#[track_caller]
fn start_run(up: &Up, job: &str) -> String {
    let said = up.ask(&["run", &format!("t/{job}"), "--json"]).expect(0);
    said.records()[0]["run_id"].as_str().expect("a run id").to_owned()
}

fn show(up: &Up, run_id: &str) -> Value {
    up.records(&["show", run_id]).remove(0)
}

#[track_caller]
fn wait_for_end(up: &Up, run_id: &str, deadline: Duration) -> Value {
    let begun = Instant::now();
    loop {
        let run = show(up, run_id);
        if run["state"] == "finished" {
            return run;
        }
        assert!(begun.elapsed() < deadline, "{run_id} has not ended: {run}\n{}", up.said());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What one sink got of a run: the numbers of its lines in the order of arrival, the lines by number, the brackets.
#[derive(Default)]
struct Arrived {
    order: Vec<u64>,
    lines: BTreeMap<u64, String>,
    brackets: Vec<String>,
}

impl Arrived {
    fn take(&mut self, seq: Option<u64>, kind: &str, text: &str) {
        match seq {
            Some(seq) => {
                self.order.push(seq);
                if let Some(before) = self.lines.insert(seq, text.to_owned()) {
                    assert_eq!(before, text, "line {seq} came twice and differs");
                }
            }
            None => self.brackets.push(kind.to_owned()),
        }
    }

    fn of_syslog(server: &LogServer, run_id: &str) -> Arrived {
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

    fn of_file(path: &Path, run_id: &str) -> Arrived {
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

    fn is_complete(&self, last_seq: u64) -> bool {
        self.lines.len() as u64 == last_seq && self.brackets.iter().any(|kind| kind == "run.finished")
    }

    /// Every line at least once, none missing, and first seen in order; a resend goes back, but never skips ahead.
    #[track_caller]
    fn check(&self, last_seq: u64) {
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
fn check_sinks(server: &LogServer, archive: &Path, run_id: &str, last_seq: u64) {
    wait_until(DEADLINE, || {
        Arrived::of_syslog(server, run_id).is_complete(last_seq)
            && Arrived::of_file(archive, run_id).is_complete(last_seq)
    });
    Arrived::of_syslog(server, run_id).check(last_seq);
    Arrived::of_file(archive, run_id).check(last_seq);
}

#[track_caller]
fn check_ledger(up: &Up) {
    let ledger = up.ask(&["ledger", "--json"]).expect(0).records().remove(0);
    assert_eq!(ledger["open"], 0, "{ledger}");
}

/// A job that prints numbered lines until the file `go` is there, and a last line then: it runs as long as the test wants.
fn chatter(go: &Path) -> String {
    format!(
        "i=0; while [ ! -e {} ]; do i=$((i+1)); echo \"line $i\"; [ $((i % 7)) -ne 0 ] || echo \"error line $i\" >&2; sleep 0.01; done; echo last",
        go.display()
    )
}

#[test]
fn up_killed_while_jobs_print_loses_no_line_and_no_exit_status() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let folder = Folder::new();
    let go = folder.path("go");
    let jobs = [job("a", &chatter(&go), ""), job("b", &format!("{}; exit 7", chatter(&go)), "")].concat();
    let jobs = folder.write("jobs.toml", &jobs);
    let sinks = sinks(&folder, server.tcp());
    let state = folder.path("state");
    let arguments = ["--jobs", &*jobs, "--sinks", &*sinks];

    let mut up = Up::start(&state, &arguments);
    let runs = ["a", "b"].map(|job| start_run(&up, job));
    for _ in 0..3 {
        let printed = |server: &LogServer| runs.each_ref().map(|run_id| Arrived::of_syslog(server, run_id).lines.len());
        let before = printed(&server);
        wait_until(DEADLINE, || printed(&server).iter().zip(before).all(|(now, before)| *now > before + 20));
        up.kill_and_keep_jobs();
        up = Up::start(&state, &arguments);
    }
    // The jobs end while nobody watches.
    up.kill_and_keep_jobs();
    std::fs::write(&go, "").expect("written");
    wait_until(DEADLINE, || runs.iter().all(|run_id| state.join(format!("runner/runs/{run_id}.1/exit.json")).exists()));
    let up = Up::start(&state, &arguments);

    for (run_id, (job, exit_code, outcome)) in runs.iter().zip([("a", 0, "succeeded"), ("b", 7, "failed")]) {
        let run = wait_for_end(&up, run_id, DEADLINE);
        assert_eq!((&run["exit_code"], &run["outcome"]), (&exit_code.into(), &outcome.into()), "{run}");
        assert_eq!(run["attempt"], 1, "started once: {run}");
        let last_seq = run["last_seq"].as_u64().expect("a number");
        assert_eq!(
            Some(last_seq),
            run["stdout_lines"].as_u64().zip(run["stderr_lines"].as_u64()).map(|(out, err)| out + err)
        );
        check_sinks(&server, &folder.path("archive").join(format!("{job}.json")), run_id, last_seq);
        let stdout = up.ask(&["logs", run_id, "--stream", "stdout"]).expect(0).text();
        let counted = (1..stdout.lines().count()).map(|line| format!("line {line}"));
        assert!(stdout.lines().eq(counted.chain(["last".to_owned()])), "{stdout}");
    }
    check_ledger(&up);
}

#[test]
fn a_sink_that_is_down_for_the_whole_run_gets_every_line_when_it_is_back() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let proxy = Proxy::start(server.tcp());
    proxy.refuse();
    let folder = Folder::new();
    let jobs = folder.write("jobs.toml", &job("flood", "seq 1 20000", ""));
    let sinks = sinks(&folder, proxy.address());
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs, "--sinks", &sinks]);

    let run_id = start_run(&up, "flood");
    // That it ends at all while nothing can be delivered is the proof that the sink does not hold it up.
    let run = wait_for_end(&up, &run_id, DEADLINE);
    assert_eq!((&run["outcome"], &run["last_seq"]), (&"succeeded".into(), &20_000.into()), "{run}");
    let central = up.records(&["sinks"]).into_iter().find(|sink| sink["name"] == "central").expect("the sink");
    assert_eq!(central["lag_lines"], 20_000, "{central}");
    assert_eq!(central["oldest_undelivered_run"], run_id.as_str(), "{central}");
    assert!(central["last_error"].is_string(), "{central}");

    proxy.pass();
    check_sinks(&server, &folder.path("archive/flood.json"), &run_id, 20_000);
}

#[test]
fn a_gigabyte_in_one_line_and_ten_million_lines_come_back_byte_for_byte_in_little_memory() {
    let folder = Folder::new();
    let line = "head -c 1000000000 /dev/zero | tr '\\0' x; echo";
    let lines = "seq 1 10000000";
    let jobs = folder.write("jobs.toml", &[job("line", line, ""), job("lines", lines, "")].concat());
    let state = folder.path("state");
    let up = Up::start(&state, &["--jobs", &jobs]);
    for (job, command_line, records) in [("line", line, 1_000), ("lines", lines, 10_000_000)] {
        let run_id = start_run(&up, job);
        let mut keeper_bytes = 0;
        let directory = state.join(format!("runner/runs/{run_id}.1"));
        wait_until(LONG_DEADLINE, || {
            let keeper = std::fs::read_to_string(directory.join("keeper")).unwrap_or_default();
            keeper_bytes = keeper_bytes.max(keeper.trim().parse().map_or(0, peak_memory_bytes));
            directory.join("exit.json").exists()
        });
        let run = wait_for_end(&up, &run_id, LONG_DEADLINE);
        assert_eq!((&run["outcome"], &run["last_seq"]), (&"succeeded".into(), &records.into()), "{run}");
        assert!((1..MEMORY_BYTES_MAX).contains(&keeper_bytes), "the keeper of {job} took {keeper_bytes} bytes");
        let logs = command(&["logs", &run_id, "--state", &state.display().to_string()]);
        assert_eq!(checksum(logs), checksum(shell(command_line)), "{job}");
        let up_bytes = peak_memory_bytes(up.pid());
        assert!((1..MEMORY_BYTES_MAX).contains(&up_bytes), "up took {up_bytes} bytes after {job}");
    }
}

/// VmHWM of proc_pid_status(5); 0 when the process is gone.
fn peak_memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

fn shell(text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text]);
    command
}

/// SHA-256 of what a command prints, by coreutils.
#[track_caller]
fn checksum(mut command: Command) -> String {
    let mut printing = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let output = printing.stdout.take().expect("piped");
    let sum = Command::new("sha256sum").stdin(output).output().expect("sha256sum runs");
    assert!(printing.wait().expect("waited for").success());
    String::from_utf8_lossy(&sum.stdout).into_owned()
}

#[test]
fn misbehaving_jobs_come_to_true_outcomes_and_leave_nothing_running() {
    let folder = Folder::new();
    let mark = folder.text("mark");
    let stubborn = "trap '' TERM; echo begun; while :; do sleep 0.2; done";
    let jobs = [
        job("stubborn", stubborn, "timeout = \"1s\"\nkill_grace = \"500ms\""),
        job("stopped", stubborn, "kill_grace = \"500ms\""),
        job("parent", &format!("sh -c 'echo $$ > {mark}; exec sleep 600' & echo parent"), ""),
        job("suicide", "echo going; kill -KILL $$", ""),
        job("absent", "exec /no/such/program", ""),
    ];
    let jobs = folder.write("jobs.toml", &jobs.concat());
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs]);
    let run_of = |job: &str| start_run(&up, job);
    let [stubborn, stopped, parent, suicide, absent] =
        ["stubborn", "stopped", "parent", "suicide", "absent"].map(run_of);

    wait_until(DEADLINE, || up.ask(&["logs", &stopped]).text() == "begun\n");
    up.ask(&["stop", &stopped]).expect(0);

    let run = wait_for_end(&up, &stubborn, DEADLINE);
    assert_eq!((&run["outcome"], &run["signal"]), (&"timed_out".into(), &9.into()), "{run}");
    let run = wait_for_end(&up, &stopped, DEADLINE);
    assert_eq!(run["outcome"], "stopped", "{run}");
    let run = wait_for_end(&up, &suicide, DEADLINE);
    assert_eq!(
        (&run["outcome"], &run["signal"], &run["exit_code"]),
        (&"failed".into(), &9.into(), &Value::Null),
        "{run}"
    );
    let run = wait_for_end(&up, &absent, DEADLINE);
    assert_eq!((&run["outcome"], &run["exit_code"]), (&"failed".into(), &127.into()), "{run}");

    // The grandchild holds the output and is named, not waited for.
    let run = wait_for_end(&up, &parent, DEADLINE);
    assert_eq!(run["outcome"], "succeeded", "{run}");
    let pid: u32 = std::fs::read_to_string(&mark).expect("its pid").trim().parse().expect("a pid");
    assert_eq!((&run["leaked"][0]["pid"], &run["leaked"][0]["name"]), (&pid.into(), &"sleep".into()), "{run}");
    signal(pid, "KILL");

    for run_id in [&stubborn, &stopped, &suicide, &absent] {
        assert_eq!(processes_of(run_id), Vec::<u32>::new(), "of {run_id}");
    }
    check_ledger(&up);
}

/// Who carries the run's name in its environment: the job and all that it started.
fn processes_of(run_id: &str) -> Vec<u32> {
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
