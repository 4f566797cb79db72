//! The rows of the table: their programs, workloads and metrics. One call is one measurement; the caller interleaves
//! and repeats the calls.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::first_start;
use crate::log_events::LogEvents;

use crate::peers::{self, Forwarder, Peer, Source};
use crate::receiver::{Pace, Receiver};
use crate::sexton_process::{FinishedRun, SextonProcess};
use crate::starts;
use crate::stops;
use crate::table::{Goal, Metric, quantile};

/// `run.started` and `run.finished`, the bracket records of a run.
const BRACKETS: u64 = 2;

/// Time between two lines of row 8: 20 lines per second.
pub(crate) const TRICKLE_INTERVAL: Duration = Duration::from_millis(50);

/// Bytes per megabyte, the unit of the memory columns.
const MEGABYTE: f64 = 1e6;

/// A row of the goals, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// Pipe to spool
    #[value(name = "1")]
    Spool,
    /// Pipe to spool to syslog and GELF over TCP
    #[value(name = "2")]
    Ship,
    /// To CloudWatch Logs, with signing
    #[value(name = "5")]
    Cloudwatch,
    /// From a line to the sink, at a low rate
    #[value(name = "8")]
    Delay,
    /// Peak memory
    #[value(name = "9")]
    Memory,
    /// Many jobs in one minute
    #[value(name = "10")]
    Starts,
    /// First start with 100,000 entries
    #[value(name = "11")]
    FirstStart,
    /// From `sexton stop` to the end of the process
    #[value(name = "12")]
    Stops,
}

/// The second receiver of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    None,
    /// Reads about 1 MB per second.
    Slow,
    /// Refuses every connection.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Syslog,
    Gelf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// A build of this project, by its path.
    Sexton(PathBuf),
    Peer(Peer),
}

/// One workload, measured with several programs.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub row: Row,
    pub second: Second,
    pub protocol: Protocol,
    pub programs: Vec<Program>,
}

/// The inputs of all measurements.
pub(crate) struct Material {
    /// A file with its number of lines, for all rows but row 9.
    pub lines: (PathBuf, u64),
    /// A longer file for row 9.
    pub many_lines: (PathBuf, u64),
    /// Number of lines of row 8.
    pub trickle: u64,
    /// Number of jobs of row 10.
    pub starts: u64,
    /// This program, which prints the lines of row 8.
    pub bench: PathBuf,
}

/// The result of one measurement: a value for each metric of its case that applies to the program.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub values: Vec<Option<f64>>,
    pub notes: Vec<String>,
}

/// All cases of these rows. The goals are for the first of `builds`.
pub(crate) fn cases(rows: &[Row], builds: &[PathBuf], peers: &[Peer]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &row in rows {
        let seconds: &[Second] = match row {
            Row::Spool | Row::Cloudwatch | Row::Starts | Row::FirstStart | Row::Stops => &[Second::None],
            Row::Ship | Row::Delay | Row::Memory => &[Second::None, Second::Slow, Second::Dead],
        };
        for &second in seconds {
            let peers_of_row = peers_for(row, second).iter().filter(|peer| peers.contains(peer));
            let programs =
                builds.iter().cloned().map(Program::Sexton).chain(peers_of_row.map(|peer| Program::Peer(*peer)));
            cases.push(Case { row, second, protocol: Protocol::Syslog, programs: programs.collect() });
        }
        if row == Row::Ship {
            let programs = builds.iter().cloned().map(Program::Sexton).collect();
            cases.push(Case { row, second: Second::None, protocol: Protocol::Gelf, programs });
        }
    }
    cases
}

/// The peers that can do the same work. logger has only one receiver.
fn peers_for(row: Row, second: Second) -> &'static [Peer] {
    match (row, second) {
        (Row::Spool, _) => &[Peer::S6Log, Peer::Multilog],
        (Row::Cloudwatch | Row::Starts | Row::FirstStart | Row::Stops, _) => &[],
        (Row::Ship | Row::Delay | Row::Memory, Second::None) => &[Peer::Rsyslog, Peer::SyslogNg, Peer::Logger],
        (Row::Ship | Row::Delay | Row::Memory, _) => &[Peer::Rsyslog, Peer::SyslogNg],
    }
}

impl Case {
    pub(crate) fn label(&self) -> String {
        let work = match (self.row, self.protocol) {
            (Row::Spool, _) => "1 pipe to spool",
            (Row::Ship, Protocol::Syslog) => "2 to syslog over TCP",
            (Row::Ship, Protocol::Gelf) => "2 to GELF over TCP",
            (Row::Cloudwatch, _) => "5 to CloudWatch Logs",
            (Row::Delay, _) => "8 line to sink",
            (Row::Memory, _) => "9 peak memory",
            (Row::Starts, _) => "10 jobs of one minute",
            (Row::FirstStart, _) => "11 first start, 100,000 entries",
            (Row::Stops, _) => "12 stop to end",
        };
        let second = match self.second {
            Second::None => "",
            Second::Slow => ", second sink slow",
            Second::Dead => ", second sink dead",
        };
        format!("{work}{second}")
    }

