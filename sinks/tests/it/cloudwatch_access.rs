//! How the CloudWatch sink authenticates: profiles in files, roles with an external id, credentials that expire, TLS.
//! Against moto, whose STS and logs are one server, and which keeps every request.

#![expect(unsafe_code, reason = "profiles come from the environment, which a test must set")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::sync::{LazyLock, Mutex};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sinks::engine::{Engine, Environment};
use sinks::error::ErrorClass;
use sinks::status::SinkEvent;
use tempfile::TempDir;
use testbed::{Moto, certificates};
use tokio::sync::mpsc;

use crate::cloudwatch::{self, GROUP, deliver};
use crate::memory::{RETRY, Run, config, start, wait_until};
use crate::strict_logs::{Plan, StrictLogs};

/// The files of the AWS tools, in place of those in the home directory. Each test adds its own profiles.
pub(crate) struct Files {
    /// The home directory.
    folder: TempDir,
    config: PathBuf,
    credentials: PathBuf,
    /// Configuration and credentials of all tests so far.
    added: Mutex<(String, String)>,
}

pub(crate) static FILES: LazyLock<Files> = LazyLock::new(|| {
    let folder = TempDir::with_prefix("aws-").expect("a temporary folder");
    let (config, credentials) = (folder.path().join("config"), folder.path().join("credentials"));
    let home = folder.path().to_owned();
    for (name, path) in [("AWS_CONFIG_FILE", &config), ("AWS_SHARED_CREDENTIALS_FILE", &credentials), ("HOME", &home)] {
        #[expect(clippy::disallowed_methods, reason = "where profiles are found in the environment is under test")]
        // SAFETY: tests read the environment through std only, which locks it.
        unsafe {
            std::env::set_var(name, path);
        }
    }
    Files { folder, config, credentials, added: Mutex::default() }
});

impl Files {
    /// Writes a file below the home directory.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, text).expect("written");
    }

    /// Adds sections to the configuration and to the credentials.
    pub(crate) fn add(&self, config: &str, credentials: &str) {
        let mut added = self.added.lock().expect("lock");
        added.0.push_str(config);
        added.1.push_str(credentials);
        replace(&self.config, &added.0);
        replace(&self.credentials, &added.1);
    }

    fn replace_key(&self, old: &str, new: &str) {
        let mut added = self.added.lock().expect("lock");
        added.1 = added.1.replace(old, new);
        replace(&self.credentials, &added.1);
    }
}

/// In one step: no reader may see half a file.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::rename(new, path).expect("renamed");
}

/// A sink without region, endpoint and credentials.
pub(crate) fn sink(options: &str) -> String {
    let options_of_all = cloudwatch::options("nowhere");
    let kept = options_of_all.lines().filter(|line| !line.starts_with("region") && !line.starts_with("endpoint"));
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    format!("[sink.aws]\n{kept}{options}{RETRY}")
}

fn run_of(lines: u64) -> Run {
    let run = Run::new(1);
    run.print_numbers(0..lines);
    run.finish();
    run
}

/// Action (or the form that is sent to STS), access key id of the signature, and whether there was a session token.
fn calls(server: &Moto) -> Vec<(String, String, bool)> {
    let requests = server.requests();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let call = |request: &Value| {
        let headers = &request["headers"];
        let target = text(&headers["X-Amz-Target"]);
        let action = target.strip_prefix("Logs_20140328.").map_or_else(|| form(&text(&request["body"])), str::to_owned);
        let authorization = text(&headers["Authorization"]);
        let key = authorization.split("Credential=").nth(1).and_then(|rest| rest.split('/').next());
        (action, key.unwrap_or_default().to_owned(), headers["X-Amz-Security-Token"].is_string())
    };
    requests.iter().map(call).collect()
}

