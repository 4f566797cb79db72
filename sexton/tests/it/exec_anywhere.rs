//! The command of `exec` always runs: faulty files, directories that cannot be used, limits of the machine, and the
//! environments of schedulers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use testbed::{DEADLINE, DebianCron, wait_until};

use crate::driver::{CommandOutput, Folder, command, sexton};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn output(command: &mut Command) -> CommandOutput {
    let output = command.output().expect("starts");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    CommandOutput { code: output.status.code(), out: output.stdout, err }
}

/// Expects the output and code of `echo ran; exit 3`.
#[track_caller]
fn expect_ran(result: CommandOutput) -> String {
    let result = result.expect(3);
    assert_eq!(result.text(), "ran\n", "{}", result.err);
    result.err
}

const SCRIPT: [&str; 4] = ["--", "sh", "-c", "echo ran; exit 3"];

#[test]
fn the_command_runs_with_faulty_files_and_each_fault_is_reported() {
    let folder = Folder::new();
    let state = folder.text("state");
    let faulty = folder.write("faulty.toml", "this is [no TOML");
    let check = |options: &[&str], part: &str| {
        let words = [&["exec", "--name", "x", "--state", &state], options, &SCRIPT].concat();
        let err = expect_ran(sexton(&words));
        assert!(err.contains(part), "{options:?}: {err}");
    };
    check(&["--config", &faulty], "the command runs without the configuration");
    check(&["--config", "/no/such.toml"], "the command runs without the configuration");
    let own = folder.write("sinks.toml", "this is [no TOML");
    check(&["--sinks", &own], "the lines of this run are kept in");
    fs::remove_file(&own).expect("removed");
    check(&["--sinks", &own], "the lines of this run are kept in");
    check(&["--rules", &faulty], "checked without the faulty rules");
    check(&["--rules", "/no/such.toml"], "checked without the faulty rules");
    let policy = folder.write("policy.toml", &format!("[runner]\npolicy = \"{faulty}\"\n"));
    check(&["--config", &policy], "the command runs without the policy");
    // The lines that a faulty sinks file held back are delivered by the next call, when the file is correct.
    let sinks = format!("[sink.a]\ntype = \"file\"\npath = \"{}\"\nformat = \"json\"\n", folder.text("state/all.log"));
    let sinks = folder.write("sinks.toml", &sinks);
    expect_ran(sexton(&[&["exec", "--name", "y", "--state", &state, "--sinks", &sinks][..], &SCRIPT].concat()));
    let ran = || fs::read_to_string(folder.path("state/all.log")).unwrap_or_default().matches("\"ran\"").count();
    wait_until(DEADLINE, || ran() == 3);
    // Only a command line that cannot be read prevents the start.
    for bad in
        [&["exec", "--nonsense", "--", "true"][..], &["exec", "--name", "a/b", "--", "true"], &["exec", "--name", "x"]]
    {
        sexton(bad).expect(2);
    }
    // A filter in RUST_LOG is for other programs.
    let mut filtered = command(&[&["exec", "--name", "x", "--state", &state][..], &SCRIPT].concat());
    expect_ran(output(filtered.env("RUST_LOG", "=[=")));
}

#[test]
fn the_command_runs_where_no_directory_can_be_used() {
    let folder = Folder::new();
    fs::write(folder.path("file"), "").expect("file");
    let state = folder.text("file/state");
    let words = [&["exec", "--name", "x", "--state", &state][..], &SCRIPT].concat();
    let err = expect_ran(sexton(&words));
    assert!(err.contains("cannot create") && err.contains("this run is recorded in /"), "{err}");
    let kept = err.split("--state ").nth(1).and_then(|rest| rest.split('`').next()).expect("a directory").to_owned();
    assert!(sexton(&["runs", "--state", &kept]).expect(0).text().contains("default/x"));
    // `status` of the directory that cannot be used finds the lines.
    let sinks = folder.write("faulty.toml", "this is [no TOML");
    expect_ran(sexton(&[&["exec", "--name", "x", "--state", &state, "--sinks", &sinks], &SCRIPT[..]].concat()));
    let status = sexton(&["status", "--state", &state]).expect(1).text();
    assert!(status.contains("1 command of `sexton exec` has undelivered lines: 1 line,"), "{status}");
    let status = sexton(&["status", "--state", &state, "--json"]).expect(1).records();
    let undelivered = &status[0]["exec"][0];
    assert_eq!((&undelivered["job"], &undelivered["state"]), (&"x".into(), &kept.as_str().into()), "{status:?}");
    let call = format!("{kept}/runner/exec/{}", undelivered["run_id"].as_str().expect("run_id"));
    fs::remove_dir_all(call).expect("removed");
    // Neither a home directory nor an environment.
    let mut bare = command(&words);
    expect_ran(output(bare.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent")));
    if !is_root() {
        return;
    }
    // As another user, with a home that cannot be written, and with a state directory of root.
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o755)).expect("mode");
    let binary = folder.text("sexton");
    fs::copy(env!("CARGO_BIN_EXE_sexton"), &binary).expect("copied");
    fs::create_dir(folder.path("of-root")).expect("folder");
    for option in [vec![], vec!["--state".to_owned(), folder.text("of-root")]] {
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", &binary, "exec", "--name", "x"]);
        let other = other.args(&option).args(SCRIPT).env("HOME", "/nonexistent").env_remove("XDG_STATE_HOME");
        let err = expect_ran(output(other.current_dir("/")));
        assert!(err.contains("this run is recorded in /var/tmp/sexton-65534"), "{option:?}: {err}");
    }
    // In a mount namespace in which nothing can be written: the command runs alone.
    let read_only = "for dir in /var/tmp /tmp /dev/shm; do mount -t tmpfs -o ro none $dir; done; exec \"$@\"";
    let copy = format!("exec 9< {binary}; {read_only}");
    let mut alone = Command::new("unshare");
    alone.args([
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-c",
        &copy,
        "bash",
        "/proc/self/fd/9",
        "exec",
        "--name",
        "x",
    ]);
    let err = expect_ran(output(alone.args(["--state", "/proc/state"]).args(SCRIPT).env("TZ", "UTC")));
    assert!(err.contains("the command runs without Sexton"), "{err}");
}

