//! The behaviour of a running `up`.

use serde_json::{Value, json};
use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, command, sexton};

/// Starts an `up` with a crontab.
fn up_with(folder: &Folder, crontab: &str, more: &[&str]) -> Up {
    let crontab = folder.write("crontab", crontab);
    let mut arguments = vec!["--crontab", crontab.as_str()];
    arguments.extend(more);
    Up::start(&folder.path("state"), &arguments)
}

fn text<'v>(record: &'v Value, name: &str) -> &'v str {
    record[name].as_str().unwrap_or_default()
}

#[test]
fn up_without_arguments_runs_the_sample() {
    let folder = Folder::new();
    let up = Up::start(&folder.path("state"), &[]);
    let output = up.printed();
    for part in ["serves http://127.0.0.1:", "sample.crontab", "logs/{group}/{job}.log"] {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert_eq!(up.records(&["jobs"]).len(), 3);
    let good = up.run(&["run", "sample/good", "--wait"]).expect(0);
    assert!(good.text().contains("sample/good succeeded"), "{}", good.text());
    let failing = up.run(&["run", "sample/failing", "--wait", "--json"]).expect(1).records().remove(0);
    assert_eq!((text(&failing, "outcome"), &failing["exit_code"]), ("failed", &json!(3)));
    let lying = up.run(&["run", "sample/lying", "--wait", "--json"]).expect(1).records().remove(0);
    assert_eq!((text(&lying, "outcome"), &lying["exit_code"]), ("false_success", &json!(0)));
    assert!(text(&lying, "reason").contains("python.traceback"), "{lying}");
    let shown = up.run(&["show", text(&lying, "run_id")]).expect(0).text();
    assert!(shown.contains("false_success") && shown.contains("python.traceback"), "{shown}");
    let log = folder.path("state/logs/sample/good.log");
    wait_until(DEADLINE, || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("run.finished")));
    let sinks = up.records(&["sinks"]);
    assert_eq!((sinks.len(), text(&sinks[0], "kind")), (1, "file"));
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn the_sample_is_deleted_when_there_are_other_jobs_and_jobs_of_former_files_are_listed() {
    let folder = Folder::new();
    let names = |up: &Up| up.records(&["jobs"]).iter().map(|job| text(job, "name").to_owned()).collect::<Vec<_>>();
    let up = Up::start(&folder.path("state"), &[]);
    assert_eq!(names(&up).len(), 3);
    assert_eq!(up.stop(), Some(0));
    let up = up_with(&folder, "# sexton: name=own\n@manually true\n", &[]);
    assert_eq!(names(&up), ["own"]);
    assert!(up.printed().contains("3 of the sample deleted"), "{}", up.printed());
    assert_eq!(up.stop(), Some(0));
    let other = folder.write("other", "# sexton: name=other\n@manually true\n");
    for (arguments, expected) in [(&["--crontab", &other][..], ["other", "own"].as_slice()), (&[], &["other", "own"])] {
        let up = Up::start(&folder.path("state"), arguments);
        assert_eq!(names(&up), expected, "{arguments:?}");
        let output = up.printed();
        let is_listed = output
            .lines()
            .any(|line| line.contains("/crontab, which is not named now") && line.contains("default/own"));
        assert!(is_listed && !output.contains("sample"), "{output}");
        assert_eq!(up.stop(), Some(0));
    }
}

#[test]
fn a_schedule_fires_and_the_ledger_adds_up() {
    let folder = Folder::new();
    let tab = "# sexton: name=tick\n@every 1s echo tick\n# sexton: name=bad\n@every 1s exit 7\n";
    let up = up_with(&folder, tab, &[]);
    let run = up.wait_for_run("default/tick", "succeeded");
    assert_eq!((text(&run, "trigger"), &run["attempt"], &run["stdout_lines"]), ("schedule", &json!(1), &json!(1)));
    let bad = up.wait_for_run("default", "failed");
    assert_eq!((text(&bad, "job"), &bad["exit_code"]), ("bad", &json!(7)));

    up.run(&["maintenance", "on", "--why", "the ledger is counted"]).expect(0);
    up.wait_for_run("default/tick", "skipped");
    let ledger = up.run(&["ledger", "--json"]).expect(0).records().remove(0);
    assert_eq!(ledger["adds_up"], json!(true), "{ledger}");
    assert!(ledger["outcomes"]["failed"].as_u64() >= Some(1), "{ledger}");
    up.run(&["maintenance", "off"]).expect(0);

    up.run(&["job", "pause", "default/tick", "--why", "noise"]).expect(0);
    wait_until(DEADLINE, || {
        up.records(&["runs", "default/tick", "--outcome", "skipped"])
            .iter()
            .any(|run| text(run, "reason").contains("noise"))
    });
    up.run(&["job", "resume", "default/tick"]).expect(0);
    let limited = up.records(&["runs", "--limit", "2"]);
    assert_eq!(limited.len(), 2);
}

#[test]
fn output_is_printed_byte_for_byte_with_and_without_a_server() {
    let folder = Folder::new();
    let tab = r#"# sexton: name=bytes
@manually printf '\377\000\r\033[1mone\nno newline'; printf 'err\n' >&2
"#;
    let up = up_with(&folder, tab, &[]);
    let run = up.run(&["run", "default/bytes", "--wait", "--json"]).expect(0).records().remove(0);
    let run_id = text(&run, "run_id");
    let stdout = b"\xff\x00\r\x1b[1mone\nno newline".to_vec();
    let logs = |up: &Up, more: &[&str]| up.run(&[&["logs", run_id][..], more].concat()).expect(0).out;
    assert_eq!(logs(&up, &["--stream", "stdout"]), stdout);
    assert_eq!(logs(&up, &["--stream", "stderr", "--follow"]), b"err\n");
    let timed = String::from_utf8_lossy(&logs(&up, &["--stream", "stderr", "--timestamps"])).into_owned();
    assert!(timed.ends_with("Z stderr err\n"), "{timed}");
    up.run(&["logs", "20200101T000000Z-000000000000"]).expect(2);
    let state = folder.text("state");
    assert_eq!(up.stop(), Some(0));
    assert_eq!(sexton(&["logs", run_id, "--stream", "stdout", "--state", &state]).expect(0).out, stdout);
    sexton(&["logs", "20200101T000000Z-000000000000", "--state", &state]).expect(1);
}

#[test]
fn output_that_retention_deleted_is_marked() {
    let folder = Folder::new();
    let up = up_with(&folder, "# sexton: name=long\n@manually echo kept\n", &[]);
    let run = up.run(&["run", "default/long", "--wait", "--json"]).expect(0).records().remove(0);
    let run_id = text(&run, "run_id");
    // Like after retention: without the first segment.
    let spool = folder.path(&format!("state/runner/runs/{run_id}.1/spool"));
    let segment = |first_seq: u64| spool.join(format!("{first_seq:020}.log"));
    std::fs::rename(segment(1), segment(6)).expect("renamed");
    let check = |logs: &dyn Fn(&[&str]) -> crate::driver::CommandOutput| {
        let plain = logs(&["logs", run_id]).expect(0);
        assert_eq!(plain.out, b"kept\n");
        assert!(plain.err.contains('5') && plain.err.contains(run_id), "{}", plain.err);
        let timed = logs(&["logs", run_id, "--timestamps"]).expect(0);
        assert!(timed.text().starts_with("[sexton: 5 lines (seq 1-5) are missing"), "{}", timed.text());
        assert!(timed.text().ends_with("Z stdout kept\n"), "{}", timed.text());
        assert_eq!(timed.err, "");
    };
    check(&|arguments| up.run(arguments));
    let state = folder.text("state");
    assert_eq!(up.stop(), Some(0));
    check(&|arguments| sexton(&[arguments, &["--state", &state]].concat()));
}

#[test]
fn a_running_run_is_followed_and_stopped() {
    let folder = Folder::new();
    let up = up_with(&folder, "# sexton: name=long\n@manually echo started; sleep 600\n", &[]);
    let run_id = up.run(&["run", "default/long"]).expect(0).text().trim().to_owned();
    wait_until(DEADLINE, || up.run(&["logs", &run_id]).out == b"started\n");
    up.run(&["stop", &run_id]).expect(0);
    // Follows until the end, which the stop causes.
    assert_eq!(up.run(&["logs", &run_id, "--follow"]).expect(0).out, b"started\n");
    let run = up.wait_for_run("default/long", "stopped");
    assert_eq!(text(&run, "run_id"), run_id);
    up.run(&["stop", &run_id]).expect(1);
}

#[test]
fn a_held_run_is_followed_from_its_beginning() {
    let folder = Folder::new();
    let go = folder.text("go");
    let tab = format!(
        "# sexton: name=one concurrency=queue\n@manually echo started; while [ ! -e {go} ]; do sleep 0.05; done\n"
    );
    let up = up_with(&folder, &tab, &[]);
    let first = up.run(&["run", "default/one"]).expect(0).text().trim().to_owned();
    wait_until(DEADLINE, || up.run(&["logs", &first]).out == b"started\n");
    let second = up.run(&["run", "default/one"]).expect(0).text().trim().to_owned();
    up.run(&["logs", &second]).expect(2);
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| up.run(&["logs", &second, "--follow"]));
        folder.write("go", "");
        assert_eq!(follower.join().expect("followed").expect(0).out, b"started\n");
    });
}

