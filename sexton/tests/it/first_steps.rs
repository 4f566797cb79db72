//! What a new user types first: `status`, names without a group, the latest log, and output that fits the terminal.

use std::path::Path;
use std::process::Command;

use crate::driver::{CommandOutput, Folder, Up, command, shell_output};

const CRONTAB: &str = "\
# sexton: name=good\n\
0 3 * * * echo hello\n\
# sexton: name=lying\n\
0 3 * * * echo 'bash: foo: command not found'\n\
# sexton: name=twin group=a\n\
0 3 * * * true\n\
# sexton: name=twin group=b\n\
0 3 * * * true\n\
# sexton: name=gated group=c\n\
0 3 * * * echo first; until [ -e GATE ]; do sleep 0.1; done; echo last\n\
# sexton: name=nightly group=c\n\
0 2 * * * exit 3\n\
# sexton: name=LONG group=a-group-with-a-long-name\n\
30 4 * * * echo a command that is longer than a narrow terminal is wide\n";

const LONG_NAME: &str = "a-name-that-alone-is-wider-than-forty-columns";

struct Installation {
    folder: Folder,
    up: Up,
}

impl Installation {
    fn start() -> Installation {
        let folder = Folder::new();
        let tab = folder.write("crontab", &CRONTAB.replace("GATE", &folder.text("gate")).replace("LONG", LONG_NAME));
        let up = Up::start(&folder.path("the state"), &["--crontab", &tab]);
        Installation { folder, up }
    }

    fn run(&self, arguments: &[&str]) -> CommandOutput {
        self.up.run(arguments)
    }

    /// Runs a command on a terminal of this width; returns all that it printed there.
    fn on_terminal(&self, columns: u32, environment: &[(&str, &str)], arguments: &[&str]) -> String {
        let words = arguments.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let line = format!("stty cols {columns} rows 50; '{}' {words}", env!("CARGO_BIN_EXE_sexton"));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TZ", "UTC").env("TERM", "xterm");
        script.env_remove("NO_COLOR").env("SEXTON_STATE", self.folder.path("the state"));
        script.envs(environment.iter().copied());
        let output = script.output().expect("script of util-linux");
        String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n")
    }
}

#[test]
fn the_commands_that_up_names_work_as_printed() {
    let installation = Installation::start();
    let printed = installation.up.printed();
    let tries = printed.lines().find_map(|line| line.strip_prefix("try ")).expect("commands to try").trim();
    assert!(tries.contains("--state '"), "{tries}");
    let folder = Path::new(env!("CARGO_BIN_EXE_sexton")).parent().expect("a folder").display().to_string();
    for line in tries.split(", ") {
        assert!(line.starts_with("sexton "), "{line}");
        shell_output(&format!("PATH='{folder}':$PATH TZ=UTC; {line}"));
    }
}

