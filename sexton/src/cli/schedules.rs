//! `next`, `plan` and `lint`: shows firings of schedules and faults of files. Needs no server.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use domain::fault::{Fault, Level};
use domain::job::{Job, JobKey};
use domain::plan;
use domain::schedule::{Context, Firing, Schedule, ScheduleKind};
use domain::units::{format_count, format_duration};
use domain::zones::{LOCAL, zone_named};
use jiff::Timestamp;
use rules::Packs;
use serde::Serialize;

use crate::cli::firing_lines::{self, FiringLine};
use crate::configuration::{Configuration, load_packs};
use crate::failure::{Failure, Outcome, SUCCESS, USAGE, print_error_line};
use crate::host_zone;
use crate::instant_arguments::{parse_instant, parse_span};
use crate::jobs_source::{JobsSource, Purpose};
use crate::known_names::{KnownNames, replaced_packs};
use crate::mailer::mail_note;
use crate::print::{self, OutputFormat, Printer};
use crate::shared_names::JobOwners;
use crate::source_list::{ExpandedSources, SourceList, read_valid_files};

/// Largest `--count`. Chosen: for more firings there is `plan`.
const COUNT_MAX: u64 = 100_000;

#[derive(Debug, Args)]
pub(crate) struct NextArguments {
    /// Schedule: five fields, @daily, @every 90s, rate(5 minutes), cron(0 10 * * ? *), at(2026-12-24T18:00:00)
    #[arg(value_name = "EXPR", allow_hyphen_values = true)]
    expression: String,
    /// IANA time zone of the schedule, or `local` for that of this host
    #[arg(long, default_value = LOCAL, value_name = "TZ")]
    zone: String,
    /// Only firings after this instant [default: now]
    #[arg(long, value_name = "INSTANT", allow_hyphen_values = true)]
    from: Option<String>,
    /// Number of firings
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=COUNT_MAX))]
    count: u64,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct NextRecord<'a> {
    at: Option<Timestamp>,
    local: Option<String>,
    note: Option<&'a str>,
}

pub(crate) fn next(arguments: NextArguments) -> Outcome {
    let now = Timestamp::now();
    let from = arguments.from.as_deref().map_or(Ok(now), |text| parse_instant(text, now)).map_err(Failure::usage)?;
    let mut name = arguments.zone;
    let found = host_zone::find().name.resolve(&mut name);
    found.map_err(|why| Failure::usage(format!("{why}; write --zone, like --zone Europe/Paris")))?;
    let zone = zone_named(&name).map_err(Failure::usage)?;
    let context = Context { zone: &name, seed: "default/next", anchor: from };
    let schedule = Schedule::parse(&arguments.expression, &context).map_err(|message| {
        Failure::usage(format!("`{}`: {message}{}", arguments.expression, job_hint(&arguments.expression)))
    })?;
    let mut out = Printer::new();
    let count = usize::try_from(arguments.count).unwrap_or(usize::MAX);
    let firings: Vec<Firing> = schedule.firings(from).take(count).collect();
    for firing in &firings {
        let local = print::format_local(firing.at, &zone);
        match OutputFormat::new(arguments.json) {
            OutputFormat::Json => {
                out.print_json(&NextRecord { at: Some(firing.at), local: Some(local), note: firing.note.as_deref() })?
            }
            OutputFormat::Text => {
                let note = firing.note.as_deref().unwrap_or_default();
                out.print_fields(&[&print::format_utc(firing.at), &local, note])?
            }
        }
    }
    if firings.len() < count {
        let note = match schedule.kind() {
            ScheduleKind::Reboot => "when its runner boots",
            ScheduleKind::Manual => "only by `sexton run`",
            ScheduleKind::Timed => "never",
        };
        match OutputFormat::new(arguments.json) {
            OutputFormat::Json => out.print_json(&NextRecord { at: None, local: None, note: Some(note) })?,
            OutputFormat::Text => out.print_fields(&["-", "-", note])?,
        }
    }
    out.finish()?;
    for warning in schedule.warnings() {
        print_error_line(&format!("warning: `{}`: {warning}", arguments.expression));
    }
    Ok(SUCCESS)
}

