//! `check`: validates the configuration and connects to everything it names. Prints one line each. Sends a marked test
//! line to each sink and nothing to anything else. On AWS: every table, queue and topic, or what the runner of
//! `--group` needs.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use channels::Channels;
use clap::Args;
use domain::system_error::without_numbers;
use domain::zones;
use embedded::Embedded;
use rustix::process::geteuid;
use serde_json::json;
use sinks::check::CHECK_GROUP;

use crate::cli::check_installation::StoredJobs;
use crate::cli::check_references::check_references;
use crate::cli::check_sources::{check_jobs, served_sources};
use crate::client::{AwsArguments, block_on};
use crate::configuration::load_policy;
use crate::failure::{FAILED, Failure, Outcome, SUCCESS, print_error_line};
use crate::jobs_source::{JobsSource, Purpose};
use crate::known_names::replaced_packs;
use crate::print::Printer;
use crate::setup::{Overrides, Setup};
use crate::source_list::{ExpandedSources, SourceList};
use crate::state::StateDirectory;
use crate::tzdata;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "SEXTON_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    aws: AwsArguments,
    /// On AWS, check with the permissions of this group's runner; can be repeated
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// State directory of an `up` on this machine
    #[arg(long, value_name = "DIR", env = "SEXTON_STATE")]
    state: Option<PathBuf>,
    /// Sinks file
    #[arg(long, value_name = "FILE")]
    sinks: Option<PathBuf>,
    /// Rule pack or directory of rule packs; can be repeated
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Prints each finding immediately, because connecting to a dead server takes until its timeout.
pub(crate) struct Findings {
    out: Printer,
    json: bool,
    bad: bool,
}

impl Findings {
    pub(crate) fn print(&mut self, what: &str, name: &str, found: Result<String, String>) -> Result<(), Failure> {
        let good = found.is_ok();
        self.bad |= !good;
        let message = found.unwrap_or_else(|message| message);
        let message = without_numbers(&message);
        if self.json {
            self.out.print_json(&json!({ "what": what, "name": name, "ok": good, "message": message }))?;
        } else {
            let sign = if good { "ok  " } else { "BAD " };
            self.out.print_line(&format!("{sign} {what} {name}: {message}"))?;
        }
        self.out.flush()
    }
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    let shown = arguments.config.as_ref().map(|path| path.display().to_string());
    let overrides =
        Overrides { config: arguments.config, state: arguments.state, sinks: arguments.sinks, rules: arguments.rules };
    let setup = Setup::load(overrides)?;
    let mut findings = Findings { out: Printer::new(), json: arguments.json, bad: false };
    if let Some(shown) = shown {
        findings.print("configuration", &shown, Ok("no faults".to_owned()))?;
    }
    findings.print("tzdata", zones::release().version_text(), Ok(tzdata::description()))?;
    let installation = arguments.aws.options(&setup.configuration);
    findings.print("state", &setup.state.dir.display().to_string(), check_state(&setup.state))?;
    if installation.is_none() {
        findings.print("table", &setup.state.database().display().to_string(), check_database(&setup.state))?;
    }
    block_on(check_files(&setup, installation.is_none(), &mut findings))?;
    if let Some(path) = &setup.configuration.runner.policy {
        load_policy(path)?;
        findings.print("policy", &path.display().to_string(), Ok("no faults".to_owned()))?;
    }
    let packs: Vec<&str> = setup.packs.names().collect();
    let examples = setup.packs.check_examples();
    let examples = if examples.has_faults() { Err(examples.to_string()) } else { Ok("all examples pass".to_owned()) };
    findings.print("rules", &packs.join(", "), examples)?;
    for note in replaced_packs(&setup.packs) {
        print_error_line(&note);
    }
    block_on(async {
        if let Some(options) = &installation {
            check_aws(options, &arguments.group, &setup, &mut findings).await?;
        }
        // Permissions can differ by group, so each sink is checked for each group.
        let default_groups = [CHECK_GROUP.to_owned()];
        let groups = if arguments.group.is_empty() { &default_groups[..] } else { &arguments.group };
        // Root would judge the default sink of another user by its own rights.
        let sinks = match (other_owner(&setup.state), &setup.sinks_source.file) {
            (Some(_), None) => &[],
            _ => &setup.sinks[..],
        };
        for (sink, group) in sinks.iter().flat_map(|sink| groups.iter().map(move |group| (sink, group))) {
            findings.print("sink", &sink.name, sinks::check::check(sink, group).await)?;
        }
        let channels = Channels::new(setup.configuration.channels).map_err(Failure::Usage)?;
        for name in channels.names() {
            let found = channels.probe(name).await.map(str::to_owned).map_err(|error| error.to_string());
            findings.print("channel", name, found)?;
        }
        Ok(())
    })?;
    let bad = findings.bad;
    findings.out.finish()?;
    Ok(if bad { FAILED } else { SUCCESS })
}

