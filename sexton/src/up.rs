//! `sexton up`: scheduler, runner and API in one process on one machine.
//!
//! | file | duty |
//! |---|---|
//! | `job_files` | applies crontabs and jobs files, at the start and when they change |
//! | `duties` | the loops around `services`: scheduler, collector, overdue, alerts, pruner |
//! | `alert_queues` | the queue and the task of each alert channel |
//! | `notifier` | sends alerts to the configured channels |
//! | `stored_sources` | which files the stored jobs came from |
//! | `sink_alerts`, `disk_alerts`, `limit_alerts` | alerts about failing sinks, a full disk, too few open files |
//! | `file_alerts` | alerts about faulty files |
//! | `name_alerts` | alerts about jobs that name a rule pack or an alert channel that does not exist |
//! | `ledger_start` | opens the ledger, and settles a restored one |
//! | `store_watch` | probes the ledger; alerts without it |
//! | `run_output` | reads the output of runs for the API |
//! | `zone_duty` | follows the tzdata and the zone of the host |
//! | `sample` | the crontab and the sinks without any configuration |
//!
//! The runner with its sinks and rules is `local_runner`, which `sexton runner` uses, too.

mod alert_queues;
mod disk_alerts;
mod duties;
mod file_alerts;
mod job_files;
mod ledger_start;
mod limit_alerts;
mod name_alerts;
pub(crate) mod notifier;
mod reserved_group;
pub(crate) mod run_output;
pub(crate) mod sample;
mod sink_alerts;
mod store_watch;
pub(crate) mod stored_sources;
mod zone_duty;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use channels::Channels;
use console::Console;
use domain::ports::Ports;
use domain::shell_text::quote_word;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bus_fault::BusFault;
use crate::failure::{FAILED, Failure, Outcome, SUCCESS, print_error_line};
use crate::file_states::FileStates;
use crate::known_names::{check_of_api, choice_of_api};
use crate::local_runner::{LocalRunner, exited_message, stopped_message};
use crate::mailer::AlertingMailer;
use crate::print::Printer;
use crate::reload::Reloader;
use crate::sd_notify::Pulse;
use crate::setup::{Overrides, Setup};
use crate::signals::{EXIT_INTERRUPTED, Signals};
use crate::state::{ServerInfo, StateError};
use crate::store_alert::StoreAlert;
use crate::tzdata::TzdataWatch;
use crate::{bus_fault, listen, machine, own_process, process_one, sd_notify};
use duties::Duties;
use job_files::{JobFileArgs, JobFiles};
use ledger_start::StartedLedger;
use notifier::ChannelNotifier;
use store_watch::{StoreHealth, StoreWatch};

/// Time for an orderly end when the store gives no answer. Chosen: a hanging disk never answers.
const GIVE_UP_GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State directory [default: $XDG_STATE_HOME/sexton or ~/.local/state/sexton; for root /var/lib/sexton]
    #[arg(long, value_name = "DIR", env = "SEXTON_STATE")]
    state: Option<PathBuf>,
    /// Listen address of the API [default: 127.0.0.1, first free port from 7077]
    #[arg(long, value_name = "ADDR", value_parser = listen::parse_address)]
    listen: Option<SocketAddr>,
    /// Allow a listen address beyond loopback, without encryption; for use behind a proxy that terminates TLS
    #[arg(long)]
    plain: bool,
    /// Crontabs to run, or directories of crontabs like /etc/cron.d; can be repeated. Reloaded when they change. Jobs
    /// from the files of an earlier start stay and are listed at the start
    #[arg(long, value_name = "FILE", num_args = 1..)]
    crontab: Vec<PathBuf>,
    /// The crontabs have a user column, like /etc/crontab
    #[arg(long)]
    system: bool,
    /// Jobs files (TOML) to run; can be repeated. Reloaded when they change, like crontabs
    #[arg(long, value_name = "FILE", num_args = 1..)]
    jobs: Vec<PathBuf>,
    /// Sinks file: where output is sent [default: files in `logs` of the state directory]
    #[arg(long, value_name = "FILE")]
    sinks: Option<PathBuf>,
    /// Rule pack or directory of rule packs; can be repeated
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// Start with an empty ledger, if the ledger is damaged, missing, an older copy, or of another state directory.
    /// The old files are kept
    #[arg(long)]
    new_ledger: bool,
}

