//! Alerts and numbers of a failing sink.

use testbed::{Capture, DEADLINE, Proxy, Transport, wait_until};

use crate::driver::{Folder, Up};
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
