//! `sexton runner`: receives the orders of its groups from SQS, claims them in DynamoDB, runs them here, and reports to
//! SQS. Runner, keepers, sinks and rules are the same as in `up`.
//!
//! Serves only the status of its sinks (`sexton sinks`) and /metrics. Failing sinks are logged and shown there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use channels::Channels;
use console::RunnerConsole;
use runner::Options;
use tokio_util::sync::CancellationToken;

use crate::client::AwsArguments;
use crate::failure::{Failure, Outcome, SUCCESS, print_error_line};
use crate::file_states::FileStates;
use crate::local_runner::{self, LocalRunner, exited_message, stopped_message};
use crate::mailer::AlertingMailer;
use crate::print::Printer;
use crate::reload::Reloader;
use crate::setup::{Overrides, Setup};
use crate::signals::{EXIT_INTERRUPTED, Signals};
use crate::state::ServerInfo;
use crate::{listen, machine, on_aws, own_process, process_one};

/// Interval of heartbeats while runs are active. Each is a paid write on AWS: $0.055 per runner and month at 30 s. A
/// run is `lost` after three missing heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Interval of heartbeats while no run is active. A run that starts gets its full lease, which is longer than this.
const IDLE_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Groups whose jobs are run; can be repeated [default: `groups` of [runner] in the configuration]
    #[arg(long, num_args = 1.., value_name = "NAME")]
    group: Vec<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "SEXTON_CONFIG")]
    config: Option<PathBuf>,
    /// State directory [default: $XDG_STATE_HOME/sexton or ~/.local/state/sexton; for root /var/lib/sexton]
    #[arg(long, value_name = "DIR", env = "SEXTON_STATE")]
    state: Option<PathBuf>,
    /// Listen address of /metrics and `sexton sinks` [default: 127.0.0.1, first free port from 7077]
    #[arg(long, value_name = "ADDR", value_parser = listen::parse_address)]
    listen: Option<SocketAddr>,
    /// Allow a listen address beyond loopback, without encryption; for use behind a proxy that terminates TLS
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    aws: AwsArguments,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    process_one::serve_in_child()?;
    machine::set_mmap_threshold();
    let overrides = Overrides { config: arguments.config, state: arguments.state, ..Overrides::default() };
    let mut setup = Setup::open(overrides)?;
    if !arguments.group.is_empty() {
        setup.configuration.runner.groups = arguments.group;
    }
    let aws = arguments.aws.options(&setup.configuration).unwrap_or_default();
    check_groups(&setup.configuration.runner.groups, &aws)?;
    let listen = arguments.listen.or(setup.configuration.listen);
    listen::check_exposure(listen, arguments.plain || setup.configuration.plain)?;
    setup.state.create()?;
    let _lock = setup.state.lock()?;
    setup.state.make_files_private()?;
    let blocking = own_process::blocking_threads_max();
    let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(blocking).enable_all().build();
    let runtime = runtime.map_err(|why| Failure::failed(format!("cannot start: {why}")))?;
    let served = runtime.block_on(serve(setup, &aws, listen));
    // Does not wait for threads that wait for a disk.
    runtime.shutdown_background();
    served
}

/// Checks the groups: each is one queue, so a runner has to name all of its groups.
fn check_groups(groups: &[String], aws: &aws::Options) -> Result<(), Failure> {
    if groups.is_empty() {
        return Err(Failure::usage("no group is named; write --group NAME, or groups = [\"NAME\"] in [runner]"));
    }
    let names = aws.names().map_err(|error| Failure::usage(error.to_string()))?;
    let faults: Vec<String> = groups.iter().filter_map(|group| aws::check_group(&names, group).err()).collect();
    if faults.is_empty() { Ok(()) } else { Err(Failure::Usage(faults)) }
}

async fn serve(mut setup: Setup, aws: &aws::Options, listen: Option<SocketAddr>) -> Outcome {
    let mut signals = Signals::new()?;
    let states = FileStates::default();
    let reloader = tokio::task::block_in_place(|| Reloader::start(&mut setup, &states))?;
    let state = setup.state.clone();
    let mut options = runner_options(&setup, aws)?;
    let channels = Channels::new(std::mem::take(&mut setup.configuration.channels)).map_err(Failure::Usage)?;
    options.mailer = Some(AlertingMailer::new(&channels, &setup.configuration.mail, None)?);
    let (name, groups): (Arc<str>, _) = (options.runner.as_str().into(), options.groups.join(", "));
    let ports = on_aws::connect_runner(aws, options.policy.order_keys()).await?.ports;
    let ports = runner::Ports { orders: ports.orders, claims: ports.claims, reports: ports.reports };
    let (listener, url) = listen::bind(listen).await?;
    let token: Arc<str> = state.token()?.into();

    let (runner, sink_events) = LocalRunner::start(&mut setup, options, ports, true).await?;
    let runner = Arc::new(runner);
    tokio::spawn(local_runner::discard_sink_events(sink_events));
    let counting = runner.clone();
    let running = Arc::new(move || counting.running_count());
    let sources = states.sources();
    let console = RunnerConsole { runner: name.clone(), sinks: runner.clone(), sources, running, token };
    let stop = CancellationToken::new();
    let closing = stop.clone().cancelled_owned();
    let router = console::runner_router(console);
    let server = tokio::spawn(console::serve(listener, router, listen::server_limits(), closing));
    let reloading = tokio::spawn(reloader.run(runner.clone(), signals.reload_requests(), stop.clone()));
    let server_info = ServerInfo { url: url.clone(), pid: std::process::id() };
    state.write_server_file(&server_info)?;
    print_startup(&[
        format!("sexton {} runs jobs of {groups} as runner {name}", env!("CARGO_PKG_VERSION")),
        format!("installation {} on AWS; metrics at {url}/metrics", aws.prefix),
        format!("state     {}", state.dir.display()),
        runner.sink_lines().iter().map(|sink| format!("output    {sink}")).collect::<Vec<_>>().join("\n"),
        "ready".to_owned(),
    ])?;

    signals.wait().await;
    runner.print_stopping();
    state.remove_server_file();
    stop.cancel();
    tokio::select! {
        left = runner.shut_down() => print_error_line(&stopped_message(left, "sexton runner")),
        () = signals.wait() => {
            print_error_line(&exited_message("sexton runner"));
            std::process::exit(EXIT_INTERRUPTED);
        }
    }
    reloading.abort();
    server.abort();
    Ok(SUCCESS)
}

fn runner_options(setup: &Setup, aws: &aws::Options) -> Result<Options, Failure> {
    let mut options = machine::runner_options(&setup.configuration, setup.state.runner_folder())?;
    if setup.configuration.runner.name.is_none() {
        options.runner = setup.state.runner_name(&options.host)?;
    }
    options.secrets = machine::secrets(aws.clone());
    options.order_keys = Some(aws::Verifier::new(options.policy.order_keys()).key_ids());
    options.heartbeat_interval = HEARTBEAT_INTERVAL;
    options.idle_heartbeat_interval = IDLE_HEARTBEAT_INTERVAL;
    Ok(options)
}

fn print_startup(lines: &[String]) -> Result<(), Failure> {
    let mut out = Printer::new();
    for line in lines.iter().filter(|line| !line.is_empty()) {
        out.print_line(line)?;
    }
    match out.finish() {
        // The parent process may have closed the pipe.
        Err(Failure::ReaderGone) => Ok(()),
        other => other,
    }
}
