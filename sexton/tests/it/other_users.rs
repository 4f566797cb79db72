//! Other users of the machine: what they may not own, read, lock or redirect.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::{DEADLINE, MinimalMachine, wait_until};

use crate::driver::{Folder, Up, sexton, shell_output};

/// A user id without rights here.
const OTHER: u32 = 65_534;

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("own file");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").mode() & 0o7777
}

#[test]
fn a_state_directory_that_other_users_can_write_is_refused_with_the_remedy() {
    let folder = Folder::new();
    let state = folder.path("state");
    let shown = folder.text("state");
    let commands = [vec!["up", "--state", &shown], vec!["runner", "--group", "g", "--state", &shown]];
    let check = |part: &str| {
        for command in &commands {
            let output = sexton(command).expect(1);
            assert!(output.err.contains(part) && output.err.contains("--state"), "{command:?}: {}", output.err);
            assert_eq!(output.err.lines().count(), 1, "{}", output.err);
        }
        // The command of `exec` runs, and its run is recorded elsewhere.
        let exec = sexton(&["exec", "--name", "x", "--state", &shown, "--", "true"]).expect(0);
        assert!(exec.err.contains(part) && exec.err.contains("this run is recorded in"), "{}", exec.err);
        assert_eq!(fs::read_dir(&state).expect("there").count(), 0, "a refused directory gets no file");
    };
    fs::create_dir(&state).expect("folder");
    for writable in [0o777, 0o1777, 0o702] {
        set_mode(&state, writable);
        check("all users can write");
    }
    set_mode(&state, 0o755);
    if is_root() {
        chown(&state, Some(OTHER), None).expect("root");
        check("belongs to");
        // A link of another user could lead to another directory at any time.
        fs::rename(&state, folder.path("target")).expect("renamed");
        std::os::unix::fs::symlink(folder.path("target"), &state).expect("link");
        chown(folder.path("target"), Some(0), None).expect("root");
        std::os::unix::fs::lchown(&state, Some(OTHER), None).expect("root");
        check("belongs to");
    }
}

#[test]
fn a_missing_state_directory_below_a_directory_for_all_is_made_private() {
    let folder = Folder::new();
    let volume = folder.path("volume");
    fs::create_dir(&volume).expect("folder");
    set_mode(&volume, 0o1777);
    let state = volume.join("deep/state");
    let up = Up::start(&state, &[]);
    assert_eq!((mode(&state), mode(&volume.join("deep"))), (0o700, 0o700));
    drop(up);
}

#[test]
fn the_default_output_works_in_an_accepted_state_directory_below_any_directory() {
    let folder = Folder::new();
    let tab = folder.write("crontab", "# sexton: name=printer\n0 0 1 1 * echo printed\n");
    let check = |state: &Path| {
        let up = Up::start(state, &["--crontab", &tab]);
        up.run(&["run", "default/printer", "--wait"]).expect(0);
        wait_until(DEADLINE, || !shell_output(&format!("grep -rl printed {}/logs || :", state.display())).is_empty());
        assert!(!up.printed().contains("can write"), "{}", up.printed());
        assert_eq!(up.stop(), Some(0));
    };
    for (name, mode) in [("for-all", 0o777), ("for-group", 0o775), ("sticky", 0o1777)] {
        let volume = folder.path(name);
        fs::create_dir(&volume).expect("folder");
        set_mode(&volume, mode);
        check(&volume.join("state"));
        let exec = volume.join("exec").display().to_string();
        sexton(&["exec", "--name", "x", "--state", &exec, "--", "true"]).expect(0);
    }
    std::os::unix::fs::symlink(folder.path("for-all/state"), folder.path("for-all/link")).expect("link");
    check(&folder.path("for-all/link"));
    if is_root() {
        let inner = folder.path("foreign/inner");
        fs::create_dir_all(&inner).expect("folder");
        chown(&inner, Some(OTHER), None).expect("root");
        chown(folder.path("foreign"), Some(OTHER), None).expect("root");
        check(&inner.join("state"));
    }
}

