//! Files that a running `up` watches: faulty ones, ones that are being written, and ones that are no files.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::Value;
use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, command, sexton, sexton_with_input, shell_output, signal};
use crate::evidence::{alerts, page, pager};

/// An entry that runs only by hand.
fn entry(name: &str) -> String {
    format!("# sexton: name={name}\n@manually true\n")
}

fn names(up: &Up) -> Vec<String> {
    up.records(&["jobs"]).iter().map(|job| job["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn wait_for_names(up: &Up, expected: &[&str]) {
    let mut found = Vec::new();
    let start = std::time::Instant::now();
    while found != expected {
        assert!(start.elapsed() < DEADLINE, "{found:?} instead of {expected:?}\n{}", up.printed());
        found = names(up);
    }
}

/// The value of `sexton_source_in_sync` for a file.
fn in_sync(folder: &Folder, file: &str) -> Option<String> {
    let page = page(&folder.path("state"), "/metrics");
    let sample = format!("sexton_source_in_sync{{source=\"{file}\"}} ");
    page.lines().find_map(|line| Some(line.strip_prefix(&sample)?.to_owned()))
}

#[test]
fn good_entries_run_beside_faulty_ones_which_are_reported_everywhere() {
    let folder = Folder::new();
    let (configuration, alert_file) = pager(&folder);
    let good = folder.write("good", &entry("good"));
    let faulty = format!("{}61 * * * * true\n{}# caf", entry("first"), entry("second"));
    std::fs::write(folder.path("faulty"), [faulty.as_bytes(), b"\xe9\n"].concat()).expect("written");
    let faulty = folder.text("faulty");
    let toml = "[[job]]\nname = \"third\"\nschedule = \"0 0 31 2 *\"\ncommand = \"true\"\n[[job]]\nname = \"\n";
    let toml = folder.write("jobs.toml", toml);
    let missing = folder.text("missing");
    let crontabs = ["--crontab", &good, "--crontab", &faulty, "--crontab", &missing, "--jobs", &toml];
    let arguments = [&crontabs[..], &["--config", &configuration]].concat();
    let up = Up::start(&folder.path("state"), &arguments);
    wait_for_names(&up, &["first", "good", "second", "third"]);
    let printed = up.printed();
    for part in ["faulty:3: `61 ", "jobs.toml:6: ", "missing: cannot be read", "its faulty entries are left out"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }

    let listed = up.run(&["jobs"]).expect(0);
    let reported = |file: &str| listed.err.lines().any(|line| line.starts_with(&format!("{file} differs")));
    assert!(reported(&faulty) && reported(&toml) && reported(&missing) && !reported(&good), "{}", listed.err);
    let third = listed.text().lines().find(|line| line.starts_with("default/third")).map(str::to_owned);
    assert!(third.as_ref().is_some_and(|line| line.contains("  never  ")), "{third:?}");
    let values = [&good, &faulty, &missing, &toml].map(|file| in_sync(&folder, file));
    assert_eq!(values.map(Option::unwrap_or_default), ["1", "0", "0", "0"]);
    let health = page(&folder.path("state"), "/api/health");
    assert!(health.starts_with("HTTP/1.0 200") && health.contains("\"sources_in_sync\":false"), "{health}");
    assert!(!health.contains("faulty"), "it needs no token and names no file: {health}");
    let state = folder.text("state");
    let checked = sexton(&["check", "--config", &configuration, "--state", &state]).expect(1).text();
    let is_bad = |file: &str| checked.lines().any(|line| line.starts_with(&format!("BAD  file {file}: 1 fault")));
    assert!(is_bad(&faulty) && is_bad(&missing) && !is_bad(&good), "{checked}");
    wait_until(DEADLINE, || alerts(&alert_file).len() == 3);
    let mut about: Vec<Value> = alerts(&alert_file).iter().map(|alert| alert["job"].clone()).collect();
    about.sort_by_key(Value::to_string);
    assert_eq!(about, ["file.faulty", "file.jobs.toml", "file.missing"]);
    assert!(alerts(&alert_file).iter().all(|alert| alert["kind"] == "bad_job" && alert["group"] == "sexton"));

    folder.write("faulty", &entry("fixed"));
    wait_for_names(&up, &["fixed", "good", "third"]);
    wait_until(DEADLINE, || in_sync(&folder, &faulty).as_deref() == Some("1"));
    let recovered = |alert: &Value| alert["job"] == "file.faulty" && alert["kind"] == "recovered";
    wait_until(DEADLINE, || alerts(&alert_file).iter().any(recovered));
}

#[test]
fn a_faulty_file_keeps_its_last_good_version_also_across_restarts() {
    let folder = Folder::new();
    let tab = folder.write("crontab", "# sexton: name=kept rules=mine\n@manually echo a word\n");
    let sinks = |text: &str| folder.write("sinks.toml", text);
    let good_sink = format!("[sink.kept]\ntype = \"file\"\npath = \"{}/{{job}}.log\"\n", folder.text("logs"));
    let rules = |text: &str| folder.write("rules/mine.toml", text);
    std::fs::create_dir(folder.path("rules")).expect("made");
    let good_rules = "name = \"mine\"\n[[rule]]\nid = \"mine.word\"\npattern = 'a word'\n";
    let (sinks_file, _) = (sinks(&good_sink), rules(good_rules));
    let rules_folder = folder.text("rules");
    let arguments = ["--crontab", &tab, "--sinks", &sinks_file, "--rules", &rules_folder];
    let is_kept = |up: &Up| {
        assert_eq!(names(up), ["kept"]);
        assert_eq!(up.records(&["sinks"])[0]["name"], "kept");
        let run = up.run(&["run", "default/kept", "--wait", "--json"]).expect(1).records().remove(0);
        assert_eq!(run["outcome"], "false_success", "the rule is in use: {run}");
    };
    let up = Up::start(&folder.path("state"), &arguments);
    is_kept(&up);
    assert_eq!(up.stop(), Some(0));

    let unreadable: &dyn Fn(&str) = &|name| {
        std::fs::remove_file(folder.path(name)).expect("removed");
        std::fs::create_dir(folder.path(name)).expect("made");
    };
    let faulty: &dyn Fn(&str) = &|name| {
        let text = match name {
            "crontab" => "61 * * * * true\n# sexton: name=new\n@manually true\n",
            "sinks.toml" => "[sink.kept]\ntype = \"fil\"\n[sink.new]\ntype = \"stdout\"\n",
            _ => "name = \"mine\"\n[[rule]]\nid = \"mine.word\"\npattern = '('\n",
        };
        folder.write(name, text);
    };
    let empty_toml: &dyn Fn(&str) = &|name| drop(folder.write(name, "not toml\n"));
    // The whole directory of the packs is missing.
    let missing: &dyn Fn(&str) = &|name| {
        let place = if name.starts_with("rules") { "rules" } else { name };
        std::fs::remove_dir_all(folder.path(place)).expect("removed");
    };
    for (number, break_file) in [faulty, empty_toml, unreadable, missing].into_iter().enumerate() {
        ["crontab", "sinks.toml", "rules/mine.toml"].into_iter().for_each(break_file);
        for _ in 0..2 {
            let up = Up::start(&folder.path("state"), &arguments);
            is_kept(&up);
            for file in [&tab, &sinks_file, &folder.text("rules/mine.toml")] {
                assert_eq!(in_sync(&folder, file).as_deref(), Some("0"), "{file} in round {number}: {}", up.printed());
            }
            assert_eq!(up.stop(), Some(0));
        }
    }
}

#[test]
fn a_pack_that_is_removed_on_purpose_does_not_return_with_its_directory_missing() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("rules")).expect("made");
    let pack = |name: &str| {
        let text = format!("name = \"{name}\"\n[[rule]]\nid = \"{name}.word\"\npattern = 'word {name}'\n");
        folder.write(&format!("rules/{name}.toml"), &text)
    };
    let (first, second) = (pack("first"), pack("second"));
    let entry = |name: &str| format!("# sexton: name={name} rules={name}\n@manually echo word {name}\n");
    let tab = folder.write("crontab", &[entry("first"), entry("second")].concat());
    let rules = folder.text("rules");
    let up = Up::start(&folder.path("state"), &["--crontab", &tab, "--rules", &rules]);
    up.run(&["run", "default/first", "--wait"]).expect(1);
    std::fs::remove_file(&first).expect("removed");
    wait_until(DEADLINE, || up.printed().contains("rules reloaded"));
    up.run(&["run", "default/first", "--wait"]).expect(0);
    shell_output(&format!("mv {rules} {rules}.away"));
    wait_until(DEADLINE, || in_sync(&folder, &second).as_deref() == Some("0"));
    assert_eq!(up.stop(), Some(0));
    let up = Up::start(&folder.path("state"), &["--crontab", &tab, "--rules", &rules]);
    assert_eq!((in_sync(&folder, &first), in_sync(&folder, &second).as_deref()), (None, Some("0")));
    up.run(&["run", "default/first", "--wait"]).expect(0);
    up.run(&["run", "default/second", "--wait"]).expect(1);
}