#[test]
fn apply_shows_the_difference_and_prunes_only_what_came_from_the_file() {
    let folder = Folder::new();
    let up = up_with(&folder, "# sexton: name=own\n@manually true\n", &[]);
    let jobs = folder.write("jobs.toml", "[[job]]\nname = \"a\"\nschedule = \"@daily\"\ncommand = \"true\"\n");
    let first = up.run(&["apply", &jobs, "--group", "db"]).expect(0).text();
    assert_eq!(first, "+ db/a\n1 added, 0 changed, 0 removed, 0 unchanged\n");
    folder.write("jobs.toml", "[[job]]\nname = \"b\"\nschedule = \"@daily\"\ncommand = \"true\"\n");
    let arguments = ["apply", &jobs, "--group", "db", "--prune", "--dry-run"];
    let dry = up.run(&arguments).expect(0).text();
    assert_eq!(dry, "+ db/b\n- db/a\n1 added, 0 changed, 1 removed, 0 unchanged (nothing was stored)\n");
    assert_eq!(up.records(&["jobs", "db"])[0]["name"], "a");
    up.run(&arguments[..5]).expect(0);
    let names: Vec<Value> = up.records(&["jobs"]).iter().map(|job| job["name"].clone()).collect();
    assert_eq!(names, ["b", "own"]);

    up.run(&["job", "set", "db/c", &jobs]).expect(0);
    assert!(up.run(&["job", "show", "db/c"]).expect(0).text().contains("@daily"));
    up.run(&["job", "remove", "db/c"]).expect(0);
    up.run(&["job", "show", "db/c"]).expect(2);
    folder.write("jobs.toml", "[[job]]\nname = \"b\"\nschedule = \"61 * * * *\"\ncommand = \"true\"\n");
    up.run(&arguments[..5]).expect(2);
}

