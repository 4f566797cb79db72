//! The sender of a call of `exec`: the same program, started again as `sexton exec-sender DIR SETTINGS`. Its standard
//! input is the lock on DIR, and its standard output and error are pipes to the call. It holds nothing else of the
//! caller: neither its terminal nor its streams.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::event::Event;
use domain::ports::{Delivery, PortError, PortResult, Reports};
use jiff::Timestamp;
use rules::Packs;
use runner::exec::{Unchecked, Verdict};
use runner::sender::{CallSinks, Reload};
use serde_json::json;
use sinks::config::{SinkConfig, SinkKind};
use sinks::engine::Environment;
use sinks::feed::FinishedRecord;
use tokio::sync::mpsc;

use super::call_settings::{CallSettings, Shipping};
use crate::client::{ApiRequest, Client, ServerArguments};
use crate::configuration::{Configuration, pack_files, read_text};
use crate::failure::{Failure, print_error_line};
use crate::file_watch::FileWatch;
use crate::kept_files::KeptFiles;
use crate::local_runner::discard_sink_events;
use crate::setup::SinksSource;
use crate::state::StateDirectory;
use crate::{log, machine};

/// First argument of a sender.
pub(crate) const SENDER_WORD: &str = "exec-sender";

/// Sink events that wait to be logged. Chosen, not measured.
const EVENTS_MAX: usize = 100;

/// How long a sender waits for the answer of an `up` before it counts as stopped. Chosen: it is on this machine.
const UP_TIMEOUT: Duration = Duration::from_secs(2);

/// Threads of a sender for reads and writes of files. Chosen: a sender has few runs.
const BLOCKING_THREADS_MAX: usize = 4;

/// How long an idle thread is kept. Chosen: longer than a sender runs, because another one may be refused.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(24 * 3_600);

/// How tokio's panic begins when the kernel refuses a thread.
const NO_THREAD: &str = "OS can't spawn worker thread";

/// The whole sender.
pub(crate) fn main(directory: &Path, settings: &str) -> ExitCode {
    keeper::foreground::leave_caller();
    let _ = rustix::process::chdir("/");
    // Without a log, the delivery is the same.
    let _ = log::start_logging(None, log::COMMAND_FILTER);
    let settings = CallSettings::from_json(settings);
    give_up_without_threads();
    // The runtime needs one; the kernel may refuse any.
    let thread = std::thread::Builder::new().spawn(|| {});
    let probed = thread.map(|thread| thread.join().is_ok());
    if let Err(why) = probed {
        give_up(&format!("cannot start a thread: {why}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .build();
    let sent = match runtime {
        Ok(runtime) => runtime.block_on(send(directory, settings)),
        Err(why) => give_up(&format!("cannot start the sender: {why}")),
    };
    match sent {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => give_up(&failure.messages().join("; ")),
    }
}

/// Ends the sender, and informs its call, unless the run is judged. A later call delivers the lines.
fn give_up(why: &str) -> ! {
    let unchecked = Unchecked { unchecked: why.to_owned() };
    let line = serde_json::to_string(&unchecked).unwrap_or_default();
    // The caller may have exited.
    let _closed = writeln!(std::io::stdout().lock(), "{line}");
    std::process::exit(1);
}

/// Ends the sender where tokio cannot start a thread, for which it panics.
fn give_up_without_threads() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match panic.payload_as_str() {
        Some(message) if message.starts_with(NO_THREAD) => {
            let why = message.strip_prefix(NO_THREAD).unwrap_or_default().trim_start_matches([':', ' ']);
            give_up(&format!("cannot start a thread: {why}"));
        }
        _ => report(panic),
    }));
}

