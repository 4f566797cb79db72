//! Subcommands that need no server.

use serde_json::Value;

use crate::driver::{Folder, command, sexton, sexton_with_input};

#[track_caller]
fn check_next(arguments: &[&str], expected: &str) {
    let mut all = vec!["next"];
    all.extend(arguments);
    assert_eq!(sexton(&all).expect(0).text(), expected, "{arguments:?}");
}

#[test]
fn next_prints_utc_local_time_and_clock_changes() {
    check_next(
        &["30 2 * * *", "--zone", "Europe/Paris", "--from", "2026-03-28T00:00:00Z", "--count", "2"],
        "2026-03-28T01:30:00Z\t2026-03-28T02:30:00+01:00\t\n2026-03-29T01:00:00Z\t2026-03-29T03:00:00+02:00\t\
         clocks go forward: 02:30 does not exist, runs at 03:00\n",
    );
    check_next(
        &["@every 90s", "--from", "2026-01-01T00:00:00Z", "--count", "1"],
        "2026-01-01T00:01:30Z\t2026-01-01T00:01:30+00:00\t\n",
    );
    check_next(&["at(2020-01-01T00:00:00)", "--from", "2026-01-01T00:00:00Z"], "-\t-\tnever\n");
    check_next(&["0 0 31 2 *", "--from", "2026-01-01T00:00:00Z"], "-\t-\tnever\n");
    check_next(&["@reboot", "--from", "2026-01-01T00:00:00Z"], "-\t-\twhen its runner boots\n");
}

#[test]
fn next_as_json_is_one_object_a_line() {
    let records = sexton(&["next", "0 12 * * *", "--from", "2026-01-01", "--count", "3", "--json"]).expect(0).records();
    assert_eq!(records.len(), 3);
    assert_eq!(records[2]["at"], "2026-01-03T12:00:00Z");
}