#[test]
fn a_changed_file_is_applied_and_a_faulty_one_changes_nothing() {
    let folder = Folder::new();
    let up = up_with(&folder, "# sexton: name=first\n@manually true\n", &[]);
    let names = || -> Vec<Value> { up.records(&["jobs"]).iter().map(|job| job["name"].clone()).collect() };
    assert_eq!(names(), ["first"]);
    folder.write("crontab", "# sexton: name=second\n@manually true\n");
    wait_until(DEADLINE, || names() == ["second"]);
    folder.write("crontab", "# sexton: name=third\n@manually true\n61 * * * * true\n");
    wait_until(DEADLINE, || up.printed().contains("change not applied"));
    assert!(up.printed().contains("crontab:3:"), "{}", up.printed());
    assert_eq!(names(), ["second"]);
}

#[test]
fn changed_sinks_and_rules_are_used_without_a_restart() {
    let folder = Folder::new();
    let sinks = |name: &str| {
        let path = folder.text(name);
        folder.write("sinks.toml", &format!("[sink.{name}]\ntype = \"file\"\npath = \"{path}/{{job}}.log\"\n"))
    };
    let rules = |pattern: &str| {
        folder.write("mine.toml", &format!("name = \"mine\"\n[[rule]]\nid = \"mine.word\"\npattern = '{pattern}'\n"))
    };
    let (sinks_file, rules_file) = (sinks("one"), rules("never printed"));
    let tab = "# sexton: name=a rules=mine\n@manually echo a word\n";
    let up = up_with(&folder, tab, &["--sinks", &sinks_file, "--rules", &rules_file]);
    up.run(&["run", "default/a", "--wait"]).expect(0);
    sinks("two");
    // While sinks are replaced, the list is empty.
    wait_until(DEADLINE, || up.records(&["sinks"]).first().is_some_and(|sink| sink["name"] == "two"));
    rules("a word");
    wait_until(DEADLINE, || up.printed().contains("rules reloaded"));
    up.run(&["run", "default/a", "--wait"]).expect(1);
    let log = folder.path("two/a.log");
    wait_until(DEADLINE, || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("false_success")));
    folder.write("sinks.toml", "[sink.x]\ntype = \"fil\"\n");
    wait_until(DEADLINE, || up.printed().contains("keeping the previous sinks"));
    assert_eq!(up.records(&["sinks"])[0]["name"], "two");
}

