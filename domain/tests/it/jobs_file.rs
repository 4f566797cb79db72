//! The jobs file: every field, every fault, and jobs written as text.

use std::time::Duration;

use domain::job::{AlertPolicy, CatchUp, Command, Concurrency, Job};
use domain::jobs_file::{parse, write};
use domain::run::Outcome;

const EVERYTHING: &str = r#"
[[job]]
group = "db"
name = "nightly-dump"
schedule = "30 2 * * *"
zone = "Europe/Paris"
command = "/usr/local/bin/dump.sh"
enabled = true
user = "postgres"
cwd = "/var/lib/dumps"
env = { LEVEL = "9", PASSWORD = "ssm:/db/password" }
timeout = "2h"
kill_grace = "20s"
start_within = "5m"
random_delay = "10m"
quiet_limit = "20m"
min_duration = "1m"
max_duration = "3h"
min_lines = 10
concurrency = "forbid"
catch_up = "once"
success_exit_codes = [0, 3]
retries = { max = 2, delay = "1m", backoff = 2.0, on = ["failed", "lost"] }
needs = { cpu = 1.0, memory = "2GiB" }
rules = ["default", "postgres"]
alert = { after = 1, remind = "4h", channels = ["oncall"] }
description = "Dump of the main database"
owner = "data team"

[[job]]
name = "ping"
schedule = "@every 90s"
argv = ["/usr/bin/ping", "-c", "1", "gateway"]
rules = []
"#;

fn good(text: &str) -> Vec<Job> {
    let (jobs, faults) = parse("jobs.toml", text);
    assert!(!faults.has_faults(), "{faults}");
    jobs
}

fn check(job: &str, line: u32, message: &str) {
    let (jobs, faults) = parse("jobs.toml", format!("[[job]]\n{job}\n"));
    let found: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{job}: {found:?}");
    assert!(found[0].starts_with(&format!("jobs.toml:{line}: ")) && found[0].contains(message), "{job}: {}", found[0]);
    assert!(jobs.is_empty(), "{job}");
}

#[test]
fn every_field_is_read() {
    let jobs = good(EVERYTHING);
    let dump = &jobs[0];
    assert_eq!(dump.key().to_string(), "db/nightly-dump");
    assert_eq!((dump.schedule.as_str(), dump.zone.as_str()), ("30 2 * * *", "Europe/Paris"));
    assert_eq!(dump.command, Command::Shell("/usr/local/bin/dump.sh".to_owned()));
    assert_eq!((dump.user.as_deref(), dump.cwd.as_deref()), (Some("postgres"), Some("/var/lib/dumps")));
    assert_eq!(dump.env.len(), 2);
    assert_eq!(dump.random_delay, Some(Duration::from_secs(600)));
    let limits = [dump.timeout, Some(dump.kill_grace), dump.start_within, dump.quiet_limit, dump.min_duration];
    assert_eq!(limits, [7200, 20, 300, 1200, 60].map(|seconds| Some(Duration::from_secs(seconds))));
    assert_eq!((dump.max_duration, dump.min_lines), (Some(Duration::from_secs(3 * 3600)), Some(10)));
    assert_eq!((dump.concurrency, dump.catch_up), (Concurrency::Forbid, CatchUp::Once));
    assert_eq!(dump.success_exit_codes, [0, 3]);
    let retries = dump.retries.as_ref().expect("retries");
    assert_eq!((retries.max, retries.delay, retries.backoff), (2, Duration::from_secs(60), 2.0));
    assert_eq!(retries.on, [Outcome::Failed, Outcome::Lost]);
    assert_eq!((dump.needs.cpu, dump.needs.memory), (1.0, 2 << 30));
    assert_eq!(dump.rules, ["default", "postgres"]);
    assert_eq!(dump.alert.remind, Some(Duration::from_secs(14400)));
    assert_eq!(dump.source.as_deref(), Some("jobs.toml"));
}

#[test]
fn absent_fields_have_their_defaults() {
    let ping = &good(EVERYTHING)[1];
    assert_eq!((ping.group.as_str(), ping.zone.as_str(), ping.enabled), ("default", "UTC", true));
    assert_eq!(ping.command, Command::Argv(["/usr/bin/ping", "-c", "1", "gateway"].map(str::to_owned).to_vec()));
    assert_eq!((ping.timeout, ping.kill_grace), (None, Duration::from_secs(10)));
    assert_eq!((ping.concurrency, ping.catch_up), (Concurrency::Allow, CatchUp::Skip));
    assert_eq!(ping.alert, AlertPolicy::default());
    assert!(ping.rules.is_empty());
}

#[test]
fn jobs_are_read_as_they_were_written() {
    let jobs = good(EVERYTHING);
    assert_eq!(good(&write(&jobs).expect("text")), jobs);
}

