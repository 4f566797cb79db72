//! Alerts and numbers of a failing sink.

use std::fs;

use testbed::{Capture, DEADLINE, Haproxy, Proxy, Transport, wait_for, wait_until};

use crate::driver::{Folder, Up, sexton};
use crate::evidence::{alerts, check_ledger, job, pager, start_run, wait_for_end};

#[test]
fn a_lagging_sink_and_its_recovery_are_alerted() {
    let folder = Folder::new();
    let capture = Capture::start(Transport::Tcp);
    let server = Proxy::start(capture.address());
    server.refuse();
    let address = server.address();
    let sinks = folder.write(
        "sinks.toml",
        &format!(
            "[sink.central]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\nalert_after = \"1s\"\n\
             retry = {{ initial = \"50ms\", max = \"500ms\" }}\n"
        ),
    );
    let (configuration, alert_file) = pager(&folder);
    let tab = folder.write("crontab", "# sexton: name=a group=db\n@manually echo kept for later\n");
    let arguments = ["--crontab", &tab, "--config", &configuration, "--sinks", &sinks];
    let up = Up::start(&folder.path("state"), &arguments);
    up.run(&["run", "db/a", "--wait"]).expect(0);
    wait_until(DEADLINE, || alerts(&alert_file).len() == 1);
    let sink = up.records(&["sinks"]).remove(0);
    assert_eq!((&sink["lag_lines"], &sink["state"]), (&1.into(), &"retrying".into()), "{sink}");
    server.pass();
    wait_until(DEADLINE, || alerts(&alert_file).len() == 2);
    let alerts = alerts(&alert_file);
    for (alert, kind) in alerts.iter().zip(["failed", "recovered"]) {
        assert_eq!(
            (&alert["kind"], &alert["group"], &alert["job"]),
            (&kind.into(), &"sexton".into(), &"sink.central".into())
        );
    }
    let reason = alerts[0]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with("sink `central` lags ") && reason.contains("; 1 line (") && reason.contains("refused"),
        "{reason}"
    );
    assert!(String::from_utf8_lossy(&capture.bytes()).contains("] kept for later"));
    assert_eq!(up.records(&["sinks"]).remove(0)["state"], "working");
}

#[test]
fn an_absent_sink_blocks_no_job_and_its_lag_is_shown_everywhere() {
    let folder = Folder::new();
    let port = testbed::free_port();
    let sinks = format!(
        "[sink.absent]\ntype = \"syslog\"\naddress = \"tcp://{port}\"\n\
         retry = {{ initial = \"50ms\", max = \"200ms\" }}\n\
         [sink.archive]\ntype = \"file\"\npath = \"{}/{{job}}.log\"\n",
        folder.text("archive")
    );
    let sinks = folder.write("sinks.toml", &sinks);
    let jobs = folder.write("jobs.toml", &job("a", "seq 1 1000; exit 3", ""));
    let state = folder.path("state");
    let up = Up::start(&state, &["--jobs", &jobs, "--sinks", &sinks]);
    let run_id = start_run(&up, "a");
    let run = wait_for_end(&up, &run_id, DEADLINE);
    assert_eq!((&run["outcome"], &run["exit_code"], &run["last_seq"]), (&"failed".into(), &3.into(), &1000.into()));
    check_ledger(&up);

    // Shown by `runs`, by `show`, and in the log of `up`. The other sink does not lag.
    let lags = |text: &str| text.contains("absent lacks 1000 lines") && !text.contains("archive lacks");
    wait_until(DEADLINE, || lags(&up.run(&["show", &run_id]).expect(0).text()));
    let listed = up.run(&["runs"]).expect(0).text();
    assert!(lags(&listed), "{listed}");
    let undelivered = &up.records(&["show", &run_id])[0]["undelivered"];
    assert_eq!((&undelivered[0]["sink"], &undelivered[0]["lines"]), (&"absent".into(), &1000.into()), "{undelivered}");
    wait_until(DEADLINE, || up.printed().lines().any(|line| line.contains("sink=absent") && line.contains("refused")));

    // Also after a restart, from the state on disk.
    up.kill();
    let up = Up::start(&state, &["--jobs", &jobs, "--sinks", &sinks]);
    wait_until(DEADLINE, || lags(&up.run(&["show", &run_id]).expect(0).text()));
}

