//! A false guard before `&&` is named in the record of the end, and is not executed a second time.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use domain::event::Ended;
use domain::guard::FalseGuard;
use domain::job::Job;

use crate::attempt::{Attempt, argv, shell};

fn guard_of(job: Job) -> Option<FalseGuard> {
    let mut attempt = Attempt::start(job);
    let exit = attempt.wait_for_end();
    assert_eq!(exit.ended, Ended::Exited);
    exit.guard
}

/// The job in a folder with the program `there`, which fails silently, and the file `conf`.
fn in_folder(folder: &Path, command: &str) -> Job {
    std::fs::write(folder.join("there"), "#!/bin/sh\nexit 1\n").expect("written");
    std::fs::set_permissions(folder.join("there"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    std::fs::write(folder.join("conf"), "").expect("written");
    let mut job = shell(command);
    job.cwd = Some(folder.display().to_string());
    job
}

#[test]
fn a_guard_that_asks_for_a_missing_program_is_named_with_the_program() {
    let folder = tempfile::tempdir().expect("folder");
    for (command, guard, program) in [
        ("[ -x /no/dma ] && /no/dma -q", "[ -x /no/dma ]", "/no/dma"),
        ("test -x /no/dma && /no/dma -q | cat", "test -x /no/dma", "/no/dma"),
        ("[ -x /no/dma ] && LEVEL=9 nice -n 19 dma -q", "[ -x /no/dma ]", "/no/dma"),
        ("[ -d /tmp ] && [ -x /no/a ] && /no/a", "[ -x /no/a ]", "/no/a"),
        ("[ -x ./there ] && test -d / -a -f conf && [ -x /no/a ] && /no/a", "[ -x /no/a ]", "/no/a"),
        ("( [ -x /no/a ] && /no/a ) >/dev/null", "[ -x /no/a ]", "/no/a"),
        ("( [ -x /no/a ] && /no/a ) >/dev/null 2>&1", "[ -x /no/a ]", "/no/a"),
        ("[ -x \"$(command -v no-a)\" ] && no-a", "[ -x \"$(command -v no-a)\" ]", "no-a"),
        ("{ [ -x /no/a ] && /no/a; } 2>&1", "[ -x /no/a ]", "/no/a"),
        ("/usr/bin/test -x /no/a && /no/a", "/usr/bin/test -x /no/a", "/no/a"),
        ("/usr/bin/[ -x /no/a ] && /no/a", "/usr/bin/[ -x /no/a ]", "/no/a"),
        ("[ -x /usr/sbin/no-dma ] && date", "[ -x /usr/sbin/no-dma ]", "/usr/sbin/no-dma"),
        ("[ -x /opt/no/bin/a ] && date", "[ -x /opt/no/bin/a ]", "/opt/no/bin/a"),
        ("[ -x /no/dma ] && sh -c 'cd /; exec /no/dma -q'", "[ -x /no/dma ]", "/no/dma"),
        ("[ -f /no/dma.sh ] && bash -e /no/dma.sh", "[ -f /no/dma.sh ]", "/no/dma.sh"),
        ("test -e /no/sbin/job && /no/sbin/job a", "test -e /no/sbin/job", "/no/sbin/job"),
        ("[ -f /no/job ] && /no/job a", "[ -f /no/job ]", "/no/job"),
        ("command -v no-such-program > /dev/null && no-such-program", "command -v no-such-program", "no-such-program"),
        ("command -v no-such-program >/dev/null 2>&1 && true", "command -v no-such-program", "no-such-program"),
        ("test -x /no/a -a \\! -d /run && perl -e 'sleep 9' && a", "test -x /no/a -a \\! -d /run", "/no/a"),
        ("[ -x /no/a -o -x /no/b ] && a && b", "[ -x /no/a -o -x /no/b ]", "/no/a"),
        ("cd / && [ -x no/a ] && no/a", "[ -x no/a ]", "/no/a"),
        ("X=1; [ -x ./no ] && if true; then ./no; fi", "[ -x ./no ]", "./no"),
        ("[ -x \"$HOME/no\" ] && \"$HOME/no\"", "[ -x \"$HOME/no\" ]", ""),
        ("( [ -x /no/a ] && /no/a )", "[ -x /no/a ]", "/no/a"),
    ] {
        let found = guard_of(in_folder(folder.path(), command)).unwrap_or_else(|| panic!("{command}"));
        assert_eq!(found.text, guard, "{command}");
        let missing = found.missing_program.unwrap_or_else(|| panic!("{command}"));
        assert!(missing == program || program.is_empty() && missing.ends_with("/no"), "{command}: {missing}");
    }
    for (command, program) in [
        ("[[ -x /no/dma ]] && /no/dma -q", "/no/dma"),
        ("[[ -x /no/dma && -d /tmp ]] && /no/dma -q", "/no/dma"),
        ("[[ -d /tmp && ( -e / ) && -x /no/dma ]] && /no/dma -q", ""),
        ("[[ -x /no/dma || -x /no/b ]] && { /no/dma; /no/b; }", "/no/dma"),
        ("[[ -x /no/dma || -d /no ]] && /no/dma -q", ""),
        ("type -P no-such-program >/dev/null && no-such-program", "no-such-program"),
        ("type -p no-such-program && no-such-program", "no-such-program"),
    ] {
        let missing = guard_of(argv(&["bash", "-c", command])).and_then(|guard| guard.missing_program);
        assert_eq!(missing.as_deref().unwrap_or_default(), program, "{command}");
    }
}

#[test]
fn any_other_false_guard_is_named_without_a_program() {
    let folder = tempfile::tempdir().expect("folder");
    for (command, guard) in [
        ("[ -d /no/backup ] && rsync a b", "[ -d /no/backup ]"),
        ("test -s conf && ./there", "test -s conf"),
        ("[ -x /no/backup ] && rsync -a /etc /no/backup/", "[ -x /no/backup ]"),
        ("[ -x /no/backup ] && rsync -a /etc /no/backup", "[ -x /no/backup ]"),
        ("[ -x /no/backup ] && echo backup", "[ -x /no/backup ]"),
        ("[ -x /opt/../no/bin/a ] && date", "[ -x /opt/../no/bin/a ]"),
        ("[ -e /no/bin/marker ] && tar cf a b", "[ -e /no/bin/marker ]"),
        ("[ -f /usr/bin/no-program ] && date", "[ -f /usr/bin/no-program ]"),
        ("[ -e /no/marker ] && date /no/marker", "[ -e /no/marker ]"),
        ("[ -x ./there ] && [ -d /no/backup ] && ./there", "[ -x ./there ] && [ -d /no/backup ]"),
        ("[ -x conf ] && ./there", "[ -x conf ]"),
        ("[ ! -x ./there ] && date", "[ ! -x ./there ]"),
        ("[ -d /no/backup ] && [ -x /no/a ] && /no/a", "[ -d /no/backup ] && [ -x /no/a ]"),
        ("[ \"$LEVEL\" = 9 ] && date", "[ \"$LEVEL\" = 9 ]"),
    ] {
        let found = guard_of(in_folder(folder.path(), command)).unwrap_or_else(|| panic!("{command}"));
        assert_eq!((found.text.as_str(), found.missing_program), (guard, None), "{command}");
    }
}

#[test]
fn a_command_that_failed_after_its_guards_names_none() {
    let folder = tempfile::tempdir().expect("folder");
    for command in [
        "[ -x ./there ] && ./there",
        "[ -x ./there ] && ./there; exit 1",
        "[ -f conf ] && sh -c 'exit 1'",
        "[ -f conf ] && exit 1",
        "[ -f conf ] && : && exit 1",
        "[ -f conf ] && { [ -d /no ] && true; }",
        "[ -f conf ] && no-such-program-anywhere",
        "command -v sh > /dev/null && sh -c 'exit 1'",
        "[ -d /no ] || false",
        "[ -x /no/a ] && /no/a || false",
        "{ [ -f conf ] && ./there; } >/dev/null 2>&1",
        "( [ -d /no ] && no-such-program ) >/dev/null 2>&1",
        "/usr/bin/test -f conf && ./there",
        "[ -x $(command -v no-such-program) ] && ./there",
        "[ -n `command -v no-such-program` ] && ./there",
        "[ -x /no/a ] && /no/a || { echo not installed; exit 1; }",
        "[ -x /no/a ]; [ -f conf ] && ./there",
        "if [ -x /no/a ]; then /no/a; else exit 1; fi",
        "[ -r /no/default ] && . /no/default && date",
        "[ -x ./there ] && ./there && [ -x /no/a ] && /no/a",
        "PATH=/no; command -v there && there || exit 1",
        "false",
        "exit 1",
    ] {
        assert_eq!(guard_of(in_folder(folder.path(), command)), None, "{command}");
    }
    // A program that removes itself was there when its guard asked for it.
    let own = folder.path().join("own");
    std::fs::write(&own, "#!/bin/sh\nrm own\nexit 1\n").expect("written");
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let mut job = shell("[ -x ./own ] && ./own");
    job.cwd = Some(folder.path().display().to_string());
    assert_eq!(guard_of(job), None);
    assert!(!own.exists());
    // Another language than that of sh.
    assert_eq!(guard_of(argv(&["perl", "-e", "exit 1 # [ -x /no/a ] && /no/a"])), None);
}

#[test]
fn a_guard_runs_once() {
    let folder = tempfile::tempdir().expect("folder");
    let count = folder.path().join("count");
    let command = format!("[ -d /no ] && a; echo x >> {0}; [ -x /no/a ] && /no/a", count.display());
    let found = guard_of(in_folder(folder.path(), &command)).expect("a guard");
    assert_eq!(found.missing_program.as_deref(), Some("/no/a"));
    assert_eq!(std::fs::read_to_string(&count).expect("written"), "x\n");
}