/// `asked`: groups whose runner is checked. Without them, the queues of all groups with jobs and of the configured ones
/// must exist.
async fn check_aws(
    options: &aws::Options,
    asked: &[String],
    setup: &Setup,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let aws = match aws::connect(options).await {
        Ok(aws) => aws,
        Err(error) => return findings.print("installation", &options.prefix, Err(error.to_string())),
    };
    let (role, groups) = match asked {
        [] => {
            let mut groups: BTreeSet<String> = setup.configuration.runner.groups.iter().cloned().collect();
            let found = match StoredJobs::read(&aws, &setup.packs).await {
                Ok(stored) => {
                    groups.extend(stored.groups.iter().cloned());
                    stored.check_names(&aws).await
                }
                Err(error) => Err(error.to_string()),
            };
            findings.print("jobs", &aws.names.jobs(), found)?;
            (aws::CheckRole::Operator, groups.into_iter().collect())
        }
        asked => (aws::CheckRole::Runner, asked.to_vec()),
    };
    let mut printed = Ok(());
    let mut print = |finding: aws::Finding| {
        if printed.is_ok() {
            printed = findings.print(finding.kind, &finding.name, finding.result);
        }
    };
    aws.check(role, &groups, &mut print).await;
    printed?;
    for group in asked {
        check_references(options, &aws, &setup.state, group, findings).await?;
    }
    Ok(())
}

fn check_state(state: &StateDirectory) -> Result<String, String> {
    if let Some(owner) = other_owner(state) {
        return Ok(format!("belongs to {owner}; run `sexton check` as that user to check more"));
    }
    state.create().map_err(|error| error.to_string())?;
    let probe = state.dir.join(format!("check.{}", std::process::id()));
    std::fs::write(&probe, b"").map_err(|why| format!("cannot write: {why}"))?;
    std::fs::remove_file(&probe).map_err(|why| format!("cannot delete the test file: {why}"))?;
    match state.read_server_file() {
        Some(server) => Ok(format!("writable; pid {} serves it at {}", server.pid, server.url)),
        None => Ok("writable; no `up` serves it".to_owned()),
    }
}

/// The owner of the directory, where root checks the directory of another user and must leave no file in it.
fn other_owner(state: &StateDirectory) -> Option<String> {
    let owner = std::fs::metadata(&state.dir).ok()?.uid();
    (geteuid().is_root() && owner != 0).then(|| crate::state::user_name(owner))
}

fn check_database(state: &StateDirectory) -> Result<String, String> {
    if let Some(owner) = other_owner(state) {
        return Ok(format!("belongs to {owner}; not opened"));
    }
    let file = state.database();
    match (file.exists(), state.ledger_mark().exists()) {
        (false, false) => Ok("not made yet".to_owned()),
        (false, true) => Err(format!(
            "{} is missing; restore a copy with `sexton restore FILE`, or start with an empty ledger with `sexton up \
             --new-ledger`",
            file.display()
        )),
        (true, _) => Embedded::check(&file).map(|()| "whole".to_owned()).map_err(|error| error.to_string()),
    }
}

/// Checks the files with jobs, and those that a running `up` watches.
async fn check_files(setup: &Setup, is_local: bool, findings: &mut Findings) -> Result<(), Failure> {
    let served = if is_local { served_sources(setup).await } else { None };
    let store = if is_local { Embedded::open(&setup.state.database()).ok() } else { None };
    let ports = store.map(|store| store.ports());
    let named = setup.configuration.crontabs.iter().chain(&setup.configuration.jobs);
    let (system, mail_owners) = (setup.configuration.system, setup.configuration.mail.owner);
    let source = |path| JobsSource { system, mail_owners, ..JobsSource::new(path, Purpose::Run) };
    let named = named.map(source).collect();
    let ExpandedSources { sources, failures, .. } = SourceList::new(named).expand();
    for failure in failures {
        findings.print("jobs", &failure.file, Err(failure.message))?;
    }
    for source in &sources {
        let found = check_jobs(source, setup, ports.as_ref(), served.is_some()).await;
        findings.print("jobs", &source.shown_name(), found)?;
    }
    for state in served.unwrap_or_default() {
        let found = state.reason.map_or_else(|| Ok("in use as it is".to_owned()), Err);
        findings.print("file", &state.source, found)?;
    }
    Ok(())
}
