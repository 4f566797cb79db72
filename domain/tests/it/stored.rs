//! Stored and sent types keep their form to the byte: this build reads the records of an older one, and the reverse.
//! Every sample has every optional field, each with a different value, so that two exchanged names are noticed too.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use domain::alert::{Alert, AlertKind, DeliveryState, JobState, Status, Transition};
use domain::event::{Body, Ended, Event, OutputEnd, Report};
use domain::fault::{Fault, Level};
use domain::job::{AlertPolicy, CatchUp, Command, Concurrency, Job, JobKey, Needs, Pause, Retries};
use domain::ledger::Ledger;
use domain::line::{Position, Stage, Stream};
use domain::mailto::MailSettings;
use domain::order::Order;
use domain::ports::{Cursor, Due, Heartbeat, Quarantined};
use domain::run::{
    Attempt, ExcerptLine, JudgedOn, Leaked, Outcome, OutputCounts, RuleHit, Run, RunId, Severity, State, Trigger,
};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn golden<T: Serialize + DeserializeOwned>(name: &str, sample: &T) {
    testbed::golden(env!("CARGO_MANIFEST_DIR"), name, sample);
}

/// Checks the stored names of an enum's values. `expected`: the names in the same order, separated by spaces.
fn check_stored_names<T: Serialize + DeserializeOwned + PartialEq + Debug>(kinds: &[T], expected: &str) {
    let expected: Vec<&str> = expected.split(' ').collect();
    let written = serde_json::to_value(kinds).expect("JSON");
    assert_eq!(written, serde_json::json!(expected));
    assert_eq!(serde_json::from_value::<Vec<T>>(written).expect("read"), kinds);
}

/// This number of seconds after one nominal time.
fn at(seconds: i64) -> Timestamp {
    "2026-11-23T07:50:00Z".parse::<Timestamp>().expect("an instant") + jiff::SignedDuration::from_secs(seconds)
}

fn run_id() -> RunId {
    RunId("20261123T075000Z-3f9a1c0e7b2d".to_owned())
}

fn job() -> Job {
    Job {
        group: "db".to_owned(),
        name: "nightly-dump".to_owned(),
        schedule: "0 2 * * *".to_owned(),
        zone: "Europe/Paris".to_owned(),
        command: Command::Shell("dump.sh \"all\"".to_owned()),
        enabled: false,
        user: Some("postgres".to_owned()),
        cwd: Some("/var/lib".to_owned()),
        env: BTreeMap::from([("PGPASSWORD".to_owned(), "ssm:/db/password".to_owned())]),
        stdin: Some("yes\n".to_owned()),
        timeout: Some(Duration::from_secs(2 * 3600)),
        kill_grace: Duration::from_secs(15),
        start_within: Some(Duration::from_secs(10 * 60)),
        // Below one second there is no delay, so that the timing stays that of older builds.
        random_delay: Some(Duration::from_secs(1)),
        quiet_limit: Some(Duration::from_secs(1800)),
        late_output_limit: Some(Duration::from_secs(3600)),
        min_duration: Some(Duration::from_millis(1500)),
        max_duration: Some(Duration::from_secs(7200)),
        min_lines: Some(3),
        concurrency: Concurrency::Queue,
        max_open: Some(4),
        catch_up: CatchUp::Once,
        success_exit_codes: vec![0, 3],
        retries: Some(Retries {
            max: 2,
            delay: Duration::from_secs(60),
            backoff: 1.5,
            on: vec![Outcome::Failed, Outcome::Lost],
        }),
        needs: Needs { cpu: 0.5, memory: 512 << 20 },
        rules: vec!["auto".to_owned(), "mine".to_owned()],
        alert: AlertPolicy {
            after: 3,
            remind: Some(Duration::from_secs(6 * 3600)),
            channels: vec!["mail".to_owned(), "slack".to_owned()],
        },
        mail: Some(MailSettings {
            to: "ops@example.org".to_owned(),
            from: Some("cron@example.org".to_owned()),
            only_failed: true,
        }),
        description: "Dumps every database".to_owned(),
        owner: "team-db".to_owned(),
        anchor: Some(at(-86_400)),
        paused: Some(Pause {
            since: at(-600),
            until: Some(at(600)),
            why: "disk".to_owned(),
            by: Some("user:ops".to_owned()),
        }),
        source: Some("jobs.toml".to_owned()),
        seed: Some("db/dump-0a1b2c3d".to_owned()),
    }
}

