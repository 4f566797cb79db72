//! `exec`: the command's own exit code and output, with log shipping.

use std::process::Stdio;

use crate::world::World;
use testbed::wait_for;

#[test]
fn exec_returns_the_code_and_output_of_the_command() {
    let check = |command: &[&str], code: i32, stdout: &str, stderr: &str| {
        let world = World::new();
        let words: Vec<&str> = ["exec"].into_iter().chain(command.iter().copied()).collect();
        let output = world.command(&words).env("SEXTON_WAIT_FOR_SENDER", "1").output().expect("exec");
        assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{command:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), stderr, "{command:?}");
        let reports = std::fs::read_to_string(world.path("reports.jsonl")).expect("reports");
        assert!(reports.lines().last().is_some_and(|line| line.contains("\"finished\"")), "{reports}");
        assert_eq!(count_states(&world), 0, "everything was delivered");
    };
    check(&["sh", "-c", "echo out; printf err >&2; exit 3"], 3, "out\n", "err");
    check(&["true"], 0, "", "");
    check(&["sh", "-c", "kill -9 $$"], 137, "", "");
    check(&["no-such-program-anywhere"], 127, "", "");
    check(&["/etc/passwd"], 126, "", "");
    check(&["sh", "-c", "echo 'Traceback (most recent call last):'"], 1, "Traceback (most recent call last):\n", "");
}

#[test]
fn a_signal_is_passed_on_to_the_wrapped_command() {
    let world = World::new();
    let words = ["exec", "sh", "-c", "trap 'echo bye; exit 6' INT; echo up; while :; do sleep 0.02; done"];
    let child = world.command(&words).stdout(Stdio::piped()).spawn().expect("exec");
    wait_for("the job", || {
        let exec = std::fs::read_dir(world.path("state").join("exec")).ok()?.flatten().next()?;
        let run = std::fs::read_dir(exec.path().join("runs")).ok()?.flatten().next()?;
        std::fs::read_dir(run.path().join("spool")).ok()?.next().map(drop)
    });
    let process = keeper::processes::find(child.id()).expect("exec");
    keeper::processes::send_signal(&process, rustix::process::Signal::INT);
    let output = child.wait_with_output().expect("exec");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "up\nbye\n");
}

#[test]
fn the_run_of_a_killed_exec_is_finished_by_its_sender_or_by_the_next_exec() {
    let world = World::new();
    let go = world.path("go");
    let script = format!("echo up; while [ ! -e {} ]; do sleep 0.02; done; echo over", go.display());
    let mut first = world.command(&["exec", "sh", "-c", &script]).stdout(Stdio::null()).spawn().expect("exec");
    let run = wait_for("the job", || {
        let exec = std::fs::read_dir(world.path("state").join("exec")).ok()?.flatten().next()?;
        let run = std::fs::read_dir(exec.path().join("runs")).ok()?.flatten().next()?;
        let run = keeper::directory::RunDirectory::open(run.path());
        run.started().exists().then_some(run)
    });
    first.kill().expect("kill");
    first.wait().expect("wait");
    world.end_senders();
    std::fs::write(&go, "").expect("go");
    wait_for("its end", || (run.exit().exists() && !run.has_keeper().expect("lock")).then_some(()));
    wait_for_next_second();
    next_exec(&world);
    assert_eq!(count_finished(&world), 2);
    assert_eq!(count_states(&world), 0, "everything was delivered");
    // The sender alone is enough.
    wait_for_next_second();
    let mut killed = world.command(&["exec", "sh", "-c", "echo $$; read line"]);
    let mut killed = killed.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("exec");
    let mut pid = [0u8];
    std::io::Read::read_exact(killed.stdout.as_mut().expect("pipe"), &mut pid).expect("started");
    wait_for("its sender", || (!world.senders().is_empty()).then_some(()));
    killed.kill().expect("kill");
    killed.wait().expect("wait");
    drop(killed.stdin.take());
    wait_for("the delivery", || (count_finished(&world) == 3 && count_states(&world) == 0).then_some(()));
}

/// The run ids of the harness differ only in the second, so the next `exec` needs another second.
fn wait_for_next_second() {
    let second = jiff::Timestamp::now().as_second();
    wait_for("the next second", || (jiff::Timestamp::now().as_second() > second).then_some(()));
}

/// Runs a command and waits for its sender.
fn next_exec(world: &World) {
    assert!(world.command(&["exec", "true"]).env("SEXTON_WAIT_FOR_SENDER", "1").status().expect("exec").success());
}

fn count_finished(world: &World) -> usize {
    let reports = std::fs::read_to_string(world.path("reports.jsonl")).unwrap_or_default();
    reports.matches("\"event\":\"finished\"").count()
}

/// Number of state directories of `exec`s.
fn count_states(world: &World) -> usize {
    std::fs::read_dir(world.path("state").join("exec")).map_or(0, |states| states.count())
}

