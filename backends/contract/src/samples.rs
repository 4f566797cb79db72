//! Sample records for tests of backends: all of the group `db`, with times relative to [`at`].

use std::sync::LazyLock;

use domain::alert::{AlertKind, Transition};
use domain::event::{Body, Event};
use domain::job::{Command, Job, JobKey};
use domain::order::{FORMAT_VERSION, Order};
use domain::ports::{Due, Heartbeat, Ports, RunWrite, WriteResult};
use domain::run::{Run, RunId, Trigger};
use jiff::Timestamp;

/// Yesterday at 07:50 UTC plus this number of seconds. Relative to today, because backends refuse orders older than 4
/// days by their own clock. Fixed within a process, so that a test may run across midnight.
pub fn at(second: i64) -> Timestamp {
    static BASE: LazyLock<i64> = LazyLock::new(|| {
        let today = Timestamp::now().as_second().div_euclid(86_400);
        (today - 1) * 86_400 + (7 * 60 + 50) * 60
    });
    Timestamp::from_second(*BASE + second).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The key of a job in the group `db`.
pub fn key(name: &str) -> JobKey {
    JobKey::new("db", name)
}

/// A job with a shell command that needs quoting, and an environment.
pub fn job(key: &JobKey) -> Job {
    let mut job = Job::new(key.clone(), "30 2 * * *", Command::Shell("dump 'a b' % é".to_owned()));
    job.env.insert("LEVEL".to_owned(), "9".to_owned());
    job
}

/// The due entry of a job at this second.
pub fn due(name: &str, second: i64) -> Due {
    Due { at: at(second), key: key(name), timing: "t1".to_owned() }
}

/// The run of a job in the group `db`, scheduled at this second.
pub fn run(name: &str, second: i64) -> Run {
    run_of(&key(name), second)
}

/// The run of a job, scheduled at this second.
pub fn run_of(key: &JobKey, second: i64) -> Run {
    Run::new(RunId::scheduled(key, at(second)), key, at(second), Trigger::Schedule, at(second))
}

/// Writes one run that must not exist yet.
pub async fn create(ports: &Ports, run: &Run) -> WriteResult {
    write(ports, RunWrite { run: run.clone(), expected: None, alert: None }).await
}

/// Writes one run.
pub async fn write(ports: &Ports, write: RunWrite) -> WriteResult {
    let mut written = ports.runs.write(&[write]).await.expect("the backend writes a run");
    assert_eq!(written.len(), 1, "one answer for one write");
    written.remove(0)
}

/// The order for the job `dump` of this group at this second.
pub fn order(group: &str, second: i64) -> Order {
    let key = JobKey::new(group, "dump");
    Order {
        version: FORMAT_VERSION,
        run_id: RunId::scheduled(&key, at(second)),
        attempt: 1,
        nominal: at(second),
        trigger: Trigger::Schedule,
        issued_at: at(second),
        not_before: None,
        start_by: None,
        job: job(&key),
    }
}

/// The report that the run of `dump` at this second has started, one second later.
pub fn event(second: i64) -> Event {
    let run = run("dump", second);
    Event {
        version: FORMAT_VERSION,
        run_id: run.run_id,
        group: run.group,
        job: run.job,
        attempt: 1,
        nominal: run.nominal,
        trigger: run.trigger,
        runner: "r1".to_owned(),
        host: "h1".to_owned(),
        at: at(second + 1),
        body: Body::Started { pid: Some(7), command: "dump".to_owned() },
    }
}

/// The heartbeat of a runner of the group `db` at this second.
pub fn heartbeat(runner: &str, second: i64) -> Heartbeat {
    Heartbeat {
        runner: runner.to_owned(),
        host: "h1".to_owned(),
        groups: vec!["db".to_owned()],
        at: at(second),
        id: None,
        running: 1,
        version: "0.1.0".to_owned(),
        held: None,
        order_keys: None,
    }
}

/// A transition of the job `dump` to bad at this second.
pub fn transition(id: &str, second: i64) -> Transition {
    Transition::new(id.to_owned(), AlertKind::Failed, &key("dump"), "exit code 3", at(second))
}