fn excerpt() -> Vec<ExcerptLine> {
    vec![
        ExcerptLine { seq: 1, stream: Stream::Stdout, text: "begin".to_owned() },
        ExcerptLine { seq: 9, stream: Stream::Stderr, text: "ERROR: \u{fffd}".to_owned() },
    ]
}

fn leaked() -> Vec<Leaked> {
    vec![Leaked { pid: 4243, name: "sleep".to_owned(), killed: true }]
}

fn rule_hits() -> Vec<RuleHit> {
    vec![RuleHit {
        rule: "error-line".to_owned(),
        pack: "sql".to_owned(),
        severity: Severity::Warn,
        count: 2,
        first_seq: 9,
        first_line: "ERROR: x".to_owned(),
        explain: "The client printed an error and went on.".to_owned(),
        required: None,
        at_most: None,
    }]
}

fn report() -> Report {
    Report {
        ended: Ended::TimedOut,
        note: Some("TERM, then KILL".to_owned()),
        exit_code: Some(7),
        signal: Some(15),
        started_at: Some(at(2)),
        finished_at: at(12),
        duration_ms: 10_001,
        output: OutputCounts {
            stdout_lines: 11,
            stderr_lines: 12,
            stdout_bytes: 1300,
            stderr_bytes: 1400,
            last_seq: 23,
            dropped_lines: 5,
            dropped_bytes: 600,
        },
        cpu_ms: Some(700),
        max_rss_bytes: Some(8 << 20),
        guard: None,
        leaked: leaked(),
        rules: rule_hits(),
        rules_digest: "0123456789abcdef".to_owned(),
        pack_digests: Default::default(),
        interpreters: Default::default(),
        excerpt: excerpt(),
        outcome: Outcome::FalseSuccess,
        reason: "exit code 0, but line 9 matches error-line".to_owned(),
        output_open: false,
    }
}

fn event(body: Body) -> Event {
    Event {
        version: 1,
        run_id: run_id(),
        group: "db".to_owned(),
        job: "nightly-dump".to_owned(),
        attempt: 2,
        nominal: at(0),
        trigger: Trigger::Retry,
        runner: "runner1".to_owned(),
        host: "host1".to_owned(),
        at: at(13),
        body,
    }
}

fn run() -> Run {
    Run {
        run_id: run_id(),
        group: "db".to_owned(),
        job: "nightly-dump".to_owned(),
        nominal: at(0),
        trigger: Trigger::CatchUp,
        attempt: 2,
        state: State::Finished,
        outcome: Some(Outcome::TimedOut),
        reason: Some("exceeded its timeout".to_owned()),
        exit_code: Some(7),
        signal: Some(9),
        runner: Some("runner1".to_owned()),
        host: Some("host1".to_owned()),
        scheduled_at: at(1),
        claimed_at: Some(at(2)),
        started_at: Some(at(3)),
        finished_at: Some(at(13)),
        duration_ms: Some(10_001),
        stdout_lines: 11,
        stderr_lines: 12,
        stdout_bytes: 1300,
        stderr_bytes: 1400,
        last_seq: 23,
        dropped_lines: 5,
        cpu_ms: Some(700),
        max_rss_bytes: Some(8 << 20),
        leaked: leaked(),
        rules: rule_hits(),
        judged_on: Some(JudgedOn::Excerpt),
        packs: vec!["default".to_owned()],
        excerpt: excerpt(),
        earlier_attempts: vec![Attempt {
            attempt: 1,
            outcome: Outcome::Lost,
            reason: "its runner died".to_owned(),
            runner: Some("runner0".to_owned()),
            started_at: Some(at(-20)),
            finished_at: Some(at(-10)),
            exit_code: Some(1),
            signal: Some(6),
        }],
        held: true,
        not_before: Some(at(-5)),
        start_by: Some(at(100)),
        stop_requested_at: Some(at(12)),
        stop_reason: None,
        runner_id: None,
        quiet_since: Some(at(8)),
        output_open: false,
        output_ended_at: None,
        late_lines: 0,
        restored_from: None,
        late_reason: None,
    }
}