async fn send(directory: &Path, mut settings: CallSettings) -> Result<(), Failure> {
    let failed = |why: std::io::Error| Failure::failed(format!("sexton: cannot use the lock of this call: {why}"));
    let in_use = File::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let state = settings.state.clone().map_err(Failure::failed)?;
    sinks::trust_directory(&state.dir);
    let shipping = settings.shipping(&state);
    // The call has checked it.
    settings.configuration.runner.policy = None;
    let mut options = machine::runner_options(&settings.configuration, directory.to_owned())?;
    options.packs = Arc::new(load_packs(&shipping.rules));
    let reports = find_report_server(&settings, &state).await;
    let (sinks, is_local) = call_sinks(&shipping, &state);
    let judged = |finished: &FinishedRecord| {
        let (outcome, reason) = (finished.outcome, finished.reason.clone());
        let verdict = Verdict { outcome, reason, dropped_lines: finished.dropped_lines, is_local };
        let line = serde_json::to_string(&verdict).unwrap_or_default();
        // The caller may have exited.
        let _closed = writeln!(std::io::stdout().lock(), "{line}");
    };
    let sent = runner::sender::send(options, sinks, reports, in_use, judged).await;
    sent.map_err(|error| Failure::failed(format!("sexton: {error}")))
}

/// The packs without a fault. Prints the faults of the others.
fn load_packs(paths: &[PathBuf]) -> Packs {
    let mut packs = Packs::builtin();
    let mut faults = Vec::new();
    for path in paths {
        let files = pack_files(std::slice::from_ref(path)).unwrap_or_else(|failure| {
            faults.extend(failure.messages());
            Vec::new()
        });
        for file in files {
            let added = read_text(&file).map_err(Failure::messages).and_then(|text| {
                let added = packs.add(&file.display().to_string(), &text);
                added.map_err(|found| found.0.iter().map(ToString::to_string).collect())
            });
            faults.extend(added.err().into_iter().flatten());
        }
    }
    packs.warnings().0.iter().for_each(|warning| print_error_line(&warning.to_string()));
    faults.iter().for_each(|fault| print_error_line(fault));
    if !faults.is_empty() {
        print_error_line("sexton: the output is checked without the faulty rules");
    }
    packs
}

/// The sinks without a fault, and whether these are all.
fn read_sinks(shipping: &Shipping, state: &StateDirectory) -> (Vec<SinkConfig>, bool) {
    let source = SinksSource::new(shipping.sinks.clone(), shipping.aws.clone());
    let Some(path) = &shipping.sinks else {
        return match source.load(state) {
            Ok(sinks) => (sinks, true),
            Err(failure) => {
                failure.print();
                (Vec::new(), false)
            }
        };
    };
    let (sinks, faults) = match read_text(path) {
        Ok(text) => source.parse(path, &text),
        Err(failure) => (Vec::new(), failure.messages()),
    };
    if faults.is_empty() {
        return (sinks, true);
    }
    faults.iter().for_each(|fault| print_error_line(fault));
    let kept = KeptFiles::new(state).last_good(path).map(|text| source.parse(path, &text));
    if let Some((sinks, _)) = kept.filter(|(_, faults)| faults.is_empty()) {
        print_error_line(&format!("sexton: the last good version of {} is used", path.display()));
        return (sinks, true);
    }
    let dir = state.dir.display();
    print_error_line(&format!(
        "sexton: the lines of this run are kept in {dir}; the next `sexton exec` with that file sends them when it is correct"
    ));
    (sinks, false)
}