/// `utc`: times are shown in UTC.
pub(crate) fn run(arguments: Arguments, utc: bool) -> Outcome {
    process_one::serve_in_child()?;
    machine::set_mmap_threshold();
    let setup = Setup::open(Overrides {
        config: arguments.config,
        state: arguments.state,
        sinks: arguments.sinks,
        rules: arguments.rules,
    })?;
    let listen = arguments.listen.or(setup.configuration.listen);
    listen::check_exposure(listen, arguments.plain || setup.configuration.plain)?;
    let named = JobFileArgs {
        crontabs: [setup.configuration.crontabs.clone(), arguments.crontab].concat(),
        jobs: [setup.configuration.jobs.clone(), arguments.jobs].concat(),
        system: arguments.system || setup.configuration.system,
        mail_owners: setup.configuration.mail.owner,
        channels: setup.configuration.channels.iter().map(|channel| channel.name.clone()).collect(),
    };
    let blocking = own_process::blocking_threads_max();
    let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(blocking).enable_all().build();
    let runtime = runtime.map_err(|why| Failure::failed(format!("cannot start: {why}")))?;
    let served = runtime.block_on(lock_and_serve(setup, named, listen, utc, arguments.new_ledger));
    // Does not wait for threads that wait for a disk or a reader.
    runtime.shutdown_background();
    served
}

/// Serves under the lock of the state directory. A state directory or ledger that cannot be used is alerted.
async fn lock_and_serve(
    mut setup: Setup,
    named: JobFileArgs,
    listen: Option<SocketAddr>,
    utc: bool,
    new_ledger: bool,
) -> Outcome {
    let notifier = Arc::new(ChannelNotifier::new(configured_channels(&mut setup)?));
    let alert = StoreAlert::new(&setup.state, notifier.clone());
    runner::make_room(&setup.state.runner_folder());
    let lock = || {
        setup.state.create()?;
        let lock = setup.state.lock()?;
        setup.state.make_files_private()?;
        Ok(lock)
    };
    let _lock = match lock() {
        Err(error @ StateError::Io { .. }) => return Err(refuse_start(&alert, error.into()).await),
        locked => locked?,
    };
    let ledger = match ledger_start::open_ledger(&setup.state, new_ledger).await {
        Ok(ledger) => ledger,
        Err(failure) => return Err(refuse_start(&alert, failure).await),
    };
    let bus_fault = bus_fault::watch(&setup.state.bus_fault());
    serve(setup, named, listen, utc, StartedStore { ledger, notifier, alert, bus_fault }).await
}

/// Alerts that the store prevents the start. The process then exits, and its service manager restarts it.
async fn refuse_start(alert: &StoreAlert, failure: Failure) -> Failure {
    if let Failure::Failed(messages) = &failure {
        alert.alert_refused_start(&messages.join("; ")).await;
    }
    failure
}

/// The open ledger, and what alerts about it without it.
struct StartedStore {
    ledger: StartedLedger,
    notifier: Arc<ChannelNotifier>,
    alert: StoreAlert,
    bus_fault: BusFault,
}