    /// The goals of docs/speed.md.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let cpu = |goal: f64| Metric { name: "CPU-s per M lines", goal: Some(Goal::AtMost(goal)), decimals: 3 };
        match self.row {
            Row::Spool => vec![cpu(0.12)],
            Row::Ship => vec![cpu(0.25)],
            Row::Cloudwatch => {
                vec![cpu(0.45), Metric { name: "% full", goal: Some(Goal::AtLeast(98.0)), decimals: 1 }]
            }
            Row::Delay => vec![
                Metric { name: "median ms", goal: Some(Goal::AtMost(3.0)), decimals: 2 },
                Metric { name: "p99 ms", goal: Some(Goal::AtMost(15.0)), decimals: 2 },
            ],
            Row::Memory => vec![
                Metric { name: "runner MB", goal: Some(Goal::AtMost(40.0)), decimals: 1 },
                Metric { name: "keeper MB", goal: Some(Goal::AtMost(8.0)), decimals: 1 },
            ],
            Row::Starts => vec![
                Metric { name: "last start, s", goal: Some(Goal::AtMost(1.3)), decimals: 2 },
                Metric { name: "CPU-s", goal: Some(Goal::AtMost(3.2)), decimals: 2 },
            ],
            Row::FirstStart => vec![
                Metric { name: "s", goal: Some(Goal::AtMost(15.0)), decimals: 1 },
                Metric { name: "MB", goal: Some(Goal::AtMost(150.0)), decimals: 0 },
                Metric { name: "wait of a firing, s", goal: Some(Goal::AtMost(1.0)), decimals: 2 },
            ],
            Row::Stops => vec![Metric { name: "median ms", goal: Some(Goal::AtMost(100.0)), decimals: 1 }],
        }
    }

    /// Measures one program once.
    ///
    /// # Errors
    /// When the program fails; missing lines are notes.
    pub(crate) fn measure(&self, program: &Program, material: &Material) -> Result<Outcome> {
        let (source, wanted) = self.source(material);
        if let (Row::Spool, Program::Peer(peer)) = (self.row, program) {
            let (cpu, _) = peers::write_to_file(*peer, &material.lines.0)?;
            return Ok(Outcome { values: vec![Some(cpu * 1e6 / wanted as f64)], notes: Vec::new() });
        }
        if let (Row::Starts, Program::Sexton(path)) = (self.row, program) {
            return starts::measure(path, material.starts);
        }
        if let (Row::Stops, Program::Sexton(path)) = (self.row, program) {
            return stops::measure(path);
        }
        if let (Row::Cloudwatch, Program::Sexton(path)) = (self.row, program) {
            return measure_cloudwatch(path, &source, wanted);
        }
        if let (Row::FirstStart, Program::Sexton(path)) = (self.row, program) {
            let (seconds, bytes) = first_start::measure(path)?;
            let wait = first_start::measure_wait(path)?;
            let values = vec![Some(seconds), Some(bytes as f64 / MEGABYTE), Some(wait)];
            return Ok(Outcome { values, notes: Vec::new() });
        }
        let first = Receiver::start(Pace::Full)?;
        let second = match self.second {
            Second::Slow => Some(Receiver::start(Pace::Slow)?),
            Second::None | Second::Dead => None,
        };
        let dead = (self.second == Second::Dead).then(testbed::free_port);
        let second_address = second.as_ref().map(Receiver::address).or(dead);
        let used = match program {
            Program::Sexton(path) => self.measure_sexton(path, &source, wanted, &first, second_address)?,
            Program::Peer(peer) => measure_peer(*peer, &source, wanted, &first, second_address)?,
        };
        let mut notes = used.notes;
        if first.faults() > 0 {
            notes.push(format!("{} bytes outside any message", first.faults()));
        }
        let values = match self.row {
            Row::Spool | Row::Ship => vec![Some(used.cpu * 1e6 / wanted as f64)],
            Row::Delay => {
                let delays = first.delays_ms();
                vec![quantile(&delays, 0.5), quantile(&delays, 0.99)]
            }
            Row::Memory | Row::Cloudwatch | Row::Starts | Row::FirstStart | Row::Stops => {
                vec![Some(used.peak_bytes as f64 / MEGABYTE), used.keeper_peak_bytes.map(|b| b as f64 / MEGABYTE)]
            }
        };
        Ok(Outcome { values, notes })
    }

    fn source(&self, material: &Material) -> (Source, u64) {
        match self.row {
            Row::Delay => {
                let bench = material.bench.display().to_string();
                (Source::Command(vec![bench, "trickle".into(), material.trickle.to_string()]), material.trickle)
            }
            Row::Memory => (Source::File(material.many_lines.0.clone()), material.many_lines.1),
            _ => (Source::File(material.lines.0.clone()), material.lines.1),
        }
    }

    fn measure_sexton(
        &self,
        sexton: &std::path::Path,
        source: &Source,
        wanted: u64,
        first: &Receiver,
        second: Option<SocketAddr>,
    ) -> Result<Used> {
        let mut sinks = String::new();
        if self.row != Row::Spool {
            sinks += &match self.protocol {
                Protocol::Syslog => syslog_sink("first", first.address()),
                Protocol::Gelf => format!("[sink.first]\ntype = \"gelf\"\naddress = \"tcp://{}\"\n", first.address()),
            };
            sinks.extend(second.map(|address| syslog_sink("second", address)));
        }
        let up = SextonProcess::start(sexton, &job(source), &sinks)?;
        let ran = up.run()?;
        let mut notes = check_line_count(&ran, wanted)?;
        if self.row != Row::Spool {
            notes.extend(missing_note(wanted + BRACKETS, first.wait_for(wanted + BRACKETS)));
        }
        Ok(Used {
            cpu: up.cpu_since_ready(&ran)?,
            peak_bytes: up.peak_bytes()?,
            keeper_peak_bytes: Some(ran.keeper_peak_bytes),
            notes,
        })
    }
}