#[test]
fn every_command_reads_the_state_directory_from_the_environment() {
    let installation = Installation::start();
    for words in ["status", "jobs", "runs", "ledger", "sinks", "check", "run good --wait", "logs good", "job show good"]
    {
        let words: Vec<&str> = words.split(' ').collect();
        let output =
            command(&words).env("SEXTON_STATE", installation.folder.path("the state")).output().expect("started");
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
}

#[test]
fn a_job_is_named_by_its_name_alone_where_only_one_group_has_it() {
    let installation = Installation::start();
    let output = installation.run(&["run", "gated"]).expect(0);
    assert_eq!(installation.up.wait_for_state("c/gated", "running")["run_id"], output.text().trim());
    let refused = installation.run(&["run", "twin"]).expect(2);
    assert!(refused.err.contains("write one of a/twin, b/twin"), "{}", refused.err);
    let refused = installation.run(&["run", "twins"]).expect(2);
    assert!(refused.err.contains("no group has a job `twins`"), "{}", refused.err);
    installation.run(&["job", "pause", "good"]).expect(0);
    assert_eq!(installation.up.records(&["job", "show", "good"])[0]["group"], "default");
    installation.run(&["job", "resume", "good"]).expect(0);

    // The log of its latest run that has started, and of one that still runs.
    let refused = installation.run(&["logs", "good"]).expect(2);
    assert!(refused.err.contains("no run of default/good has started"), "{}", refused.err);
    std::thread::scope(|scope| {
        let followed = scope.spawn(|| installation.run(&["logs", "-f", "c/gated"]).expect(0));
        installation.folder.write("gate", "");
        let output = followed.join().expect("followed");
        assert_eq!(output.text(), "first\nlast\n");
        assert!(output.err.contains("of c/gated, started"), "{}", output.err);
    });
    installation.up.wait_for_run("c/gated", "succeeded");
}

#[test]
fn status_shows_what_is_bad_what_runs_and_what_is_next() {
    let installation = Installation::start();
    let well = installation.run(&["status"]).expect(0).text();
    for line in ["jobs      7 jobs, all well", "bad       nothing", "running   nothing", "behind    nothing"] {
        assert!(well.contains(line), "{line}: {well}");
    }
    assert!(well.contains("  c/nightly  in "), "{well}");
    let waited = installation.run(&["run", "lying", "--wait"]).expect(1);
    assert!(waited.text().contains("false_success"), "{}", waited.text());
    installation.run(&["run", "nightly", "--wait"]).expect(1);
    installation.run(&["run", "gated"]).expect(0);
    installation.up.wait_for_state("c/gated", "running");
    let bad = installation.run(&["status"]).expect(0).text();
    for part in ["7 jobs: 2 bad", "default/lying  false_success for ", "exit code 3", "c/gated  running for "] {
        assert!(bad.contains(part), "{part}: {bad}");
    }
    let record = installation.up.records(&["status"]).remove(0);
    assert_eq!((&record["jobs"]["bad"], &record["bad"][0]["name"]), (&2.into(), &"lying".into()));
    assert_eq!(record["open"][0]["job"], "gated");

    let names = |arguments: &[&str]| -> Vec<String> {
        installation.up.records(arguments).iter().map(|job| job["name"].as_str().unwrap_or("?").to_owned()).collect()
    };
    assert_eq!(names(&["jobs", "--bad"]), ["nightly", "lying"]);
    assert_eq!(names(&["jobs", "--bad", "--group", "c"]), ["nightly"]);
    assert_eq!(names(&["jobs", "--group", "a"]), names(&["jobs", "a"]));
    let table = installation.run(&["jobs", "--bad"]).expect(0).text();
    assert!(table.contains("bad: false_success") && table.contains("bad: failed"), "{table}");
    assert_eq!(installation.up.records(&["runs", "-n", "1"]).len(), 1);
    installation.folder.write("gate", "");
    installation.up.wait_for_run("c/gated", "succeeded");
}

#[test]
fn a_terminal_gets_colours_and_lines_that_fit() {
    const ESCAPE: char = '\u{1b}';
    let installation = Installation::start();
    installation.run(&["run", "lying", "--wait"]).expect(1);
    let long_key = format!("a-group-with-a-long-name/{LONG_NAME}");
    installation.run(&["run", LONG_NAME, "--wait"]).expect(0);
    installation.run(&["maintenance", "on", "--until", "300d", "--why", "the machine moves to another room"]).expect(0);
    let crontab = installation.folder.text("crontab");
    let tables: [(&str, &[&str]); 9] = [
        ("runs", &["default/lying", &long_key]),
        ("jobs", &["default/lying", &long_key]),
        ("status", &["default/lying"]),
        ("sinks", &["file"]),
        ("maintenance", &["the machine"]),
        ("rules list", &["default"]),
        ("next @daily", &["00:00:00"]),
        (&format!("plan {crontab} --from 48h --to now"), &["default/lying", &long_key]),
        (&format!("runs {long_key}"), &[&long_key]),
    ];
    for columns in [40, 57, 76, 100, 140] {
        for (words, parts) in &tables {
            let words: Vec<&str> = words.split(' ').collect();
            let text = installation.on_terminal(columns, &[("NO_COLOR", "1")], &words);
            assert!(!text.contains(ESCAPE), "{words:?}: {text}");
            // A tab goes to the next multiple of 8.
            let width = |line: &str| {
                line.chars().fold(0, |at: usize, letter| if letter == '\t' { (at / 8 + 1) * 8 } else { at + 1 })
            };
            let longest = text.lines().map(width).max().unwrap_or(0);
            assert!(longest <= usize::try_from(columns).expect("small"), "{words:?} at {columns}: {text}");
            // Names are whole; those that are wider than the terminal are broken.
            let joined: String = text.split_whitespace().collect();
            for part in *parts {
                let part: String = part.split_whitespace().collect();
                assert!(joined.contains(&part), "`{part}` in {words:?} at {columns}: {text}");
            }
        }
    }
    for words in [&["runs"][..], &["jobs"]] {
        assert!(installation.run(words).expect(0).text().contains(&format!("{long_key}  ")), "{words:?}");
    }
    installation.run(&["maintenance", "off"]).expect(0);
    assert!(installation.on_terminal(80, &[], &["runs"]).contains(ESCAPE));
    assert!(!installation.on_terminal(80, &[("TERM", "dumb")], &["runs"]).contains(ESCAPE));
    assert!(!installation.run(&["runs"]).expect(0).text().contains(ESCAPE));
    let narrow = installation.on_terminal(76, &[], &["runs"]);
    assert!(narrow.contains("not shown in this width: ") && narrow.contains("trigger"), "{narrow}");

    // One line that changes, erased at the end.
    installation.folder.write("gate", "");
    let waited = installation.on_terminal(80, &[], &["run", "gated", "--wait"]);
    assert!(waited.contains("\r\u{1b}[2Kc/gated "), "{waited:?}");
    let last = waited.trim_end().rsplit(ESCAPE).next().unwrap_or_default();
    assert!(last.starts_with("[2Kc/gated succeeded after "), "{waited:?}");
}

#[test]
fn run_with_wait_reports_each_state_once_where_there_is_no_terminal() {
    let installation = Installation::start();
    std::thread::scope(|scope| {
        let waited = scope.spawn(|| installation.run(&["run", "gated", "--wait"]).expect(0));
        installation.up.wait_for_state("c/gated", "running");
        installation.folder.write("gate", "");
        let output = waited.join().expect("waited");
        let mut states: Vec<&str> = output.err.lines().collect();
        assert!(!states.is_empty() && states.iter().all(|line| line.starts_with("c/gated ")), "{}", output.err);
        states.dedup();
        assert_eq!(states.len(), output.err.lines().count(), "{}", output.err);
        assert_eq!(output.text().lines().count(), 2, "{}", output.text());
    });
    // JSON has its one record.
    let output = installation.run(&["run", "good", "--wait", "--json"]).expect(0);
    assert_eq!((output.records().len(), output.err.as_str()), (1, ""));
}