/// The sinks of the call, and whether all of them are files.
fn call_sinks(shipping: &Shipping, state: &StateDirectory) -> (CallSinks, bool) {
    let read_at = Timestamp::now();
    let (mut configs, are_complete) = read_sinks(shipping, state);
    leave_out_own_streams(&mut configs);
    let source = SinksSource::new(shipping.sinks.clone(), shipping.aws.clone());
    let is_local = configs.iter().all(|sink| matches!(sink.kind, SinkKind::File(_)));
    let (events, sink_events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(discard_sink_events(sink_events));
    let (key, file, reload) = (source.key(), shipping.sinks.clone(), reload(source, configs.clone()));
    let environment = Environment::real(events);
    (CallSinks { configs, environment, are_complete, key, file, read_at, reload }, is_local)
}

fn leave_out_own_streams(configs: &mut Vec<SinkConfig>) {
    configs.retain(|sink| {
        let is_own_stream = writes_to_own_stream(sink);
        if is_own_stream {
            print_error_line(&format!(
                "sexton: sink `{}` is left out: `exec` passes the output of the command on itself",
                sink.name
            ));
        }
        !is_own_stream
    });
}

/// Follows the sinks file: a sender can run for minutes after an edit. A faulty file changes nothing.
fn reload(source: SinksSource, mut before: Vec<SinkConfig>) -> Reload {
    let mut watch = FileWatch::new(source.file.clone());
    Box::new(move || {
        let (path, content) = watch.take_changed().pop()?;
        let text = String::from_utf8(content.ok()?.bytes).ok()?;
        let (mut configs, faults) = source.parse(&path, &text);
        configs.retain(|sink| !writes_to_own_stream(sink));
        if !faults.is_empty() || configs == before {
            return None;
        }
        before.clone_from(&configs);
        Some(configs)
    })
}

/// Whether a sink writes to the standard output or error of this process, which are pipes to the call.
fn writes_to_own_stream(sink: &SinkConfig) -> bool {
    match &sink.kind {
        SinkKind::Stdout(_) => true,
        SinkKind::File(file) => {
            let path = file.path.text();
            path == "/dev/stdout" || path == "/dev/stderr" || path.starts_with("/proc/self/fd/")
        }
        SinkKind::Syslog(_) | SinkKind::Gelf(_) | SinkKind::CloudwatchLogs(_) => false,
    }
}

/// The receiver of the run's reports: the selected installation, otherwise the `up` of the state directory if it
/// answers. Reports to a selected installation are retried; whether it answers is not checked first.
async fn find_report_server(settings: &CallSettings, state: &StateDirectory) -> Option<Arc<dyn Reports>> {
    let found = |client| Some(Arc::new(ServerReports { client }) as Arc<dyn Reports>);
    let unreported = |failure: Failure, next: &str| {
        failure.print();
        print_error_line(&format!("sexton: the command runs, but its run is not reported now{next}"));
        None
    };
    // `--state` selects the spool here; unlike for other commands, it does not override [aws].
    let named = settings.server();
    if named.server.is_some() || named.on_aws(&settings.configuration).is_some() {
        return Client::find(&named).await.map_or_else(|failure| unreported(failure, ""), found);
    }
    state.read_server_file()?;
    let next = "; the next `sexton up` of this state directory reads it";
    let of_up = ServerArguments { state: Some(state.dir.clone()), ..ServerArguments::default() };
    let client = match Client::for_server(&of_up, &Configuration::default()) {
        Ok(client) => client,
        Err(failure) => return unreported(failure, next),
    };
    match client.send(ApiRequest::get(&["health"]).with_timeout(UP_TIMEOUT)).await {
        Ok(_) => found(client),
        Err(failure) => unreported(failure, next),
    }
}

/// Sends reports to the API.
struct ServerReports {
    client: Client,
}

#[async_trait]
impl Reports for ServerReports {
    async fn send(&self, events: &[Event]) -> PortResult<()> {
        let request = ApiRequest::post(&["reports"], json!({ "events": events }));
        match self.client.send(request).await {
            Ok(_) => Ok(()),
            Err(Failure::Usage(messages)) => Err(PortError::Permanent(messages.join("; "))),
            Err(Failure::Failed(messages)) => Err(PortError::Retry(messages.join("; "))),
            Err(Failure::ReaderGone) => Err(PortError::Retry("the server closed the connection".to_owned())),
        }
    }

    async fn receive(&self, _most: usize, _lease: Duration, _wait: Duration) -> PortResult<Vec<Delivery<Event>>> {
        Err(PortError::Permanent("reports are received by the server itself".to_owned()))
    }

    async fn delete(&self, _receipts: &[String]) -> PortResult<()> {
        Err(PortError::Permanent("reports are deleted by the server itself".to_owned()))
    }
}