#[test]
fn client_commands_of_root_use_the_directory_of_another_user() {
    let folder = Folder::new();
    let Some(machine) = MinimalMachine::new(&folder.path(""), Path::new(env!("CARGO_BIN_EXE_sexton"))) else { return };
    let up = Up::serve(&folder.path("state"), machine.command(&["up"]));
    if is_root() {
        up.run(&["run", "sample/good", "--wait"]).expect(0);
        up.run(&["jobs"]).expect(0);
        let checked = up.run(&["check"]).expect(0);
        assert!(checked.text().contains("belongs to"), "{}", checked.text());
        let owners: Vec<u32> = below(&folder.path("state")).iter().map(|path| owner(path)).collect();
        assert!(owners.iter().all(|owner| *owner == 54_321), "{owners:?}");
    }
    drop(up);
}

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(54_321, |metadata| metadata.uid())
}

/// Everything below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
        }
    }
    found
}

/// The files and directories below that others than the owner can use, or that the owner cannot.
fn not_private(folder: &Path) -> Vec<String> {
    let wanted = |path: &Path| if path.is_dir() { 0o700 } else { 0o600 };
    let odd = below(folder).into_iter().filter(|path| path.exists() && mode(path) != wanted(path));
    odd.map(|path| format!("{:o} {}", mode(&path), path.display())).collect()
}

#[test]
fn every_file_is_private_with_any_umask_and_jobs_and_alert_commands_keep_it() {
    for mask in ["0000", "0077", "0777"] {
        let folder = Folder::new();
        let out = folder.text("alert");
        let config = format!(
            "[channel.pager]\ntype = \"command\"\ncommand = \"umask > {out}.new && chmod 600 {out}.new && \
             mv {out}.new {out}\"\n"
        );
        let config = folder.write("sexton.toml", &config);
        let sinks = format!(
            "[sink.a]\ntype = \"file\"\npath = \"{}\"\n[sink.b]\ntype = \"file\"\nmode = \"0640\"\npath = \"{}\"\n",
            folder.text("logs/{job}/all.log"),
            folder.text("shared/{job}.log")
        );
        let sinks = folder.write("sinks.toml", &sinks);
        let tab = folder.write("crontab", "# sexton: name=mask\n@manually umask; exit 3\n");
        let mut started = Command::new("sh");
        let arguments = ["up", "--config", &config, "--sinks", &sinks, "--crontab", &tab];
        started.args(["-c", &format!("umask {mask}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_sexton")]).args(arguments);
        let up = Up::serve(&folder.path("state"), started);
        let run = up.run(&["run", "default/mask", "--wait", "--json"]).expect(1).records().remove(0);
        let run_id = run["run_id"].as_str().expect("run_id");
        assert_eq!(up.run(&["logs", run_id]).expect(0).text().trim(), mask);
        wait_until(DEADLINE, || fs::read_to_string(&out).is_ok_and(|text| text.trim() == mask));
        let finished = |name: &str| fs::read_to_string(folder.path(name)).is_ok_and(|log| log.contains("run.finished"));
        wait_until(DEADLINE, || finished("logs/mask/all.log") && finished("shared/mask.log"));
        assert_eq!(not_private(&folder.path("state")), Vec::<String>::new(), "umask {mask}");
        assert_eq!(not_private(&folder.path("logs")), Vec::<String>::new(), "umask {mask}");
        assert_eq!(mode(&folder.path("shared")), 0o750);
        assert_eq!(mode(&folder.path("shared/mask.log")), 0o640);
        drop(up);
    }
}

