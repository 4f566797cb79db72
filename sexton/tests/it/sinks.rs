//! What people see of a sink: in trouble and out of it.

use serde_json::Value;
use testbed::{Capture, DEADLINE, Proxy, Transport, wait_until};

use crate::driver::{Folder, Up};

#[test]
fn people_are_told_of_a_sink_that_lags_and_of_its_recovery() {
    let folder = Folder::new();
    let (capture, told) = (Capture::start(Transport::Tcp), folder.text("told"));
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
    let configuration = folder.write(
        "sexton.toml",
        &format!("[channel.pager]\ntype = \"command\"\ncommand = '''\ncat >> {told}; echo >> {told}'''\n"),
    );
    let tab = folder.write("crontab", "# sexton: name=a group=db\n@manually echo kept for later\n");
    let arguments = ["--crontab", &tab, "--config", &configuration, "--sinks", &sinks];
    let up = Up::start(&folder.path("state"), &arguments);
    up.ask(&["run", "db/a", "--wait"]).expect(0);
    let alerts = || -> Vec<Value> {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    wait_until(DEADLINE, || alerts().len() == 1);
    let sink = up.records(&["sinks"]).remove(0);
    assert_eq!((&sink["lag_lines"], &sink["state"]), (&1.into(), &"retrying".into()), "{sink}");
    server.pass();
    wait_until(DEADLINE, || alerts().len() == 2);
    let alerts = alerts();
    for (alert, kind) in alerts.iter().zip(["failed", "recovered"]) {
        assert_eq!(
            (&alert["kind"], &alert["group"], &alert["job"]),
            (&kind.into(), &"sexton".into(), &"sink.central".into())
        );
    }
    let reason = alerts[0]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with("sink `central` is ") && reason.contains("; 1 line (") && reason.contains("refused"),
        "{reason}"
    );
    assert!(String::from_utf8_lossy(&capture.bytes()).contains("] kept for later"));
    assert_eq!(up.records(&["sinks"]).remove(0)["state"], "working");
}
