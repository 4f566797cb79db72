//! The ledger is locked, overwritten, deleted or on a disk that takes no writes: the channels are alerted without it,
//! `/api/health` reports it, and `up` recovers or refuses to start.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use testbed::{DEADLINE, SmallDisk, wait_until};

use crate::driver::{Folder, Up, command};
use crate::evidence::{alerts, job, pager, start_run, wait_for_end};

/// A job that fires while the test runs, and one that only `run` starts.
fn jobs(folder: &Folder) -> String {
    let every = "[[job]]\ngroup = \"t\"\nname = \"often\"\nschedule = \"@every 2s\"\ncommand = \"echo secret-word\"\n";
    folder.write("jobs.toml", &format!("{every}{}", job("by-hand", "echo done", "")))
}

/// The status and the JSON of `/api/health`.
fn health(state: &Path, token: Option<&str>) -> (u16, Value) {
    let server = fs::read_to_string(state.join("server.json")).expect("a server");
    let server: Value = serde_json::from_str(&server).expect("JSON");
    let address = server["url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an address");
    let mut stream = TcpStream::connect(address).expect("it listens");
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    write!(stream, "GET /api/health HTTP/1.0\r\n{token}\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    let status = page.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = page.split("\r\n\r\n").nth(1).expect("a body");
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {page}")))
}

/// The alerts about the store.
fn store_alerts(alert_file: &Path) -> Vec<Value> {
    let all = alerts(alert_file);
    all.into_iter().filter(|alert| (&alert["group"], &alert["job"]) == (&"sexton".into(), &"store".into())).collect()
}

/// Waits for the alert, and checks that health reports the fault without naming anything.
#[track_caller]
fn check_broken(up: &Up, state: &Path, alert_file: &Path, expected: &str) {
    wait_until(DEADLINE, || !store_alerts(alert_file).is_empty());
    let alert = store_alerts(alert_file).remove(0);
    assert_eq!(alert["kind"], "failed", "{alert}");
    assert!(alert["reason"].as_str().is_some_and(|reason| reason.contains(expected)), "{alert}");
    let (status, body) = health(state, None);
    assert_eq!((status, &body["status"]), (503, &"broken".into()), "{body}");
    assert!(body["reason"].as_str().is_some_and(|reason| reason.contains(expected)), "{body}");
    let text = body.to_string();
    for name in [state.display().to_string(), "often".to_owned(), "sexton.db".to_owned(), "/".to_owned()] {
        assert!(!text.contains(&name), "{text}");
    }
    let token = fs::read_to_string(state.join("token")).expect("a token");
    let (status, body) = health(state, Some(token.trim()));
    assert_eq!(status, 503);
    assert!(body["detail"].as_str().is_some_and(|detail| detail.contains(&state.display().to_string())), "{body}");
    assert!(!up.printed().contains("panicked"), "{}", up.printed());
}

/// Waits until health is good again, the recovery was alerted, and a job runs.
#[track_caller]
fn check_recovered(up: &Up, state: &Path, alert_file: &Path) {
    wait_until(DEADLINE, || health(state, None).0 == 200);
    // What is due within a few seconds is sent together: the alert of another system job may have joined it.
    let joined = |alert: &Value| alert["reason"].as_str().is_some_and(|all| all.contains("recovered: sexton/store"));
    let is_over = || {
        let alone = store_alerts(alert_file).iter().any(|alert| alert["kind"] == "recovered");
        alone || alerts(alert_file).iter().any(joined)
    };
    let start = std::time::Instant::now();
    while !is_over() {
        assert!(start.elapsed() < DEADLINE, "{:?}\n{}", alerts(alert_file), up.printed());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(store_alerts(alert_file)[0]["kind"], "failed");
    let run_id = start_run(up, "by-hand");
    assert_eq!(wait_for_end(up, &run_id, DEADLINE)["outcome"], "succeeded");
}

struct Store {
    folder: Folder,
    state: PathBuf,
    alert_file: PathBuf,
    configuration: String,
    jobs: String,
}

impl Store {
    fn new() -> Store {
        let folder = Folder::new();
        let state = folder.path("state");
        Store::at(folder, state)
    }

    fn at(folder: Folder, state: PathBuf) -> Store {
        let (configuration, alert_file) = pager(&folder);
        let jobs = jobs(&folder);
        Store { folder, state, alert_file, configuration, jobs }
    }

    #[track_caller]
    fn start(&self, more: &[&str]) -> Up {
        let mut arguments = vec!["--jobs", &*self.jobs, "--config", &*self.configuration];
        arguments.extend(more);
        Up::start(&self.state, &arguments)
    }

    fn ledger(&self) -> PathBuf {
        self.state.join("sexton.db")
    }

    /// The message of a start that is refused.
    #[track_caller]
    fn refused(&self) -> String {
        let state = self.state.display().to_string();
        let port = testbed::free_port().to_string();
        let arguments =
            ["up", "--jobs", &self.jobs, "--config", &self.configuration, "--state", &state, "--listen", &port];
        let output = command(&arguments).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[test]
fn a_locked_ledger_is_alerted_without_it_and_works_when_the_lock_ends() {
    let store = Store::new();
    let up = store.start(&[]);
    up.wait_for_run("t/often", "succeeded");
    let lock = embedded::lock_by_hand(&store.ledger()).expect("locked");
    check_broken(&up, &store.state, &store.alert_file, "locked by another process");
    drop(lock);
    check_recovered(&up, &store.state, &store.alert_file);
}

#[test]
fn an_overwritten_ledger_is_alerted_and_the_next_start_is_refused_until_a_copy_is_restored() {
    let store = Store::new();
    let up = store.start(&[]);
    up.wait_for_run("t/often", "succeeded");
    assert_eq!(up.stop(), Some(0));
    let up = store.start(&[]);
    let copy = store.folder.text("copy");
    up.run(&["backup", &copy]).expect(0);
    let length = fs::metadata(store.ledger()).expect("there").len();
    let file = fs::File::options().write(true).open(store.ledger()).expect("opened");
    file.write_all_at(&vec![0xa5; length as usize - 6 * 4096], 5 * 4096).expect("overwritten");
    check_broken(&up, &store.state, &store.alert_file, "damaged");
    // An alert that is sent and not yet noted is sent again.
    let noted = store.state.join("store-alert.json");
    let is_noted = |text: String| serde_json::from_str::<Value>(&text).is_ok();
    wait_until(DEADLINE, || fs::read_to_string(&noted).is_ok_and(is_noted));
    up.kill();
    for _ in 0..3 {
        let message = store.refused();
        assert!(message.contains("is damaged") && message.contains("sexton restore FILE"), "{message}");
    }
    assert_eq!(store_alerts(&store.alert_file).len(), 1, "one alert an hour over all restarts");
    let state = store.state.display().to_string();
    crate::driver::sexton(&["restore", &copy, "--state", &state]).expect(0);
    let up = store.start(&[]);
    check_recovered(&up, &store.state, &store.alert_file);
}

#[test]
fn a_deleted_ledger_is_alerted_and_the_next_start_is_refused_once_an_hour() {
    let store = Store::new();
    let up = store.start(&[]);
    up.wait_for_run("t/often", "succeeded");
    assert_eq!(up.stop(), Some(0));
    fs::remove_file(store.ledger()).expect("deleted");
    for _ in 0..3 {
        let message = store.refused();
        assert!(message.contains("is missing") && message.contains("--new-ledger"), "{message}");
    }
    let sent = store_alerts(&store.alert_file);
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(sent[0]["reason"].as_str().is_some_and(|reason| reason.contains("cannot start")), "{sent:?}");
    // After an hour, the next start alerts again.
    let file = store.state.join("store-alert.json");
    let text = fs::read_to_string(&file).expect("there");
    let mut remembered: Value = serde_json::from_str(&text).expect("JSON");
    let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(3601);
    remembered["at"] = hour_ago.to_string().into();
    fs::write(&file, remembered.to_string()).expect("written");
    store.refused();
    assert_eq!(store_alerts(&store.alert_file).len(), 2);

    let up = store.start(&["--new-ledger"]);
    wait_until(DEADLINE, || store_alerts(&store.alert_file).len() == 3);
    assert_eq!(store_alerts(&store.alert_file)[2]["kind"], "recovered");
    fs::remove_file(store.ledger()).expect("deleted");
    wait_until(DEADLINE, || health(&store.state, None).0 == 503);
    assert!(!up.printed().contains("panicked"), "{}", up.printed());
}

#[test]
fn a_process_that_a_cut_file_ended_is_alerted_once_at_the_next_start() {
    let store = Store::new();
    let mut up = store.start(&[]);
    up.wait_for_run("t/often", "succeeded");
    let index = fs::File::options().write(true).open(store.state.join("sexton.db-shm")).expect("there while it runs");
    index.set_len(0).expect("cut");
    wait_until(DEADLINE, || up.has_ended());
    up.kill();

    let up = store.start(&[]);
    wait_until(DEADLINE, || !store_alerts(&store.alert_file).is_empty());
    let alert = store_alerts(&store.alert_file).remove(0);
    let reason = alert["reason"].as_str().expect("a reason");
    assert!(reason.contains("ended by the signal BUS at ") && reason.contains("sexton.db-shm"), "{reason}");
    up.wait_for_run("t/often", "succeeded");
    assert_eq!(up.stop(), Some(0));
    let up = store.start(&[]);
    up.wait_for_run("t/often", "succeeded");
    assert_eq!(up.stop(), Some(0));
    assert_eq!(store_alerts(&store.alert_file).len(), 1);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_alerted() {
    let Some(disk) = SmallDisk::mount(64 << 20) else { return };
    let store = Store::at(Folder::new(), disk.path().join("state"));
    let up = store.start(&[]);
    up.wait_for_run("t/often", "succeeded");
    // Files that are open for writing prevent a remount, so the directory of the runs is made immutable.
    let runner = store.state.join("runner");
    let chattr = |flag: &str| std::process::Command::new("chattr").arg(flag).arg(&runner).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        return eprintln!("left out: chattr +i is not possible here");
    }
    wait_until(DEADLINE, || !store_alerts(&store.alert_file).is_empty());
    let (status, body) = health(&store.state, None);
    assert!(chattr("-i").is_ok_and(|status| status.success()));
    assert_eq!(status, 503, "{body}");
    check_recovered(&up, &store.state, &store.alert_file);
    assert_eq!(up.stop(), Some(0));

    let mount = |option: &str| {
        std::process::Command::new("mount").args(["-o", option]).arg(disk.path()).status().expect("mount").success()
    };
    if !mount("remount,ro") {
        return eprintln!("left out: the disk cannot be mounted read-only here");
    }
    let messages = [store.refused(), store.refused()];
    assert!(messages.iter().all(|message| message.contains("Read-only file system")), "{messages:?}");
    // The hour counts from the first alert of this store, and the disk keeps no note of the second.
    let sent = store_alerts(&store.alert_file);
    assert!(sent.len() <= 3, "{sent:?}");
    assert!(mount("remount,rw"));
}

#[test]
fn a_disk_without_inodes_is_alerted_and_works_again() {
    let Some(disk) = SmallDisk::mount(64 << 20) else { return };
    let store = Store::at(Folder::new(), disk.path().join("state"));
    let up = store.start(&[]);
    up.wait_for_run("t/often", "succeeded");
    let ballast = disk.path().join("ballast");
    fs::create_dir(&ballast).expect("made");
    let inodes = format!("remount,nr_inodes={}", inodes_in_use(disk.path()) + 8);
    let limited = std::process::Command::new("mount").args(["-o", &inodes]).arg(disk.path()).status();
    if !limited.is_ok_and(|status| status.success()) {
        return eprintln!("left out: inodes cannot be limited here");
    }
    // Until none is left, also of those that are kept for starts.
    let mut number = 0;
    wait_until(DEADLINE, || {
        while fs::File::create(ballast.join(number.to_string())).is_ok() {
            number += 1;
        }
        !store_alerts(&store.alert_file).is_empty()
    });
    let alert = store_alerts(&store.alert_file).remove(0);
    assert!(alert["reason"].as_str().is_some_and(|reason| reason.contains("no free inodes")), "{alert}");
    assert_eq!(health(&store.state, None).0, 503);
    fs::remove_dir_all(&ballast).expect("removed");
    // The runs since then need more than the few that are free.
    let more = std::process::Command::new("mount").args(["-o", "remount,nr_inodes=100000"]).arg(disk.path()).status();
    assert!(more.is_ok_and(|status| status.success()));
    check_recovered(&up, &store.state, &store.alert_file);
}

fn inodes_in_use(path: &Path) -> u64 {
    let output = std::process::Command::new("df").args(["--output=iused"]).arg(path).output().expect("df");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number")
}

#[test]
fn systemd_is_notified_of_the_start_of_life_and_of_the_stop() {
    let store = Store::new();
    let socket = store.folder.path("notify");
    let received = UnixDatagram::bind(&socket).expect("bound");
    received.set_read_timeout(Some(DEADLINE)).expect("set");
    let mut command = command(&["up", "--jobs", &store.jobs]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000");
    let up = Up::serve(&store.state, command);
    let next = || {
        let mut bytes = [0; 100];
        let length = received.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut messages = vec![next(), next(), next(), next()];
    messages.sort();
    messages.dedup();
    assert_eq!(messages, ["READY=1", "WATCHDOG=1"]);
    assert_eq!(up.stop(), Some(0));
    received.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
    let mut last = String::new();
    let mut bytes = [0; 100];
    while let Ok(length) = received.recv(&mut bytes) {
        last = String::from_utf8_lossy(&bytes[..length]).into_owned();
    }
    assert_eq!(last, "STOPPING=1");
}

#[test]
fn one_job_record_that_cannot_be_read_is_listed_with_its_fault_beside_the_others() {
    let store = Store::new();
    let names = ["cut", "number", "renamed", "foreign"];
    let jobs = store.folder.write("more.toml", &names.map(|name| job(name, "echo x", "")).concat());
    drop(store.start(&["--jobs", &jobs]));
    embedded::edit_by_hand(
        &store.ledger(),
        "UPDATE jobs SET body = '{\"group\":\"t\",' WHERE name = 'cut';
         UPDATE jobs SET body = 7 WHERE name = 'number';
         UPDATE jobs SET body = replace(body, '\"renamed\"', '\"other\"') WHERE name = 'renamed';
         UPDATE jobs SET body = '{\"group\":\"t\",\"name\":\"foreign\",\"command\":[]}' WHERE name = 'foreign';",
    )
    .expect("edited");
    let up = store.start(&[]);
    let text = up.run(&["jobs"]).expect(0).text();
    for name in ["often", "by-hand"] {
        assert!(text.lines().any(|line| line.contains(&format!("t/{name} ")) && line.contains(" on ")), "{text}");
    }
    for name in names {
        let row = |line: &&str| line.contains(&format!("t/{name} ")) && line.contains("unreadable");
        assert_eq!(text.lines().filter(row).count(), 1, "{text}");
    }
    assert!(text.contains("the stored JSON is unreadable"), "{text}");
    let records = up.records(&["jobs"]);
    let faulty = records.iter().filter(|record| record["fault"].is_string() && record["name"].is_string()).count();
    assert_eq!((records.len(), faulty), (6, 4), "{records:?}");
}
