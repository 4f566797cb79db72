//! Failures: `up` is killed, a log server is down, a job floods, hangs, or leaves processes.

use std::path::Path;

use serde_json::Value;
use testbed::{DEADLINE, LogServer, Proxy, Rsyslog, RsyslogOptions, wait_until};

use crate::driver::{Folder, Up, command, signal};
use crate::evidence::{
    Arrived, KEEPER_BYTES_MAX, LONG_DEADLINE, UP_BYTES_MAX, check_ledger, check_sinks, checksum, directory, job,
    keeper, peak_memory_bytes, processes_of, shell, sinks, start_run, wait_for_end,
};

/// A script that prints numbered lines until the file `go` exists, and then a last line.
fn print_until(go: &Path) -> String {
    format!(
        "i=0; while [ ! -e {} ]; do i=$((i+1)); echo \"line $i\"; \
         [ $((i % 7)) -ne 0 ] || echo \"error line $i\" >&2; sleep 0.01; done; echo last",
        go.display()
    )
}

#[test]
fn up_killed_while_jobs_print_loses_no_line_and_no_exit_status() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let folder = Folder::new();
    let go = folder.path("go");
    let jobs = [job("a", &print_until(&go), ""), job("b", &format!("{}; exit 7", print_until(&go)), "")].concat();
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
    // The jobs end while no `up` runs.
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
        let stdout = up.run(&["logs", run_id, "--stream", "stdout"]).expect(0).text();
        let counted = (1..stdout.lines().count()).map(|line| format!("line {line}"));
        assert!(stdout.lines().eq(counted.chain(["last".to_owned()])), "{stdout}");
    }
    check_ledger(&up);
}

/// Whether a process exists and is not a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn the_run_of_a_killed_keeper_is_lost_its_spool_is_shipped_and_its_processes_are_killed() {
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let folder = Folder::new();
    let pids = folder.text("pids");
    // In the session, outside of it, and without the run id in the environment.
    let script = format!(
        "seq 1 1000; (echo started; exec sleep 600) & echo $! >> {pids}; setsid sleep 600 & echo $! >> {pids}; \
         env -i sleep 600 & echo $! >> {pids}; env -i setsid sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; \
         printf 'no end'; sleep 600"
    );
    let jobs = folder.write("jobs.toml", &job("orphaned", &script, ""));
    let sinks = sinks(&folder, server.tcp());
    let state = folder.path("state");
    let up = Up::start(&state, &["--jobs", &jobs, "--sinks", &sinks]);
    let run_id = start_run(&up, "orphaned");
    let left = || -> Vec<u32> {
        let text = std::fs::read_to_string(folder.path("pids")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    wait_until(DEADLINE, || left().len() == 5 && Arrived::of_syslog(&server, &run_id).lines.len() == 1001);
    signal(keeper(&state, &run_id), "KILL");

    let run = wait_for_end(&up, &run_id, DEADLINE);
    assert_eq!(
        (&run["outcome"], &run["exit_code"], &run["signal"]),
        (&"lost".into(), &Value::Null, &Value::Null),
        "{run}"
    );
    assert_eq!(run["last_seq"], 1001, "{run}");
    check_sinks(&server, &folder.path("archive/orphaned.json"), &run_id, 1001);
    let named = run["leaked"].as_array().expect("a list");
    for pid in left() {
        assert!(!is_alive(pid), "process {pid} is alive: {run}");
        assert!(named.iter().any(|leaked| leaked["pid"] == pid), "process {pid} is not named: {run}");
    }
    assert_eq!(processes_of(&run_id), Vec::<u32>::new());
    check_ledger(&up);
}

#[test]
fn a_sink_that_is_down_for_the_whole_run_gets_every_line_when_it_is_back() {
    const LINES: u64 = 2_000;
    let Some(server) = Rsyslog::start(RsyslogOptions::default()) else { return };
    let proxy = Proxy::start(server.tcp());
    proxy.refuse();
    let folder = Folder::new();
    // More than any pipe or socket holds.
    let flood = format!("yes {} | head -n {LINES}", "x".repeat(500));
    let jobs = folder.write("jobs.toml", &job("flood", &flood, ""));
    let sinks = sinks(&folder, proxy.address());
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs, "--sinks", &sinks]);

    let run_id = start_run(&up, "flood");
    // The run ends although nothing can be delivered: the sink does not block it.
    let run = wait_for_end(&up, &run_id, DEADLINE);
    assert_eq!((&run["outcome"], &run["last_seq"]), (&"succeeded".into(), &LINES.into()), "{run}");
    let central = up.records(&["sinks"]).into_iter().find(|sink| sink["name"] == "central").expect("the sink");
    assert_eq!(central["lag_lines"], LINES, "{central}");
    assert_eq!(central["oldest_undelivered_run"], run_id.as_str(), "{central}");
    assert!(central["last_error"].is_string(), "{central}");

    proxy.pass();
    check_sinks(&server, &folder.path("archive/flood.json"), &run_id, LINES);
}

#[test]
fn a_gigabyte_in_one_line_and_ten_million_lines_come_back_byte_for_byte_in_little_memory() {
    let folder = Folder::new();
    let line = "head -c 1000000000 /dev/zero | tr '\\0' x; echo";
    let lines = "seq 1 10000000";
    let jobs = folder.write("jobs.toml", &[job("line", line, ""), job("lines", lines, "")].concat());
    // An unreachable sink lags by many segments, which must cost no memory either.
    let dead = format!("[sink.dead]\ntype = \"syslog\"\naddress = \"tcp://{}\"\n", testbed::free_port());
    let dead = folder.write("sinks.toml", &dead);
    let state = folder.path("state");
    let up = Up::start(&state, &["--jobs", &jobs, "--sinks", &dead]);
    for (job, command_line, records) in [("line", line, 1_000), ("lines", lines, 10_000_000)] {
        let run_id = start_run(&up, job);
        let mut keeper_bytes = 0;
        let directory = directory(&state, &run_id);
        wait_until(LONG_DEADLINE, || {
            let keeper = std::fs::read_to_string(directory.join("keeper")).unwrap_or_default();
            keeper_bytes = keeper_bytes.max(keeper.trim().parse().map_or(0, peak_memory_bytes));
            directory.join("exit.json").exists()
        });
        let run = wait_for_end(&up, &run_id, LONG_DEADLINE);
        assert_eq!((&run["outcome"], &run["last_seq"]), (&"succeeded".into(), &records.into()), "{run}");
        assert!((1..KEEPER_BYTES_MAX).contains(&keeper_bytes), "the keeper of {job} took {keeper_bytes} bytes");
        let logs = command(&["logs", &run_id, "--state", &state.display().to_string()]);
        assert_eq!(checksum(logs), checksum(shell(command_line)), "{job}");
        let up_bytes = peak_memory_bytes(up.pid());
        assert!((1..UP_BYTES_MAX).contains(&up_bytes), "up took {up_bytes} bytes after {job}");
    }
    let sinks = up.records(&["sinks"]);
    assert!(sinks[0]["lag_lines"].as_u64() >= Some(10_001_000), "{sinks:?}");
}

#[test]
fn misbehaving_jobs_get_true_outcomes_and_leave_no_process() {
    let folder = Folder::new();
    let mark = folder.text("mark");
    let stubborn = "trap '' TERM; echo started; while :; do sleep 0.2; done";
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

    wait_until(DEADLINE, || up.run(&["logs", &stopped]).text() == "started\n");
    up.run(&["stop", &stopped]).expect(0);

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