struct Used {
    cpu: f64,
    peak_bytes: u64,
    keeper_peak_bytes: Option<u64>,
    notes: Vec<String>,
}

fn measure_peer(
    peer: Peer,
    source: &Source,
    wanted: u64,
    first: &Receiver,
    second: Option<SocketAddr>,
) -> Result<Used> {
    let (cpu, peak_bytes) = if peer == Peer::Logger {
        let used = peers::send_by_logger(source, first.address())?;
        first.wait_for(wanted);
        used
    } else {
        let to: Vec<SocketAddr> = std::iter::once(first.address()).chain(second).collect();
        let forwarder = Forwarder::start(peer, source, &to)?;
        first.wait_for(wanted);
        forwarder.used()?
    };
    let notes = missing_note(wanted, first.messages()).into_iter().collect();
    Ok(Used { cpu, peak_bytes, keeper_peak_bytes: None, notes })
}

fn measure_cloudwatch(sexton: &std::path::Path, source: &Source, wanted: u64) -> Result<Outcome> {
    let receiver = LogEvents::start()?;
    let sinks = format!(
        "[sink.first]\ntype = \"cloudwatch_logs\"\ngroup = \"/bench\"\nstream = \"{{run_id}}\"\nformat = \"text\"\n\
         region = \"eu-west-1\"\nendpoint = \"http://{}\"\n",
        receiver.address()
    );
    let up = SextonProcess::start(sexton, &job(source), &sinks)?;
    let ran = up.run()?;
    let mut notes = check_line_count(&ran, wanted)?;
    let counts = receiver.wait_for(wanted + BRACKETS);
    let cpu = up.cpu_since_ready(&ran)?;
    notes.extend(missing_note(wanted + BRACKETS, counts.events));
    if let Some(message) = counts.first_violation.as_ref() {
        notes.push(format!("{} violations, the first: {message}", counts.violations));
    }
    let full = (counts.batches > 1).then(|| counts.mean_fullness() * 100.0);
    Ok(Outcome { values: vec![Some(cpu * 1e6 / wanted as f64), full], notes })
}

fn syslog_sink(name: &str, address: SocketAddr) -> String {
    format!("[sink.{name}]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\nframing = \"octet_counting\"\n")
}

fn job(source: &Source) -> Vec<String> {
    match source {
        Source::File(path) => vec!["cat".to_owned(), path.display().to_string()],
        Source::Command(argv) => argv.clone(),
    }
}

/// The numbers of a run are only valid if it printed every line of its input.
fn check_line_count(ran: &FinishedRun, wanted: u64) -> Result<Vec<String>> {
    if ran.lines != wanted {
        bail!("the run printed {} lines of {wanted}", ran.lines);
    }
    Ok(Vec::new())
}

fn missing_note(wanted: u64, came: u64) -> Option<String> {
    (came < wanted).then(|| format!("{} of {wanted} did not arrive", wanted - came))
}

/// The path of the sexton that `cargo build` puts beside this program.
///
/// # Errors
/// When this program cannot be found.
pub(crate) fn sexton_beside(bench: &std::path::Path) -> Result<PathBuf> {
    let folder = bench.parent().context("this program is in no folder")?;
    Ok(folder.join("sexton"))
}
