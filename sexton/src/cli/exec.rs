//! `exec`: runs one command now, called by another scheduler. Needs no `up`; reports the run if it finds a server.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use domain::event::Event;
use domain::job::{Command, Job, JobKey};
use domain::jobs_file::fields::{check_group, check_name};
use domain::order::{FORMAT_VERSION, Order};
use domain::ports::{Delivery, PortError, PortResult, Reports};
use domain::run::{Outcome as RunOutcome, RunId, Trigger};
use jiff::Timestamp;
use serde_json::json;
use sinks::engine::Environment;
use tokio::sync::mpsc;

use crate::client::{ApiRequest, Client, ServerArguments, block_on};
use crate::failure::{Failure, Outcome, SUCCESS, print_error_line};
use crate::local_runner;
use crate::machine;
use crate::setup::{Overrides, Setup};

/// Sink events that wait to be logged. Chosen, not measured.
const EVENTS_MAX: usize = 100;

/// Environment variable with the state of an earlier call whose output is followed, instead of running a command.
const FOLLOW_VARIABLE: &str = "SEXTON_FOLLOW_OUTPUT";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Name of the job
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Group of the job
    #[arg(long, default_value = "default", value_name = "G")]
    group: String,
    /// Sinks file: where output is sent [default: files in `logs` of the state directory]
    #[arg(long, value_name = "FILE")]
    sinks: Option<PathBuf>,
    /// Rule pack or directory of rule packs; can be repeated
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// Use only this rule pack; can be repeated [default: chosen by the command]
    #[arg(long, value_name = "NAME")]
    pack: Vec<String>,
    /// Timeout of the run
    #[arg(long, value_name = "DURATION", value_parser = domain::units::parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    server: ServerArguments,
    /// Command with its arguments; executed without a shell
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    check_group(&arguments.group).map_err(Failure::usage)?;
    check_name("name", &arguments.name).map_err(Failure::usage)?;
    let setup = Setup::load(Overrides {
        config: arguments.server.config.clone(),
        state: arguments.server.state.clone(),
        sinks: arguments.sinks.clone(),
        rules: arguments.rules.clone(),
    })?;
    setup.state.create()?;
    block_on(execute(arguments, setup))
}

async fn execute(arguments: Arguments, setup: Setup) -> Outcome {
    let reports = find_report_server(&arguments.server, &setup).await?;
    let mut options = machine::runner_options(&setup.configuration, setup.state.runner_folder())?;
    let (events, sink_events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(local_runner::log_sink_events(sink_events));
    options.sinks = setup.sinks;
    options.sink_environment = Environment::real(events);
    options.packs = Arc::new(setup.packs);
    // The command gets its caller's environment, without the variables of Sexton (the token).
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    options.pass_env = names.filter(|name| !name.starts_with("SEXTON_")).collect();
    if let Some(state) = std::env::var_os(FOLLOW_VARIABLE) {
        let followed = runner::exec::follow(options, reports, Path::new(&state)).await;
        return followed.map(|()| SUCCESS).map_err(|error| Failure::failed(error.to_string()));
    }
    let order = new_order(&arguments)?;
    let key = order.key();
    let executed =
        runner::exec::exec(options, reports, order).await.map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(state) = &executed.open_state {
        follow_output(state);
    }
    if executed.report.outcome != RunOutcome::Succeeded {
        print_error_line(&format!("sexton: {key} {}: {}", executed.report.outcome.name(), executed.report.reason));
    }
    Ok(executed.code)
}

/// Starts this call again in the background, to deliver what the command's children print until their output ends. The
/// caller gets the exit code of the command now.
fn follow_output(state: &Path) {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let started = Process::new(program)
        .args(std::env::args_os().skip(1))
        .env(FOLLOW_VARIABLE, state)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    if let Err(error) = started {
        let state = state.display();
        print_error_line(&format!(
            "sexton: cannot follow the output that is still open: {error}; a later call delivers it from {state}"
        ));
    }
}

fn new_order(arguments: &Arguments) -> Result<Order, Failure> {
    let now = Timestamp::now();
    let nominal = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let random = machine::random_bytes()
        .map_err(|why| Failure::failed(format!("cannot create a run id: no random bytes: {why}")))?;
    let key = JobKey::new(&arguments.group, &arguments.name);
    let mut job = Job::new(key, "@manually", Command::Argv(arguments.command.clone()));
    job.timeout = arguments.timeout;
    job.cwd = std::env::current_dir().ok().map(|path| path.display().to_string());
    if !arguments.pack.is_empty() {
        job.rules.clone_from(&arguments.pack);
    }
    Ok(Order {
        version: FORMAT_VERSION,
        run_id: RunId::unscheduled(nominal, random),
        attempt: 1,
        nominal,
        trigger: Trigger::Exec,
        issued_at: now,
        not_before: None,
        start_by: None,
        job,
    })
}

/// The receiver of the run's reports: the selected installation, otherwise the `up` of the state directory if it
/// answers. Reports to a selected installation are retried; whether it answers is not checked first.
async fn find_report_server(arguments: &ServerArguments, setup: &Setup) -> Result<Option<Arc<dyn Reports>>, Failure> {
    // `--state` selects the spool here; unlike for other commands, it does not override [aws].
    let named = ServerArguments { state: None, ..arguments.clone() };
    if arguments.server.is_some() || named.on_aws(&setup.configuration).is_some() {
        return Ok(Some(Arc::new(ServerReports { client: Client::find(&named).await? })));
    }
    if setup.state.read_server_file().is_none() {
        return Ok(None);
    }
    let state = Some(setup.state.dir.clone());
    let client = Client::for_server(&ServerArguments { state, ..ServerArguments::default() }, &setup.configuration)?;
    match client.send(ApiRequest::get(&["health"])).await {
        Ok(_) => Ok(Some(Arc::new(ServerReports { client }))),
        Err(failure) => {
            failure.print();
            print_error_line("sexton: the command runs, but its run is not reported: no server found");
            Ok(None)
        }
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