#[test]
fn a_wrong_argument_is_exit_2_and_one_sentence() {
    for (arguments, message) in [
        (vec!["next", "61 * * * *"], "61"),
        (vec!["next", "* * * * *", "--zone", "Europe/Pariss"], "did you mean `Europe/Paris`?"),
        (vec!["next", "* * * * *", "--from", "yesterday"], "`yesterday` is not an instant"),
        (vec!["plan", "/nowhere", "--from", "2026-01-01", "--to", "2026-01-02"], "/nowhere: cannot be read"),
        (vec!["show", "../../etc/passwd"], "is not a run id"),
        (vec!["job", "pause", "a/b/c"], "write GROUP/NAME"),
        (vec!["logs", "../../etc/passwd"], "write GROUP/NAME"),
        (vec!["check", "--config", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
    ] {
        let output = sexton(&arguments).expect(2);
        assert!(
            output.err.contains(message) && output.err.lines().count() == 1 && output.out.is_empty(),
            "{arguments:?}: {output:?}"
        );
    }
}

#[test]
fn an_unknown_flag_names_the_nearest() {
    let output = sexton(&["next", "* * * * *", "--zona", "UTC"]).expect(2);
    assert!(output.err.contains("--zone"), "{}", output.err);
}

#[test]
fn a_command_without_a_server_prints_the_remedy() {
    let folder = Folder::new();
    let output = sexton(&["jobs", "--state", &folder.text("state")]).expect(1);
    assert!(output.err.contains("start one") && output.err.lines().count() == 1, "{}", output.err);
    let output = sexton(&["jobs", "--server", "http://127.0.0.1:1"]).expect(1);
    assert!(output.err.contains("cannot reach the server") && output.err.lines().count() == 1, "{}", output.err);
    sexton(&["jobs", "--server", "nonsense"]).expect(2);
}

#[test]
fn plan_shows_every_firing_of_a_window_in_order() {
    let folder = Folder::new();
    let tab =
        folder.write("crontab", "# sexton: name=b\n30 * * * * true\n# sexton: name=a group=x\n0 */2 * * * true\n");
    let window = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T02:30:00Z"];
    let output = sexton(&[&["plan", &tab][..], &window].concat()).expect(0);
    let expected = "2026-01-01T00:00:00Z\t2026-01-01T00:00:00+00:00\tx/a\t\n\
                    2026-01-01T00:30:00Z\t2026-01-01T00:30:00+00:00\tdefault/b\t\n\
                    2026-01-01T01:30:00Z\t2026-01-01T01:30:00+00:00\tdefault/b\t\n\
                    2026-01-01T02:00:00Z\t2026-01-01T02:00:00+00:00\tx/a\t\n";
    assert_eq!(output.text(), expected);
    let records = sexton(&[&["plan", &tab, "--json"][..], &window].concat()).expect(0).records();
    assert_eq!((records.len(), &records[0]["job"]), (4, &"a".into()));
}

#[test]
fn plan_shows_firings_at_equal_steps_on_one_line() {
    let folder = Folder::new();
    let tab = folder.write("crontab", "# sexton: name=each\n* * * * * true\n# sexton: name=daily\n0 0 * * * true\n");
    let plan = ["plan", &tab, "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"];
    let expected = "2026-01-01T00:00:00Z\t2026-01-01T00:00:00+00:00\tdefault/each\t\
                    and every 1m until 2026-01-01T23:59:00+00:00, 1440 firings\n\
                    2026-01-01T00:00:00Z\t2026-01-01T00:00:00+00:00\tdefault/daily\t\n";
    assert_eq!(sexton(&plan).expect(0).text(), expected);
    assert_eq!(sexton(&[&plan[..], &["--json"]].concat()).expect(0).records().len(), 1441);
}

#[test]
fn a_reader_that_leaves_early_is_no_fault() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let mut child = command(&["next", "* * * * *", "--count", "100000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("read");
    drop(out);
    let output = child.wait_with_output().expect("waited for");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn lint_prints_every_fault_with_its_line_and_exits_2() {
    let folder = Folder::new();
    let tab = folder.write("crontab", "61 * * * * true\n0 0 * * * true\n* * * *\n");
    let output = sexton(&["lint", &tab]).expect(2);
    for place in [":1:", ":3:"] {
        assert!(output.err.contains(&format!("{tab}{place}")), "{place}: {}", output.err);
    }
    assert!(output.text().ends_with("1 valid job, 2 faults, 0 warnings\n"), "{}", output.text());
    let records = sexton(&["lint", &tab, "--json"]).expect(2).records();
    assert_eq!((records.len(), &records[0]["line"], &records[0]["level"]), (2, &1.into(), &"fault".into()));
    let good = folder.write("jobs.toml", "[[job]]\nname = \"a\"\nschedule = \"@daily\"\ncommand = \"true\"\n");
    sexton(&["lint", &good]).expect(0);
    let unknown = folder.write("bad.toml", "[[job]]\nname = \"a\"\nschedul = \"@daily\"\ncommand = \"true\"\n");
    let output = sexton(&["lint", &unknown]).expect(2);
    assert!(output.err.contains("did you mean `schedule`?"), "{}", output.err);
}

#[test]
fn rules_test_prints_matching_lines_and_the_verdict() {
    let lies = b"starting\nTraceback (most recent call last):\n  File \"x\"\nValueError: x\n";
    let output = sexton_with_input(&["rules", "test", "--pack", "python"], lies).expect(1);
    assert!(output.text().starts_with("2: fail python.traceback: Traceback"), "{}", output.text());
    assert!(output.text().lines().last().is_some_and(|line| line.starts_with("verdict for exit 0: false_success")));
    sexton_with_input(&["rules", "test", "--pack", "python"], b"all is well\n").expect(0);
    sexton_with_input(&["rules", "test", "--pack", "pythn"], b"").expect(2);

    let folder = Folder::new();
    let pack = folder.write("mine.toml", "name = \"mine\"\n[[rule]]\nid = \"mine.done\"\nrequire = '^done$'\n");
    let output = folder.write("output", "working\n");
    sexton_with_input(&["rules", "test", "--rules", &pack, &output], b"").expect(1);
    sexton_with_input(&["rules", "test", "--rules", &pack], b"done\n").expect(0);
    let records = sexton_with_input(&["rules", "test", "--rules", &pack, "--json"], b"done\n").expect(0).records();
    assert_eq!(records.last().expect("a verdict")["verdict"], "succeeded");
    assert_eq!((&records[0]["severity"], &records[0]["required"]), (&Value::Null, &true.into()), "{records:?}");
}

#[test]
fn rules_test_states_the_effect_of_each_line() {
    let folder = Folder::new();
    let pack = folder.write(
        "mine.toml",
        "name = \"mine\"\n[[rule]]\nid = \"retry\"\npattern = '^retry'\nat_least = 3\n\
         [[rule]]\nid = \"odd\"\npattern = '^odd'\nseverity = \"warn\"\n\
         [[rule]]\nid = \"saved\"\nrequire = '^saved'\nat_least = 2\n",
    );
    let tried = |text: &str, code| {
        let output = sexton_with_input(&["rules", "test", "--rules", &pack], text.as_bytes()).expect(code);
        output.text().lines().map(str::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(
        tried("retry a\nodd\nsaved x\nretry b\nsaved y\n", 0),
        [
            "1: 1 of 3 retry: retry a",
            "2: warn odd: odd",
            "3: required 1 of 2 saved: saved x",
            "4: 2 of 3 retry: retry b",
            "5: required 2 of 2 saved: saved y",
            "verdict for exit 0: succeeded: exit code 0; warning: line 2 matches odd: \"odd\"",
        ]
    );
    assert_eq!(
        tried("retry a\nsaved x\nretry b\nretry c\n", 1)[3..],
        [
            "4: fail retry: retry c",
            "verdict for exit 0: false_success: exit code 0, but line 1 and 2 more match retry (and 1 more rule): \
             \"retry a\"",
        ]
    );
    let last = tried("saved x\n", 1).pop().expect("a verdict");
    let reason = "exit code 0, but only 1 of 2 required lines match saved: Too few lines match ^saved.";
    assert_eq!(last, format!("verdict for exit 0: false_success: {reason}"));
}

#[test]
fn rules_list_prints_the_built_in_packs() {
    let text = sexton(&["rules", "list"]).expect(0).text();
    assert!(["default", "python", "shell"].iter().all(|name| text.contains(name)), "{text}");
    assert!(text.contains("busybox toybox find xargs") && text.contains(" more "), "{text}");
    assert!(text.lines().all(|line| line.len() < 200), "{text}");
    let whole = sexton(&["rules", "list", "--json"]).expect(0).text();
    assert!(whole.contains("dos2unix") && !text.contains("dos2unix"), "{whole}");
}
