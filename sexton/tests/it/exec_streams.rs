//! `exec` between other programs: every byte passes in both directions, and its readers and writers see what they would
//! see without it.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use testbed::{DEADLINE, SmallDisk, wait_until};

use crate::driver::{Folder, command, sexton, sexton_with_input};

/// `exec` of a shell script, in this state directory.
fn exec(folder: &Folder, options: &[&str], script: &str) -> Command {
    let mut command = command(&["exec", "--name", "piped", "--state", &folder.text("state")]);
    command.args(options).args(["--", "sh", "-c", script]);
    command
}

/// A line of bash in which `$S` is `sexton exec` with this state directory.
fn bash(folder: &Folder, line: &str) -> (Option<i32>, String) {
    let call = format!("{} exec --state {} --name piped --", env!("CARGO_BIN_EXE_sexton"), folder.text("state"));
    let output = Command::new("bash").args(["-c", line]).env("S", call).env("TZ", "UTC").output().expect("bash");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Bytes that a text filter would damage: all values, long and empty lines, no newline at the end.
fn binary(bytes: usize) -> Vec<u8> {
    let mut value = 1u32;
    let next = |value: &mut u32| {
        *value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*value >> 24) as u8
    };
    let mut all: Vec<u8> = (0..bytes).map(|_| next(&mut value)).collect();
    all.extend_from_slice(b"\n\n\0last line without an end");
    all
}

#[test]
fn every_byte_passes_in_both_directions() {
    let folder = Folder::new();
    let state = folder.text("state");
    let sent = binary(3_000_000);
    let cat = |options: &[&str], input: &[u8]| {
        let words = [&["exec", "--name", "cat", "--state", &state], options, &["--", "cat"]].concat();
        sexton_with_input(&words, input).expect(0)
    };
    let output = cat(&[], &sent);
    assert!(output.out == sent, "{} of {} bytes", output.out.len(), sent.len());
    assert_eq!(output.err, "");
    assert_eq!(cat(&["--no-tee", "--tee"], b"a").out, b"a");
    // Without the streams, the command reads and prints nothing; the run is recorded.
    let silent = cat(&["--no-tee"], &sent);
    assert_eq!((silent.text().as_str(), silent.err.as_str()), ("", ""));

    // Files, the null device and closed descriptors.
    let file = folder.path("input");
    std::fs::write(&file, &sent).expect("written");
    let (to, state) = (folder.path("output"), folder.text("state"));
    let mut from_file = command(&["exec", "--name", "cat", "--state", &state, "--", "cat"]);
    from_file.stdin(std::fs::File::open(&file).expect("file")).stdout(std::fs::File::create(&to).expect("file"));
    assert!(from_file.status().expect("exec").success());
    assert!(std::fs::read(&to).expect("output") == sent);
    let check = |line: &str, expected: (i32, &str)| {
        assert_eq!(bash(&folder, line), (Some(expected.0), expected.1.to_owned()), "{line}");
    };
    check("$S cat < /dev/null; echo $?", (0, "0\n"));
    check("$S cat <&-; echo $?", (0, "1\n"));
    check("$S sh -c 'exit 4' >&- 2>&-; echo $?", (0, "4\n"));
    check("seq 100000 | $S gzip -c | gzip -dc | wc -l", (0, "100000\n"));
    check("$S sh -c 'echo out; echo err >&2' 2>&1 >/dev/null", (0, "err\n"));
    // Further descriptors, the working directory, umask and words that are no text.
    check("exec 7>&1; $S sh -c 'echo seven >&7'", (0, "seven\n"));
    check("cd /usr; umask 27; $S sh -c 'pwd; umask'", (0, "/usr\n0027\n"));
    let word = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let output = command(&["exec", "--name", "x", "--state", &state, "--", "printf", "%s"]).arg(word).output();
    assert_eq!(output.expect("exec").stdout, b"\xff\xfe");
}

#[test]
fn both_streams_flow_independently_at_the_pace_of_their_readers() {
    let folder = Folder::new();
    // More than all pipes hold: the command waits for its reader, and its other stream does not.
    let script = "head -c 2000000 /dev/zero & echo first >&2; wait; echo second >&2";
    let mut child = exec(&folder, &[], script);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("exec");
    let (mut out, mut err) = (child.stdout.take().expect("pipe"), child.stderr.take().expect("pipe"));
    let mut first = [0; 6];
    err.read_exact(&mut first).expect("read");
    assert_eq!(&first, b"first\n");
    let mut zeroes = Vec::new();
    out.read_to_end(&mut zeroes).expect("read");
    let mut rest = String::new();
    err.read_to_string(&mut rest).expect("read");
    assert_eq!((zeroes.len(), rest.as_str()), (2_000_000, "second\n"));
    assert!(child.wait().expect("wait").success());
}