/// The remedy for the name of a job in place of a schedule. Names of jobs have no blanks, schedules of cron have.
fn job_hint(expression: &str) -> &'static str {
    let is_name =
        JobKey::parse(expression).is_ok() || expression.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    if is_name { "; `next` takes a schedule, `sexton job show` shows the next firing of a job" } else { "" }
}

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    /// Crontab, directory of crontabs, or jobs file if the name ends in .toml; `-` reads a crontab from standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Only firings at or after this instant
    #[arg(long, value_name = "INSTANT", allow_hyphen_values = true)]
    from: String,
    /// Only firings before this instant
    #[arg(long, value_name = "INSTANT", allow_hyphen_values = true)]
    to: String,
    /// The crontab has a user column, like /etc/crontab
    #[arg(long)]
    system: bool,
    /// Print one JSON object per firing, one per line; the text has one line for firings at equal steps
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LintArguments {
    /// Crontab, directory of crontabs, or jobs file if the name ends in .toml; `-` reads a crontab from standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The crontab has a user column, like /etc/crontab
    #[arg(long)]
    system: bool,
    /// Rule pack or directory of rule packs that jobs may name; can be repeated
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    /// Configuration file with the rule packs and alert channels that jobs may name; without it, alert channels are not
    /// checked
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct PlanRecord<'a> {
    at: Timestamp,
    local: String,
    group: &'a str,
    job: &'a str,
    /// From the nominal time to the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    note: Option<&'a str>,
}

pub(crate) fn plan(arguments: PlanArguments) -> Outcome {
    let now = Timestamp::now();
    let texts = [Some(arguments.from.as_str()), Some(arguments.to.as_str())];
    let [Some(from), Some(to)] = parse_span(["--from", "--to"], texts, now)? else {
        return Err(Failure::usage("--from and --to are missing"));
    };
    let jobs = read_all_jobs(named_sources(arguments.files, arguments.system))?;
    let mut out = Printer::new();
    let planned = plan::plan(&jobs, from, to)?;
    if arguments.json {
        for (job, firing) in planned {
            out.print_json(&plan_record(job, &firing)?)?;
        }
    } else {
        for line in firing_lines::join(planned) {
            print_plan_line(&mut out, &line)?;
        }
    }
    out.finish()?;
    Ok(SUCCESS)
}

fn plan_record<'a>(job: &'a Job, firing: &'a Firing) -> Result<PlanRecord<'a>, Failure> {
    let zone = zone_named(&job.zone).map_err(Failure::usage)?;
    let local = print::format_local(firing.at, &zone);
    let note = firing.note.as_deref();
    Ok(PlanRecord { at: firing.at, local, group: &job.group, job: &job.name, delay: shown_delay(job), note })
}

fn print_plan_line(out: &mut Printer, line: &FiringLine<'_>) -> Result<(), Failure> {
    let PlanRecord { at, local, delay, note, .. } = plan_record(line.job, &line.first)?;
    let more = match &line.more {
        None => None,
        Some(more) => {
            let zone = zone_named(&line.job.zone).map_err(Failure::usage)?;
            let step = format_duration(more.step.unsigned_abs());
            let last = print::format_local(more.last, &zone);
            Some(format!("and every {step} until {last}, {} firings", more.count))
        }
    };
    let delay = delay.map(|delay| format!("starts {delay} later"));
    let notes: Vec<&str> = [more.as_deref(), delay.as_deref(), note].into_iter().flatten().collect();
    out.print_fields(&[&print::format_utc(at), &local, &line.job.key().to_string(), &notes.join("; ")])
}

fn shown_delay(job: &Job) -> Option<String> {
    Some(job.delay()).filter(|delay| !delay.is_zero()).map(format_duration)
}

