//! Edits of the sinks file while jobs run: what is exchanged, what goes on, and what a new or removed sink gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use serde_json::Value;
use testbed::{Capture, DEADLINE, Proxy, Transport, wait_until};

use crate::driver::{Folder, Up, sexton, signal};
use crate::evidence::{alerts, job, page, pager, start_run, wait_for_end};

/// How long a runner without a required sink hides an order from others (`runner/src/intake.rs`).
const ORDER_LEASE: std::time::Duration = std::time::Duration::from_secs(60);

const RETRY: &str = "retry = { initial = \"20ms\", max = \"200ms\" }\n";

fn syslog(name: &str, address: impl std::fmt::Display, more: &str) -> String {
    format!("[sink.{name}]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\n{RETRY}{more}\n")
}

/// A receiver that never answers a half-close: it keeps each connection until the test drops it.
struct Deaf {
    listener: TcpListener,
}

impl Deaf {
    fn start() -> Deaf {
        Deaf { listener: TcpListener::bind("127.0.0.1:0").expect("a port") }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// Accepts connections until one has sent this text. Probes send nothing.
    #[track_caller]
    fn accept(&self, wanted: &str) -> (TcpStream, String) {
        loop {
            let (mut stream, _) = self.listener.accept().expect("connected");
            stream.set_read_timeout(Some(DEADLINE)).expect("set");
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            while !text.contains(wanted) {
                let got = stream.read(&mut buffer).expect("the text comes in time");
                if got == 0 {
                    break;
                }
                text.push_str(&String::from_utf8_lossy(&buffer[..got]));
            }
            if text.contains(wanted) {
                return (stream, text);
            }
            assert_eq!(text, "", "the connection ended too early");
        }
    }
}

/// Writes the sinks file and waits until `up` has used it.
#[track_caller]
fn edit(up: &Up, sinks: &str, text: &str, printed: &str) {
    let line = format!("sinks file reloaded: {printed}");
    let count = || up.printed().lines().filter(|printed| *printed == line).count();
    let before = count();
    std::fs::write(sinks, text).expect("written");
    let start = std::time::Instant::now();
    while count() <= before {
        assert!(start.elapsed() < DEADLINE, "not reloaded with `{printed}`: {}", up.printed());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn names(up: &Up) -> Vec<String> {
    let sinks = up.records(&["sinks"]);
    sinks.iter().map(|sink| sink["name"].as_str().expect("a name").to_owned()).collect()
}

fn sink(up: &Up, name: &str) -> Value {
    up.records(&["sinks"]).into_iter().find(|sink| sink["name"] == name).expect("a sink of this name")
}

#[test]
fn an_edit_exchanges_only_the_changed_sinks_and_no_start_waits_for_them() {
    let folder = Folder::new();
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    let (deaf, absent) = (Deaf::start(), testbed::free_port());
    let steady = syslog("steady", proxy.address(), "");
    let text = |facility: &str, more: &str| {
        let facility = format!("facility = \"{facility}\"\n");
        format!("{steady}{}{}", syslog("deaf", deaf.address(), &facility), syslog("dead", absent, more))
    };
    let sinks = folder.write("sinks.toml", &text("cron", ""));
    let jobs = folder.write("jobs.toml", &job("a", "echo one; echo two", ""));
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs, "--sinks", &sinks]);
    let received = |run_id: &str| {
        let bytes = capture.bytes();
        String::from_utf8_lossy(&bytes).matches(&format!("run.finished [run@32473 id=\"{run_id}\"")).count()
    };
    let first = start_run(&up, "a");
    wait_until(DEADLINE, || received(&first) == 1);
    let (held, _) = deaf.accept("run.finished");

    // Neither a comment, nor another order, nor HUP changes a sink.
    edit(&up, &sinks, &format!("# a comment\n{}", text("cron", "")), "no sink changed");
    let swapped =
        format!("{}{steady}{}", syslog("dead", absent, ""), syslog("deaf", deaf.address(), "facility = \"cron\""));
    edit(&up, &sinks, &swapped, "no sink changed");
    assert_eq!(names(&up), ["dead", "steady", "deaf"], "the order of the file");
    let before = up.printed().matches("no sink changed").count();
    signal(up.pid(), "HUP");
    wait_until(DEADLINE, || up.printed().matches("no sink changed").count() > before);

    // The deaf sink drains for seconds. Further edits follow, one of them back to the text that drains.
    edit(&up, &sinks, &text("local1", "max_line = 900\n"), "changed: dead, deaf");
    edit(&up, &sinks, &text("cron", "max_line = 900\n"), "changed: deaf");
    edit(&up, &sinks, &text("local3", "max_line = 900\n"), "changed: deaf");
    assert_eq!(names(&up), ["steady", "deaf", "dead"]);
    let second = start_run(&up, "a");
    assert_eq!(wait_for_end(&up, &second, DEADLINE)["outcome"], "succeeded");
    wait_until(DEADLINE, || received(&second) == 1);
    assert_eq!(received(&first), 1, "not sent again");
    assert_eq!(proxy.connections(), 1, "an unchanged sink keeps its connection");
    assert_eq!(sink(&up, "dead")["lag_lines"], 4);
    drop(held);
    let (_held, text) = deaf.accept(&format!("run.finished [run@32473 id=\"{second}\""));
    assert!(text.starts_with("<158>"), "the last edit is in use: {text}");
    assert!(!up.printed().contains("being replaced"), "{}", up.printed());
}

#[test]
fn a_required_sink_holds_a_start_only_while_its_new_address_is_unreachable() {
    let folder = Folder::new();
    let (deaf, absent) = (Deaf::start(), testbed::free_port());
    let capture = Capture::start(Transport::Tcp);
    let required = |address: SocketAddr| syslog("must", address, "required = true");
    let sinks = folder.write("sinks.toml", &syslog("must", deaf.address(), ""));
    let jobs = folder.write("jobs.toml", &job("a", "echo one", ""));
    let up = Up::start(&folder.path("state"), &["--jobs", &jobs, "--sinks", &sinks]);
    let first = start_run(&up, "a");
    wait_for_end(&up, &first, DEADLINE);
    let (_held, _) = deaf.accept("run.finished");
    // Unreachable from now on: held, and the reason names the sink. The order came before the runner knew of it.
    edit(&up, &sinks, &required(absent), "changed: must");
    let ordered = std::time::Instant::now();
    let second = start_run(&up, "a");
    wait_until(DEADLINE, || up.printed().contains("required sink unreachable; runs are held"));
    assert!(up.records(&["runs", "t/a"]).iter().any(|run| run["run_id"] == *second && run["state"] != "finished"));
    // Its first connection still drains, and the new address can be reached.
    edit(&up, &sinks, &required(capture.address()), "changed: must");
    assert_eq!(wait_for_end(&up, &second, DEADLINE)["outcome"], "succeeded");
    assert!(ordered.elapsed() < ORDER_LEASE, "the start did not wait for the lease of its order");
    // Not required, although nothing listens and its old engine may still drain: starts at once.
    edit(&up, &sinks, &required(absent), "changed: must");
    edit(&up, &sinks, &syslog("must", absent, ""), "changed: must");
    let third = start_run(&up, "a");
    assert_eq!(wait_for_end(&up, &third, DEADLINE)["outcome"], "succeeded");
}

/// Answers 400 to each request with `poison` in it, and 202 to every other.
fn picky_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve_picky(stream));
        }
    });
    address
}

