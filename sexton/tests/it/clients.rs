//! Clients of a running `up`: many, unknown ones, and what is recorded of the changes that they request.

use std::io::Write;
use std::net::TcpStream;

use testbed::{DEADLINE, wait_until};

use crate::driver::{Folder, Up, command, sexton};

const CRONTAB: &str = "# sexton: name=tick\n@every 1s echo tick\n# sexton: name=long\n@manually sleep 600\n\
    # sexton: name=once\n@manually true\n";

fn start(folder: &Folder) -> (Up, String) {
    let up = Up::start(&folder.path("state"), &["--crontab", &folder.write("crontab", CRONTAB)]);
    let printed = up.printed();
    let address = printed.split("serves http://").nth(1).and_then(|rest| rest.lines().next()).expect("an address");
    (up, address.to_owned())
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("set");
    matches!(stream.peek(&mut [0; 1]), Err(why) if why.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn connections_without_a_token_stop_neither_jobs_nor_commands() {
    let folder = Folder::new();
    let (up, address) = start(&folder);
    let connections: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).expect("connected");
            // Fails when the server has closed it already.
            let _closed = stream.write_all(if number % 2 == 0 { b"" } else { b"GET /api/jobs HTTP/1.1\r\n" });
            stream
        })
        .collect();
    assert_eq!(up.records(&["jobs"]).len(), 3);
    wait_until(DEADLINE, || connections.iter().filter(|stream| is_open(stream)).count() <= 64);
    // Not `tick`: a firing of it may be running, and its runs do not overlap.
    let ended = up.run(&["run", "default/once", "--wait"]).expect(0);
    assert!(ended.text().contains("succeeded"), "{}", ended.text());
}

#[test]
fn wrong_tokens_are_logged_once_with_their_address() {
    let folder = Folder::new();
    let (up, address) = start(&folder);
    for _ in 0..3 {
        let mut client = command(&["jobs", "--server", &format!("http://{address}")]);
        let output = client.env("SEXTON_TOKEN", "wrong").output().expect("run");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("refused the token"), "{output:?}");
    }
    let printed = up.printed();
    let lines: Vec<&str> = printed.lines().filter(|line| line.contains("wrong token")).collect();
    assert!(lines.len() == 1 && lines[0].contains("127.0.0.1"), "{printed}");
}

#[test]
fn a_listen_address_beyond_loopback_needs_plain() {
    let folder = Folder::new();
    let port = testbed::free_port().port();
    let (state, any, own) = (folder.text("state"), format!("0.0.0.0:{port}"), format!("[::]:{port}"));
    for address in [&any, &own] {
        let refused = sexton(&["up", "--state", &state, "--listen", address]).expect(2);
        assert!(refused.err.contains("plain = true") && refused.err.contains(address.as_str()), "{}", refused.err);
    }
    let config = folder.write("sexton.toml", &format!("listen = \"{any}\"\n"));
    let refused = sexton(&["up", "--state", &state, "--config", &config]).expect(2);
    assert!(refused.err.contains("plain = true"), "{}", refused.err);
    let refused = sexton(&["runner", "--group", "g", "--state", &state, "--listen", &any]).expect(2);
    assert!(refused.err.contains("plain = true"), "{}", refused.err);
    assert!(!folder.path("state").exists(), "a refused start leaves nothing");

    let config = folder.write("sexton.toml", "plain = true\n");
    for arguments in [&["--plain"][..], &["--config", &config]] {
        let mut up = command(&["up", "--state", &state, "--listen", &any]);
        let mut up = testbed::ReadyProcess::spawn(up.args(arguments)).expect("the binary starts");
        assert!(up.is_ready_within(DEADLINE), "{}", up.printed());
        assert!(up.printed().contains("serves http://127.0.0.1:"), "{}", up.printed());
        assert_eq!(up.stop(), Some(0));
    }
}

#[test]
fn changes_are_logged_and_a_stopped_run_names_who_requested_it() {
    let folder = Folder::new();
    let (up, _) = start(&folder);
    up.run(&["job", "pause", "default/tick", "--why", "disk full"]).expect(0);
    up.run(&["job", "resume", "default/tick"]).expect(0);
    let other = folder.write("other", "# sexton: name=other\n@manually true\n");
    up.run(&["apply", &other]).expect(0);
    up.run(&["apply", &other, "--dry-run"]).expect(0);
    up.run(&["job", "remove", "default/other"]).expect(0);
    up.run(&["maintenance", "on", "--group", "db", "--until", "1h", "--why", "move"]).expect(0);
    up.run(&["maintenance", "off", "--group", "db"]).expect(0);
    let run_id = up.run(&["run", "default/long"]).expect(0).text().trim().to_owned();
    wait_until(DEADLINE, || up.records(&["show", &run_id])[0]["state"] == "running");
    up.run(&["stop", &run_id]).expect(0);
    let stopped = up.wait_for_run("default/long", "stopped");
    let reason = stopped["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("stopped on request of user:") && reason.contains(" from 127.0.0.1"), "{reason}");

    let printed = up.printed();
    for change in [
        "job default/tick paused: disk full",
        "job default/tick resumed",
        "other applied: 1 job added, 0 changed, 0 removed",
        "job default/other removed",
        "maintenance of group db started until ",
        "maintenance of group db ended",
        &format!("run {run_id} of job default/long started"),
        &format!("stop of run {run_id} of job default/long requested"),
    ] {
        let lines: Vec<&str> = printed.lines().filter(|line| line.contains(change)).collect();
        let [line] = lines.as_slice() else { panic!("{change} is in {} lines of\n{printed}", lines.len()) };
        assert!(line.contains("user:") && line.contains("127.0.0.1"), "{line}");
    }
}

#[test]
fn a_pause_until_an_instant_that_has_passed_is_a_fault() {
    let folder = Folder::new();
    let (up, _) = start(&folder);
    let past = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1)).to_string();
    for arguments in [&["job", "pause", "default/long", "--until", &past][..], &["maintenance", "on", "--until", &past]]
    {
        let refused = up.run(arguments).expect(2);
        assert!(refused.err.contains("has passed") && refused.text().is_empty(), "{}", refused.err);
    }
    assert!(up.records(&["job", "show", "default/long"])[0].get("paused").is_none());
}