fn sink_at(world: &World, name: &str, folder: &str) {
    let path = world.path(folder).join("all.log");
    let text = format!("[sink.{name}]\ntype = \"file\"\nformat = \"json\"\npath = \"{}\"\n", path.display());
    std::fs::write(world.path("sinks.toml"), text).expect("sinks.toml");
}

/// An `exec` whose sink and server accepted nothing.
fn undelivered_exec() -> World {
    let world = World::new();
    // A file in place of a directory: nothing can be written below it.
    std::fs::write(world.path("later"), "").expect("file");
    std::fs::write(world.path("deaf"), "").expect("deaf");
    sink_at(&world, "archive", "later");
    let status = world.command(&["exec", "echo", "late"]).env("SEXTON_FLUSH_MS", "300").status();
    assert!(status.expect("exec").success());
    world.end_senders();
    assert_eq!(count_states(&world), 1);
    wait_for_next_second();
    world
}

/// Makes the sink and the server reachable.
fn make_reachable(world: &World) {
    std::fs::remove_file(world.path("later")).expect("file");
    std::fs::remove_file(world.path("deaf")).expect("deaf");
}

fn is_delivered(world: &World) -> bool {
    let log = std::fs::read_to_string(world.path("later").join("all.log")).unwrap_or_default();
    let reports = std::fs::read_to_string(world.path("reports.jsonl")).unwrap_or_default();
    let ends = reports.lines().filter(|line| line.contains("\"text\":\"late\"")).count();
    log.contains("late") && log.contains("run.finished") && ends >= 1
}

#[test]
fn undelivered_output_of_an_exec_is_delivered_by_the_next_exec() {
    let world = undelivered_exec();
    make_reachable(&world);
    next_exec(&world);
    assert!(is_delivered(&world) && count_states(&world) == 0);
}

#[test]
fn undelivered_output_of_an_exec_is_delivered_by_a_runner() {
    let mut world = undelivered_exec();
    make_reachable(&world);
    world.start();
    wait_for("the delivery", || (is_delivered(&world) && count_states(&world) == 0).then_some(()));
}

#[test]
fn an_exec_without_a_server_delivers_output_and_leaves_reports_to_one_with_a_server() {
    let world = undelivered_exec();
    make_reachable(&world);
    let mut alone = world.command(&["exec", "true"]);
    let alone = alone.env("SEXTON_NO_SERVER", "1").env("SEXTON_FLUSH_MS", "300").status();
    assert!(alone.expect("exec").success());
    let has_line = || std::fs::read_to_string(world.path("later").join("all.log")).unwrap_or_default().contains("late");
    wait_for("the line", || has_line().then_some(()));
    world.end_senders();
    assert_eq!(count_states(&world), 1, "the reports are still to be sent");
    wait_for_next_second();
    next_exec(&world);
    assert!(is_delivered(&world) && count_states(&world) == 0);
}

#[test]
fn output_due_to_a_renamed_sink_is_not_given_to_another_and_kept_for_it() {
    let world = undelivered_exec();
    make_reachable(&world);
    sink_at(&world, "other", "elsewhere");
    next_exec(&world);
    // Its sink was renamed in the same file: it waits for nothing else.
    assert_eq!(count_states(&world), 0);
    assert!(!std::fs::read_to_string(world.path("elsewhere").join("all.log")).expect("log").contains("late"));
    let records = || std::fs::read_to_string(world.path("state").join("sinks").join("archive.json")).expect("record");
    assert!(records().contains("\"lines\":1,\"runs\":1"), "{}", records());
    // The lines are delivered when a sink has this name again.
    wait_for_next_second();
    sink_at(&world, "archive", "later");
    next_exec(&world);
    assert!(is_delivered(&world) && count_states(&world) == 0);
    assert!(records().contains("\"is_over\":true"), "{}", records());
    // A call of another sinks file is left to calls with that file.
    let other = undelivered_exec();
    make_reachable(&other);
    sink_at(&other, "archive-2", "elsewhere");
    assert!(other.command(&["exec", "true"]).env("SEXTON_SINKS_KEY", "other").status().expect("exec").success());
    let is_other = || std::fs::read_to_string(other.path("elsewhere").join("all.log")).is_ok();
    wait_for("the delivery", || (is_other() && count_states(&other) == 1).then_some(()));
    other.end_senders();
}

#[test]
fn an_exec_starts_while_another_process_checks_its_directory() {
    let world = World::new();
    std::fs::create_dir_all(world.path("state").join("exec")).expect("folder");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A process that adopts abandoned commands locks each directory for a moment and removes the empty ones.
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for state in std::fs::read_dir(world.path("state").join("exec")).expect("exec").flatten() {
                    let Ok(_lock) = runner::lock_state_directory(&state.path()) else { continue };
                    if !state.path().join("runs").exists() {
                        let _removed = std::fs::remove_dir_all(state.path());
                    }
                }
            }
        });
        for _ in 0..3 {
            let second = jiff::Timestamp::now().as_second();
            let output = world.command(&["exec", "true"]).output().expect("exec");
            assert!(output.status.success(), "{output:?}");
            wait_for("the next second", || (jiff::Timestamp::now().as_second() > second).then_some(()));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