#[test]
fn a_reader_that_goes_away_ends_the_command_as_it_does_without_exec() {
    let folder = Folder::new();
    let check = |line: &str, expected: &str| {
        for call in ["$S", ""] {
            let line = line.replace("CALL", call);
            assert_eq!(bash(&folder, &format!("set -o pipefail; {line}; echo $?")).1, expected, "{line}");
        }
    };
    check("CALL sh -c 'while :; do echo x; done' | head -1", "x\n141\n");
    check("CALL yes | head -2", "y\ny\n141\n");
    check("CALL sh -c 'trap \"\" PIPE; while echo x 2>/dev/null; do :; done; exit 9' | head -1", "x\n9\n");
    // A command that writes once after its reader has gone, and one whose reader takes everything.
    let go = folder.text("go");
    check(
        &format!(
            "rm -f {go}; CALL sh -c 'echo a; until [ -e {go} ]; do sleep 0.01; done; echo b' | (head -1; exec 0<&-; touch {go})"
        ),
        "a\n141\n",
    );
    check("CALL sh -c 'echo a; exit 3' | cat", "a\n3\n");
    // The end of a command does not wait for its children in the background, nor does its reader.
    let (done, folder_path) = (folder.text("done"), folder.text(""));
    let line = format!(
        "$S sh -c '(while [ ! -e {done} ] && [ -d {folder_path} ]; do sleep 0.01; done) & echo first' | cat; touch {done}"
    );
    assert_eq!(bash(&folder, &line).1, "first\n");
}

#[test]
fn the_caller_gets_every_byte_while_the_disk_drops_lines() {
    let Some(disk) = SmallDisk::mount(24 << 20) else { return };
    let folder = Folder::new();
    let state = disk.path().join("state").display().to_string();
    let script = "seq 1 3000000";
    let output = sexton(&["exec", "--name", "flood", "--state", &state, "--", "sh", "-c", script]).expect(0);
    let expected: usize = (1..=3_000_000).map(|number: u32| number.to_string().len() + 1).sum();
    assert_eq!((output.out.len(), output.text().lines().last()), (expected, Some("3000000")));
    assert!(output.err.contains("are not kept: the disk refused them"), "{}", output.err);
    // What the caller of a full disk cannot get is an error, as it is for the command.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("device");
    let failed = exec(&folder, &[], "echo lost").stdout(full).output().expect("exec");
    let message = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && message.contains("could not be written: No space left"), "{message}");
}

#[test]
fn make_runs_its_recipes_through_exec_with_its_job_server() {
    if Command::new("make").arg("--version").output().is_err() {
        eprintln!("make is not installed; left out");
        return;
    }
    let folder = Folder::new();
    let mut file = std::fs::File::create(folder.path("Makefile")).expect("file");
    let call = format!("{} exec --state {} --name", env!("CARGO_BIN_EXE_sexton"), folder.text("state"));
    writeln!(
        file,
        "all: one two\n\t@cat one two\none:\n\t@{call} one -- sh -c 'echo 1' > $@\ntwo:\n\t@+{call} two -- $(MAKE) -s inner > \
         $@\ninner:\n\t@echo 2\nbad:\n\t@{call} bad -- sh -c 'exit 3'\n"
    )
    .expect("written");
    let make = |arguments: &[&str]| {
        let output = Command::new("make").arg("-C").arg(folder.path("")).args(arguments).output().expect("make");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), err)
    };
    let (code, out, err) = make(&["-s", "-j2", "all"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "1\n2\n", ""));
    let (code, _, err) = make(&["-s", "bad"]);
    assert!(code == Some(2) && err.contains("Error 3"), "{err}");
    wait_until(DEADLINE, || {
        let runs = sexton(&["runs", "--state", &folder.text("state"), "--json"]).records();
        ["one", "two", "bad"]
            .iter()
            .all(|name| runs.iter().any(|run| run["job"] == *name && run["outcome"].is_string()))
    });
}
