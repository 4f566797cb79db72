//! The keeper, a runner that can be killed, and `exec` as separate processes, for the tests. The ports of the runner
//! are files in a folder: orders, claims, stops and reports.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use domain::event::Event;
use domain::job::{Command, Job, JobKey};
use domain::order::{FORMAT_VERSION, Order};
use domain::ports::{
    Claim, Claimant, Claims, Delivery, Heartbeat, HeartbeatAnswer, NameInUse, Orders, PortError, PortResult, Reports,
    SendResult,
};
use domain::run::{RunId, RunKey, Trigger};
use domain::secret::{Reference, Secrets};
use jiff::Timestamp;
use keeper::foreground::{CallerCommand, CallerSignals, Foreground};
use keeper::records::Launch;
use keeper::spawn::KeeperCommand;
use runner::exec::{Call, SenderPipes, Verdict, Wait};
use runner::options::Mode;
use runner::sender::CallSinks;
use runner::{LocalSecrets, OnShutdown, Options, PolicyFile, Ports};
use sinks::config::SinksFile;
use sinks::engine::Environment;
use sinks::feed::FinishedRecord;
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["keeper", world, keeper::fork_server::ARGUMENT, _] => {
            keeper::fork_server::serve(|path| keep(Path::new(world), path))
        }
        ["keeper", world, path] => keep(Path::new(world), Path::new(path)),
        ["run", state, world, mode, shutdown] => within_runtime(run(state, world, mode, shutdown)),
        ["exec", state, world, command @ ..] => exec(state, world, command),
        ["sender", state, world] => within_runtime(sender(state, world)),
        _ => ExitCode::from(2),
    }
}

fn keep(world: &Path, path: &Path) -> ExitCode {
    if is_doomed(world) { ExitCode::FAILURE } else { keeper::main(path) }
}

/// As many keepers as the file `doomed` states exit before they start anything, once the file `wait` is absent.
fn is_doomed(world: &Path) -> bool {
    let left = || fs::read_to_string(world.join("doomed")).ok()?.parse::<u32>().ok();
    let Some(left) = left().filter(|left| *left > 0) else { return false };
    while world.join("wait").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::write(world.join("doomed"), (left - 1).to_string()).expect("doomed");
    true
}

fn within_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("no runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(state: &str, world: &Path) -> Options {
    let own = std::env::current_exe().unwrap_or_default();
    let mut options = Options::new(state, "r1", "h1", KeeperCommand(vec![own.into(), "keeper".into(), world.into()]));
    options.heartbeat_interval = Duration::from_millis(50);
    options.idle_heartbeat_interval = Duration::from_millis(50);
    let folder = world.to_owned();
    options.secrets = Arc::new(LocalSecrets { remote: Some(Arc::new(WorldSecrets { folder })) });
    options.cgroup = !world.join("no-cgroup").exists();
    let policy = world.join("policy.toml");
    if let Ok(text) = fs::read_to_string(&policy) {
        options.policy = Arc::new(PolicyFile::parse(&policy.display().to_string(), &text).expect("policy").0);
    }
    if let Ok(text) = fs::read_to_string(world.join("sinks.toml")) {
        let (configs, faults) = SinksFile::parse("sinks.toml", &text);
        assert!(!faults.has_faults(), "{faults}");
        let (events, receiver) = tokio::sync::mpsc::channel(16);
        // Without a receiver of events the engines must still work.
        drop(receiver);
        options.sink_environment = Environment::real(events);
        options.sinks = configs;
    }
    options
}