#[test]
fn jobs_and_orders_keep_their_json() {
    golden("job", &job());
    golden("job_argv", &Job { command: Command::Argv(vec!["dump.sh".to_owned(), "all".to_owned()]), ..job() });
    let bare = Job::new(JobKey::new("db", "bare"), "@daily", Command::Shell("true".to_owned()));
    golden("job_with_defaults", &bare);
    golden(
        "order",
        &Order {
            version: 1,
            run_id: run_id(),
            attempt: 2,
            nominal: at(0),
            trigger: Trigger::Manual,
            issued_at: at(1),
            not_before: Some(at(2)),
            start_by: Some(at(3)),
            job: job(),
        },
    );
}

#[test]
fn reports_keep_their_json() {
    golden("event_started", &event(Body::Started { pid: Some(4242), command: "dump.sh \"all\"".to_owned() }));
    golden("event_finished", &event(Body::Finished(Box::new(report()))));
    let end = OutputEnd { ended_at: at(20), output: report().output, late_lines: 4, note: Some("stopped".to_owned()) };
    golden("event_output_ended", &event(Body::OutputEnded(Box::new(end))));
    golden("event_quiet", &event(Body::Quiet { since: at(9) }));
    golden("report", &report());
}

#[test]
fn runs_and_the_ledger_keep_their_json() {
    golden("run", &run());
    golden("run_with_late_output", &Run { output_open: true, output_ended_at: Some(at(20)), late_lines: 4, ..run() });
    golden("run_with_defaults", &Run::new(run_id(), &JobKey::new("db", "bare"), at(0), Trigger::Schedule, at(1)));
    let outcomes = BTreeMap::from([(Outcome::Succeeded, 3), (Outcome::FalseSuccess, 1)]);
    golden("ledger", &Ledger { scheduled: 6, outcomes, open: 2 });
}

#[test]
fn alerts_keep_their_json() {
    golden(
        "alert",
        &Alert {
            kind: AlertKind::FalseSuccess,
            group: "db".to_owned(),
            job: "nightly-dump".to_owned(),
            run_id: Some(run_id()),
            nominal: Some(at(0)),
            outcome: Some(Outcome::FalseSuccess),
            reason: "exit code 0, but line 9 matches error-line".to_owned(),
            exit_code: Some(0),
            host: Some("host1".to_owned()),
            since: Some(at(-3600)),
            count: 3,
            excerpt: excerpt(),
            rule: Some("sql/error-line".to_owned()),
            links: BTreeMap::from([("console".to_owned(), "http://127.0.0.1/".to_owned())]),
            digest: Vec::new(),
        },
    );
    golden(
        "alert_state",
        &JobState {
            status: Status::Bad,
            kind: Some(AlertKind::TimedOut),
            streak: 4,
            since: Some(at(-300)),
            alerted_at: Some(at(-200)),
            changes: vec![at(-900), at(-300)],
            flapping: true,
            steady_runs: 2,
            last_started: Some(run_id()),
            blocked: Some(domain::alert::blocked::Blocked { firings: 4, since: at(-240) }),
        },
    );
    golden(
        "transition",
        &Transition {
            id: "20261123T075000Z-3f9a1c0e7b2d:2:finished".to_owned(),
            kind: AlertKind::Lost,
            group: "db".to_owned(),
            job: "nightly-dump".to_owned(),
            run_id: Some(run_id()),
            nominal: Some(at(0)),
            outcome: Some(Outcome::Lost),
            reason: "its runner died".to_owned(),
            at: at(13),
            since: Some(at(-300)),
            count: 4,
            channels: vec!["mail".to_owned(), "slack".to_owned()],
            reminder: true,
            not_before: at(14),
            delivery: DeliveryState::GivenUp,
            tries: 5,
            delivered_to: vec!["mail".to_owned()],
            progress: BTreeMap::new(),
            last_error: Some("connection refused".to_owned()),
        },
    );
}

