//! `exec`: runs one command now, called by another scheduler. Needs no `up`; reports the run if it finds a server.
//!
//! The command always runs: only arguments that cannot be read prevent its start. Everything else that fails is
//! reported on standard error.

mod call_settings;
mod call_state;
mod process_limit;
mod sending;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use clap::Args;
use domain::job::{Command, Job, JobKey};
use domain::jobs_file::fields::{check_group, check_name};
use domain::order::{FORMAT_VERSION, Order};
use domain::run::{Outcome as RunOutcome, RunId, Trigger};
use domain::units::format_lines;
use jiff::Timestamp;
use keeper::foreground::{CallerCommand, CallerSignals, Foreground, keep_descriptors};
use keeper::records::Launch;
use keeper::spawn::KeeperCommand;
use runner::Policy;
use runner::exec::{Call, Ended, Executed, NOT_FOUND_CODE, SenderPipes, Wait, refused_code};

use crate::client::ServerArguments;
use crate::failure::{FAILED, Failure, Outcome, print_error_line};
use crate::state::StateDirectory;
use crate::{closed_streams, machine, own_process};

use call_settings::CallSettings;
pub(crate) use call_state::FALLBACKS;
pub(crate) use sending::{SENDER_WORD, main as sender_main};

/// How long process 1 of a container waits for the sender, which ends with it. Chosen: as the shutdown of a runner.
const SENDER_WAIT: Duration = runner::options::FLUSH_LIMIT;

/// How long a call waits for sinks that are files, so that its lines are there when it returns. Chosen: they take a
/// few ms, and a directory that hangs must not delay the caller.
const LOCAL_WAIT: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Name of the job
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Group of the job
    #[arg(long, default_value = "default", value_name = "G")]
    group: String,
    /// Pass standard input, output and error of the caller through, unmasked; the default
    #[arg(long, overrides_with = "no_tee")]
    tee: bool,
    /// Print no output of the command, and give it no input
    #[arg(long, overrides_with = "tee")]
    no_tee: bool,
    /// Sinks file: where output is sent [default: that of the `up` with this state directory, else files in `logs` of
    /// the state directory]
    #[arg(long, value_name = "FILE")]
    sinks: Option<PathBuf>,
    /// Rule pack or directory of rule packs; can be repeated
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// Use only this rule pack; can be repeated [default: chosen by the command]
    #[arg(long, value_name = "NAME")]
    pack: Vec<String>,
    /// Timeout of the run
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    timeout: Option<Duration>,
    #[command(flatten)]
    server: ServerArguments,
    /// Command with its arguments; executed without a shell
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// # Errors
/// Exit 2 when the name or the group is invalid; nothing else.
/// Parses `--timeout`.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match domain::units::parse_duration(text) {
        Ok(Duration::ZERO) => Err("0 stops every command at once; write a longer one, or omit it".to_owned()),
        parsed => parsed,
    }
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    check_group(&arguments.group).map_err(Failure::usage)?;
    check_name("name", &arguments.name).map_err(Failure::usage)?;
    let signals = match CallerSignals::block() {
        Ok(signals) => signals,
        Err(why) => return run_alone(&arguments, &format!("cannot read signals: {why}"), None),
    };
    let settings = CallSettings::load(&arguments);
    let order = new_order(&arguments);
    let policy = settings.policy();
    let refused = policy.as_ref().and_then(|policy| runner::exec::refusal(policy, &settings.runner_name(), &order));
    let (call, state) = match call_state::prepare(&settings.state, &order, refused.as_ref()) {
        Ok(prepared) => prepared,
        Err(why) => match refused {
            Some(refusal) => {
                print_error_line(&format!("sexton: {}: {}", order.key(), refusal.message));
                return Ok(NOT_FOUND_CODE);
            }
            None => return run_alone(&arguments, &why, Some(signals)),
        },
    };
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let keeper = KeeperCommand(vec![program.clone().into(), "keeper".into()]);
    let allowed_directories = policy.as_ref().and_then(|policy| policy.allowed_directories(&order.job));
    let launch = Launch { inherited: own_process::inherited(), allowed_directories, ..Launch::default() };
    let is_frugal = process_limit::is_low();
    let command = CallerCommand {
        words: &arguments.command,
        environment: environment(),
        tee: !arguments.no_tee,
        closed_streams: closed_streams::closed(),
        is_frugal,
    };
    let start = || Foreground::start(&keeper, &call.run, launch, &signals, command);
    let foreground = match refused.is_none().then(start).transpose() {
        Ok(foreground) => foreground,
        Err(why) => {
            call.discard();
            return run_alone(&arguments, &format!("cannot start its keeper: {why}"), Some(signals));
        }
    };
    keep_descriptors();
    let start_sender = || start_sender(&program, &call, &settings, &state);
    let mut wait = Wait::new(&call.run, foreground, &signals, Box::new(start_sender));
    if is_frugal {
        wait.be_frugal();
    }
    let executed = match wait.run(print_bytes) {
        Ok(executed) => executed,
        Err(why) => {
            print_error_line(&format!("sexton: cannot wait for the command: {why}; it continues"));
            return Ok(FAILED);
        }
    };
    if let Some(why) = executed.needs_start() {
        wait.wait_for_keeper();
        drop(wait);
        call.discard();
        return run_alone(&arguments, why, Some(signals));
    }
    report(&order.key(), &executed, &state);
    let is_local = executed.verdict.as_ref().is_some_and(|verdict| verdict.is_local);
    match std::process::id() {
        1 => wait.wait_for_sender(SENDER_WAIT),
        _ if is_local => wait.wait_for_sender(LOCAL_WAIT),
        _ => {}
    }
    Ok(executed.code())
}