async fn serve(
    mut setup: Setup,
    named: JobFileArgs,
    listen: Option<SocketAddr>,
    utc: bool,
    StartedStore { ledger, notifier, alert, bus_fault }: StartedStore,
) -> Outcome {
    let mut signals = Signals::new()?;
    let tzdata = TzdataWatch::new();
    let state = setup.state.clone();
    let ports = ledger.store.ports();
    bus_fault.alert(&ports).await.map_err(|error| Failure::failed(error.to_string()))?;
    let mut options = machine::runner_options(&setup.configuration, state.runner_folder())?;
    ledger_start::settle_restore(&ledger, &ports, &state, &options).await?;
    let states = FileStates::default();
    let reloader = tokio::task::block_in_place(|| Reloader::start(&mut setup, &states))?;
    let channels = named.channels.clone();
    let mut files = JobFiles::new(named, &state, &ports, &states).await?;
    let mut applied = files.apply_all(&ports, &setup.packs).await?;
    applied.extend(reserved_group::report_line(&ports).await?);
    let (listener, url) = listen::bind(listen).await?;
    let token: Arc<str> = state.token()?.into();
    options.sinks_key = Some(setup.sinks_source.key());
    options.mailer = Some(start_mailer(&notifier, &setup, &ports).await?);
    let stop = CancellationToken::new();
    let stop_starting = stop.child_token();
    let nudge = Arc::new(Notify::new());
    let runner = start_runner(&mut setup, options, &ports).await?;
    let store_watch = StoreWatch::new(&ledger.store, alert, state.runner_folder());
    let give_up = store_watch.give_up.clone();
    let pulse = Arc::new(Pulse::default());
    let mut console = new_console(&ports, &state, &runner, &states, token, nudge.clone(), store_watch.health.clone());
    console.check_job = check_of_api(runner.packs(), channels.clone());
    let packs = runner.packs();
    console.choose_packs = choice_of_api(move || packs.current());
    let closing = stop.clone().cancelled_owned();
    let server = tokio::spawn(console::serve(listener, console::router(console), listen::server_limits(), closing));
    let duties = Duties {
        nudge: nudge.clone(),
        stop_starting: stop_starting.clone(),
        stop: stop.clone(),
        pulse: pulse.clone(),
        ..Duties::new(&setup.configuration, ports.clone(), runner.packs(), notifier.clone())
    };
    let reloads = signals.reload_requests();
    let applying =
        files.apply_on_change(ports.clone(), runner.packs(), nudge.clone(), reloads.clone(), stop_starting.clone());
    let running = RunningUp {
        runner: runner.clone(),
        duties: duties.start(),
        alert_watchers: vec![
            tokio::spawn(sink_alerts::watch_sinks(runner.clone(), ports.clone(), stop.clone())),
            tokio::spawn(limit_alerts::watch_limits(runner.clone(), ports.clone(), stop.clone())),
            tokio::spawn(disk_alerts::watch_disk(ports.clone(), notifier, state.dir.clone(), stop.clone())),
            tokio::spawn(file_alerts::watch_files(states, ports.clone(), stop.clone())),
            tokio::spawn(name_alerts::watch_names(runner.packs(), channels, ports.clone(), stop.clone())),
            tokio::spawn(store_watch.watch(stop.clone())),
            tokio::spawn(sd_notify::feed_watchdog(pulse, stop.clone())),
        ],
        zones: tokio::spawn(zone_duty::follow_zones(tzdata, utc, nudge.clone(), stop.clone())),
        job_files: tokio::spawn(applying),
        reloader: tokio::spawn(reloader.run(runner.clone(), reloads, stop.clone())),
        server,
        stop_starting,
        stop,
    };
    state.write_up_settings(&setup.for_exec());
    state.write_server_file(&ServerInfo { url: url.clone(), pid: std::process::id() })?;
    print_startup(&url, &state, &applied, &runner)?;
    sd_notify::send("READY=1");
    let outcome = wait_for_end(&mut signals, &give_up).await;
    end(running, &state, &mut signals, ledger.store).await;
    outcome
}

async fn start_mailer(
    notifier: &ChannelNotifier,
    setup: &Setup,
    ports: &Ports,
) -> Result<Arc<AlertingMailer>, Failure> {
    let mailer = AlertingMailer::new(notifier.channels(), &setup.configuration.mail, Some(ports.clone()))?;
    mailer.warn_if_missing(ports).await.map_err(|error| Failure::failed(error.to_string()))?;
    Ok(mailer)
}

/// Waits for a signal, or until only a restart can help. Then the process exits even if the store hangs.
async fn wait_for_end(signals: &mut Signals, give_up: &Notify) -> Outcome {
    sd_notify::send("READY=1");
    let outcome = tokio::select! {
        () = signals.wait() => Ok(SUCCESS),
        () = give_up.notified() => {
            tokio::spawn(async {
                tokio::time::sleep(GIVE_UP_GRACE).await;
                std::process::exit(i32::from(FAILED));
            });
            Err(Failure::failed("the ledger gave no usable answer for 5 min; exiting for a restart"))
        }
    };
    sd_notify::send("STOPPING=1");
    outcome
}

/// Shuts down; exits at once at another signal. While running jobs are awaited or stopped, clients still find the
/// server.
async fn end(
    running: RunningUp,
    state: &crate::state::StateDirectory,
    signals: &mut Signals,
    store: embedded::Embedded,
) {
    running.runner.print_stopping();
    if running.runner.leaves_jobs() {
        state.remove_server_file();
    }
    tokio::select! {
        left = running.shut_down() => {
            let _closed = tokio::task::spawn_blocking(move || store.close()).await;
            print_error_line(&stopped_message(left, "sexton up"));
        }
        () = signals.wait() => {
            state.remove_server_file();
            print_error_line(&exited_message("sexton up"));
            std::process::exit(EXIT_INTERRUPTED);
        }
    }
    state.remove_server_file();
}

