//! The subcommands: what users type. One file a family; each decodes its arguments, calls a library, prints.

mod check;
mod exec;
mod jobs;
mod logs;
mod rules;
mod runs;
mod schedules;
mod sinks;

use clap::{Parser, Subcommand};

use crate::failure::{Failure, Outcome};
use crate::{group_runner, log, up};

/// Runs commands on a schedule, ships every line they print, and tells people when a run failed, lied, or never happened.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// What to log about ourselves, like `info` or `sinks=debug`; default RUST_LOG, else info for `up` and `runner`, warn for
    /// the rest
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine; with no arguments it starts with a sample
    Up(up::Arguments),
    /// Take orders of groups from SQS and run them here
    Runner(group_runner::Arguments),
    /// Run one command now, from any other scheduler, with our spool, sinks and rules
    Exec(exec::Arguments),
    /// Show when a schedule fires next
    Next(schedules::NextArguments),
    /// Show every firing of a crontab or jobs file in a window
    Plan(schedules::PlanArguments),
    /// Show every fault and warning of a crontab or jobs file
    Lint(schedules::LintArguments),
    /// Make the stored jobs equal a crontab or jobs file
    Apply(jobs::ApplyArguments),
    /// List the jobs
    Jobs(jobs::JobsArguments),
    /// Show, change, pause or remove one job
    Job(jobs::JobArguments),
    /// Start a job now
    Run(runs::RunArguments),
    /// Stop a running run
    Stop(runs::StopArguments),
    /// Show the history
    Runs(runs::RunsArguments),
    /// Show all that is known of one run
    Show(runs::ShowArguments),
    /// Print what a run printed, byte for byte
    Logs(logs::Arguments),
    /// Fire nothing new meanwhile
    Maintenance(jobs::MaintenanceArguments),
    /// Prove that every scheduled run has ended in one outcome or is still open
    Ledger(runs::LedgerArguments),
    /// List rule packs, or try rules on output
    Rules(rules::Arguments),
    /// Show how far each sink is behind
    Sinks(sinks::Arguments),
    /// Validate the configuration and reach everything it names
    Check(check::Arguments),
}

impl Command {
    /// Whether it stays and serves, and its log is what it says.
    fn is_server(&self) -> bool {
        matches!(self, Command::Up(_) | Command::Runner(_))
    }
}

/// # Errors
/// What the subcommand says.
pub fn run(cli: Cli) -> Outcome {
    let default = if cli.command.is_server() { log::SERVER_FILTER } else { log::COMMAND_FILTER };
    log::start_logging(cli.log.as_deref(), default).map_err(Failure::usage)?;
    match cli.command {
        Command::Up(arguments) => up::run(arguments),
        Command::Runner(arguments) => group_runner::run(arguments),
        Command::Exec(arguments) => exec::run(arguments),
        Command::Next(arguments) => schedules::next(arguments),
        Command::Plan(arguments) => schedules::plan(arguments),
        Command::Lint(arguments) => schedules::lint(arguments),
        Command::Apply(arguments) => jobs::apply(arguments),
        Command::Jobs(arguments) => jobs::list(arguments),
        Command::Job(arguments) => jobs::one(arguments),
        Command::Run(arguments) => runs::start(arguments),
        Command::Stop(arguments) => runs::stop(arguments),
        Command::Runs(arguments) => runs::list(arguments),
        Command::Show(arguments) => runs::show(arguments),
        Command::Logs(arguments) => logs::run(arguments),
        Command::Maintenance(arguments) => jobs::maintenance(arguments),
        Command::Ledger(arguments) => runs::ledger(arguments),
        Command::Rules(arguments) => rules::run(arguments),
        Command::Sinks(arguments) => sinks::run(arguments),
        Command::Check(arguments) => check::run(arguments),
    }
}