#[test]
fn every_fault_names_line_and_remedy() {
    let rest = "name = \"a\"\nschedule = \"@daily\"\ncommand = \"x\"";
    check("schedule = \"@daily\"\ncommand = \"x\"", 1, "`name` is missing");
    check("name = \"a\"\ncommand = \"x\"", 1, "`schedule` is missing");
    check("name = \"a\"\nschedule = \"@daily\"", 1, "`command` is missing");
    check("name = \"a\"\nschedule = \"@daily\"\ncommand = \" \"", 4, "`command` is empty");
    check("name = \"a\"\nschedule = \"@daily\"\nargv = []", 1, "`argv` is empty");
    check(&format!("{rest}\nargv = [\"x\"]"), 4, "write one of them");
    check("name = \"a\"\nschedule = \"5/15 * * * *\"\ncommand = \"x\"", 3, "write 5-59/15");
    check("name = \"a/b\"\nschedule = \"@daily\"\ncommand = \"x\"", 2, "contains '/'");
    check("name = \"..\"\nschedule = \"@daily\"\ncommand = \"x\"", 2, "starts with `.`");
    check("name = \"\"\nschedule = \"@daily\"\ncommand = \"x\"", 2, "the name is empty");
    check(&format!("name = \"{}\"\nschedule = \"@daily\"\ncommand = \"x\"", "n".repeat(49)), 2, "write at most 48");
    check(&format!("{rest}\ngroup = \"d b\""), 2, "the group contains ' '");
    check(&format!("{rest}\nzone = \"Europe/Pari\""), 5, "did you mean `Europe/Paris`?");
    check(&format!("{rest}\ntimeout = \"0s\""), 5, "stops every run");
    check(&format!("{rest}\ntimeout = 5"), 5, "`timeout` is a whole number");
    check(&format!("{rest}\nconcurrency = \"forbit\""), 5, "did you mean `forbid`?");
    check(&format!("{rest}\nsuccess_exit_codes = [0, 256]"), 5, "from 0 to 255");
    check(&format!("{rest}\nretries = {{ max = -1 }}"), 5, "from 0 to 100");
    check(&format!("{rest}\nretries = {{ on = [\"succeeded\"] }}"), 5, "not an outcome to retry on");
    check(&format!("{rest}\nalert = {{ afer = 1 }}"), 5, "did you mean `after`?");
    check(&format!("{rest}\nenv = {{ \"A=B\" = \"1\" }}"), 5, "not a variable name");
    check(&format!("{rest}\nscheduel = \"@daily\""), 5, "did you mean `schedule`?");
    check(&format!("{rest}\ncommand = \"y\""), 5, "not TOML");
}

#[test]
fn a_valid_job_is_read_next_to_a_faulty_one_and_a_duplicate() {
    let text = "[[job]]\nname = \"a\"\nschedule = \"@daily\"\ncommand = \"x\"\n\
                [[job]]\nname = \"b\"\nschedule = \"@dayly\"\ncommand = \"x\"\n\
                [[job]]\nname = \"a\"\nschedule = \"@hourly\"\ncommand = \"y\"\n\
                [[jobb]]\n";
    let (jobs, faults) = parse("jobs.toml", text);
    assert_eq!(jobs.iter().map(|job| job.key().to_string()).collect::<Vec<_>>(), ["default/a"]);
    let lines: Vec<u32> = faults.0.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [7, 9, 13], "{faults}");
}

#[test]
fn a_surprising_schedule_causes_a_warning_and_is_accepted() {
    let (jobs, faults) = parse("jobs.toml", "[[job]]\nname = \"a\"\nschedule = \"0 0 13 * 5\"\ncommand = \"x\"\n");
    assert_eq!(jobs.len(), 1);
    assert!(!faults.has_faults());
    assert!(
        faults.to_string().starts_with("jobs.toml:3: warning: `0 0 13 * 5`: runs on the 13th OR on Fridays"),
        "{faults}"
    );
}

#[test]
fn a_syntax_error_or_another_encoding_costs_only_its_job() {
    let job = |name: &str, more: &str| {
        format!("[[job]]\nname = \"{name}\"\nschedule = \"@daily\"\ncommand = \"x\"\n{more}\n").into_bytes()
    };
    let bad: [&[u8]; 6] = [
        b"timeout = \"2h\nowner = \"x\"",
        b"description = \"\"\"never closed",
        b"owner",
        b"owner = \"caf\xe9\"",
        b"name = \"twice\"",
        b"env = { A = \"1\"",
    ];
    for fault in bad {
        let middle = [&job("b", ""), fault, b"\n"].concat();
        for text in [
            [&job("a", "# any \u{e9} byte"), &middle, &job("c", "")[..]].concat(),
            [&middle, &job("a", ""), &job("c", "")[..]].concat(),
            [&job("a", ""), &job("c", ""), &middle[..]].concat(),
        ] {
            let (jobs, faults) = parse("jobs.toml", &text);
            let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
            assert_eq!(names, ["a", "c"], "{}\n{faults}", String::from_utf8_lossy(&text));
            assert!(faults.has_faults() && faults.0.iter().all(|fault| fault.line > 0), "{faults}");
        }
    }
    let (jobs, faults) = parse("jobs.toml", [b"# caf\xe9\n", &job("a", "")[..]].concat());
    assert_eq!((jobs.len(), faults.to_string().as_str()), (1, ""));
    let (jobs, faults) = parse("jobs.toml", "= \n".repeat(1000));
    assert!(jobs.is_empty() && faults.0.len() == 1, "{faults}");
}