async fn run(state: &str, world: &str, mode: &str, shutdown: &str) -> ExitCode {
    let mut options = options(state, Path::new(world));
    options.mode = match mode {
        "serial" => Mode::Serial,
        _ => Mode::Free,
    };
    options.on_shutdown = match shutdown {
        "drain" => OnShutdown::Drain,
        "stop" => OnShutdown::Stop,
        _ => OnShutdown::Leave,
    };
    let ready = Path::new(world).join("ready");
    let world = Arc::new(World { folder: world.into(), leased: Mutex::default() });
    let ports = Ports { orders: world.clone(), claims: world.clone(), reports: world };
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signal");
    fs::write(ready, std::process::id().to_string()).expect("ready");
    tokio::spawn(async move {
        terminated.recv().await;
        stopping.cancel();
    });
    match runner::run(options, ports, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The call of `sexton exec`, with this program as keeper and as sender.
fn exec(state: &str, world: &str, command: &[&str]) -> ExitCode {
    let signals = CallerSignals::block().expect("signals");
    let now = Timestamp::now();
    let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let order = Order {
        version: FORMAT_VERSION,
        run_id: RunId::unscheduled(now, [7; 6]),
        attempt: 1,
        nominal: now,
        trigger: Trigger::Exec,
        issued_at: now,
        not_before: None,
        start_by: None,
        job: Job::new(JobKey::new("g", "wrapped"), "@manually", Command::Argv(words.clone())),
    };
    let policy = fs::read_to_string(Path::new(world).join("policy.toml")).ok();
    let policy = policy.map(|text| PolicyFile::parse("policy.toml", &text).expect("policy").0);
    let refused = policy.and_then(|policy| runner::exec::refusal(&policy, "r1", &order));
    let is_refused = refused.is_some();
    let call = match Call::prepare(Path::new(state), order, refused) {
        Ok(call) => call,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let own = std::env::current_exe().unwrap_or_default();
    let keeper = KeeperCommand(vec![own.clone().into(), "keeper".into(), world.into()]);
    let environment = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    let command = CallerCommand {
        words: &words,
        environment: environment.collect(),
        tee: true,
        closed_streams: [false; 3],
        is_frugal: false,
    };
    let start = || Foreground::start(&keeper, &call.run, Launch::default(), &signals, command).expect("keeper");
    let foreground = (!is_refused).then(start);
    keeper::foreground::keep_descriptors();
    let start_sender = || {
        let mut sender = std::process::Command::new(&own)
            .args(["sender".as_ref(), call.state.as_os_str(), world.as_ref()])
            .stdin(call.in_use.try_clone().expect("lock"))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        Ok(SenderPipes { verdict: sender.stdout.take(), messages: sender.stderr.take() })
    };
    let mut wait = Wait::new(&call.run, foreground, &signals, Box::new(start_sender));
    let executed = wait.run(|_message| {}).expect("poll");
    if std::env::var_os("SEXTON_WAIT_FOR_SENDER").is_some() {
        wait.wait_for_sender(Duration::from_secs(60));
    }
    ExitCode::from(executed.code())
}

async fn sender(state: &str, world: &str) -> ExitCode {
    keeper::foreground::leave_caller();
    let in_use = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().expect("lock"));
    let reports: Arc<dyn Reports> = Arc::new(World { folder: world.into(), leased: Mutex::default() });
    let reports = std::env::var_os("SEXTON_NO_SERVER").is_none().then_some(reports);
    let mut options = options(state, Path::new(world));
    if let Some(limit) = std::env::var("SEXTON_FLUSH_MS").ok().and_then(|limit| limit.parse().ok()) {
        options.flush_limit = Duration::from_millis(limit);
    }
    let (configs, environment) = (std::mem::take(&mut options.sinks), options.sink_environment.clone());
    let sinks = CallSinks {
        configs,
        environment,
        are_complete: true,
        key: std::env::var("SEXTON_SINKS_KEY").unwrap_or_else(|_| "test".to_owned()),
        file: Some(Path::new(world).join("sinks.toml")),
        read_at: Timestamp::now(),
        reload: Box::new(|| None),
    };
    let judged = |finished: &FinishedRecord| {
        let (outcome, reason) = (finished.outcome, finished.reason.clone());
        let verdict = Verdict { outcome, reason, dropped_lines: finished.dropped_lines, is_local: false };
        // The caller may have exited.
        let _closed = writeln!(std::io::stdout(), "{}", serde_json::to_string(&verdict).expect("json"));
    };
    match runner::sender::send(options, sinks, reports, in_use, judged).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// How long a received order is hidden.
const LEASE: Duration = Duration::from_millis(500);

struct World {
    folder: PathBuf,
    leased: Mutex<HashMap<String, Instant>>,
}

fn retry(error: impl ToString) -> PortError {
    PortError::Retry(error.to_string())
}

/// `ssm:NAME` is the file NAME of the folder of secrets. While the file is missing, the lookup must be retried.
struct WorldSecrets {
    folder: PathBuf,
}

#[async_trait]
impl Secrets for WorldSecrets {
    async fn value(&self, reference: &Reference) -> PortResult<String> {
        let Reference::Parameter(name) = reference else {
            return Err(PortError::Permanent(format!("the tests know no {reference}")));
        };
        let mut lookups =
            fs::OpenOptions::new().append(true).create(true).open(self.folder.join("asked")).map_err(retry)?;
        writeln!(lookups, "{reference}").map_err(retry)?;
        fs::read_to_string(self.folder.join("secrets").join(name)).map_err(|_| retry("throttled"))
    }
}

#[async_trait]
impl Orders for World {
    async fn send(&self, _orders: &[Order]) -> PortResult<Vec<SendResult>> {
        Err(PortError::Permanent("the tests write orders themselves".into()))
    }

    async fn receive(
        &self,
        _groups: &[String],
        most: usize,
        _lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<Order>>> {
        let start = Instant::now();
        loop {
            let mut found = Vec::new();
            let entries = fs::read_dir(self.folder.join("orders")).map_err(retry)?;
            let mut names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.retain(|name| name.ends_with(".json"));
            names.sort();
            for name in names {
                let mut leased = self.leased.lock().expect("lock");
                if found.len() >= most || leased.get(&name).is_some_and(|at| at.elapsed() < LEASE) {
                    continue;
                }
                let Ok(text) = fs::read(self.folder.join("orders").join(&name)) else { continue };
                let message = serde_json::from_slice(&text).map_err(retry)?;
                leased.insert(name.clone(), Instant::now());
                found.push(Delivery { message, receipt: name });
            }
            if !found.is_empty() || start.elapsed() > wait {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn delete(&self, receipt: &str) -> PortResult<()> {
        let _ = fs::remove_file(self.folder.join("orders").join(receipt));
        Ok(())
    }
}

impl World {
    /// The answer, unless a test wants it lost. In that case another runner has received the order and dropped it,
    /// because its own claim was refused.
    fn answered(&self, claim: Claim) -> PortResult<Claim> {
        if fs::remove_file(self.folder.join("unanswered")).is_err() {
            return Ok(claim);
        }
        for entry in fs::read_dir(self.folder.join("orders")).map_err(retry)?.flatten() {
            fs::remove_file(entry.path()).map_err(retry)?;
        }
        Err(retry("the answer to the claim was lost"))
    }
}

#[async_trait]
impl Claims for World {
    async fn claim(&self, run: &RunKey, attempt: u32, by: Claimant<'_>, _: Timestamp) -> PortResult<Claim> {
        let run_id = &run.run_id;
        let path = self.folder.join("claims").join(format!("{run_id}.{attempt}"));
        if let Ok(mut file) = fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            file.write_all(by.runner.as_bytes()).map_err(retry)?;
            return self.answered(Claim::Granted);
        }
        let is_over = fs::read_to_string(self.folder.join("reports.jsonl"))
            .is_ok_and(|text| text.lines().any(|line| line.contains(run_id.as_str()) && line.contains("\"finished\"")));
        let holder = fs::read_to_string(&path).map_err(retry)?;
        Ok(if holder == by.runner && !is_over { Claim::Granted } else { Claim::Refused })
    }

    async fn heartbeat(&self, beat: &Heartbeat) -> PortResult<HeartbeatAnswer> {
        if let Ok(host) = fs::read_to_string(self.folder.join("rival")) {
            fs::write(self.folder.join("rival-named"), "").map_err(retry)?;
            return Ok(HeartbeatAnswer::NameInUse(NameInUse { host, last_heartbeat: beat.at }));
        }
        fs::write(self.folder.join("beat"), serde_json::to_vec(beat).map_err(retry)?).map_err(retry)?;
        let entries = fs::read_dir(self.folder.join("stops")).map_err(retry)?;
        let stops = entries.flatten().map(|entry| RunId(entry.file_name().to_string_lossy().into_owned())).collect();
        Ok(HeartbeatAnswer::Stops(stops))
    }
}

#[async_trait]
impl Reports for World {
    async fn send(&self, events: &[Event]) -> PortResult<()> {
        if self.folder.join("deaf").exists() {
            return Err(PortError::Retry("the collector is away".into()));
        }
        let refused = fs::read_to_string(self.folder.join("refused")).unwrap_or_default();
        if events.iter().any(|event| event.run_id.as_str() == refused) {
            return Err(PortError::Permanent("this run is not wanted".into()));
        }
        let mut lines = Vec::new();
        for event in events {
            serde_json::to_writer(&mut lines, event).map_err(retry)?;
            lines.push(b'\n');
        }
        let path = self.folder.join("reports.jsonl");
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).map_err(retry)?;
        file.write_all(&lines).map_err(retry)
    }

    async fn receive(&self, _: usize, _: Duration, _: Duration) -> PortResult<Vec<Delivery<Event>>> {
        Err(PortError::Permanent("the tests read reports themselves".into()))
    }

    async fn delete(&self, _receipts: &[String]) -> PortResult<()> {
        Ok(())
    }
}
