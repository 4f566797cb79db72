//! The sink `file` on what is no regular file: FIFOs, devices, sockets, standard streams.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use domain::line::{Position, Stream};
use sinks::status::SinkState;

use crate::memory::{RETRY, Run, config, deliver, start, wait_until};

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo starts").success());
}

fn sink(path: impl std::fmt::Display) -> String {
    format!("[sink.a]\ntype = \"file\"\nformat = \"json\"\npath = \"{path}\"\n{RETRY}")
}

/// Opens a FIFO for reading, without waiting for a writer.
fn reader(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).expect("the FIFO opens")
}

/// Reads what is there until `text` appears.
async fn read_until(fifo: &mut File, all: &mut String, text: &str) {
    let mut buffer = vec![0; 64 * 1024];
    let deadline = tokio::time::Instant::now() + testbed::DEADLINE;
    while !all.contains(text) {
        assert!(tokio::time::Instant::now() < deadline, "`{text}` did not arrive");
        match fifo.read(&mut buffer) {
            Ok(bytes) if bytes > 0 => all.push_str(&String::from_utf8_lossy(&buffer[..bytes])),
            _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    }
}

fn seqs(text: &str) -> Vec<u64> {
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect(line)["seq"].as_u64();
    text.lines().filter_map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_wait_for_the_reader_of_a_fifo_and_are_written_once() {
    const LINES: u64 = 3_000;
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("fifo");
    fifo(&path);
    let run = Run::new(1);
    run.print_numbers(0..LINES);
    run.finish();
    let (engine, _events) = start(&sink(path.display()));
    engine.add(run.feed());
    // Without a reader nothing is written, delivered or waited for.
    wait_until(|| engine.status().failing_since.is_some()).await;
    let status = engine.status();
    let shown = path.display();
    let wanted = format!("no process reads the FIFO {shown}; its lines wait until one opens it");
    assert_eq!((status.state, status.lag_lines, status.last_error), (SinkState::Retrying, LINES, Some(wanted.clone())));
    assert_eq!(sinks::check::check(&config(&sink(&shown)), "g").await, Err(wanted));
    sinks::probe::probe(&config(&sink(&shown))).await.expect("starts of runs do not wait for a reader");
    // A reader that is slow gets all lines once, although they exceed the pipe.
    let mut fifo = reader(&path);
    wait_until(|| engine.status().failing_since.is_none() || run.ahead_bytes_max() > 0).await;
    let mut all = String::new();
    read_until(&mut fifo, &mut all, "\"seq\":1,").await;
    assert!(!run.is_delivered(), "the pipe holds less than all lines");
    read_until(&mut fifo, &mut all, "run.finished").await;
    wait_until(|| run.is_delivered()).await;
    assert_eq!(seqs(&all), (1..=LINES).collect::<Vec<_>>());
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_the_reader_of_a_fifo_has_not_read_are_written_again_to_the_next_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("fifo");
    fifo(&path);
    let mut first = reader(&path);
    let run = Run::new(1);
    run.print(Stream::Stdout, b"one");
    let (engine, _events) = start(&sink(path.display()));
    engine.add(run.feed());
    let mut all = String::new();
    read_until(&mut first, &mut all, "\"message\":\"one\"").await;
    wait_until(|| run.durable() > Position::START).await;
    run.print(Stream::Stdout, b"two");
    engine.wake(&run.header.run_id);
    wait_until(|| rustix::io::ioctl_fionread(&first).is_ok_and(|unread| unread > 0)).await;
    drop(first);
    wait_until(|| engine.status().failing_since.is_some()).await;
    assert_eq!(engine.status().lag_lines, 1);
    let mut second = reader(&path);
    run.finish();
    engine.wake(&run.header.run_id);
    read_until(&mut second, &mut all, "run.finished").await;
    wait_until(|| run.is_delivered()).await;
    assert_eq!(seqs(&all), [1, 2]);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_written_without_a_sync_and_other_files_are_refused_in_plain_words() {
    let run = Run::new(1);
    run.print(Stream::Stdout, b"line");
    run.finish();
    deliver(&sink("/dev/null"), &run).await;
    let folder = tempfile::tempdir().expect("folder");
    let _listener = UnixListener::bind(folder.path().join("socket")).expect("bound");
    fs::create_dir(folder.path().join("logs")).expect("made");
    for name in ["socket", "logs"] {
        symlink(folder.path().join(name), folder.path().join(format!("to-{name}"))).expect("linked");
    }
    symlink(folder.path().join("absent"), folder.path().join("to-nothing")).expect("linked");
    symlink(folder.path().join("circle"), folder.path().join("circle")).expect("linked");
    let shown = folder.path().display();
    for (path, state, part) in [
        (
            "/dev/full".to_owned(),
            SinkState::Misconfigured,
            "cannot write to /dev/full: this device takes no more bytes; write the path of a file",
        ),
        ("/dev/stduot".to_owned(), SinkState::Misconfigured, "/dev/stduot does not exist"),
        (format!("{shown}/socket"), SinkState::Misconfigured, "is a socket; use type = \"syslog\" with address = "),
        (format!("{shown}/logs"), SinkState::Misconfigured, "is a directory; write the path of a file in it"),
        ("/proc/self/fd/1".to_owned(), SinkState::Misconfigured, "an open file of a process; for the output of"),
        ("/proc/1/fd/1".to_owned(), SinkState::Misconfigured, "write /dev/stdout"),
        ("/dev/fd/2".to_owned(), SinkState::Misconfigured, "write /dev/stderr"),
        ("/dev/fd/0".to_owned(), SinkState::Misconfigured, "/dev/fd/0 is an input; for the output of Sexton itself"),
        ("/dev/stdin".to_owned(), SinkState::Misconfigured, "/dev/stdin is an input; for the output of Sexton itself"),
        (format!("{shown}/to-socket"), SinkState::Misconfigured, "is a link to a socket; use type = \"syslog\" with"),
        (format!("{shown}/to-logs"), SinkState::Misconfigured, "which is never followed; write its target, /"),
        (format!("{shown}/to-nothing"), SinkState::Misconfigured, "is a symbolic link without a target; remove"),
        (format!("{shown}/circle/a.log"), SinkState::Misconfigured, "; "),
    ] {
        let run = Run::new(1);
        run.print(Stream::Stdout, b"kept");
        let (engine, _events) = start(&sink(&path));
        engine.add(run.feed());
        wait_until(|| engine.status().failing_since.is_some()).await;
        let error = engine.status().last_error.expect("an error");
        assert!(error.contains(part), "{path}: {error}");
        assert!(!error.contains("remove the link") || path.ends_with("to-nothing"), "{path}: {error}");
        crate::http_faults::assert_plain(&error);
        assert_eq!((engine.status().state, engine.status().lag_lines), (state, 1), "{path}: {error}");
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_of_a_process_without_one_is_refused_with_the_remedy() {
    if std::env::var_os(INSIDE).is_some() {
        println!("{}", sinks::check::check(&config(&sink("/dev/tty")), "g").await.expect_err("no terminal"));
        return;
    }
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(std::env::current_exe().expect("the test binary"));
    command.args(["--exact", &test_name(), "--nocapture"]).env(INSIDE, "1");
    let output = command.output().expect("setsid starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let wanted = "cannot open /dev/tty: no such device or address; a device must be attached and accept lines, so write \
                  the path of a file (for the output of Sexton itself, /dev/stdout)\n";
    assert!(text.contains(wanted), "{text}");
}

fn test_name() -> String {
    std::env::var("NEXTEST_TEST_NAME").unwrap_or_else(|_| std::thread::current().name().unwrap_or_default().to_owned())
}

/// Set in the process whose standard streams are tested.
const INSIDE: &str = "SEXTON_TEST_STANDARD_STREAMS";

#[tokio::test(flavor = "multi_thread")]
async fn standard_streams_of_every_kind_are_written() {
    if std::env::var_os(INSIDE).is_some() {
        for stream in ["/dev/stdout", "/dev/stderr"] {
            let run = Run::new(1);
            run.print(Stream::Stdout, format!("to {stream}").as_bytes());
            run.finish();
            deliver(&sink(stream), &run).await;
        }
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let file = File::create(folder.path().join("out")).expect("created");
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let name = test_name();
    let inside = || {
        let mut command = Command::new(std::env::current_exe().expect("the test binary"));
        command.args(["--exact", &name, "--nocapture"]).env(INSIDE, "1");
        command
    };
    // A file and a socket, as under systemd.
    let status = inside().stdout(file).stderr(std::os::fd::OwnedFd::from(theirs)).status().expect("it starts");
    assert!(status.success());
    let mut socket = String::new();
    ours.read_to_string(&mut socket).expect("its output");
    let file = fs::read_to_string(folder.path().join("out")).expect("its output");
    // Pipes, as in a container.
    let output = inside().output().expect("it starts");
    assert!(output.status.success());
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for (text, wanted) in [
        (file.as_str(), "to /dev/stdout"),
        (&socket, "to /dev/stderr"),
        (&stdout, "to /dev/stdout"),
        (&stderr, "to /dev/stderr"),
    ] {
        assert_eq!(text.matches(wanted).count(), 1, "{text}");
    }
}
