//! Keepers that a fork server starts: they are like those that are executed, and need the server for nothing.

use std::fs;
use std::path::Path;

use domain::event::Ended;
use domain::job::Job;
use domain::line::Stream;
use keeper::directory::{Durability, RunDirectory, read_json, write_json};
use keeper::processes::{self, Process};
use keeper::records::{Exit, Inherited, Launch};
use keeper::spawn::{KeeperCommand, KeeperStarter, find_keeper};
use rustix::process::Signal;
use testbed::wait_for;

use crate::attempt::{self, harness, is_alive, shell};

fn forking() -> KeeperStarter {
    KeeperStarter::forking(KeeperCommand(vec![harness().into()]))
}

fn spawn(starter: &KeeperStarter, folder: &Path, job: Job) -> RunDirectory {
    let launch =
        Launch { cgroup: true, inherited: Inherited { umask: Some(0o026), open_files: Some(77) }, ..Launch::default() };
    let run = attempt::prepare(folder, job);
    starter.spawn(&run, &launch).expect("keeper").expect("a free lock");
    run
}

fn wait_for_exit(run: &RunDirectory) -> Exit {
    wait_for("exit.json", || read_json(&run.exit()).expect("exit.json"))
}

/// The fork server of this process.
fn server() -> Option<Process> {
    let mut children = processes::descendants(std::process::id()).expect("descendants").into_iter();
    children.find(|process| arguments(process).last().is_some_and(|last| last == "--fork-server"))
}

fn arguments(process: &Process) -> Vec<String> {
    let arguments = fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    arguments.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_forked_keeper_is_like_an_executed_one_and_leaves_no_zombie() {
    let folder = tempfile::tempdir().expect("folder");
    let starter = forking();
    let run = spawn(&starter, folder.path(), shell("umask; ulimit -Sn; ls /proc/self/fd | wc -l; echo $$; sleep 1000"));
    let server = server().expect("a fork server");
    assert_eq!(arguments(&server), [harness(), "--fork-server"]);
    let keeper = wait_for("the keeper", || find_keeper(&run));
    assert_eq!(keeper.parent, server.pid);
    assert_eq!(arguments(&keeper), [harness(), run.path().to_str().expect("text")]);
    let lines = wait_for("the output", || Some(attempt::texts(&run, Stream::Stdout)).filter(|lines| lines.len() == 4));
    // Its three streams, and the directory that `ls` itself has open.
    assert_eq!(lines[..3], ["0026", "77", "4"]);
    let keeper = find_keeper(&run).expect("keeper");
    assert_eq!(keeper.session, keeper.pid, "its own session");
    let job = processes::find(lines[3].parse().expect("pid")).expect("job");
    assert_eq!((job.parent, job.session), (keeper.pid, job.pid));
    let files = fs::read_dir(format!("/proc/{}/fd", keeper.pid)).expect("files").flatten();
    let files: Vec<String> =
        files.filter_map(|file| Some(fs::read_link(file.path()).ok()?.display().to_string())).collect();
    let count = |what: &str| files.iter().filter(|file| file.contains(what)).count();
    assert_eq!([count("socket:"), count("memfd:"), count("signalfd"), count("/lock")], [0, 0, 1, 1], "{files:?}");
    assert_eq!([count("/dev/null"), count("pipe:")], [3, 2], "{files:?}");

    // A second keeper of the same attempt is not started.
    assert!(starter.spawn(&run, &Launch::default()).expect("lock").is_none());
    write_json(&run.stop(), &attempt::stop_request(), Durability::Cache).expect("stop");
    keeper::spawn::wake_keeper(&run);
    assert_eq!(wait_for_exit(&run).ended, Ended::Stopped);
    wait_for("the keeper reaped", || processes::find(keeper.pid).is_none().then_some(()));
    assert!(is_alive(server.pid));
}

#[test]
fn a_keeper_outlives_its_fork_server_which_is_replaced() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name);
    let starter = forking();
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 3", path("go").display());
    let run = spawn(&starter, folder.path(), shell(&waits));
    let first = server().expect("a fork server");
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        assert!(processes::send_signal(&first, signal));
    }
    let other = spawn(&starter, folder.path(), shell("exit 4"));
    assert_eq!(wait_for_exit(&other).exit_code, Some(4));
    assert_eq!(server().map(|server| server.pid), Some(first.pid), "these signals do not end it");

    assert!(processes::send_signal(&first, Signal::KILL));
    let executed = spawn(&starter, folder.path(), shell("exit 5"));
    assert_eq!(wait_for_exit(&executed).exit_code, Some(5));
    let second = wait_for("another fork server", || {
        wait_for_exit(&spawn(&starter, folder.path(), shell("true")));
        server().filter(|server| server.pid != first.pid)
    });

    assert!(processes::send_signal(&second, Signal::STOP));
    let counted = format!("echo started >> {}", path("starts").display());
    let run_after_stop = spawn(&starter, folder.path(), shell(&counted));
    assert_eq!(wait_for_exit(&run_after_stop).exit_code, Some(0));
    assert_eq!(fs::read_to_string(path("starts")).expect("starts"), "started\n");
    assert!(!is_alive(second.pid), "a server that does not answer is killed");

    drop(starter);
    assert!(run.has_keeper().expect("lock"), "the first run goes on");
    fs::write(path("go"), "").expect("go");
    assert_eq!(wait_for_exit(&run).exit_code, Some(3));
}

#[test]
fn the_end_of_a_runner_ends_its_fork_server_and_no_keeper() {
    let folder = tempfile::tempdir().expect("folder");
    let starter = forking();
    let run = spawn(&starter, folder.path(), shell("sleep 1000"));
    let server = server().expect("a fork server");
    drop(starter);
    assert!(!is_alive(server.pid));
    let keeper = wait_for("the keeper", || find_keeper(&run));
    write_json(&run.stop(), &attempt::stop_request(), Durability::Cache).expect("stop");
    keeper::spawn::wake_keeper(&run);
    assert_eq!(wait_for_exit(&run).ended, Ended::Stopped);
    wait_for("the keeper's end", || (!is_alive(keeper.pid)).then_some(()));
}

#[test]
fn a_program_that_cannot_be_a_fork_server_still_keeps() {
    let folder = tempfile::tempdir().expect("folder");
    let script = format!("[ \"$1\" != --fork-server ] || exit 1; exec {} \"$@\"", harness());
    let words = ["/bin/sh", "-c", &script, "keeper"];
    let starter = KeeperStarter::forking(KeeperCommand(words.map(Into::into).to_vec()));
    for _ in 0..2 {
        let run = spawn(&starter, folder.path(), shell("exit 6"));
        assert_eq!(wait_for_exit(&run).exit_code, Some(6));
    }
}
