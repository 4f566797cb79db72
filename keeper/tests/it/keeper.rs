//! The environment of a job, its end, and the record of its keeper.

use std::collections::BTreeMap;

use domain::event::Ended;
use domain::job::Job;
use domain::line::Stream;
use keeper::records::{AllowedDirectories, Inherited};

use testbed::wait_for;

use crate::attempt::{Attempt, argv, is_alive, shell};

#[test]
fn the_record_has_the_true_end_of_the_job() {
    let check = |job: Job, ended: Ended, exit_code: Option<i32>, signal: Option<i32>| {
        let what = job.command.to_string();
        let mut attempt = Attempt::start(job);
        let exit = attempt.wait_for_end();
        assert_eq!((exit.ended, exit.exit_code, exit.signal), (ended, exit_code, signal), "{what}: {exit:?}");
        assert!(exit.leaked.is_empty(), "{what}: {:?}", exit.leaked);
        assert!(!attempt.run.file("keeper.log").exists(), "{what}");
        exit
    };
    check(shell("exit 0"), Ended::Exited, Some(0), None);
    check(shell("exit 3"), Ended::Exited, Some(3), None);
    check(shell("kill -9 $$"), Ended::Exited, None, Some(9));
    check(shell("kill -SEGV $$"), Ended::Exited, None, Some(11));
    check(shell("no-such-program-anywhere"), Ended::Exited, Some(127), None);
    check(argv(&["true"]), Ended::Exited, Some(0), None);
    check(argv(&["sh", "-c", "exit 7"]), Ended::Exited, Some(7), None);
    let exit = check(argv(&["no-such-program-anywhere"]), Ended::NotStarted, None, None);
    assert!(exit.note.is_some_and(|note| note.contains("cannot execute `no-such-program-anywhere`: no such file")));
    let exit = check(argv(&["/etc/passwd"]), Ended::NotStarted, None, None);
    assert!(exit.note.is_some_and(|note| note.contains("permission denied")));
    let exit = check(argv(&[]), Ended::NotStarted, None, None);
    assert!(exit.note.is_some_and(|note| note.contains("empty")));
    let mut job = shell("true");
    job.cwd = Some("/no/such/folder".into());
    let exit = check(job, Ended::NotStarted, None, None);
    assert!(exit.note.is_some_and(|note| note.contains("`/no/such/folder`")));
    let mut job = shell("true");
    job.user = Some("no-such-user-anywhere".into());
    let exit = check(job, Ended::NotStarted, None, None);
    assert!(exit.note.is_some_and(|note| note.contains("no-such-user-anywhere")));
}

#[test]
fn a_job_sees_cron_s_environment_and_its_own_and_nothing_else() {
    let env = BTreeMap::from([("LEVEL".to_owned(), "9".to_owned()), ("USER".to_owned(), "liar".to_owned())]);
    let mut attempt = Attempt::start_with(shell("env; pwd; ls /proc/self/fd | wc -l"), env);
    attempt.wait_for_end();
    let lines = attempt.texts(Stream::Stdout);
    let names: Vec<&str> = lines.iter().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let allowed = [
        "HOME",
        "LEVEL",
        "LOGNAME",
        "PATH",
        "PWD",
        "OLDPWD",
        "SHELL",
        "SHLVL",
        "_",
        "USER",
        "SEXTON_RUN_ID",
        "SEXTON_GROUP",
        "SEXTON_JOB",
        "SEXTON_ATTEMPT",
        "SEXTON_NOMINAL",
        "SEXTON_KEEPER",
    ];
    assert!(names.iter().all(|name| allowed.contains(name)), "{lines:?}");
    for line in ["LEVEL=9", "SEXTON_GROUP=g", "SEXTON_JOB=j", "SEXTON_ATTEMPT=1", "SHELL=/bin/sh"] {
        assert!(lines.iter().any(|found| found == line), "{line} in {lines:?}");
    }
    assert!(!lines.iter().any(|line| line == "USER=liar"), "{lines:?}");
    // Its three streams, and the directory that `ls` itself has open.
    assert_eq!(lines.last().map(String::as_str), Some("4"));
}

#[test]
fn a_job_has_its_own_session_and_default_signals() {
    let mut attempt = Attempt::start(shell("cat /proc/self/stat; grep -E '^Sig(Blk|Ign)' /proc/self/status"));
    let pid = attempt.started().pid;
    attempt.wait_for_end();
    let lines = attempt.texts(Stream::Stdout);
    let session: u32 = lines[0].split(' ').nth(5).and_then(|field| field.parse().ok()).expect("session");
    assert_eq!(session, pid);
    assert!(lines[1..].iter().all(|line| line.ends_with("0000000000000000")), "{lines:?}");
    // SIGPIPE ends a job of pipes quietly, as in any shell.
    let mut attempt = Attempt::start(shell("yes | head -1; echo ${PIPESTATUS:-none}"));
    assert_eq!(attempt.wait_for_end().exit_code, Some(0));
    assert_eq!(attempt.texts(Stream::Stderr), Vec::<String>::new());
}