#[test]
fn files_of_an_older_build_are_made_private_and_existing_files_of_a_sink_keep_their_mode() {
    let folder = Folder::new();
    let state = folder.path("state");
    let log = folder.write("good.log", "");
    let sinks = format!("[sink.a]\ntype = \"file\"\npath = \"{}\"\n", folder.text("{job}.log"));
    let sinks = folder.write("sinks.toml", &sinks);
    let up = Up::start(&state, &["--sinks", &sinks]);
    up.run(&["run", "sample/good", "--wait"]).expect(0);
    assert!(up.stop().is_some());
    for path in below(&state) {
        set_mode(&path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    set_mode(Path::new(&log), 0o644);
    fs::remove_file(state.join("modes-checked")).expect("made by the first start");
    std::os::unix::fs::symlink(&log, state.join("link")).expect("link");
    let up = Up::start(&state, &["--sinks", &sinks]);
    fs::remove_file(state.join("link")).expect("removed");
    assert_eq!(not_private(&state), Vec::<String>::new());
    assert_eq!(mode(Path::new(&log)), 0o644);
    up.run(&["run", "sample/good", "--wait"]).expect(0);
    assert_eq!(mode(Path::new(&log)), 0o644);
    drop(up);
}

#[test]
fn another_user_can_neither_open_nor_lock_the_ledger() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let state = folder.path("state");
    let up = Up::start(&state, &[]);
    // Even where an operator has opened the directories.
    for path in [folder.path(""), state.clone(), state.join("runner")] {
        set_mode(&path, 0o755);
    }
    for name in ["sexton.db", "sexton.db-wal", "sexton.db-shm", "lock", "token", "runner/runner.lock"] {
        let path = state.join(name);
        assert!(path.exists(), "{name}");
        let lock = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "flock", "-n"];
        let status = Command::new("setpriv").args(lock).arg(&path).arg("true").output().expect("setpriv");
        assert!(!status.status.success(), "{name} was locked");
        let error = String::from_utf8_lossy(&status.stderr).into_owned();
        assert!(error.contains("Permission denied"), "{name}: {error}");
    }
    up.run(&["run", "sample/good", "--wait"]).expect(0);
    drop(up);
}

const CREDENTIAL: &str = "credential-qzjw";

/// Prints every environment that this process can read.
const READ_ALL: &str = "env; for one in /proc/[0-9]*/environ; do tr '\\0' '\\n' < $one; done 2>/dev/null; true";

#[test]
fn a_job_of_the_same_user_finds_no_credential_of_up_in_any_environment() {
    let folder = Folder::new();
    let alert = folder.text("alert");
    let config = format!(
        "[channel.pager]\ntype = \"command\"\npass_env = [\"CHOSEN\"]\n\
         command = '''\n({READ_ALL}) > {alert}.new; mv {alert}.new {alert}'''\n"
    );
    let config = folder.write("sexton.toml", &config);
    let tab = folder.write("crontab", &format!("# sexton: name=reader\n@manually {READ_ALL}; exit 3\n"));
    let Some(machine) = MinimalMachine::new(&folder.path(""), Path::new(env!("CARGO_BIN_EXE_sexton"))) else { return };
    let variables = [
        &format!("AWS_SECRET_ACCESS_KEY={CREDENTIAL}"),
        &format!("SEXTON_TOKEN={CREDENTIAL}"),
        &format!("HTTPS_PROXY=http://user:{CREDENTIAL}@proxy"),
        "CHOSEN=passed-by-pass_env",
        "LANG=C.UTF-8",
    ];
    let up = Up::serve(
        &folder.path("state"),
        machine.command_with(&variables, &["up", "--config", &config, "--crontab", &tab]),
    );
    let state = folder.text("state");
    let client = |arguments: &[&str]| {
        let output = machine.command(&[arguments, &["--state", &state]].concat()).output().expect("a command");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    client(&["run", "default/reader", "--wait"]);
    let run = client(&["runs", "--json"]);
    let run: serde_json::Value = serde_json::from_str(run.lines().next().expect("a run")).expect("JSON");
    let output = client(&["logs", run["run_id"].as_str().expect("run_id")]);
    // The search works: it finds the job's own environment.
    assert!(output.contains("SEXTON_JOB=reader"), "{output}");
    assert!(!output.contains(CREDENTIAL), "{output}");
    wait_until(DEADLINE, || Path::new(&alert).exists());
    let seen = fs::read_to_string(&alert).expect("the alert's environment");
    assert!(seen.contains("CHOSEN=passed-by-pass_env") && seen.contains("LANG=C.UTF-8"), "{seen}");
    assert!(!seen.contains(CREDENTIAL), "{seen}");
    drop(up);
}
