//! An edit of the sinks file while calls of `exec` have lines for its sinks.

use std::fs;
use std::path::Path;

use testbed::{Capture, DEADLINE, Transport, free_port, wait_until};

use crate::driver::{CommandOutput, Folder, Up, sexton};

/// Ends the senders of a state directory, as a shutdown of the machine does, when dropped and on request.
struct Senders(String);

impl Senders {
    fn running(&self) -> Vec<keeper::processes::Process> {
        let is_sender = |process: &keeper::processes::Process| {
            let words = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            words.contains("\0exec-sender\0") && words.contains(&self.0)
        };
        let all = keeper::processes::list().unwrap_or_default();
        all.into_iter().filter(|process| !process.is_zombie() && is_sender(process)).collect()
    }

    fn kill(&self) {
        wait_until(DEADLINE, || {
            let running = self.running();
            for sender in &running {
                keeper::processes::send_signal(sender, rustix::process::Signal::KILL);
            }
            running.is_empty()
        });
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.running().iter().for_each(|sender| {
            keeper::processes::send_signal(sender, rustix::process::Signal::KILL);
        });
    }
}

fn tcp_sink(name: &str, address: impl std::fmt::Display) -> String {
    format!(
        "[sink.{name}]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\nretry = {{ initial = \"100ms\", max = \"300ms\" }}\n"
    )
}

fn file_sink(name: &str, path: &Path) -> String {
    format!("[sink.{name}]\ntype = \"file\"\npath = \"{}\"\n", path.display())
}

fn exec(state: &str, sinks: &str, name: &str, word: &str) -> CommandOutput {
    sexton(&["exec", "--name", name, "--state", state, "--sinks", sinks, "--", "echo", word]).expect(0)
}

fn count(folder: &Folder, name: &str) -> usize {
    fs::read_dir(folder.path(name)).map_or(0, Iterator::count)
}

#[test]
fn the_senders_of_earlier_calls_follow_the_sinks_file() {
    let folder = Folder::new();
    let (state, address, log) = (folder.text("state"), free_port(), folder.path("ok.log"));
    let _senders = Senders(state.clone());
    let sinks = folder.write("sinks.toml", &(tcp_sink("old", address) + &file_sink("ok", &log)));
    exec(&state, &sinks, "first", "line-1");
    let has = |word: &str| fs::read_to_string(&log).unwrap_or_default().contains(word);
    wait_until(DEADLINE, || has("line-1"));
    let status = || sexton(&["status", "--state", &state]).expect(1).text();
    wait_until(DEADLINE, || {
        status().contains("1 command of `sexton exec` has undelivered lines: 1 line for sink `old`, the oldest")
    });

    // The sender of the first call waits for `old`, which is renamed.
    folder.write("sinks.toml", &(tcp_sink("new", free_port()) + &file_sink("ok", &log)));
    exec(&state, &sinks, "second", "line-2");
    wait_until(DEADLINE, || has("line-2"));
    let record = folder.path("state/runner/sinks/old.json");
    wait_until(DEADLINE, || record.exists());
    let sinks_of = |job: &str| {
        let status = sexton(&["status", "--state", &state, "--json"]).expect(1).records();
        let commands = status[0]["exec"].as_array().expect("commands").clone();
        let command = commands.into_iter().find(|command| command["job"] == job)?;
        let sinks = command["sinks"].as_array().expect("sinks").clone();
        Some(sinks.iter().map(|sink| sink["name"].clone()).collect::<Vec<_>>())
    };
    // A new sink does not get what ended before.
    wait_until(DEADLINE, || sinks_of("first") == Some(vec!["old".into()]));
    wait_until(DEADLINE, || sinks_of("second") == Some(vec!["new".into()]));

    // Without its failing sink the file has one left, which has everything.
    folder.write("sinks.toml", &file_sink("ok", &log));
    wait_until(DEADLINE, || count(&folder, "state/runner/exec") == 0);
    let reset = sexton(&["sinks", "--reset", "old", "--state", &state]).expect(0).text();
    assert!(reset.contains("sink old: counters reset"), "{reset}");
    let unknown = sexton(&["sinks", "--reset", "never", "--state", &state]).expect(2).err;
    assert!(unknown.contains("known sinks: new, old"), "{unknown}");

    assert!(status().contains("1 line for sink `new`") && !status().contains("sink `old`"), "{}", status());

    // Added again, it gets its lines and no others.
    let receiver = Capture::start_at(Transport::Tcp, address);
    folder.write("sinks.toml", &(tcp_sink("old", address) + &file_sink("ok", &log)));
    exec(&state, &sinks, "third", "line-3");
    let received = || String::from_utf8_lossy(&receiver.bytes()).into_owned();
    wait_until(DEADLINE, || ["line-1", "line-3"].iter().all(|word| received().contains(word)));
    assert!(!received().contains("line-2"), "{}", received());
    let lines = || fs::read_to_string(&log).unwrap_or_default().matches("stdout F line-").count();
    wait_until(DEADLINE, || lines() == 3);
}

#[test]
fn up_alerts_about_a_sink_that_was_renamed_while_exec_had_lines_for_it() {
    let folder = Folder::new();
    let (state, log) = (folder.text("state"), folder.path("ok.log"));
    let senders = Senders(state.clone());
    // The file sink cannot be written before there is an `up`.
    fs::write(folder.path("ok"), "").expect("file");
    let log_below = folder.path("ok/ok.log");
    let sinks = folder.write("sinks.toml", &(tcp_sink("old", free_port()) + &file_sink("ok", &log_below)));
    exec(&state, &sinks, "abandoned", "kept");
    senders.kill();
    folder.write("sinks.toml", &(tcp_sink("new", free_port()) + &file_sink("ok", &log_below)));
    fs::remove_file(folder.path("ok")).expect("removed");
    let up = Up::start(&folder.path("state"), &["--sinks", &sinks]);
    wait_until(DEADLINE, || fs::read_to_string(&log_below).unwrap_or_default().contains("kept"));
    let status = || up.run(&["status", "--json"]).expect(0).records().remove(0);
    let is_bad = |status: &serde_json::Value| {
        let bad = status["bad"].as_array().expect("bad").clone();
        bad.iter().any(|job| {
            job["name"] == "sink.old"
                && job["reason"].as_str().is_some_and(|reason| reason.contains("1 line of 1 run undelivered"))
        })
    };
    wait_until(DEADLINE, || is_bad(&status()));
    // The `up` has the lines.
    wait_until(DEADLINE, || status()["exec"] == serde_json::json!([]));
    up.run(&["sinks", "--reset", "old"]).expect(0);
    wait_until(DEADLINE, || !is_bad(&status()));
    assert!(!log.exists());

    // Jobs of `exec` that fail are bad jobs, with an `up` and without.
    let failing = ["exec", "--name", "failing", "--state", &state, "--", "sh", "-c", "exit 4"];
    sexton(&failing).expect(4);
    wait_until(DEADLINE, || up.run(&["jobs", "--bad"]).expect(0).text().contains("default/failing"));
    assert!(up.run(&["status"]).expect(0).text().contains("default/failing  failed"));
    drop(up);
    sexton(&failing).expect(4);
    let bad = sexton(&["jobs", "--bad", "--state", &state]).expect(1);
    assert!(bad.text().contains("default/failing") && bad.text().contains("bad: failed"), "{}", bad.text());
}