/// Decodes base64 (RFC 4648 section 4).
fn form(encoded: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = encoded.bytes().filter_map(|byte| ALPHABET.iter().position(|known| *known == byte));
    let (mut bits, mut count, mut bytes) = (0usize, 0, Vec::new());
    for digit in digits {
        (bits, count) = ((bits << 6 | digit) & 0xffff, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn assumptions(server: &Moto) -> usize {
    calls(server).iter().filter(|(action, ..)| action.contains("Action=AssumeRole&")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_profile_wins_over_the_environment() {
    let Some(server) = Moto::start() else { return };
    let endpoint = server.endpoint();
    FILES.add(
        &format!(
            "[profile named]\nregion = eu-west-1\nservices = named\n[services named]\ncloudwatch_logs =\n  \
             endpoint_url = {endpoint}\n"
        ),
        "[named]\naws_access_key_id = 333333333333\naws_secret_access_key = secret\n",
    );
    deliver(&sink("profile = \"named\"\n"), &[&run_of(20)]).await.shutdown().await;
    let calls = calls(&server);
    assert!(calls.len() > 1 && calls.iter().all(|(_, key, _)| key == "333333333333"), "{calls:?}");
    let requests = server.requests();
    let signed = requests[0]["headers"]["Authorization"].as_str().expect("signed");
    assert!(signed.contains("/eu-west-1/logs/aws4_request"), "{signed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_profile_is_reported_at_once() {
    FILES.add("", "");
    let (engine, mut events) = start(&sink("region = \"us-east-1\"\nprofile = \"absent\"\n"));
    engine.add(run_of(1).feed());
    let Some(SinkEvent::Trouble(trouble)) = events.recv().await else { panic!("no trouble event") };
    assert_eq!(trouble.class, ErrorClass::Misconfigured, "{}", trouble.error);
    assert!(trouble.error.contains("absent"), "{}", trouble.error);
    engine.shutdown().await;
}

/// A profile in another account than the role's, with moto as its STS.
fn role_profile(name: &str, server: &Moto) -> String {
    let endpoint = server.endpoint();
    FILES.add(
        &format!("[profile {name}]\nservices = {name}\n[services {name}]\nsts =\n  endpoint_url = {endpoint}\n"),
        &format!("[{name}]\naws_access_key_id = 333333333333\naws_secret_access_key = secret\n"),
    );
    sink(&format!(
        "region = \"us-east-1\"\nendpoint = \"{endpoint}\"\nprofile = \"{name}\"\n\
         role_arn = \"arn:aws:iam::222222222222:role/logs\"\nexternal_id = \"house-7\"\n"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_assumed_with_its_external_id_and_its_keys_sign_every_call() {
    let Some(server) = Moto::start() else { return };
    deliver(&role_profile("role", &server), &[&run_of(20)]).await.shutdown().await;
    let calls = calls(&server);
    let (assumed, puts) = calls.split_first().expect("calls");
    assert!(assumed.0.contains("Action=AssumeRole&") && assumed.0.contains("&ExternalId=house-7"), "{assumed:?}");
    assert!(assumed.0.contains("role%2Flogs") && assumed.0.contains("&RoleSessionName=sexton"), "{assumed:?}");
    assert_eq!(assumed.1, "333333333333", "the profile's keys request the role");
    let session = &puts[0].1;
    assert!(session.starts_with("ASIA"), "{puts:?}");
    assert!(puts.iter().all(|(_, key, token)| key == session && *token), "{puts:?}");
    // The lines are in the role's account.
    assert_eq!(server.log_events(session, GROUP, "job1").len(), 22);
    assert_eq!(server.log_groups("333333333333"), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn role_credentials_are_renewed_shortly_before_they_expire() {
    static AHEAD_MINUTES: AtomicI64 = AtomicI64::new(0);
    let Some(server) = Moto::start() else { return };
    let now = || Timestamp::now() + SignedDuration::from_mins(AHEAD_MINUTES.load(SeqCst));
    let (events, _receiver) = mpsc::channel(64);
    let environment = Environment { now, ..Environment::real(events) };
    let engine = Engine::start(config(&role_profile("renewed", &server)), environment).expect("the sink starts");
    // moto's sessions last one hour by its own clock, so those of the last step have nearly expired.
    for (minutes, renewed) in [(0, false), (30, false), (57, false), (59, true)] {
        AHEAD_MINUTES.store(minutes, SeqCst);
        let run = Run::new(minutes as u32 + 1);
        run.print_numbers(0..5);
        run.finish();
        engine.add(run.feed());
        wait_until(|| run.is_delivered()).await;
        assert_eq!(assumptions(&server) > 1, renewed, "after {minutes} minutes");
    }
    let calls = calls(&server);
    let keys: Vec<&String> =
        calls.iter().filter(|(action, ..)| action == "PutLogEvents").map(|(_, key, _)| key).collect();
    assert_ne!(keys.first(), keys.last(), "the new keys sign");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_keys_are_read_again_from_their_file() {
    let logs = StrictLogs::start(|_, _, _| Plan::Serve).await;
    FILES.add("", "[rotated]\naws_access_key_id = ASIAOLD\naws_secret_access_key = s\naws_session_token = t\n");
    let endpoint = format!("http://{}", logs.address);
    let options = format!("region = \"us-east-1\"\nprofile = \"rotated\"\nendpoint = \"{endpoint}\"\n");
    let (engine, _events) = start(&sink(&options));
    let run = run_of(10);
    engine.add(run.feed());
    wait_until(|| run.is_delivered()).await;
    logs.state().expired.push("ASIAOLD".to_owned());
    let run = Run::new(2);
    run.print_numbers(0..10);
    run.finish();
    engine.add(run.feed());
    wait_until(|| engine.status().last_error.is_some_and(|error| error.contains("ExpiredTokenException"))).await;
    assert!(!run.is_delivered());
    FILES.replace_key("ASIAOLD", "ASIANEW");
    wait_until(|| run.is_delivered()).await;
    assert_eq!(logs.state().signers.last().map(String::as_str), Some("ASIANEW"));
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_endpoint_is_trusted_only_through_the_ca_file() {
    let (Some(server), Some(certificates)) = (Moto::start_tls(), certificates()) else { return };
    let endpoint = format!("region = \"us-east-1\"\nendpoint = \"https://{}\"\n", server.address());
    let (engine, mut events) = start(&sink(&endpoint));
    engine.add(run_of(1).feed());
    let Some(SinkEvent::Trouble(trouble)) = events.recv().await else { panic!("no trouble event") };
    assert_eq!(trouble.class, ErrorClass::Misconfigured, "{}", trouble.error);
    assert!(trouble.error.contains("certificate"), "{}", trouble.error);
    engine.shutdown().await;
    let run = run_of(50);
    let tls = format!("tls = {{ ca_file = \"{}\" }}\n", certificates.ca.display());
    deliver(&sink(&format!("{endpoint}{tls}")), &[&run]).await.shutdown().await;
    assert!(run.is_delivered());
    let calls = calls(&server);
    assert!(calls.iter().any(|(action, ..)| action == "PutLogEvents"), "{calls:?}");
}