/// A stop, an edit of the sinks file and the end of `exec` flush the sinks. Before, each took the end of a connection
/// for a confirmation.
#[test]
fn lines_sent_to_a_load_balancer_without_a_server_are_kept_by_a_stop_an_edit_and_exec() {
    const LINES: usize = 12;
    let capture = Capture::start(Transport::Tcp);
    let server = Proxy::start(capture.address());
    server.refuse();
    let Some(haproxy) = Haproxy::start(&[server.address()], "", "") else { return };
    let (stopped, edited, wrapped) = (Folder::new(), Folder::new(), Folder::new());
    let write_sinks = |folder: &Folder, alert_after: &str| {
        let address = haproxy.tcp();
        let text =
            format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\nalert_after = \"{alert_after}\"\n");
        folder.write("sinks.toml", &format!("{text}retry = {{ initial = \"50ms\", max = \"500ms\" }}\n"))
    };
    let up = |folder: &Folder, name: &str| {
        let jobs = folder.write("jobs.toml", &job(name, &format!("seq {LINES}"), ""));
        Up::start(&folder.path("state"), &["--jobs", &jobs, "--sinks", &folder.text("sinks.toml")])
    };
    let ran = |folder: &Folder, name: &str| {
        write_sinks(folder, "5m");
        let up = up(folder, name);
        let run_id = start_run(&up, name);
        wait_for_end(&up, &run_id, DEADLINE);
        up
    };
    let exec = |name: &str, script: &str| {
        let (state, sinks) = (wrapped.text("state"), wrapped.text("sinks.toml"));
        sexton(&["exec", "--name", name, "--state", &state, "--sinks", &sinks, "--", "sh", "-c", script]).expect(0);
    };
    let exec_folder = wrapped.path("state/runner/exec");
    let kept_calls = || fs::read_dir(&exec_folder).map_or(0, Iterator::count);
    let waiting = |up: &Up| {
        let sink = up.records(&["sinks"]).remove(0);
        let lines = |key: &str| sink[key].as_u64().expect("a number");
        (lines("lag_lines") + lines("unconfirmed_lines"), lines("delivered_lines") + lines("dropped_lines"))
    };
    let edited_up = std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(ran(&stopped, "stopped").stop(), Some(0)));
        scope.spawn(|| {
            write_sinks(&wrapped, "5m");
            exec("wrapped", &format!("seq {LINES}"));
            assert_eq!(kept_calls(), 1, "its lines are not delivered");
        });
        let up = ran(&edited, "edited");
        assert_eq!(waiting(&up), (LINES as u64, 0));
        write_sinks(&edited, "10m");
        let is_new = |up: &Up| up.records(&["sinks"]).first().is_some_and(|sink| sink["alert_after_seconds"] == 600.0);
        wait_until(DEADLINE, || is_new(&up));
        assert_eq!(waiting(&up), (LINES as u64, 0));
        up
    });
    assert_eq!(capture.bytes(), b"", "no server has a line");

    server.pass();
    // HAProxy may still try to deliver an earlier connection: a line can come twice.
    let has_arrived = |name: &str| {
        let text = String::from_utf8_lossy(&capture.bytes()).into_owned();
        let of_job: Vec<&str> = text.lines().filter(|line| line.contains(&format!(" job=\"{name}\" "))).collect();
        (1..=LINES).all(|seq| of_job.iter().any(|line| line.contains(&format!(" seq=\"{seq}\" "))))
    };
    let stopped_up = up(&stopped, "stopped");
    exec("next", "true");
    for name in ["stopped", "edited", "wrapped"] {
        wait_for(name, || has_arrived(name).then_some(()));
    }
    wait_until(DEADLINE, || kept_calls() == 0);
    for up in [edited_up, stopped_up] {
        wait_until(DEADLINE, || waiting(&up) == (0, LINES as u64));
    }
}