#[test]
fn a_job_with_an_unknown_rule_pack_causes_a_warning() {
    let folder = Folder::new();
    let up = up_with(&folder, "# sexton: name=a rules=pythn\n@manually true\n", &[]);
    wait_until(DEADLINE, || up.printed().contains("default/a: no rule pack `pythn`; did you mean `python`?"));
}

#[test]
fn a_second_up_on_the_same_state_directory_is_refused() {
    let folder = Folder::new();
    let up = up_with(&folder, "# sexton: name=a\n@manually true\n", &[]);
    let state = folder.text("state");
    let output = command(&["up", "--state", &state]).output().expect("ran");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("pid {}", up.pid())) && err.lines().count() == 1, "{err}");
}

#[test]
fn a_new_crontab_with_a_fault_is_refused_with_one_line() {
    let folder = Folder::new();
    let tab = folder.write("crontab", "61 * * * * true\n");
    let output = command(&["up", "--state", &folder.text("state"), "--crontab", &tab]).output().expect("ran");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("crontab:1:") && err.lines().count() == 1, "{err}");
}

#[test]
fn a_running_job_outlives_its_up_and_is_resumed_by_the_next() {
    let folder = Folder::new();
    let go = folder.text("go");
    let tab =
        format!("# sexton: name=long\n@manually echo started; while [ ! -e {go} ]; do sleep 0.05; done; echo done\n");
    let up = up_with(&folder, &tab, &[]);
    let run_id = up.run(&["run", "default/long"]).expect(0).text().trim().to_owned();
    wait_until(DEADLINE, || up.run(&["logs", &run_id]).out == b"started\n");
    assert_eq!(up.stop_and_keep_jobs(), Some(0));
    let up = up_with(&folder, &tab, &[]);
    let running = up.run(&["show", &run_id, "--json"]).expect(0).records().remove(0);
    assert_eq!(running["outcome"], Value::Null, "{running}");
    folder.write("go", "");
    let run = up.wait_for_run("default/long", "succeeded");
    assert_eq!((text(&run, "run_id"), &run["attempt"]), (run_id.as_str(), &json!(1)));
    assert_eq!(up.run(&["logs", &run_id]).expect(0).out, b"started\ndone\n");
    up.run(&["ledger"]).expect(0);
}

