//! One attempt under a real keeper, without a runner.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;

use domain::job::{Command, Job, JobKey};
use domain::line::{Position, Stream, Tag};
use domain::order::{FORMAT_VERSION, Order};
use domain::run::{RunId, Trigger};
use jiff::Timestamp;
use keeper::directory::{Durability, RunDirectory, read_json, write_json};
use keeper::records::{Accepted, AllowedDirectories, Exit, Inherited, Launch, Started, StopRequest};
use keeper::spawn::{KeeperCommand, spawn_keeper};
use keeper::spool::SpoolReader;
use testbed::wait_for;

pub(crate) fn shell(text: &str) -> Job {
    Job::new(JobKey::new("g", "j"), "@manually", Command::Shell(text.to_owned()))
}

pub(crate) fn argv(words: &[&str]) -> Job {
    Job::new(JobKey::new("g", "j"), "@manually", Command::Argv(words.iter().map(|word| (*word).to_owned()).collect()))
}

pub(crate) fn order(job: Job) -> Order {
    let now = Timestamp::now();
    Order {
        version: FORMAT_VERSION,
        run_id: RunId::unscheduled(now, getrandom::u64().expect("random").to_be_bytes()[..6].try_into().expect("six")),
        attempt: 1,
        nominal: now,
        trigger: Trigger::Manual,
        issued_at: now,
        not_before: None,
        start_by: None,
        job,
    }
}

pub(crate) fn harness() -> &'static str {
    env!("CARGO_BIN_EXE_keeper-harness")
}

/// The directory of a new attempt, with its order.
pub(crate) fn prepare(folder: &Path, job: Job) -> RunDirectory {
    let order = order(job);
    let run = RunDirectory::new(folder, &order.run_id, order.attempt);
    run.create().expect("directory");
    let accepted = Accepted { order, accepted_at: Timestamp::now(), boot_id: String::new(), refused: None };
    write_json(&run.order(), &accepted, Durability::Cache).expect("order");
    run
}

pub(crate) fn stop_request() -> StopRequest {
    StopRequest { at: Timestamp::now(), by: "a test".into(), grace_max_ms: None }
}

pub(crate) fn lines(run: &RunDirectory) -> Vec<SpooledLine> {
    let mut reader = SpoolReader::open(run.spool(), Position::START);
    let mut lines = Vec::new();
    while let Some(block) = reader.read(65_536).expect("read") {
        lines.extend(block.lines().map(|line| SpooledLine {
            seq: line.seq,
            stream: line.stream,
            tag: line.tag,
            text: line.text.to_vec(),
        }));
    }
    lines
}

pub(crate) fn texts(run: &RunDirectory, stream: Stream) -> Vec<String> {
    let lines = lines(run);
    let texts = lines.iter().filter(|line| line.stream == stream).map(|line| String::from_utf8_lossy(&line.text));
    texts.map(|text| text.into_owned()).collect()
}

pub(crate) struct Attempt {
    pub run: RunDirectory,
    pub keeper: Child,
    _folder: Option<tempfile::TempDir>,
}

/// One record of the spool, owned.
#[derive(Debug, PartialEq)]
pub(crate) struct SpooledLine {
    pub seq: u64,
    pub stream: Stream,
    pub tag: Tag,
    pub text: Vec<u8>,
}

impl Attempt {
    pub(crate) fn start(job: Job) -> Attempt {
        Attempt::start_with(job, BTreeMap::new())
    }

    pub(crate) fn start_with(job: Job, env: BTreeMap<String, String>) -> Attempt {
        let folder = tempfile::tempdir().expect("folder");
        let mut attempt = Attempt::start_in(folder.path(), job, env);
        attempt._folder = Some(folder);
        attempt
    }

    pub(crate) fn start_in(folder: &Path, job: Job, env: BTreeMap<String, String>) -> Attempt {
        Attempt::launch(folder, job, Launch { env, cgroup: true, ..Launch::default() })
    }

    /// Marks the value of every variable as a secret.
    pub(crate) fn start_with_secrets(job: Job, env: BTreeMap<String, String>) -> Attempt {
        let folder = tempfile::tempdir().expect("folder");
        let secret_names = env.keys().cloned().collect();
        let launch = Launch { env, secret_names, cgroup: true, ..Launch::default() };
        let mut attempt = Attempt::launch(folder.path(), job, launch);
        attempt._folder = Some(folder);
        attempt
    }

    pub(crate) fn start_in_directories(job: Job, allowed: AllowedDirectories) -> Attempt {
        let folder = tempfile::tempdir().expect("folder");
        let launch = Launch { allowed_directories: Some(allowed), ..Launch::default() };
        let mut attempt = Attempt::launch(folder.path(), job, launch);
        attempt._folder = Some(folder);
        attempt
    }

    pub(crate) fn start_with_inherited(job: Job, inherited: Inherited) -> Attempt {
        let folder = tempfile::tempdir().expect("folder");
        let mut attempt = Attempt::launch(folder.path(), job, Launch { inherited, ..Launch::default() });
        attempt._folder = Some(folder);
        attempt
    }

    fn launch(folder: &Path, job: Job, launch: Launch) -> Attempt {
        let run = prepare(folder, job);
        let command = KeeperCommand(vec![harness().into()]);
        let keeper = spawn_keeper(&command, &run, &launch).expect("keeper").expect("lock");
        Attempt { run, keeper, _folder: None }
    }

    pub(crate) fn started(&self) -> Started {
        wait_for("started.json", || read_json(&self.run.started()).expect("started.json"))
    }

    pub(crate) fn request_stop(&self) {
        self.request_stop_within(None);
    }

    pub(crate) fn request_stop_within(&self, grace_max_ms: Option<u64>) {
        let request = StopRequest { grace_max_ms, ..stop_request() };
        write_json(&self.run.stop(), &request, Durability::Cache).expect("stop");
        keeper::spawn::wake_keeper(&self.run);
    }

    /// Waits until the keeper has exited and returns its record.
    pub(crate) fn wait_for_end(&mut self) -> Exit {
        wait_for("the keeper's end", || self.keeper.try_wait().expect("wait"));
        read_json(&self.run.exit()).expect("exit.json").expect("exit.json is missing")
    }

    pub(crate) fn lines(&self) -> Vec<SpooledLine> {
        lines(&self.run)
    }

    pub(crate) fn texts(&self, stream: Stream) -> Vec<String> {
        texts(&self.run, stream)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    keeper::processes::find(pid).is_some_and(|process| !process.is_zombie())
}
