//! From how a run ended and what its rules found to an outcome and a reason that a person can act on.
//!
//! The runner asks for its brackets in the sinks, the collector for the record. Pure: the same facts always give the
//! same verdict.

use std::time::Duration;

use domain::event::{Ended, Report};
use domain::job::Job;
use domain::run::{ExcerptLine, JudgedOn, Outcome, RuleHit, Severity};
use domain::units::format_duration;

use crate::matcher::worst_first;
use crate::pack::{Expectation, Rule, StreamChoice};
use crate::rule_set::RuleSet;

/// Bytes of a matching line that a reason quotes. Ours; a reason stands in subjects and table cells.
const QUOTE_BYTES_MAX: usize = 160;

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct ExitFacts<'r> {
    pub ended: Ended,
    /// What its runner adds in words.
    pub note: Option<&'r str>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub duration: Duration,
    /// Lines that no rule could see.
    pub dropped_lines: u64,
    /// The runner's own outcome. Believed only where the command never began: the runner alone knows why.
    pub reported: Outcome,
}

/// What the job says about ending well.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'j> {
    pub success_exit_codes: &'j [i32],
    pub min_duration: Option<Duration>,
    /// Run limit; only named in the reason.
    pub timeout: Option<Duration>,
}

/// What becomes of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    /// One sentence.
    pub reason: String,
    pub judged_on: JudgedOn,
    /// The hits that the verdict rests on, for the record.
    pub hits: Vec<RuleHit>,
}

impl<'r> ExitFacts<'r> {
    pub fn of(report: &'r Report) -> ExitFacts<'r> {
        ExitFacts {
            ended: report.ended,
            note: report.note.as_deref(),
            exit_code: report.exit_code,
            signal: report.signal,
            duration: Duration::from_millis(report.duration_ms),
            dropped_lines: report.dropped_lines,
            reported: report.outcome,
        }
    }

    /// A command that ended by itself with this exit code.
    pub const fn exited(exit_code: i32, duration: Duration) -> ExitFacts<'static> {
        ExitFacts {
            ended: Ended::Exited,
            note: None,
            exit_code: Some(exit_code),
            signal: None,
            duration,
            dropped_lines: 0,
            reported: Outcome::Succeeded,
        }
    }
}

impl Limits<'static> {
    /// What holds when a job says nothing.
    pub const DEFAULT: Limits<'static> = Limits { success_exit_codes: &[0], min_duration: None, timeout: None };
}