#[test]
fn records_of_the_ports_keep_their_json() {
    golden(
        "heartbeat",
        &Heartbeat {
            runner: "runner1".to_owned(),
            host: "host1".to_owned(),
            groups: vec!["db".to_owned(), "web".to_owned()],
            at: at(0),
            id: None,
            running: 3,
            version: "0.2.0".to_owned(),
            held: Some("sink `central` is unreachable".to_owned()),
            order_keys: Some(vec!["21fe31dfa154a261".to_owned()]),
        },
    );
    golden(
        "due",
        &Due { at: at(0), key: JobKey::new("db", "nightly-dump"), timing: Job { seed: None, ..job() }.timing() },
    );
    golden(
        "quarantined",
        &Quarantined {
            kind: "run".to_owned(),
            key: "db/20261123T075000Z-3f9a1c0e7b2d".to_owned(),
            why: "missing field `job`".to_owned(),
            at: at(0),
        },
    );
    golden("page_cursor", &Cursor("opaque".to_owned()));
    golden("position", &Position { seq: 24, segment: 20, offset: 4096, stage: Stage::Lines });
    golden(
        "fault",
        &Fault {
            level: Level::Warning,
            file: "jobs.toml".to_owned(),
            line: 7,
            value: "0 2 * * *".to_owned(),
            message: "fires at night".to_owned(),
        },
    );
}

/// Programs compare these words: in JSON, in queries, in columns and in attributes.
#[test]
fn every_kind_keeps_its_word() {
    check_stored_names(
        &[Trigger::Schedule, Trigger::Manual, Trigger::Retry, Trigger::CatchUp, Trigger::Exec],
        "schedule manual retry catch_up exec",
    );
    check_stored_names(
        &[State::Scheduled, State::Claimed, State::Running, State::Finished],
        "scheduled claimed running finished",
    );
    check_stored_names(&Outcome::ALL, "succeeded failed false_success timed_out stopped skipped missed lost");
    for outcome in Outcome::ALL {
        assert_eq!(serde_json::to_value(outcome).expect("JSON"), outcome.name());
        assert_eq!(Outcome::parse(outcome.name()), Some(outcome));
    }
    check_stored_names(&[Severity::Fail, Severity::Warn], "fail warn");
    check_stored_names(&[JudgedOn::All, JudgedOn::Excerpt], "all excerpt");
    check_stored_names(
        &[Ended::Exited, Ended::TimedOut, Ended::Stopped, Ended::NotStarted, Ended::Lost],
        "exited timed_out stopped not_started lost",
    );
    let concurrency = [Concurrency::Allow, Concurrency::Forbid, Concurrency::Queue, Concurrency::Replace];
    check_stored_names(&concurrency, "allow forbid queue replace");
    check_stored_names(&[CatchUp::Skip, CatchUp::Once, CatchUp::All], "skip once all");
    check_stored_names(&[Stream::Stdout, Stream::Stderr], "stdout stderr");
    check_stored_names(&[Stage::Before, Stage::Lines, Stage::Done], "before lines done");
    check_stored_names(&[Level::Fault, Level::Warning], "fault warning");
    check_stored_names(&[Status::Good, Status::Bad], "good bad");
    check_stored_names(
        &[
            DeliveryState::Pending,
            DeliveryState::Sent,
            DeliveryState::Digested,
            DeliveryState::Overtaken,
            DeliveryState::GivenUp,
        ],
        &["pending", "told", "digested", "overtaken", "given_up"].join(" "),
    );
    let alerts = [
        AlertKind::Failed,
        AlertKind::FalseSuccess,
        AlertKind::TimedOut,
        AlertKind::Missed,
        AlertKind::Lost,
        AlertKind::Quiet,
        AlertKind::Recovered,
        AlertKind::Flapping,
        AlertKind::SchedulerSilent,
        AlertKind::BadJob,
        AlertKind::Digest,
    ];
    check_stored_names(
        &alerts,
        "failed false_success timed_out missed lost quiet recovered flapping scheduler_silent bad_job digest",
    );
    for kind in alerts {
        assert_eq!(serde_json::to_value(kind).expect("JSON"), kind.name());
    }
}