#[test]
fn alerts_are_sent_through_the_configured_channel() {
    let folder = Folder::new();
    let alert_file = folder.text("alerts");
    let configuration = folder.write(
        "sexton.toml",
        &format!(
            "[channel.pager]\ntype = \"command\"\ncommand = '''\ncat >> {alert_file}; echo >> {alert_file}'''\n\
             [links]\nconsole = \"https://cron.example.org/{{run_id}}\"\n"
        ),
    );
    let tab = "# sexton: name=bad group=db\n@manually echo the disk is full >&2; exit 4\n";
    let up = up_with(&folder, tab, &["--config", &configuration]);
    let run = up.run(&["run", "db/bad", "--wait", "--json"]).expect(1).records().remove(0);
    wait_until(DEADLINE, || std::fs::read_to_string(&alert_file).is_ok_and(|text| text.ends_with('\n')));
    let alert: Value =
        serde_json::from_str(&std::fs::read_to_string(&alert_file).expect("written")).expect("one alert");
    assert_eq!((text(&alert, "kind"), text(&alert, "job"), &alert["exit_code"]), ("failed", "bad", &json!(4)));
    assert_eq!(alert["excerpt"][0]["text"], "the disk is full");
    assert_eq!(text(&alert["links"], "console"), format!("https://cron.example.org/{}", text(&run, "run_id")));
}

#[test]
fn exec_wraps_a_command_with_and_without_a_server() {
    let folder = Folder::new();
    let state = folder.text("state");
    let wrapped = |name: &str, script: &str| {
        sexton(&["exec", "--name", name, "--group", "wrapped", "--state", &state, "--", "sh", "-c", script])
    };
    let output = wrapped("a", "echo out; echo err >&2; exit 5").expect(5);
    assert_eq!((output.text().as_str(), output.err.lines().next()), ("out\n", Some("err")));
    wrapped("a", "exit 0").expect(0);
    let lied = wrapped("lying", "echo 'Segmentation fault (core dumped)'; exit 0").expect(1);
    assert!(lied.err.contains("false_success"), "{}", lied.err);
    let log = std::fs::read_to_string(folder.path("state/logs/wrapped/a.log")).expect("the default sink has it");
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    sexton(&["exec", "--name", "a/b", "--", "true"]).expect(2);

    let up = up_with(&folder, "# sexton: name=own\n@manually true\n", &[]);
    wrapped("reported", "exit 3").expect(3);
    let run = up.wait_for_run("wrapped/reported", "failed");
    assert_eq!((text(&run, "trigger"), &run["exit_code"]), ("exec", &json!(3)));
    let go = folder.text("go");
    // Ends without the file, too, if the test has failed before.
    let script = format!("echo started; n=0; while [ ! -e {go} ] && [ $n -lt 2000 ]; do sleep 0.05; n=$((n+1)); done");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| wrapped("followed", &script));
        let mut run_id = String::new();
        wait_until(DEADLINE, || {
            let runs = up.records(&["runs", "wrapped/followed"]);
            run_id = runs.first().map_or_else(String::new, |run| text(run, "run_id").to_owned());
            !run_id.is_empty()
        });
        wait_until(DEADLINE, || up.run(&["logs", &run_id]).out == b"started\n");
        folder.write("go", "");
        running.join().expect("ran").expect(0);
    });
    up.kill();
    let alone = wrapped("alone", "exit 3").expect(3);
    assert!(alone.err.contains("is not reported"), "{}", alone.err);
}

#[test]
fn check_connects_to_everything_and_prints_one_line_each() {
    let folder = Folder::new();
    let sinks = folder.write(
        "sinks.toml",
        &format!(
            "[sink.file]\ntype = \"file\"\npath = \"{}/{{job}}.log\"\n\
             [sink.dead]\ntype = \"syslog\"\naddress = \"tcp://127.0.0.1:1\"\n",
            folder.text("logs")
        ),
    );
    let configuration = folder.write(
        "sexton.toml",
        &format!(
            "state = \"state\"\nsinks = \"{sinks}\"\n[channel.x]\ntype = \"webhook\"\nurl = \"http://127.0.0.1:1/x\"\n"
        ),
    );
    let records = sexton(&["check", "--config", &configuration, "--json"]).expect(1).records();
    let bad: Vec<&str> =
        records.iter().filter(|record| record["ok"] == json!(false)).map(|record| text(record, "name")).collect();
    assert_eq!(bad, ["dead", "x"], "{records:?}");
    assert!(records.iter().all(|record| !text(record, "message").is_empty()), "{records:?}");
    let good = folder.write("good.toml", "state = \"state\"\n");
    sexton(&["check", "--config", &good]).expect(0);
}