impl<'j> Limits<'j> {
    pub fn of(job: &'j Job) -> Limits<'j> {
        Limits { success_exit_codes: &job.success_exit_codes, min_duration: job.min_duration, timeout: job.timeout }
    }
}

/// Judges a report by the rules at hand: on what the runner counted when it applied the same rules, else on the
/// excerpt.
pub fn judge_report(report: &Report, limits: &Limits<'_>, rules: &RuleSet) -> Verdict {
    let facts = ExitFacts::of(report);
    if report.rules_digest == rules.digest() {
        return judge(&facts, limits, &report.rules);
    }
    let complete = report.dropped_lines == 0 && report.excerpt.len() as u64 == report.last_seq;
    judge_excerpt(&facts, limits, &report.rules, rules, &report.excerpt, complete)
}

/// Judges by hits that were counted over all output ([`crate::Matcher::hits`]).
pub fn judge(facts: &ExitFacts<'_>, limits: &Limits<'_>, hits: &[RuleHit]) -> Verdict {
    let (outcome, reason) = outcome_of(facts, limits, hits);
    Verdict { outcome, reason, judged_on: JudgedOn::All, hits: hits.to_vec() }
}

/// Judges where the rules at hand are not those that the runner applied. They are tried on the excerpt; of what the
/// runner reported, that is kept which the rules at hand do not contradict. `complete`: the excerpt is the whole
/// output, so that the absence of a line proves something.
pub fn judge_excerpt(
    facts: &ExitFacts<'_>,
    limits: &Limits<'_>,
    reported: &[RuleHit],
    rules: &RuleSet,
    excerpt: &[ExcerptLine],
    complete: bool,
) -> Verdict {
    let mut hits: Vec<RuleHit> = reported.iter().filter(|hit| is_still_valid(hit, rules, excerpt)).cloned().collect();
    for (pack, rule) in rules.rules() {
        if hits.iter().any(|hit| hit.pack == pack.name && hit.rule == rule.id) {
            continue;
        }
        let (count, first) = match_excerpt(rule, excerpt);
        let is_hit = match rule.expectation {
            Expectation::NoMatch => count >= rule.at_least,
            Expectation::Match => complete && count < rule.at_least,
        };
        if is_hit {
            hits.push(RuleHit {
                rule: rule.id.clone(),
                pack: pack.name.clone(),
                severity: rule.severity,
                count,
                first_seq: first.map_or(0, |line| line.seq),
                first_line: first.map(|line| line.text.clone()).unwrap_or_default(),
                explain: rule.explain.clone(),
            });
        }
    }
    hits.sort_by_key(worst_first);
    let (outcome, mut reason) = outcome_of(facts, limits, &hits);
    if is_success_exit(facts, limits) {
        reason.push_str(" (judged on the first and last lines only, because the runner had other rules)");
    }
    Verdict { outcome, reason, judged_on: JudgedOn::Excerpt, hits }
}

/// Whether the rules at hand still say what the runner's rules said.
fn is_still_valid(hit: &RuleHit, rules: &RuleSet, excerpt: &[ExcerptLine]) -> bool {
    let same = rules.rules().find(|(pack, rule)| pack.name == hit.pack && rule.id == hit.rule);
    match same {
        Some((_, rule)) => match rule.expectation {
            Expectation::NoMatch => hit.count >= rule.at_least && rule.matches(hit.first_line.as_bytes()),
            Expectation::Match => hit.count < rule.at_least && match_excerpt(rule, excerpt).0 < rule.at_least,
        },
        // A rule taken out of a pack that is at hand is withdrawn; a pack that only the runner has stands.
        None => !rules.packs().any(|pack| pack == hit.pack),
    }
}

/// How many lines of the excerpt match, and the first.
fn match_excerpt<'x>(rule: &Rule, excerpt: &'x [ExcerptLine]) -> (u64, Option<&'x ExcerptLine>) {
    let on_stream = |line: &&ExcerptLine| match rule.stream {
        StreamChoice::Any => true,
        StreamChoice::Stdout => line.stream == domain::line::Stream::Stdout,
        StreamChoice::Stderr => line.stream == domain::line::Stream::Stderr,
    };
    let mut matching = excerpt.iter().filter(on_stream).filter(|line| rule.matches(line.text.as_bytes()));
    let first = matching.next();
    (first.map_or(0, |_| 1 + matching.count() as u64), first)
}

fn is_success_exit(facts: &ExitFacts<'_>, limits: &Limits<'_>) -> bool {
    facts.ended == Ended::Exited && facts.exit_code.is_some_and(|code| limits.success_exit_codes.contains(&code))
}

fn outcome_of(facts: &ExitFacts<'_>, limits: &Limits<'_>, hits: &[RuleHit]) -> (Outcome, String) {
    let note = facts.note.filter(|note| !note.is_empty());
    let (outcome, said) = match facts.ended {
        Ended::NotStarted => {
            return (outcome_of_unstarted(facts.reported), note.unwrap_or("it could not be started").to_owned());
        }
        Ended::Lost => (Outcome::Lost, "its keeper is gone and left no exit status".to_owned()),
        Ended::TimedOut => (
            Outcome::TimedOut,
            match limits.timeout {
                Some(limit) => format!("still ran at its limit of {} and was stopped", format_duration(limit)),
                None => "still ran at its limit and was stopped".to_owned(),
            },
        ),
        Ended::Stopped => (Outcome::Stopped, "somebody asked to stop it".to_owned()),
        Ended::Exited if is_success_exit(facts, limits) => return good_exit(facts, limits, hits),
        Ended::Exited => (Outcome::Failed, bad_exit(facts)),
    };
    let mut reason = said;
    if let Some(note) = note {
        reason.push_str("; ");
        reason.push_str(note);
    }
    if let Some(summary) = match_summary(hits, Severity::Fail) {
        reason.push_str("; ");
        reason.push_str(&summary);
    }
    (outcome, reason)
}