fn serve_picky(mut stream: TcpStream) {
    let mut received = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            let Ok(got @ 1..) = stream.read(&mut buffer) else { return };
            received.extend_from_slice(&buffer[..got]);
            continue;
        };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.expect("a length");
        if body.len() < length {
            let Ok(got @ 1..) = stream.read(&mut buffer) else { return };
            received.extend_from_slice(&buffer[..got]);
            continue;
        }
        let status = if body[..length].contains("poison") { "400 Bad Request" } else { "202 Accepted" };
        received.drain(..head.len() + 4 + length);
        if write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

#[test]
fn counters_of_lost_lines_survive_edits_kills_and_removed_runs_until_they_are_reset() {
    let folder = Folder::new();
    let server = picky_server();
    let text = |more: &str| format!("[sink.picky]\ntype = \"gelf\"\naddress = \"http://{server}\"\n{RETRY}{more}\n");
    let sinks = folder.write("sinks.toml", &text(""));
    let jobs = folder.write("jobs.toml", &job("a", "echo fine; printf \"poi%s\\n\" son; echo fine too", ""));
    let state = folder.path("state");
    let arguments = ["--jobs", &jobs, "--sinks", &sinks];
    let up = Up::start(&state, &arguments);
    let refuse = |up: &Up, expected: u64| {
        let run_id = start_run(up, "a");
        wait_for_end(up, &run_id, DEADLINE);
        wait_until(DEADLINE, || {
            sink(up, "picky")["refused_records"] == expected && sink(up, "picky")["lag_lines"] == 0
        });
    };
    let metric = |number: u64| format!("sexton_sink_refused_records_total{{sink=\"picky\",type=\"gelf\"}} {number}");
    refuse(&up, 1);
    edit(&up, &sinks, &text("max_line = 1000"), "changed: picky");
    refuse(&up, 2);
    up.kill();
    std::fs::remove_dir_all(state.join("runner/runs")).expect("removed");
    let up = Up::start(&state, &arguments);
    let known = sink(&up, "picky");
    assert_eq!((&known["refused_records"], known["refused"].as_array().map(Vec::len)), (&2.into(), Some(2)), "{known}");
    assert_eq!(known["refused"][1]["record"], "line");
    assert!(page(&state, "/metrics").contains(&metric(2)));

    let unknown = up.run(&["sinks", "--reset", "pciky"]).expect(2);
    assert!(unknown.err.contains("no sink `pciky`; known sinks: picky"), "{}", unknown.err);
    let reset = up.run(&["sinks", "--reset", "picky"]).expect(0).text();
    assert_eq!(reset, "sink picky: counters reset; before: 0 lines dropped, 2 refused\n");
    assert_eq!(sink(&up, "picky")["refused_records"], 0);
    assert!(page(&state, "/metrics").contains(&metric(0)));
    refuse(&up, 1);
    assert_eq!(up.stop(), Some(0));
    // Without an `up`.
    let at = state.display().to_string();
    let unknown = sexton(&["sinks", "--reset", "x", "--state", &at]).expect(2);
    assert!(unknown.err.contains("no sink `x`; known sinks: picky"), "{}", unknown.err);
    let reset = sexton(&["sinks", "--reset", "--json", "--state", &at]).expect(0).records();
    assert_eq!((&reset[0]["name"], &reset[0]["refused_records"]), (&"picky".into(), &1.into()));
    let up = Up::start(&state, &arguments);
    assert_eq!(sink(&up, "picky")["refused_records"], 0);
}