/// The API over the store and the runner of this process. Wakes the scheduler through `nudge`.
fn new_console(
    ports: &Ports,
    state: &crate::state::StateDirectory,
    runner: &Arc<LocalRunner>,
    states: &FileStates,
    token: Arc<str>,
    nudge: Arc<Notify>,
    health: Arc<StoreHealth>,
) -> Console {
    let stopping = runner.clone();
    Console {
        ports: ports.clone(),
        logs: Arc::new(run_output::RunOutput::new(&state.runner_folder())),
        sinks: runner.clone(),
        sources: states.sources(),
        health,
        token,
        clock: Arc::new(Timestamp::now),
        random: Arc::new(machine::random_or_clock_bytes),
        check_job: Arc::new(|_| Vec::new()),
        choose_packs: Arc::new(|_| Vec::new()),
        channels: Arc::new(()),
        nudge: Arc::new(move || nudge.notify_one()),
        stop_now: Arc::new(move |run_id, by| stopping.stop_run(run_id, by)),
    }
}

fn configured_channels(setup: &mut Setup) -> Result<Channels, Failure> {
    let channels = Channels::new(std::mem::take(&mut setup.configuration.channels)).map_err(Failure::Usage)?;
    Ok(channels.with_command_limits(own_process::command_limits()))
}

async fn start_runner(setup: &mut Setup, options: runner::Options, ports: &Ports) -> Result<Arc<LocalRunner>, Failure> {
    let runner_ports =
        runner::Ports { orders: ports.orders.clone(), claims: ports.claims.clone(), reports: ports.reports.clone() };
    // The ledger is in the state directory, which is locked, so another runner with this name has stopped. Orders wait
    // until its last heartbeat is old enough.
    let (runner, sink_events) = LocalRunner::start(setup, options, runner_ports, false).await?;
    tokio::spawn(sink_alerts::alert_losses(sink_events, ports.clone()));
    Ok(Arc::new(runner))
}

/// The concurrent tasks of `up`.
struct RunningUp {
    runner: Arc<LocalRunner>,
    duties: duties::RunningDuties,
    alert_watchers: Vec<JoinHandle<()>>,
    zones: JoinHandle<()>,
    job_files: JoinHandle<()>,
    reloader: JoinHandle<()>,
    server: JoinHandle<()>,
    stop_starting: CancellationToken,
    stop: CancellationToken,
}

impl RunningUp {
    /// Stops the runner and the duties. While running jobs are awaited or stopped, reports are collected and the API
    /// answers. Returns the number of runs that continue.
    async fn shut_down(self) -> usize {
        self.stop_starting.cancel();
        if self.runner.leaves_jobs() {
            self.stop.cancel();
        }
        let left = self.runner.shut_down().await;
        self.stop.cancel();
        for task in self.alert_watchers.into_iter().chain([self.zones, self.job_files, self.reloader]) {
            task.abort();
        }
        self.duties.finish().await;
        // Disconnects clients that still follow output.
        self.server.abort();
        left
    }
}

/// ` --state DIR` for the commands of users, unless they find this directory without it.
fn state_option(state: &crate::state::StateDirectory) -> String {
    let is_default = crate::state::StateDirectory::find(None).is_ok_and(|default| default.dir == state.dir);
    match is_default {
        true => String::new(),
        false => format!(" --state {}", quote_word(&state.dir.display().to_string())),
    }
}

/// Prints address, token file, jobs and sinks; `ready` last, alone on a line.
fn print_startup(
    url: &str,
    state: &crate::state::StateDirectory,
    applied: &[String],
    runner: &LocalRunner,
) -> Result<(), Failure> {
    let mut out = Printer::new();
    out.print_line(&format!("sexton {} serves {url}", env!("CARGO_PKG_VERSION")))?;
    out.print_line(&format!(
        "state     {}  (the API's token: {})",
        state.dir.display(),
        state.dir.join("token").display()
    ))?;
    for line in applied {
        out.print_line(&format!("jobs      {line}"))?;
    }
    for sink in runner.sink_lines() {
        out.print_line(&format!("output    {sink}"))?;
    }
    let state = state_option(state);
    let tries = ["sexton status", "sexton jobs", "sexton runs -n 5"].map(|command| format!("{command}{state}"));
    out.print_line(&format!("try       {}", tries.join(", ")))?;
    out.print_line("ready")?;
    match out.finish() {
        // The parent process may have closed the pipe.
        Err(Failure::ReaderGone) => Ok(()),
        other => other,
    }
}