/// Names that are computed here and compared with stored ones, by two schedulers or after an upgrade.
#[test]
fn computed_names_stay_the_same() {
    let key = JobKey::new("db", "nightly-dump");
    assert_eq!(RunId::scheduled(&key, at(0)).as_str(), "20261123T075000Z-6306e19857a2");
    assert_eq!(RunId::unscheduled(at(0), [1, 2, 3, 0xfd, 0xfe, 0xff]).as_str(), "20261123T075000Z-010203fdfeff");
    assert_eq!(Job { seed: None, ..job() }.timing(), "8e67007a89d8392e");
    assert_eq!(event(Body::Started { pid: None, command: String::new() }).id(), format!("{}:2:started", run_id()));
    assert_eq!(event(Body::Finished(Box::new(report()))).id(), format!("{}:2:finished", run_id()));
    assert_eq!(event(Body::Quiet { since: at(9) }).id(), format!("{}:2:quiet-1795420209", run_id()));
    assert_eq!(run().run_key().to_string(), format!("{} of group db", run_id()));
    let (jobs, faults) = domain::crontab::parse("crontab", "*/5 * * * * backup.sh\n", domain::crontab::Format::User);
    assert!(faults.0.is_empty(), "{faults}");
    assert_eq!(jobs[0].key(), JobKey::new("default", "crontab-backup.sh-8718122a"));
    let options = domain::crontab::Options::new("crontab", domain::crontab::Format::User);
    let read = domain::crontab::read("crontab", "*/5 * * * * backup.sh\n", &options);
    assert_eq!(read.jobs.former_names(0).last(), Some(&JobKey::new("default", "backup.sh-fd223879")));
}

/// Texts that programs parse, and the test that pins each:
///
/// | text | written by | parsed by | pinned in |
/// |---|---|---|---|
/// | `STAMP STREAM TAG TEXT` with tags like `P:1`, `F:gap` | keeper | runner, log collectors | `domain/src/line.rs` |
/// | `N lines, N bytes dropped (seq A-B): REASON` | keeper, sinks | `sexton logs` | `domain/src/line.rs` |
/// | `RUN_ID.ATTEMPT`, names in a run directory | runner, keeper | runner | `keeper/tests/it/stored.rs` |
/// | `RUN_ID`, `GROUP/NAME`, `90s`, `64KiB`, `ssm:/x` | domain | domain | here |
/// | `ready` alone on a line | `sexton up`, `sexton runner` | supervisors | `sexton/tests/it/driver.rs` |
/// | metric names and labels | console | Prometheus | `console/src/metrics.rs` |
#[test]
fn parsed_texts_stay_the_same() {
    assert!(RunId::is_valid(run_id().as_str()) && !RunId::is_valid("20261123T075000Z-3F9A1C0E7B2D"));
    assert_eq!(JobKey::parse("db/nightly-dump"), Ok(JobKey::new("db", "nightly-dump")));
    assert_eq!(JobKey::new("db", "nightly-dump").to_string(), "db/nightly-dump");
    assert_eq!(domain::units::format_duration(Duration::from_millis(90_061_500)), "1d1h1m1s500ms");
    assert_eq!(domain::units::parse_duration("1d1h1m1s500ms"), Ok(Duration::from_millis(90_061_500)));
    assert_eq!(domain::units::parse_size("64KiB"), Ok(65_536));
    for reference in ["env:HOME", "file:/etc/key", "ssm:/db/password", "secretsmanager:db#password"] {
        assert_eq!(domain::secret::Reference::parse(reference).expect("a reference").to_string(), reference);
    }
}
