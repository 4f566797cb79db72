//! Sinks that fail under a running `up`: what holds runs and for how long, what is logged, and what a stop waits for.

use testbed::{Capture, DEADLINE, Proxy, Transport, free_port, wait_until};

use crate::driver::{Folder, Up, signal};
use crate::evidence::{job, start_run, wait_for_end};

fn text_of(capture: &Capture) -> String {
    String::from_utf8_lossy(&capture.bytes()).into_owned()
}

/// Lines of the log with all of these parts.
fn count(up: &Up, parts: &[&str]) -> usize {
    up.printed().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

/// Waits until the sink has this state, with as many lines waiting.
#[track_caller]
fn wait_for_state(up: &Up, sink: &str, state: &str, lines: u64) {
    wait_until(DEADLINE, || {
        let sinks = up.records(&["sinks"]);
        sinks.iter().any(|one| one["name"] == sink && one["state"] == state && one["lag_lines"] == lines)
    });
}

#[test]
fn a_failing_sink_is_logged_once_holds_runs_until_it_is_back_and_delays_no_stop() {
    let folder = Folder::new();
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    let go = folder.path("go");
    let prints = format!("echo one; while [ ! -e {} ]; do sleep 0.05; done; echo two", go.display());
    let jobs = [job("prints", &prints, ""), job("held", "echo three", ""), job("later", "echo four", "")].concat();
    let jobs = folder.write("jobs.toml", &jobs);
    // By itself, the sink retries after hours.
    let retry = "retry = { initial = \"7d\", max = \"7d\" }\n";
    let syslog = |name: &str, address: &str, more: &str| {
        format!("[sink.{name}]\ntype = \"syslog\"\naddress = \"{address}\"\n{retry}{more}\n")
    };
    let address = format!("tcp://{}", proxy.address());
    let sinks = folder.write("sinks.toml", &syslog("must", &address, "required = true"));
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs, "--sinks", &sinks]);

    let printing = start_run(&up, "prints");
    wait_until(DEADLINE, || text_of(&capture).contains("] one"));
    proxy.refuse();
    std::fs::write(&go, "").expect("written");
    wait_for_end(&up, &printing, DEADLINE);
    wait_for_state(&up, "must", "retrying", 2);
    let held = start_run(&up, "held");
    wait_until(DEADLINE, || count(&up, &["required sink unreachable; runs are held"]) > 0);
    let runs = up.records(&["runs", "t/held"]);
    assert!(runs.iter().all(|run| run["state"] != "finished"), "{runs:?}\n{}", up.printed());
    proxy.pass();
    assert_eq!(wait_for_end(&up, &held, DEADLINE)["outcome"], "succeeded");
    wait_until(DEADLINE, || text_of(&capture).contains("] three"));
    wait_until(DEADLINE, || count(&up, &["required sink reachable again"]) > 0);
    for event in ["sink failed", "sink recovered", "required sink unreachable", "required sink reachable again"] {
        assert_eq!(count(&up, &[event, "must"]), 1, "{event}: {}", up.printed());
    }

    // One change of the file, one line for each sink.
    let gone = format!("tcp://{}", free_port());
    let texts = [
        syslog("must", &address.replace("tcp:", "tcp+tls:"), "tls = { ca_file = \"/no/such/file\" }"),
        syslog("gone", &gone, ""),
        syslog("nameless", "tcp://no-such-host.invalid:514", ""),
        format!("[sink.fine]\ntype = \"file\"\npath = \"{}\"\n", folder.text("fine.log")),
    ];
    std::fs::write(&sinks, texts.concat()).expect("written");
    wait_until(DEADLINE, || count(&up, &["sinks file reloaded: new: gone, nameless, fine; changed: must"]) == 1);
    let later = start_run(&up, "later");
    wait_for_end(&up, &later, DEADLINE);
    for (sink, state, part) in [
        ("must", "misconfigured", "/no/such/file"),
        ("gone", "retrying", "connection refused"),
        ("nameless", "retrying", "no-such-host.invalid"),
    ] {
        // `must` may keep lines that its first connection did not confirm.
        wait_until(DEADLINE, || {
            let sinks = up.records(&["sinks"]);
            sinks.iter().any(|one| one["name"] == sink && one["state"] == state)
        });
        assert_eq!(count(&up, &["WARN", sink, part]), 1, "{sink}: {}", up.printed());
    }

    // A stop waits for none of them; the file has everything.
    wait_for_state(&up, "fine", "working", 0);
    signal(up.pid(), "TERM");
    for sink in ["must", "gone", "nameless"] {
        let parts = ["stopped while the sink fails; its lines wait for the next start", sink, "lines="];
        wait_until(DEADLINE, || count(&up, &parts) == 1);
    }
    drop(up);
    let fine = std::fs::read_to_string(folder.path("fine.log")).expect("the file");
    assert!(fine.contains(" four\n"), "{fine}");
}