/// A command that never began cannot have ended in any other way than these.
fn outcome_of_unstarted(reported: Outcome) -> Outcome {
    match reported {
        Outcome::Skipped | Outcome::Missed | Outcome::Stopped | Outcome::Lost => reported,
        _ => Outcome::Failed,
    }
}

fn good_exit(facts: &ExitFacts<'_>, limits: &Limits<'_>, hits: &[RuleHit]) -> (Outcome, String) {
    let exit = format!("exit code {}", facts.exit_code.unwrap_or_default());
    if let Some(mut summary) = match_summary(hits, Severity::Fail) {
        let unmet = hits.iter().any(|hit| hit.severity == Severity::Fail && hit.first_seq == 0);
        if unmet && facts.dropped_lines > 0 {
            summary.push_str(&format!(" ({} dropped lines were not looked at)", facts.dropped_lines));
        }
        return (Outcome::FalseSuccess, format!("{exit}, but {summary}"));
    }
    if let Some(least) = limits.min_duration.filter(|least| facts.duration < *least) {
        let took = format_duration(Duration::from_millis(facts.duration.as_millis() as u64));
        let least = format_duration(least);
        let reason = format!("{exit}, but it took {took} where at least {least} is expected; it probably did nothing");
        return (Outcome::FalseSuccess, reason);
    }
    let mut reason = exit;
    if let Some(warning) = match_summary(hits, Severity::Warn) {
        reason.push_str(&format!("; warning: {warning}"));
    }
    if facts.dropped_lines > 0 {
        reason.push_str(&format!("; {} dropped lines were not looked at", facts.dropped_lines));
    }
    (Outcome::Succeeded, reason)
}

fn bad_exit(facts: &ExitFacts<'_>) -> String {
    match (facts.signal, facts.exit_code) {
        (Some(signal), _) => {
            let name = signal_name(signal).map_or(String::new(), |name| format!(" ({name})"));
            let hint = match signal {
                9 => ", as the kernel does when memory runs out",
                _ => "",
            };
            format!("killed by signal {signal}{name}{hint}")
        }
        (None, Some(code)) => {
            // What shells mean by these: POSIX, Shell Command Language, 2.8.2.
            let meaning = match code {
                126 => ", a shell's word for a file that cannot be executed".to_owned(),
                127 => ", a shell's word for a command that was not found".to_owned(),
                129..=192 => signal_name(code - 128)
                    .map_or(String::new(), |name| format!(", a shell's word for a command killed by {name}")),
                _ => String::new(),
            };
            format!("exit code {code}{meaning}")
        }
        (None, None) => "ended without an exit status".to_owned(),
    }
}

/// The worst of the hits of this severity, as half a sentence.
fn match_summary(hits: &[RuleHit], severity: Severity) -> Option<String> {
    let mut alike = hits.iter().filter(|hit| hit.severity == severity);
    let hit = alike.next()?;
    let more = match alike.count() {
        0 => String::new(),
        1 => " (and 1 more rule)".to_owned(),
        more => format!(" (and {more} more rules)"),
    };
    let place = match (hit.first_seq, hit.count) {
        (0, _) => "no line matches".to_owned(),
        (seq, 1) => format!("line {seq} matches"),
        (seq, count) => format!("line {seq} and {} more match", count - 1),
    };
    let means = match hit.explain.is_empty() {
        false => format!(": {}", hit.explain),
        true if hit.first_line.is_empty() => String::new(),
        true => format!(": {}", quoted(&hit.first_line)),
    };
    Some(format!("{place} {}{more}{means}", hit.rule))
}

fn quoted(line: &str) -> String {
    let line: String = line.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.len() <= QUOTE_BYTES_MAX {
        true => format!("\"{line}\""),
        false => format!("\"{}…\"", &line[..line.floor_char_boundary(QUOTE_BYTES_MAX)]),
    }
}

/// Linux, signal(7), x86 and ARM numbers.
fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [(i32, &str); 14] = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (14, "SIGALRM"),
        (15, "SIGTERM"),
        (24, "SIGXCPU"),
        (25, "SIGXFSZ"),
    ];
    NAMES.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}