/// Starts the process that judges and delivers. Without it, a later call delivers.
fn start_sender(
    program: &std::path::Path,
    call: &Call,
    settings: &CallSettings,
    state: &StateDirectory,
) -> std::io::Result<SenderPipes> {
    let mut sender = Process::new(program)
        .arg(SENDER_WORD)
        .arg(&call.state)
        .arg(settings.to_json(state))
        .stdin(Stdio::from(call.in_use.try_clone()?))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(SenderPipes { verdict: sender.stdout.take(), messages: sender.stderr.take() })
}

/// Replaces this process by the command, because Sexton cannot record it.
fn run_alone(arguments: &Arguments, why: &str, signals: Option<CallerSignals>) -> Outcome {
    print_error_line(&format!(
        "sexton: the run of {}/{} is not recorded: {why}; the command runs without Sexton",
        arguments.group, arguments.name
    ));
    if let Some(signals) = signals {
        signals.restore();
    }
    own_process::restore();
    let Some((program, words)) = arguments.command.split_first() else { return Ok(FAILED) };
    let mut command = Process::new(program);
    command.args(words);
    if arguments.no_tee {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    } else {
        closed_streams::close_again();
    }
    let why = command.exec();
    print_error_line(&format!("sexton: cannot execute `{}`: {why}", program.display()));
    Ok(refused_code(why.raw_os_error().unwrap_or_default()))
}

/// Prints why a run was not successful, and what is not recorded.
fn report(key: &JobKey, executed: &Executed, state: &StateDirectory) {
    if let Some(why) = &executed.unrecorded {
        print_error_line(&format!("sexton: the end of {key} is not recorded yet: {why}"));
    }
    if let Ended::Command { copy_error: Some(why), .. } = &executed.ended {
        print_error_line(&format!("sexton: a part of the output of {key} could not be written: {why}"));
    }
    let Some(verdict) = &executed.verdict else {
        if let Ended::NotStarted { reason, .. } = &executed.ended {
            print_error_line(&format!("sexton: {key} failed: {reason}"));
        } else {
            let why = executed.unchecked.as_deref().unwrap_or("the sender has exited or hangs");
            print_error_line(&format!(
                "sexton: the rules did not check the output of {key}, and a later call delivers its lines from {}: {why}",
                state.dir.display()
            ));
        }
        return;
    };
    if verdict.outcome != RunOutcome::Succeeded {
        print_error_line(&format!("sexton: {key} {}: {}", verdict.outcome.name(), verdict.reason));
    }
    if verdict.dropped_lines > 0 {
        let lines = format_lines(verdict.dropped_lines);
        print_error_line(&format!("sexton: {lines} of {key} are not kept: the disk refused them"));
    }
}

fn print_bytes(bytes: &[u8]) {
    // A closed standard error is ignored.
    let _closed = std::io::stderr().lock().write_all(bytes);
}

/// The caller's environment, without the token of Sexton's API.
fn environment() -> Vec<Vec<u8>> {
    let variables = std::env::vars_os().filter(|(name, _)| name != "SEXTON_TOKEN");
    variables
        .map(|(name, value)| {
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            entry
        })
        .collect()
}

fn new_order(arguments: &Arguments) -> Order {
    let now = Timestamp::now();
    let nominal = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let key = JobKey::new(&arguments.group, &arguments.name);
    // Text for people and rules; the keeper gets the exact bytes.
    let words = arguments.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut job = Job::new(key, "@manually", Command::Argv(words));
    job.timeout = arguments.timeout;
    job.cwd = std::env::current_dir().ok().map(|path| path.display().to_string());
    if !arguments.pack.is_empty() {
        job.rules.clone_from(&arguments.pack);
    }
    Order {
        version: FORMAT_VERSION,
        run_id: RunId::unscheduled(nominal, machine::random_or_clock_bytes()),
        attempt: 1,
        nominal,
        trigger: Trigger::Exec,
        issued_at: now,
        not_before: None,
        start_by: None,
        job,
    }
}