fn lines(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_new_sink_gets_what_has_not_ended_and_the_kept_output_only_on_request() {
    let folder = Folder::new();
    let file = |name: &str, more: &str| {
        format!("[sink.{name}]\ntype = \"file\"\npath = \"{}\"\n{more}\n", folder.text(&format!("{name}.log")))
    };
    let go = folder.path("go");
    let wait = format!("echo early; while [ ! -e {} ]; do sleep 0.05; done; echo late", go.display());
    let jobs = folder.write("jobs.toml", &[job("ended", "echo done", ""), job("open", &wait, "")].concat());
    let absent = syslog("absent", testbed::free_port(), "");
    let all = format!("{}{absent}", file("known", ""));
    let sinks = folder.write("sinks.toml", &all);
    let (configuration, alert_file) = pager(&folder);
    let state = folder.path("state");
    let arguments = ["--jobs", &jobs, "--config", &configuration, "--sinks", &sinks];
    let up = Up::start(&state, &arguments);
    let ended = start_run(&up, "ended");
    wait_for_end(&up, &ended, DEADLINE);
    let open = start_run(&up, "open");
    wait_until(DEADLINE, || lines(&folder.path("known.log")).contains("early"));
    let added = format!("{all}{}{}", file("fresh", ""), file("history", "start = \"kept\""));
    edit(&up, &sinks, &added, "new: fresh, history");
    std::fs::write(&go, "").expect("written");
    wait_for_end(&up, &open, DEADLINE);
    let is_complete = |name: &str| lines(&folder.path(name)).contains(&format!("run_id={open} attempt=1 last_seq=2"));
    wait_until(DEADLINE, || is_complete("fresh.log") && is_complete("history.log") && is_complete("known.log"));
    let fresh = lines(&folder.path("fresh.log"));
    assert!(fresh.contains("early") && !fresh.contains(&ended), "from the first line of the open run: {fresh}");
    assert!(lines(&folder.path("history.log")).contains(&ended));
    up.kill();

    // An older build stored no sinks: those with a cursor, or in its last sinks file, keep their places.
    std::fs::remove_dir_all(state.join("runner/sinks")).expect("removed");
    std::fs::remove_file(folder.path("known.log")).expect("removed");
    std::fs::remove_file(state.join(format!("runner/runs/{ended}.1/cursors/known.sink"))).expect("removed");
    std::fs::write(&sinks, format!("{added}{}", file("newer", ""))).expect("written");
    let up = Up::start(&state, &arguments);
    wait_until(DEADLINE, || lines(&folder.path("known.log")).contains(&ended));
    assert_eq!(sink(&up, "absent")["lag_lines"], 3);
    assert_eq!(sink(&up, "newer")["lag_lines"], 0);
    assert!(!folder.path("newer.log").exists(), "{}", lines(&folder.path("newer.log")));
    up.kill();

    // Renamed while nothing runs: the old name lacks lines, the new one gets none of them.
    std::fs::write(&sinks, added.replace("sink.absent", "sink.renamed")).expect("written");
    let up = Up::start(&state, &arguments);
    let removed = "sink `absent` was removed or renamed with 3 lines of 2 runs undelivered; add a sink with this name";
    let reasons = || alerts(&alert_file).iter().map(|alert| alert["reason"].to_string()).collect::<Vec<_>>();
    wait_until(DEADLINE, || reasons().iter().any(|reason| reason.contains(removed)));
    assert_eq!(sink(&up, "renamed")["lag_lines"], 0);
    // Back under its name, with an address that works.
    let capture = Capture::start(Transport::Tcp);
    let back = format!("{}{}", file("known", ""), syslog("absent", capture.address(), ""));
    edit(&up, &sinks, &back, "new: absent; removed: renamed, fresh, history");
    wait_until(DEADLINE, || {
        let received = capture.bytes();
        let text = String::from_utf8_lossy(&received).into_owned();
        ["] done", "] early", "] late"].iter().all(|line| text.contains(line))
    });
    wait_until(DEADLINE, || alerts(&alert_file).iter().any(|alert| alert["kind"] == "recovered"));
    let alerts = alerts(&alert_file);
    assert!(alerts.iter().all(|alert| alert["job"] == "sink.absent"), "{alerts:?}");
}
