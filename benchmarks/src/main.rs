//! `./bench`: measures the rows of docs/speed.md for this project and for other programs, interleaved, and prints
//! medians. It has its own workloads and receivers. A missed goal is printed; the exit code stays 0. `./bench cost`
//! measures the cost of a run on AWS.

mod cost;
mod first_start;
mod log_events;
mod meter;
mod peers;
mod receiver;
mod rows;
mod sexton_process;
mod starts;
mod stops;
mod table;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tempfile::TempDir;

use peers::Peer;
use rows::{Case, Material, Program, Row};
use table::Series;

/// Row 9 measures a long run: it has MANY / OF times the lines of the other rows.
const MANY: u64 = 5;
const OF: u64 = 2;

/// Measure speed and memory; all rows take about ten minutes
#[derive(Debug, Parser)]
struct Options {
    /// Rows to measure [default: all]
    rows: Vec<Row>,
    /// Measurements of each row; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Lines of 100 bytes per measurement; row 9 has 5/2 times as many
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    lines: u64,
    /// Lines of row 8, at 20 per second
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    trickle: u64,
    /// Jobs of row 10
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    starts: u64,
    /// Program to measure [default: the sexton beside this program]
    #[arg(long, value_name = "PATH")]
    sexton: Option<PathBuf>,
    /// Another build to measure, interleaved with the first; can be repeated
    #[arg(long, value_name = "PATH")]
    against: Vec<PathBuf>,
    /// Do not measure other programs
    #[arg(long)]
    alone: bool,
}

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("trickle") => trickle(),
        Some("cost") => cost(),
        _ => measure(&Options::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// `bench trickle COUNT`: the job of row 8.
fn trickle() -> Result<()> {
    let count = std::env::args().nth(2).and_then(|text| text.parse().ok()).context("write bench trickle COUNT")?;
    Ok(workload::trickle(count, rows::TRICKLE_INTERVAL)?)
}

/// `bench cost [JOBS]`: measures the cost of a run on AWS.
fn cost() -> Result<()> {
    let jobs = std::env::args().nth(2).map_or(Ok(100), |text| text.parse());
    cost::measure(jobs.context("write bench cost JOBS")?)
}

fn measure(options: &Options) -> Result<()> {
    let bench = std::env::current_exe().context("cannot find the path of this program")?;
    let sexton = match &options.sexton {
        Some(path) => path.clone(),
        None => rows::sexton_beside(&bench)?,
    };
    let builds: Vec<PathBuf> = std::iter::once(sexton).chain(options.against.iter().cloned()).collect();
    let rows = match options.rows.as_slice() {
        [] => vec![
            Row::Spool,
            Row::Ship,
            Row::Cloudwatch,
            Row::Delay,
            Row::Memory,
            Row::Starts,
            Row::FirstStart,
            Row::Stops,
        ],
        rows => rows.to_vec(),
    };
    let cases = rows::cases(&rows, &builds, &peers_here(options.alone));
    let folder = TempDir::with_prefix("bench-")?;
    let material = material(options, &rows, &folder, bench)?;

    let mut all = Vec::new();
    for case in &cases {
        all.extend(case.programs.iter().flat_map(|program| {
            let metrics = case.metrics().into_iter();
            metrics.map(|metric| series(case, metric, program, &builds))
        }));
    }
    for pass in 1..=options.runs {
        let mut at = 0;
        for case in &cases {
            for program in &case.programs {
                let metrics = case.metrics().len();
                eprintln!("{pass}/{} {}: {}", options.runs, case.label(), name(program, &builds));
                note(case.measure(program, &material), &mut all[at..at + metrics]);
                at += metrics;
            }
        }
    }
    all.retain(|series| !series.values.is_empty() || !series.notes.is_empty());
    print!("{}", table::render(&all));
    Ok(())
}

/// The peers that are installed on this machine; prints the others.
fn peers_here(alone: bool) -> Vec<Peer> {
    if alone {
        return Vec::new();
    }
    let all = [Peer::S6Log, Peer::Multilog, Peer::Logger, Peer::Rsyslog, Peer::SyslogNg];
    let (here, missing): (Vec<Peer>, Vec<Peer>) = all.into_iter().partition(|peer| peer.program().is_some());
    for peer in missing {
        eprintln!("left out: {} is not installed; see benchmarks/setup/install", peer.name());
    }
    here
}

fn material(options: &Options, rows: &[Row], folder: &TempDir, bench: PathBuf) -> Result<Material> {
    let file = |name: &str, lines: u64, is_needed: bool| -> Result<(PathBuf, u64)> {
        let path = folder.path().join(name);
        if is_needed {
            workload::write_lines(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok((path, lines))
    };
    let has_short = rows.iter().any(|row| matches!(row, Row::Spool | Row::Ship | Row::Cloudwatch));
    Ok(Material {
        lines: file("lines", options.lines, has_short)?,
        many_lines: file("many-lines", options.lines * MANY / OF, rows.contains(&Row::Memory))?,
        trickle: options.trickle,
        starts: options.starts,
        bench,
    })
}

fn series(case: &Case, metric: table::Metric, program: &Program, builds: &[PathBuf]) -> Series {
    Series { row: case.label(), metric, program: name(program, builds), values: Vec::new(), notes: Vec::new() }
}

fn name(program: &Program, builds: &[PathBuf]) -> String {
    match program {
        Program::Sexton(path) if builds.first() == Some(path) => "sexton".to_owned(),
        Program::Sexton(path) => path.display().to_string(),
        Program::Peer(peer) => peer.name().to_owned(),
    }
}

/// Adds the values of one measurement to its series; a failure becomes a note of the first metric.
fn note(outcome: Result<rows::Outcome>, series: &mut [Series]) {
    match outcome {
        Ok(outcome) => {
            for (series, value) in series.iter_mut().zip(outcome.values) {
                series.values.extend(value);
            }
            series[0].notes.extend(outcome.notes);
        }
        Err(error) => {
            eprintln!("  failed: {error:#}");
            series[0].notes.push(format!("failed: {error:#}").replace(['\n', '|'], " "));
        }
    }
}