#[test]
fn up_refuses_to_start_only_without_any_good_entry_and_stored_job() {
    let folder = Folder::new();
    let (state, bad) = (folder.text("state"), folder.write("bad", "61 * * * * true\n"));
    let start = |more: &[&str]| {
        let output =
            command(&[&["up", "--state", &state, "--crontab", &bad][..], more].concat()).output().expect("ran");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, err) = start(&["--jobs", "/nowhere.toml"]);
    assert_eq!((code, err.lines().count()), (Some(2), 2), "{err}");
    // One good file is enough, and so is one stored job.
    let good = folder.write("good", &entry("good"));
    let up = Up::start(&folder.path("state"), &["--crontab", &bad, "--crontab", &good]);
    assert_eq!(names(&up), ["good"]);
    assert_eq!(up.stop(), Some(0));
    let up = Up::start(&folder.path("state"), &["--crontab", &bad]);
    assert_eq!(names(&up), ["good"]);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn a_file_is_applied_when_it_is_complete() {
    let folder = Folder::new();
    let (configuration, alert_file) = pager(&folder);
    let other = folder.write("other", &entry("other-0"));
    let whole = [entry("a"), entry("b"), entry("c")].concat();
    let tab = folder.write("crontab", &whole);
    let arguments = ["--crontab", &tab, "--crontab", &other, "--config", &configuration];
    let up = Up::start(&folder.path("state"), &arguments);
    up.run(&["job", "pause", "default/a", "--why", "noise"]).expect(0);
    // Truncated; cut within a line; cut within a command. Another file, changed later, is applied before it.
    for (number, part) in ["", "# sexton: name=a\n@manually tr", &whole[..whole.len() - 3]].into_iter().enumerate() {
        folder.write("crontab", part);
        let mark = format!("other-{}", number + 1);
        folder.write("other", &entry(&mark));
        wait_for_names(&up, &["a", "b", "c", &mark]);
        folder.write("crontab", &whole);
    }
    folder.write("other", &entry("end"));
    wait_for_names(&up, &["a", "b", "c", "end"]);
    let commands = up.records(&["jobs"]);
    assert!(commands.iter().all(|job| job["command"] == "true"), "{commands:?}");
    assert!(alerts(&alert_file).is_empty());

    // A complete file without most of its jobs is applied, and alerted. They return with their pause.
    folder.write("crontab", &entry("c"));
    wait_for_names(&up, &["c", "end"]);
    wait_until(DEADLINE, || alerts(&alert_file).len() == 1);
    let alert = alerts(&alert_file).remove(0);
    let reason = alert["reason"].as_str().unwrap_or_default();
    assert_eq!((&alert["kind"], &alert["job"]), (&"bad_job".into(), &"file.crontab".into()), "{alert}");
    assert!(reason.contains("lost 2 of its 3 jobs: default/a, default/b"), "{reason}");
    folder.write("crontab", &whole);
    wait_for_names(&up, &["a", "b", "c", "end"]);
    let paused = up.records(&["job", "show", "default/a"]).remove(0);
    assert_eq!(paused["paused"]["why"], "noise", "{paused}");
}

#[test]
fn a_file_that_is_still_written_at_the_start_is_applied_later() {
    let folder = Folder::new();
    let whole = [entry("a"), entry("b")].concat();
    let tab = folder.write("crontab", &whole);
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    assert_eq!(up.stop(), Some(0));
    // A writer that never pauses for long: every line of the file is complete only at its end.
    let script = format!(
        "i=0; while [ ! -e {go} ] && [ $i -lt 1200 ]; do i=$((i+1)); \
         printf '# %s\\n# sexton: name=x\\n@manually x' $i > {tab}; sleep 0.1; done",
        go = folder.text("go")
    );
    let mut writer = Command::new("sh").args(["-c", &script]).spawn().expect("a shell");
    wait_until(DEADLINE, || std::fs::read_to_string(folder.path("crontab")).is_ok_and(|text| text.contains("# 2\n")));
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    let printed = up.printed();
    assert_eq!(names(&up), ["a", "b"], "{printed}");
    assert!(printed.contains("crontab is being written; it is applied when it is complete"), "{printed}");
    folder.write("go", "");
    assert!(writer.wait().expect("ended").success());
    folder.write("crontab", &entry("after"));
    wait_for_names(&up, &["after"]);
}

#[test]
fn a_fifo_a_device_a_directory_and_gigabytes_are_faults_and_watching_continues() {
    let folder = Folder::new();
    let tab = folder.write("crontab", &entry("first"));
    let path = folder.path("crontab");
    let up = Up::start(&folder.path("state"), &["--crontab", &tab]);
    let make: [(&str, &dyn Fn()); 6] = [
        ("a FIFO", &|| drop(shell_output(&format!("mkfifo {tab}")))),
        ("a directory", &|| std::fs::create_dir(&path).expect("made")),
        ("a device", &|| symlink("/dev/zero", &path).expect("made")),
        ("longer than 16MiB", &|| std::fs::File::create(&path).and_then(|file| file.set_len(4 << 30)).expect("made")),
        ("a socket", &|| drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"))),
        ("cannot be read", &|| symlink(&path, &path).expect("made")),
    ];
    for (number, (message, make)) in make.iter().enumerate() {
        shell_output(&format!("rm -rf {tab}"));
        make();
        wait_until(DEADLINE, || up.printed().contains(&format!("crontab: {message}")));
        assert_eq!(in_sync(&folder, &tab).as_deref(), Some("0"), "{message}");
        shell_output(&format!("rm -rf {tab}"));
        let next = format!("after-{number}");
        folder.write("crontab", &entry(&next));
        wait_for_names(&up, &[&next]);
        assert_eq!(in_sync(&folder, &tab).as_deref(), Some("1"), "{message}");
    }
}

#[test]
fn lint_plan_and_apply_read_standard_input_and_pipes_with_a_limit() {
    let folder = Folder::new();
    let up = Up::start(&folder.path("state"), &["--crontab", &folder.write("crontab", &entry("own"))]);
    let (state, fifo) = (folder.text("state"), folder.text("fifo"));
    shell_output(&format!("mkfifo {fifo}"));
    let tab = "# sexton: name=piped\n0 1 * * * true\n";
    let now = jiff::Timestamp::now();
    let (from, to) = (now.to_string(), (now + jiff::SignedDuration::from_hours(25)).to_string());
    let window = ["--from", &*from, "--to", &*to];
    let commands = |file: &'static str| {
        let file = if file == "FIFO" { &fifo } else { file };
        [
            (vec!["lint", file], "1 valid job, 0 faults"),
            ([&["plan", file][..], &window].concat(), "default/piped"),
            (vec!["apply", file, "--state", &state], " 0 removed"),
        ]
        .map(|(arguments, expected)| (arguments.into_iter().map(str::to_owned).collect::<Vec<_>>(), expected))
    };
    let feed = |file: &str, arguments: &[String], input: Vec<u8>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if file != "FIFO" {
            return sexton_with_input(&arguments, &input);
        }
        let path = folder.path("fifo");
        // Fails when the command exits without reading all of it.
        let writer = std::thread::spawn(move || drop(std::fs::write(path, input)));
        let output = sexton(&arguments);
        writer.join().expect("written");
        output
    };
    for file in ["-", "/dev/stdin", "FIFO"] {
        for (arguments, expected) in commands(file) {
            let output = feed(file, &arguments, tab.into());
            assert!(output.code == Some(0) && output.text().contains(expected), "{arguments:?}: {output:?}");
            let output = feed(file, &arguments, b"# long\n".repeat(3_000_000));
            assert!(
                output.code == Some(2) && output.err.contains("longer than 16MiB"),
                "{arguments:?}: {}",
                output.err
            );
        }
    }
    let output = sexton(&["lint", "/dev/zero"]).expect(2);
    assert!(output.err.contains("not a regular file") && output.err.lines().count() == 1, "{}", output.err);
    // As `lint <(crontab -l)` does.
    let child = command(&["lint", "/dev/fd/0"]).stdin(Stdio::piped()).output().expect("ran");
    assert_eq!(child.status.code(), Some(0));
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn hup_reads_all_files_again_and_usr_signals_are_ignored() {
    let folder = Folder::new();
    let tab = folder.write("crontab", &entry("a"));
    let sink = format!("[sink.one]\ntype = \"file\"\npath = \"{}/{{job}}.log\"\n", folder.text("logs"));
    let sinks = folder.write("sinks.toml", &sink);
    let rules = folder.write("mine.toml", "name = \"mine\"\n[[rule]]\nid = \"mine.x\"\npattern = 'x'\n");
    let arguments = ["--crontab", &tab, "--sinks", &sinks, "--rules", &rules];
    let mut up = Up::start(&folder.path("state"), &arguments);
    for name in ["USR1", "USR2"] {
        signal(up.pid(), name);
        wait_until(DEADLINE, || up.printed().contains(&format!("signal {name} is ignored")));
    }
    up.run(&["job", "remove", "default/a"]).expect(0);
    for round in 1..=2 {
        signal(up.pid(), "HUP");
        let lines = ["sinks file reloaded", "rules reloaded", "crontab changed: "];
        wait_until(DEADLINE, || lines.iter().all(|line| up.printed().matches(line).count() == round));
        wait_for_names(&up, &["a"]);
    }
    assert!(!up.has_ended());
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn names_that_nothing_has_and_empty_files_cause_a_warning() {
    let folder = Folder::new();
    let (configuration, _) = pager(&folder);
    let tab = folder.write("crontab", "# sexton: name=a alert.channels=pagr\n@manually true\n");
    let sinks = folder.write("sinks.toml", "# none yet\n");
    std::fs::create_dir(folder.path("rules")).expect("made");
    let (rules, state) = (folder.text("rules"), folder.text("state"));
    folder.write("rules/mine.tml", "name = \"mine\"\n");
    let arguments = ["--crontab", &tab, "--config", &configuration, "--sinks", &sinks, "--rules", &rules];
    let up = Up::start(&folder.path("state"), &arguments);
    let printed = up.printed();
    for warning in [
        "default/a: no alert channel `pagr`; did you mean `pager`?",
        "sinks.toml: warning: the file defines no sink",
        "rules: warning: this directory has no rule pack",
    ] {
        assert_eq!(printed.matches(warning).count(), 1, "{warning}: {printed}");
    }
    let text = std::fs::read_to_string(&configuration).expect("read");
    let checked = folder.write("check.toml", &format!("crontabs = [\"{tab}\"]\n{text}"));
    let output = sexton(&["check", "--config", &checked, "--state", &state, "--rules", &rules]).expect(1);
    assert!(output.text().contains("no alert channel `pagr`"), "{}", output.text());
    assert!(output.err.contains("this directory has no rule pack"), "{}", output.err);
}