fn named_sources(files: Vec<PathBuf>, system: bool) -> Vec<JobsSource> {
    files.into_iter().map(|file| JobsSource { system, ..JobsSource::new(file, Purpose::Show) }).collect()
}

/// Reads files whose jobs are all valid. Prints warnings.
fn read_all_jobs(named: Vec<JobsSource>) -> Result<Vec<Job>, Failure> {
    let read = read_valid_files(&mut SourceList::new(named))?;
    for warning in read.iter().flat_map(|file| &file.warnings.0) {
        print_error_line(&warning.to_string());
    }
    Ok(read.iter().flat_map(|file| file.jobs.iter()).collect())
}

/// The packs of `--rules` and `--config`, and the channels of `--config`.
fn read_names(arguments: &LintArguments) -> Result<(Packs, Option<Vec<String>>), Failure> {
    let configuration = arguments.config.as_deref().map(|path| Configuration::load(Some(path))).transpose()?;
    let configured = configuration.as_ref().map(|configuration| configuration.rules.clone()).unwrap_or_default();
    let packs = load_packs(&[configured, arguments.rules.clone()].concat())?;
    let names = |configuration: Configuration| {
        configuration.channels.into_iter().map(|channel| channel.name).collect::<Vec<String>>()
    };
    Ok((packs, configuration.map(names)))
}

pub(crate) fn lint(arguments: LintArguments) -> Outcome {
    let (packs, channels) = read_names(&arguments)?;
    let known = KnownNames { packs: &packs, channels: channels.as_deref() };
    let ExpandedSources { sources, warnings, failures } =
        SourceList::new(named_sources(arguments.files, arguments.system)).expand();
    let mut found: Vec<Fault> = failures.into_iter().chain(warnings).collect();
    let (mut jobs, mut note, mut owners) = (0, None, JobOwners::default());
    let mut zones: BTreeSet<String> = BTreeSet::new();
    for (index, source) in sources.iter().enumerate() {
        let mut parsed = source.parse_or_fault();
        zones.extend(parsed.zone_note());
        let unknown = parsed.references.iter().filter_map(|name| known.fault(&source.shown_name(), name));
        let mut faults = [std::mem::take(&mut parsed.faults.0), unknown.collect()].concat();
        faults.sort_by_key(|fault| fault.line);
        found.append(&mut faults);
        if !parsed.references.is_empty() {
            let unknown: BTreeSet<JobKey> =
                parsed.jobs.iter().filter(|job| !known.unknown_of(job).is_empty()).map(|job| job.key()).collect();
            parsed.jobs.retain_keys(|key| !unknown.contains(key));
        }
        found.extend(owners.claim(source, &mut parsed.jobs, index + 1 == sources.len()));
        jobs += parsed.jobs.len();
        note = note.or_else(|| mail_note(&parsed.jobs));
    }
    let mut out = Printer::new();
    let mut counts = (0, 0);
    for fault in &found {
        match fault.level {
            Level::Fault => counts.0 += 1,
            Level::Warning => counts.1 += 1,
        }
        match (OutputFormat::new(arguments.json), fault.level) {
            (OutputFormat::Json, _) => out.print_json(fault)?,
            (OutputFormat::Text, Level::Fault) => print_error_line(&fault.to_string()),
            (OutputFormat::Text, Level::Warning) => out.print_line(&fault.to_string())?,
        }
    }
    if !arguments.json {
        for zone in zones {
            out.print_line(&zone)?;
        }
        if let Some(note) = note {
            out.print_line(note)?;
        }
        for note in replaced_packs(&packs) {
            out.print_line(&note)?;
        }
        out.print_line(&format!(
            "{}, {}, {}",
            format_count(jobs, "valid job"),
            format_count(counts.0, "fault"),
            format_count(counts.1, "warning")
        ))?;
    }
    out.finish()?;
    Ok(if counts.0 > 0 { USAGE } else { SUCCESS })
}
