//! What `exec` leaves after its return: a sender that delivers, runs that `runs` and `logs` know, and the files of an
//! `up` that it uses.

use std::fs;

use serde_json::json;
use testbed::{Capture, DEADLINE, Transport, free_port, wait_until};

use crate::driver::{Folder, Up, sexton};

/// Calls of `exec` that are not delivered.
fn undelivered(folder: &Folder) -> usize {
    fs::read_dir(folder.path("state/runner/exec")).map_or(0, Iterator::count)
}

#[test]
fn exec_returns_before_a_dead_sink_and_the_lines_arrive_later_once() {
    let folder = Folder::new();
    let state = folder.text("state");
    let address = free_port();
    let text = format!(
        "[sink.late]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\nretry = {{ initial = \"100ms\", max = \"300ms\" }}\n"
    );
    let sinks = folder.write("sinks.toml", &text);
    let call = |name: &str, word: &str| {
        let words = ["exec", "--name", name, "--state", &state, "--sinks", &sinks, "--", "echo", word];
        let output = sexton(&words).expect(0);
        assert_eq!(output.text(), format!("{word}\n"));
    };
    for number in 1..=5 {
        call("dead", &format!("line-{number}"));
    }
    assert!(undelivered(&folder) > 0, "nothing is removed before it is delivered");
    // The history does not wait for the sinks.
    let runs = sexton(&["runs", "--state", &state, "--json"]).expect(0).records();
    assert_eq!(runs.len(), 5, "{runs:?}");
    let run_id = runs[4]["run_id"].as_str().expect("run_id").to_owned();
    assert_eq!(sexton(&["logs", &run_id, "--state", &state]).expect(0).text(), "line-1\n");
    assert!(sexton(&["show", &run_id, "--state", &state]).expect(0).text().contains("succeeded"));

    // One sender delivers for all calls. Its connection must stand before it confirms anything.
    let receiver = Capture::start_at(Transport::Tcp, address);
    let has = |word: &str| String::from_utf8_lossy(&receiver.bytes()).contains(word);
    wait_until(DEADLINE, || (1..=5).all(|number| has(&format!("line-{number}"))));
    wait_until(2 * DEADLINE, || undelivered(&folder) == 0);
    let received = String::from_utf8_lossy(&receiver.bytes()).into_owned();
    for number in 1..=5 {
        assert_eq!(received.matches(&format!("] line-{number}")).count(), 1, "{received}");
    }
    // Delivered runs are still known.
    assert_eq!(sexton(&["logs", &run_id, "--state", &state]).expect(0).text(), "line-1\n");
    assert_eq!(sexton(&["runs", "--state", &state, "--json"]).expect(0).records().len(), 5);
}

#[test]
fn exec_uses_the_sinks_and_rules_of_the_up_with_its_state_directory() {
    let folder = Folder::new();
    let log = folder.text("of-up.log");
    let sinks = folder.write("sinks.toml", &format!("[sink.a]\ntype = \"file\"\npath = \"{log}\"\n"));
    let pack = "name = \"own\"\ndescription = \"d\"\nsuggest = [\".*\"]\n[[rule]]\nid = \"own.bad\"\npattern = 'unacceptable'\n\
                explain = \"e\"\n";
    let rules = folder.write("own.toml", pack);
    let state = folder.text("state");
    let exec = |name: &str, word: &str| sexton(&["exec", "--name", name, "--state", &state, "--", "echo", word]);
    // Before there is an `up`: recorded, and taken over later.
    exec("before", "early").expect(0);
    let up = Up::start(&folder.path("state"), &["--sinks", &sinks, "--rules", &rules]);
    exec("with", "shipped").expect(0);
    let shipped = || fs::read_to_string(&log).unwrap_or_default().contains("shipped");
    wait_until(DEADLINE, shipped);
    let run = up.wait_for_run("default/with", "succeeded");
    assert_eq!((&run["trigger"], &run["stdout_lines"]), (&json!("exec"), &json!(1)));
    let run_id = run["run_id"].as_str().expect("run_id").to_owned();
    assert_eq!(up.run(&["logs", &run_id]).expect(0).text(), "shipped\n");
    let run = up.wait_for_run("default/before", "succeeded");
    assert_eq!(up.run(&["logs", run["run_id"].as_str().expect("run_id")]).expect(0).text(), "early\n");
    let lying = sexton(&["exec", "--name", "rules", "--state", &state, "--pack", "own", "--", "echo", "unacceptable"]);
    assert!(lying.expect(1).err.contains("own.bad"));
    up.kill();
    // The files of the last `up` are used while it is stopped, and `runs` needs no server.
    exec("after", "late").expect(0);
    wait_until(DEADLINE, || fs::read_to_string(&log).unwrap_or_default().contains("late"));
    let runs = sexton(&["runs", "--state", &state, "default/after", "--json"]).expect(0).records();
    assert_eq!(runs.len(), 1, "{runs:?}");
}