#[test]
fn standard_input_is_the_job_s_text_or_empty() {
    let mut job = shell("cat");
    job.stdin = Some("first\nsecond\n".into());
    let mut attempt = Attempt::start(job);
    attempt.wait_for_end();
    assert_eq!(attempt.texts(Stream::Stdout), ["first", "second"]);

    let mut attempt = Attempt::start(shell("cat; echo end"));
    attempt.wait_for_end();
    assert_eq!(attempt.texts(Stream::Stdout), ["end"]);

    // More than a pipe holds, for a job that never reads: the job must not be blocked.
    let mut job = shell("echo deaf");
    job.stdin = Some("x".repeat(1 << 20));
    let mut attempt = Attempt::start(job);
    assert_eq!(attempt.wait_for_end().exit_code, Some(0));

    let mut job = shell("wc -c");
    job.stdin = Some("y".repeat(1 << 20));
    let mut attempt = Attempt::start(job);
    attempt.wait_for_end();
    assert_eq!(attempt.texts(Stream::Stdout), ["1048576"]);
}

#[test]
fn a_job_runs_as_another_user_only_under_a_root_keeper() {
    let mut job = shell("id -un; id -Gn; echo $HOME $USER $LOGNAME");
    job.user = Some("nobody".into());
    let mut attempt = Attempt::start(job);
    let exit = attempt.wait_for_end();
    if rustix::process::geteuid().is_root() {
        let lines = attempt.texts(Stream::Stdout);
        assert_eq!(lines[0], "nobody", "{exit:?}");
        assert!(!lines[1].split(' ').any(|group| group == "root"), "{lines:?}");
        assert!(lines[2].ends_with("nobody nobody"), "{lines:?}");
    } else {
        assert_eq!(exit.ended, Ended::NotStarted);
        assert!(exit.note.is_some_and(|note| note.contains("does not run as root")));
    }
}

#[test]
fn cpu_time_and_memory_are_recorded() {
    let mut attempt = Attempt::start(shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"));
    let exit = attempt.wait_for_end();
    assert!(exit.cpu_ms.is_some_and(|ms| ms > 0), "{exit:?}");
    assert!(exit.max_rss_bytes.is_some_and(|bytes| bytes > 100_000), "{exit:?}");
    assert!(exit.finished_at >= exit.started_at.expect("started"));
}

#[test]
fn a_killed_keeper_leaves_its_spool_and_a_free_lock() {
    let mut attempt = Attempt::start(shell("echo before; exec sleep 1000"));
    let started = attempt.started();
    wait_for("the line", || (!attempt.lines().is_empty()).then_some(()));
    assert!(attempt.run.has_keeper().expect("lock"));
    attempt.keeper.kill().expect("kill");
    wait_for("the free lock", || (!attempt.run.has_keeper().expect("lock")).then_some(()));
    assert!(!attempt.run.exit().exists());
    assert_eq!(attempt.texts(Stream::Stdout), ["before"]);
    let left = keeper::processes::find(started.pid).expect("the job outlives its keeper");
    assert_eq!(left.start_ticks, started.start_ticks);
    keeper::processes::send_signal(&left, rustix::process::Signal::KILL);
}

#[test]
fn a_keeper_survives_hangup_interrupt_and_term() {
    let mut attempt = Attempt::start(shell("read line; echo $line"));
    let pid = attempt.started().pid;
    let keeper = keeper::processes::find(attempt.keeper.id()).expect("keeper");
    for signal in [rustix::process::Signal::HUP, rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        assert!(keeper::processes::send_signal(&keeper, signal));
    }
    // Its standard input is empty, so it exits by itself.
    assert_eq!(attempt.wait_for_end().exit_code, Some(0));
    assert!(!is_alive(pid));
}

#[test]
fn a_link_that_leads_out_of_the_allowed_directories_is_found_when_the_job_has_entered_it() {
    let folder = tempfile::tempdir().expect("folder");
    let allowed = folder.path().join("allowed");
    std::fs::create_dir_all(allowed.join("inner")).expect("folder");
    std::os::unix::fs::symlink("/", allowed.join("out")).expect("link");
    let check = |name: &str, note: Option<&str>| {
        let mut job = shell("pwd -P");
        job.cwd = Some(allowed.join(name).display().to_string());
        let resolved = std::fs::canonicalize(&allowed).expect("resolved").display().to_string();
        let directories = AllowedDirectories { paths: vec![resolved], refusal: "not allowed".to_owned() };
        let mut attempt = Attempt::start_in_directories(job, directories);
        let exit = attempt.wait_for_end();
        assert_eq!(exit.note.as_deref(), note, "{name}");
    };
    check("inner", None);
    check(".", None);
    check("out", Some("not allowed"));
    check("out/tmp", Some("not allowed"));
}

#[test]
fn a_job_gets_the_mask_and_the_limit_of_open_files_of_the_runners_parent() {
    let inherited = Inherited { umask: Some(0o026), open_files: Some(77) };
    let mut attempt = Attempt::start_with_inherited(shell("umask; ulimit -Sn"), inherited);
    attempt.wait_for_end();
    assert_eq!(attempt.texts(Stream::Stdout), ["0026", "77"]);
    // The keeper's own files are private.
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(attempt.run.keeper()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
