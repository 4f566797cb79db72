//! The subcommands, one file per family. Each decodes its arguments, calls a library and prints the result.

mod apply_files;
mod apply_progress;
mod check;
mod check_installation;
mod check_references;
mod check_sources;
pub(crate) mod exec;
mod exec_on_disk;
mod firing_lines;
mod job_lookup;
mod jobs;
mod ledger_balance;
mod ledger_copies;
mod logs;
mod maintenance_windows;
#[cfg(test)]
mod reference;
mod rules;
mod run_progress;
mod runs;
pub(crate) mod runs_on_disk;
mod schedules;
mod signing_keys;
mod sinks;
mod status_screen;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use domain::{local_time, zones};
use jiff::tz::TimeZone;

use crate::failure::{Failure, Outcome, print_error_line};
use crate::{group_runner, host_zone, log, up};

/// Runs commands on a schedule, ships their output to log systems, and alerts when a run fails, falsely reports
/// success, or does not start.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Log filter for Sexton's own log, like `info` or `sinks=debug` [default: RUST_LOG, else `info` for `up` and
    /// `runner`, `warn` for other commands]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Show times in UTC [default: local time with its offset]
    #[arg(long, global = true)]
    utc: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scheduler, runner and API on this machine; without arguments with a sample crontab
    Up(up::Arguments),
    /// Run the jobs of these groups, received from SQS
    Runner(group_runner::Arguments),
    /// Run one command with log shipping and rules, for use inside another scheduler
    Exec(exec::Arguments),
    /// Show when a schedule fires next
    Next(schedules::NextArguments),
    /// Show every firing of a crontab or jobs file in a window
    Plan(schedules::PlanArguments),
    /// Show every fault and warning of a crontab or jobs file
    Lint(schedules::LintArguments),
    /// Apply a crontab or jobs file: create, update and (with --prune) remove jobs
    Apply(apply_files::Arguments),
    /// Show what is bad, what runs, what is next and what is behind, on one screen
    Status(status_screen::Arguments),
    /// List jobs
    Jobs(jobs::JobsArguments),
    /// Show, change, pause or remove one job
    Job(jobs::JobArguments),
    /// Start a job now, even if it is paused or under maintenance
    Run(runs::RunArguments),
    /// Stop a run
    Stop(runs::StopArguments),
    /// List past and running runs
    Runs(runs::RunsArguments),
    /// Show one run in detail
    Show(runs::ShowArguments),
    /// Print the output of a run, byte for byte
    Logs(logs::Arguments),
    /// Start, end or list maintenance windows: schedules start no new runs
    Maintenance(maintenance_windows::MaintenanceArguments),
    /// Check that every scheduled run has ended in one outcome or is still open
    Ledger(ledger_balance::LedgerArguments),
    /// Copy the ledger to a file, while `up` runs or not
    Backup(ledger_copies::BackupArguments),
    /// Put a copy in the place of the ledger, while `up` is stopped; nothing is started twice
    Restore(ledger_copies::RestoreArguments),
    /// List rule packs, or test rules on output
    Rules(rules::Arguments),
    /// Show the delivery lag of each sink
    Sinks(sinks::Arguments),
    /// Change the key that signs orders on AWS
    Keys(signing_keys::KeysArguments),
    /// Validate the configuration and connect to every sink, channel, table, queue and topic
    Check(check::Arguments),
}

impl Command {
    /// Whether the command serves until it is stopped, so that its log is its output.
    fn is_server(&self) -> bool {
        matches!(self, Command::Up(_) | Command::Runner(_))
    }
}

/// Parses the arguments of this process; prints faults, help or version, and exits, where that is all to do.
pub(crate) fn parse_arguments() -> Cli {
    let version = format!("{}, tzdata {}", env!("CARGO_PKG_VERSION"), zones::release());
    // clap borrows it for the rest of the process.
    let version: &'static str = Box::leak(version.into_boxed_str());
    let mut matches = Cli::command().version(version).get_matches();
    Cli::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
}

/// # Errors
/// Returns the failure of the subcommand.
pub(crate) fn run(cli: Cli) -> Outcome {
    local_time::use_zone(if cli.utc { TimeZone::UTC } else { host_zone::display_zone() });
    let default = if cli.command.is_server() { log::SERVER_FILTER } else { log::COMMAND_FILTER };
    match log::start_logging(cli.log.as_deref(), default) {
        // The filter of RUST_LOG may be for other programs; the command of `exec` runs anyway.
        Err(message) if cli.log.is_none() && matches!(cli.command, Command::Exec(_)) => print_error_line(&message),
        started => started.map_err(Failure::usage)?,
    }
    match cli.command {
        Command::Up(arguments) => up::run(arguments, cli.utc),
        Command::Runner(arguments) => group_runner::run(arguments),
        Command::Exec(arguments) => exec::run(arguments),
        Command::Next(arguments) => schedules::next(arguments),
        Command::Plan(arguments) => schedules::plan(arguments),
        Command::Lint(arguments) => schedules::lint(arguments),
        Command::Apply(arguments) => apply_files::run(arguments),
        Command::Status(arguments) => status_screen::run(arguments),
        Command::Jobs(arguments) => jobs::list(arguments),
        Command::Job(arguments) => jobs::one(arguments),
        Command::Run(arguments) => runs::start(arguments),
        Command::Stop(arguments) => runs::stop(arguments),
        Command::Runs(arguments) => runs::list(arguments),
        Command::Show(arguments) => runs::show(arguments),
        Command::Logs(arguments) => logs::run(arguments),
        Command::Maintenance(arguments) => maintenance_windows::maintenance(arguments),
        Command::Ledger(arguments) => ledger_balance::ledger(arguments),
        Command::Backup(arguments) => ledger_copies::back_up(arguments),
        Command::Restore(arguments) => ledger_copies::restore(arguments),
        Command::Rules(arguments) => rules::run(arguments),
        Command::Sinks(arguments) => sinks::run(arguments),
        Command::Keys(arguments) => signing_keys::run(arguments),
        Command::Check(arguments) => check::run(arguments),
    }
}
