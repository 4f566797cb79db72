//! A runner as a process that can be killed, with its ports in a folder.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use domain::event::{Body, Event, Report};
use domain::job::{self, Job, JobKey};
use domain::order::{FORMAT_VERSION, Order};
use domain::run::{RunId, Trigger};
use jiff::Timestamp;
use keeper::directory::RunDirectory;
use testbed::wait_for;

pub(crate) fn harness() -> &'static str {
    env!("CARGO_BIN_EXE_runner-harness")
}

pub(crate) fn shell(text: &str) -> Job {
    Job::new(JobKey::new("g", "j"), "@manually", job::Command::Shell(text.to_owned()))
}

pub(crate) fn argv(words: &[&str]) -> Job {
    Job::new(
        JobKey::new("g", "j"),
        "@manually",
        job::Command::Argv(words.iter().map(|word| (*word).to_owned()).collect()),
    )
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

pub(crate) fn is_alive(pid: u32) -> bool {
    keeper::processes::find(pid).is_some_and(|process| !process.is_zombie())
}

pub(crate) struct World {
    pub folder: tempfile::TempDir,
    pub runner: Option<Child>,
}

impl World {
    pub(crate) fn new() -> World {
        let folder = tempfile::tempdir().expect("folder");
        for name in ["orders", "claims", "stops", "state", "log", "secrets"] {
            fs::create_dir(folder.path().join(name)).expect("folder");
        }
        let sinks = format!(
            "[sink.lines]\ntype = \"file\"\nformat = \"json\"\npath = \"{}/log/{{run_id}}.log\"\n",
            folder.path().display()
        );
        fs::write(folder.path().join("sinks.toml"), sinks).expect("sinks.toml");
        World { folder, runner: None }
    }

    /// The same, with the runner's state on this disk.
    pub(crate) fn on(disk: &std::path::Path) -> World {
        let world = World::new();
        let (there, here) = (disk.join("state"), world.path("state"));
        fs::create_dir(&there).expect("folder");
        fs::remove_dir(&here).expect("folder");
        std::os::unix::fs::symlink(there, here).expect("link");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(harness());
        command.arg(words[0]).arg(self.path("state")).arg(self.folder.path()).args(&words[1..]);
        command.env("SEXTON_WORLD", self.folder.path());
        command
    }

    /// The processes that deliver the output of `exec`s.
    pub(crate) fn senders(&self) -> Vec<keeper::processes::Process> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let is_sender = |process: &keeper::processes::Process| {
            let arguments = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let words: Vec<String> =
                arguments.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            words.get(1).is_some_and(|word| word == "sender") && words.contains(&folder)
        };
        let all = keeper::processes::list().expect("processes").into_iter();
        all.filter(|process| !process.is_zombie() && is_sender(process)).collect()
    }

    /// Ends the senders of earlier `exec`s, as a shutdown of the machine does.
    pub(crate) fn end_senders(&self) {
        wait_for("the end of the senders", || {
            let senders = self.senders();
            for sender in &senders {
                keeper::processes::send_signal(sender, rustix::process::Signal::TERM);
            }
            senders.is_empty().then_some(())
        });
    }

    /// Starts a runner that takes every order and leaves its jobs when it stops.
    pub(crate) fn start(&mut self) {
        self.start_as("free", "leave", None);
    }

    pub(crate) fn start_as(&mut self, mode: &str, shutdown: &str, crash_at: Option<&str>) {
        let mut command = self.command(&["run", mode, shutdown]);
        if let Some(label) = crash_at {
            command.env("SEXTON_CRASH_AT", label);
        }
        self.runner = Some(command.stdin(Stdio::null()).spawn().expect("runner"));
    }

    /// The same, from another program file.
    pub(crate) fn start_program(&mut self, program: &std::path::Path) {
        let mut command = Command::new(program);
        command.arg("run").arg(self.path("state")).arg(self.folder.path()).args(["free", "leave"]);
        self.runner = Some(command.stdin(Stdio::null()).spawn().expect("runner"));
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let Some(runner) = &self.runner else { return };
        let pid = runner.id().to_string();
        wait_for("a runner that listens", || fs::read_to_string(self.path("ready")).ok().filter(|ready| *ready == pid));
    }

    /// Sends KILL and waits.
    pub(crate) fn kill(&mut self) {
        if let Some(mut runner) = self.runner.take() {
            runner.kill().expect("kill");
            runner.wait().expect("wait");
        }
    }

    /// Asks the runner to stop and waits for its exit.
    pub(crate) fn end(&mut self) {
        self.ask_to_end();
        let Some(mut runner) = self.runner.take() else { return };
        assert!(wait_for("the runner's end", || runner.try_wait().expect("wait")).success());
    }

    /// Sends TERM once the runner handles it.
    pub(crate) fn ask_to_end(&self) {
        let Some(runner) = &self.runner else { return };
        self.wait_until_ready();
        let process = keeper::processes::find(runner.id()).expect("runner");
        keeper::processes::send_signal(&process, rustix::process::Signal::TERM);
    }

    /// Waits for the exit of a runner that was asked to stop.
    pub(crate) fn end_of_runner(&mut self) {
        let Some(mut runner) = self.runner.take() else { return };
        assert!(wait_for("the runner's end", || runner.try_wait().expect("wait")).success());
    }

    /// An order that is not sent yet.
    pub(crate) fn prepared(&self, job: Job) -> Order {
        order(job)
    }

    pub(crate) fn order(&self, job: Job) -> Order {
        let order = self.prepared(job);
        self.send(&order);
        order
    }

    pub(crate) fn send(&self, order: &Order) {
        self.send_copy(order, 1);
    }

    pub(crate) fn send_copy(&self, order: &Order, copy: u32) {
        let name = format!("{}-{}-{copy}.json", order.issued_at.as_nanosecond(), order.run_id);
        let beside = self.path("orders").join("new");
        fs::write(&beside, serde_json::to_vec(order).expect("json")).expect("order");
        fs::rename(beside, self.path("orders").join(name)).expect("order");
    }

    pub(crate) fn events(&self, run_id: &RunId) -> Vec<Event> {
        let text = fs::read_to_string(self.path("reports.jsonl")).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |newline| newline + 1)];
        let events = whole.lines().map(|line| serde_json::from_str::<Event>(line).expect("event"));
        events.filter(|event| event.run_id == *run_id).collect()
    }

    pub(crate) fn report(&self, run_id: &RunId) -> Report {
        wait_for("the report", || {
            self.events(run_id).into_iter().find_map(|event| match event.body {
                Body::Finished(report) => Some(*report),
                _ => None,
            })
        })
    }

    pub(crate) fn directory(&self, order: &Order) -> RunDirectory {
        RunDirectory::new(&self.path("state").join("runs"), &order.run_id, order.attempt)
    }

    /// The records of the run in the sink, once the last one is there.
    pub(crate) fn shipped(&self, run_id: &RunId) -> Vec<serde_json::Value> {
        let path = self.path("log").join(format!("{run_id}.log"));
        wait_for("run.finished in the sink", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let whole = &text[..text.rfind('\n').map_or(0, |newline| newline + 1)];
            let records: Vec<serde_json::Value> =
                whole.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
            let is_last = |record: &serde_json::Value| record["event"] == "run.finished";
            records.last().is_some_and(is_last).then_some(records)
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::write(self.path("deaf"), "");
        let runs = fs::read_dir(self.path("state").join("runs")).into_iter().flatten().flatten();
        for entry in runs {
            let run = RunDirectory::open(entry.path());
            let keeper = fs::read_to_string(run.keeper()).ok().and_then(|pid| pid.trim().parse().ok());
            if run.has_keeper().unwrap_or(false)
                && let Some(keeper) = keeper.and_then(keeper::processes::find)
            {
                for process in keeper::processes::descendants(keeper.pid).unwrap_or_default() {
                    keeper::processes::send_signal(&process, rustix::process::Signal::KILL);
                }
            }
        }
    }
}
