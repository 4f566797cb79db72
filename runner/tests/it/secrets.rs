//! A job's secrets: available in time or not, and in no file afterwards, in no form.

use std::fs;
use std::path::Path;
use std::time::Duration;

use domain::event::Ended;
use domain::job::Job;
use domain::run::Outcome;

use crate::world::World;
use crate::world::{argv, shell};
use testbed::wait_for;

const SECRET: &str = "hunter2 & more/than \"that\"";

/// Prints the secret in pieces, as base64 at each offset, in a URL and in JSON.
const SECRET_PRINTER: &str = r#"
import base64, json, os, sys, urllib.parse, time
secret = os.environ["SECRET"]
print("plain", secret, "and again", secret + secret)
for before in ("", "x", "xy", "user:"):
    print("base64", base64.b64encode((before + secret + ":after").encode()).decode())
    print("url-safe", base64.urlsafe_b64encode((before + secret).encode()).decode())
print("url", urllib.parse.quote(secret), urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret))
print("json", json.dumps({"password": secret}), file=sys.stderr)
for line in os.environ.get("LINES", "").splitlines():
    print("line", line)
sys.stdout.flush()
for byte in secret.encode() + b" slowly\n":
    os.write(1, bytes([byte]))
    time.sleep(0.002)
os.write(1, secret.encode())
"#;

fn secret_printer() -> Job {
    argv(&["python3", "-c", SECRET_PRINTER])
}

fn encodings(secret: &str) -> Vec<String> {
    let json = serde_json::Value::from(secret).to_string();
    let mut encodings = vec![secret.to_owned(), json[1..json.len() - 1].to_owned()];
    // The base64 characters that depend only on its middle, computed by hand with base64(1) for the three offsets.
    encodings.extend(
        ["dW50ZXIyICYgbW9yZS90aGFuICJ0aGF0", "aHVudGVyMiAmIG1vcmUvdGhhbiAidGhhd", "h1bnRlcjIgJiBtb3JlL3RoYW4gInRoYX"]
            .map(str::to_owned),
    );
    encodings.extend(["hunter2%20%26%20more", "hunter2+%26+more"].map(str::to_owned));
    encodings
}

/// Every file below the folder, except those into which the test wrote the secret itself.
fn assert_nowhere(folder: &Path, secret: &str) {
    let mut folders = vec![folder.to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("folder").map(|entry| entry.expect("entry").path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap_or_default();
            files += 1;
            for encoding in encodings(secret) {
                let at = memchr::memmem::find(&bytes, encoding.as_bytes());
                assert!(at.is_none(), "{encoding} in {}: {}", path.display(), bytes.escape_ascii());
            }
        }
    }
    assert!(files > 5, "too few files were read");
}

#[test]
fn a_printed_secret_is_in_no_file_argument_or_report_in_any_encoding() {
    let mut world = World::new();
    let beside = tempfile::tempdir().expect("folder");
    let file = beside.path().join("secret");
    fs::write(&file, format!("{SECRET}\n")).expect("secret");
    world.start();
    let mut job = secret_printer();
    job.env.insert("SECRET".into(), format!("file:{}", file.display()));
    job.rules = vec!["default".into()];
    let order = world.order(job);
    let arguments = wait_for("the job", || {
        let started = fs::read_to_string(world.directory(&order).started()).ok()?;
        let pid = serde_json::from_str::<serde_json::Value>(&started).ok()?["pid"].as_u64()?;
        fs::read(format!("/proc/{pid}/cmdline")).ok()
    });
    assert!(memchr::memmem::find(&arguments, b"hunter2").is_none());
    let report = world.report(&order.run_id);
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.reason);
    let shipped = world.shipped(&order.run_id);
    assert!(!format!("{report:?}{shipped:?}").contains("hunter2"));
    let texts: Vec<&str> = shipped.iter().filter_map(|record| record["message"].as_str()).collect();
    assert!(texts.contains(&"plain *** and again ***"), "{texts:?}");
    assert!(texts.contains(&"json {\"password\": \"***\"}"), "{texts:?}");
    assert_eq!(texts.iter().filter(|text| text.ends_with("*** slowly")).count(), 1, "{texts:?}");
    world.end();
    assert_nowhere(world.folder.path(), SECRET);
    // The test can fail: the secret was really printed.
    assert!(fs::read_to_string(&file).is_ok_and(|text| text.contains(SECRET)));
}

#[test]
fn a_job_without_its_secret_fails_with_the_reason() {
    let mut world = World::new();
    world.start();
    let mut job = shell("echo never");
    job.env.insert("PASSWORD".into(), "env:NO_SUCH_VARIABLE".into());
    let order = world.order(job);
    let report = world.report(&order.run_id);
    assert_eq!((report.ended, report.outcome), (Ended::NotStarted, Outcome::Failed));
    for part in ["PASSWORD", "NO_SUCH_VARIABLE", "change the job"] {
        assert!(report.reason.contains(part), "{}", report.reason);
    }
    assert_eq!(report.output.stdout_lines, 0);
}

#[test]
fn a_failing_secret_lookup_is_retried() {
    let mut world = World::new();
    world.start();
    let mut job = shell("echo \"it is $PASSWORD\"");
    job.env.insert("PASSWORD".into(), "ssm:late".into());
    let order = world.order(job.clone());
    wait_for("two questions", || {
        fs::read_to_string(world.path("asked")).is_ok_and(|text| text.lines().count() >= 2).then_some(())
    });
    assert!(world.events(&order.run_id).is_empty());
    let mut tired = world.prepared(job.clone());
    tired.start_by = Some(jiff::Timestamp::now() + Duration::from_secs(1));
    world.send(&tired);
    let report = world.report(&tired.run_id);
    assert_eq!(report.outcome, Outcome::Missed);
    assert!(report.reason.contains("throttled"), "{}", report.reason);
    let stopped = world.order(job);
    wait_for("the runner has it", || world.directory(&stopped).order().exists().then_some(()));
    fs::write(world.path("stops").join(stopped.run_id.as_str()), "").expect("stop");
    assert_eq!(world.report(&stopped.run_id).outcome, Outcome::Stopped);
    fs::write(world.path("secrets/late"), "there at last").expect("secret");
    let report = world.report(&order.run_id);
    assert_eq!(report.outcome, Outcome::Succeeded, "{}", report.reason);
    assert_eq!(report.excerpt.first().map(|line| line.text.as_str()), Some("it is ***"));
}