#[test]
fn the_command_runs_with_few_descriptors_and_without_inotify() {
    let folder = Folder::new();
    let state = folder.text("state");
    for limit in [5, 12, 24, 40] {
        let script = format!("ulimit -n {limit} && exec \"$@\"");
        let mut few = Command::new("sh");
        few.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_sexton"), "exec", "--name", "x", "--state", &state]);
        expect_ran(output(few.args(SCRIPT).env("TZ", "UTC")));
    }
    let mut without = Command::new("unshare");
    without.args(["--user", "--map-root-user", "sh", "-c"]);
    without.arg("echo 0 > /proc/sys/user/max_inotify_instances && exec \"$@\"").arg("sh");
    without.args([env!("CARGO_BIN_EXE_sexton"), "exec", "--name", "x", "--state", &state, "--"]);
    let lying = output(without.args(["sh", "-c", "echo 'Segmentation fault (core dumped)'"]).env("TZ", "UTC"));
    if lying.err.contains("unshare") || lying.err.contains("max_inotify_instances") {
        eprintln!("no user namespace; left out: {}", lying.err);
        return;
    }
    assert_eq!(lying.code, Some(1), "{}", lying.err);
}

/// A sinks file with a TCP receiver that does not exist.
fn dead_sinks(folder: &Folder) -> String {
    let address = testbed::free_port();
    folder.write("sinks.toml", &format!("[sink.dead]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\n"))
}

#[test]
fn debians_cron_runs_exec_as_root_and_as_another_user() {
    let folder = Folder::new();
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o777)).expect("mode");
    let binary = folder.text("sexton");
    fs::copy(env!("CARGO_BIN_EXE_sexton"), &binary).expect("copied");
    let sinks = dead_sinks(&folder);
    let state = folder.text("of-root");
    let root = format!(
        "MAILTO=ops@example.org\n* * * * * root {binary} exec --state {state} --sinks {sinks} --name r -- sh -c 'echo by-root; \
         exit 3'\n* * * * * games {binary} exec --sinks {sinks} --name n -- sh -c 'echo by-games; (sleep 300) & exit 0'\n"
    );
    let Some(cron) = DebianCron::start(&folder.path(""), "UTC", &[("daemon", "")], &[("wrapped", &root)]) else {
        return;
    };
    let has_mail = |part: &str| cron.mails().iter().any(|mail| mail.contains(part));
    wait_until(2 * DEADLINE, || has_mail("by-root\n") && has_mail("by-games\n"));
    let mail = cron.mails().into_iter().find(|mail| mail.contains("by-root\n")).expect("a mail");
    assert!(mail.contains("default/r failed: exit code 3"), "{mail}");
    let runs = output(cron.beside(&binary).args(["runs", "--state", &state]).env("TZ", "UTC")).expect(0).text();
    assert!(runs.contains("default/r"), "{runs}");
}

#[test]
fn the_environment_of_a_systemd_unit_is_enough() {
    let folder = Folder::new();
    let sinks = dead_sinks(&folder);
    let mut unit = Command::new(env!("CARGO_BIN_EXE_sexton"));
    unit.args(["exec", "--name", "unit", "--state", &folder.text("state"), "--sinks", &sinks]).args(SCRIPT);
    // systemd.exec(5): a system service has no HOME, no terminal, / as directory, and gets TERM for the whole unit.
    unit.env_clear().env("PATH", "/usr/bin:/bin").env("INVOCATION_ID", "0").current_dir("/");
    unit.stdin(std::process::Stdio::null());
    expect_ran(output(&mut unit));
    // Where systemd runs, its own unit gives the same.
    let mut real = Command::new("systemd-run");
    real.args(["--quiet", "--wait", "--pipe", "--collect", env!("CARGO_BIN_EXE_sexton"), "exec", "--name", "real"]);
    real.args(["--state", &folder.text("state"), "--sinks", &sinks]).args(SCRIPT);
    match real.output() {
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("System has not been booted") => {
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            if !err.contains("Failed to connect") && !err.contains("Failed to start") {
                assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"ran\n"[..]), "{err}");
            }
        }
        _ => eprintln!("systemd does not run; left out"),
    }
}
