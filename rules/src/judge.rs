//! Computes the outcome of a run and its reason from the exit and the hits of its rules. Called by the runner for the
//! bracket records, and by the collector for the run's record. Pure: the same facts always give the same verdict.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::event::{Ended, Report};
use domain::guard::FalseGuard;
use domain::job::Job;
use domain::line::Gap;
use domain::run::{ExcerptLine, JudgedOn, Outcome, RuleHit, Severity};
use domain::units::format_duration;

use crate::kept_line::is_altered;
use crate::matcher::worst_first;
use crate::pack::{Expectation, Rule};
use crate::replay::{ReplayLine, matching_lines};
use crate::rule_set::{RuleSet, Streams};

/// Bytes of a matching line that a reason quotes. Chosen: reasons appear in subjects and table cells.
const QUOTE_BYTES_MAX: usize = 160;

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct ExitFacts<'r> {
    /// How the command ended.
    pub ended: Ended,
    /// The runner's own sentence.
    pub note: Option<&'r str>,
    /// Absent when a signal ended the command.
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the command.
    pub signal: Option<i32>,
    /// Of the command.
    pub duration: Duration,
    /// The guard before `&&` that was false.
    pub guard: Option<&'r FalseGuard>,
    /// Lines of output, of both streams; unknown before the end of the output.
    pub lines: Option<u64>,
    /// Lines that no rule could see.
    pub dropped_lines: u64,
    /// The runner's own outcome. Used only when the command never started: only the runner knows the cause.
    pub reported: Outcome,
}

/// The fields of a job that decide its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'j> {
    /// Exit codes that mean success.
    pub success_exit_codes: &'j [i32],
    /// A run that succeeds in less time is a false success.
    pub min_duration: Option<Duration>,
    /// A run that succeeds after more time is a false success.
    pub max_duration: Option<Duration>,
    /// A run that succeeds with fewer lines is a false success.
    pub min_lines: Option<u32>,
    /// Appears in the reason only.
    pub timeout: Option<Duration>,
}

/// The result of judging a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of the run.
    pub outcome: Outcome,
    /// One sentence.
    pub reason: String,
    /// The output that the rules have seen.
    pub judged_on: JudgedOn,
    /// The hits that the verdict rests on, for the record.
    pub hits: Vec<RuleHit>,
}

impl<'r> ExitFacts<'r> {
    /// The facts of a report.
    pub fn of(report: &'r Report) -> ExitFacts<'r> {
        ExitFacts {
            ended: report.ended,
            note: report.note.as_deref(),
            exit_code: report.exit_code,
            signal: report.signal,
            duration: Duration::from_millis(report.duration_ms),
            guard: report.guard.as_ref(),
            lines: Some(report.output.stdout_lines + report.output.stderr_lines),
            dropped_lines: report.output.dropped_lines,
            reported: report.outcome,
        }
    }

    /// The facts of a command that exited with this code.
    pub const fn exited(exit_code: i32, duration: Duration) -> ExitFacts<'static> {
        ExitFacts {
            ended: Ended::Exited,
            note: None,
            exit_code: Some(exit_code),
            signal: None,
            duration,
            guard: None,
            lines: None,
            dropped_lines: 0,
            reported: Outcome::Succeeded,
        }
    }
}

impl Limits<'static> {
    /// The limits of a job with defaults.
    pub const DEFAULT: Limits<'static> =
        Limits { success_exit_codes: &[0], min_duration: None, max_duration: None, min_lines: None, timeout: None };
}

impl<'j> Limits<'j> {
    /// The limits of a job.
    pub fn of(job: &'j Job) -> Limits<'j> {
        Limits {
            success_exit_codes: &job.success_exit_codes,
            min_duration: job.min_duration,
            max_duration: job.max_duration,
            min_lines: job.min_lines,
            timeout: job.timeout,
        }
    }
}

/// Judges a report by the present rules: by the runner's counts if it applied the same rules, else by the excerpt.
pub fn judge_report(report: &Report, limits: &Limits<'_>, rules: &RuleSet) -> Verdict {
    let facts = ExitFacts::of(report);
    if report.rules_digest == rules.digest() {
        return judge(&facts, limits, &report.rules);
    }
    let complete = report.output.dropped_lines == 0 && report.excerpt.len() as u64 == report.output.last_seq;
    let is_same = |(name, digest): &(&String, &String)| report.pack_digests.get(*name) == Some(*digest);
    let same_packs = rules.pack_digests().iter().filter(is_same).map(|(name, _)| name.as_str()).collect();
    judge_excerpt(&facts, limits, &report.rules, rules, &report.excerpt, complete, &same_packs)
}

/// Judges by hits over all output ([`crate::Matcher::hits`]).
pub fn judge(facts: &ExitFacts<'_>, limits: &Limits<'_>, hits: &[RuleHit]) -> Verdict {
    let hits = weaken_unmet(facts, hits.to_vec());
    let (outcome, reason) = outcome_of(facts, limits, &hits);
    Verdict { outcome, reason, judged_on: JudgedOn::All, hits }
}

/// Where lines were dropped, a hit that one more line would undo is a warning.
fn weaken_unmet(facts: &ExitFacts<'_>, mut hits: Vec<RuleHit>) -> Vec<RuleHit> {
    if facts.dropped_lines > 0 {
        hits.iter_mut().filter(|hit| needs_all_lines(hit)).for_each(|hit| hit.severity = Severity::Warn);
        hits.sort_by_key(worst_first);
    }
    hits
}

/// Whether one more matching line could undo the hit.
fn needs_all_lines(hit: &RuleHit) -> bool {
    match (hit.required, hit.at_most) {
        (Some(_), Some(most)) => hit.count <= most,
        (None, Some(_)) => true,
        (_, None) => is_unmet(hit),
    }
}

/// Whether the hit is of a `require` rule.
fn is_unmet(hit: &RuleHit) -> bool {
    hit.required.is_some() || hit.first_seq == 0
}

/// Judges a report whose runner applied other rules. The present rules are applied to the excerpt, and reported hits
/// are kept unless the present rules contradict them. `complete`: the excerpt is the whole output, so the absence of a
/// line counts. `same_packs`: packs that the runner applied to all output as they are here; its matches decide.
pub fn judge_excerpt(
    facts: &ExitFacts<'_>,
    limits: &Limits<'_>,
    reported: &[RuleHit],
    rules: &RuleSet,
    excerpt: &[ExcerptLine],
    complete: bool,
    same_packs: &BTreeSet<&str>,
) -> Verdict {
    let is_valid = |hit: &&RuleHit| same_packs.contains(hit.pack.as_str()) || is_still_valid(hit, rules, excerpt);
    let mut hits: Vec<RuleHit> = reported.iter().filter(is_valid).cloned().collect();
    let complete = complete && !excerpt.iter().any(|line| is_altered(&line.text));
    let others = rules.rules().enumerate().filter(|(_, (pack, _))| !same_packs.contains(pack.name.as_str()));
    for (number, (pack, rule)) in others {
        let streams = rules.streams_of(number);
        if !streams.any() || hits.iter().any(|hit| hit.pack == pack.name && hit.rule == rule.id) {
            continue;
        }
        let (count, first) = match_excerpt(rule, streams, excerpt);
        // More matching lines may follow in what is missing.
        let is_final = match rule.expectation {
            Expectation::NoMatch => complete || rule.at_most.is_none(),
            Expectation::Match => complete || rule.at_most.is_some_and(|most| count > most),
        };
        let is_hit = is_final && rule.is_hit(count);
        if is_hit {
            hits.push(RuleHit {
                rule: rule.id.clone(),
                pack: pack.name.clone(),
                severity: rule.severity,
                count,
                first_seq: first.map_or(0, |line| line.seq),
                first_line: first.map(|line| line.text.clone()).unwrap_or_default(),
                explain: rule.explain.clone(),
                required: (rule.expectation == Expectation::Match).then_some(rule.at_least),
                at_most: rule.at_most,
            });
        }
    }
    hits.sort_by_key(worst_first);
    let hits = weaken_unmet(facts, hits);
    let (outcome, mut reason) = outcome_of(facts, limits, &hits);
    if rules.packs().all(|pack| same_packs.contains(pack)) {
        return Verdict { outcome, reason, judged_on: JudgedOn::All, hits };
    }
    if is_success_exit(facts, limits) {
        reason.push_str(" (judged on the first and last lines only: the runner used different rules)");
    }
    Verdict { outcome, reason, judged_on: JudgedOn::Excerpt, hits }
}

/// Whether the present rules still give this hit.
fn is_still_valid(hit: &RuleHit, rules: &RuleSet, excerpt: &[ExcerptLine]) -> bool {
    let same = rules.number_of(&hit.pack, &hit.rule).and_then(|number| Some((number, rules.rule(number)?.1)));
    match same {
        Some((number, rule)) if is_on_other_stream(rules.streams_of(number), rule, hit, excerpt) => false,
        Some((number, rule)) => match rule.expectation {
            Expectation::NoMatch => {
                let matches = rule.matches(hit.first_line.as_bytes()) || is_altered(&hit.first_line);
                hit.required.is_none() && rule.is_hit(hit.count) && matches && !is_cleared(rule, hit, excerpt)
            }
            Expectation::Match => {
                let is_short = hit.count < rule.at_least
                    && match_excerpt(rule, rules.streams_of(number), excerpt).0 < rule.at_least;
                is_unmet(hit) && rule.is_hit(hit.count) && (is_short || hit.count > rule.at_least)
            }
        },
        // A rule removed from a known pack is withdrawn. Hits of a pack that only the runner has are kept.
        None => !rules.packs().any(|pack| pack == hit.pack),
    }
}

/// Whether the present rule does not apply to the job, or not to the stream of the hit's line.
fn is_on_other_stream(streams: Streams, rule: &Rule, hit: &RuleHit, excerpt: &[ExcerptLine]) -> bool {
    let first = excerpt.iter().find(|line| line.seq == hit.first_seq);
    let is_other = first.is_some_and(|line| !streams.has(Some(line.stream)));
    !streams.any() || (rule.expectation == Expectation::NoMatch && is_other)
}

/// Whether a line of the excerpt behind the hit clears its rule.
fn is_cleared(rule: &Rule, hit: &RuleHit, excerpt: &[ExcerptLine]) -> bool {
    let mut later = excerpt.iter().filter(|line| line.seq > hit.first_seq);
    rule.cleared_by.is_some() && later.any(|line| rule.clears(line.text.as_bytes()))
}

/// The number of matching lines in the excerpt, and the first of them.
fn match_excerpt<'x>(rule: &Rule, streams: Streams, excerpt: &'x [ExcerptLine]) -> (u64, Option<&'x ExcerptLine>) {
    let of_job = excerpt.iter().filter(|line| Gap::parse(line.text.as_bytes()).is_none());
    let line = |line: &'x ExcerptLine| ReplayLine {
        seq: line.seq,
        stream: Some(line.stream),
        text: &line.text,
        is_cut: is_altered(&line.text),
    };
    let lines: Vec<ReplayLine<'_>> = of_job.map(line).collect();
    let matching = matching_lines(rule, streams, &lines);
    let first = matching.first().and_then(|seq| excerpt.iter().find(|line| line.seq == *seq));
    (matching.len() as u64, first)
}

/// Whether the exit is one of success. A command whose guard asks for a program that is not installed has nothing to
/// do: packages leave such entries behind when they are removed.
fn is_success_exit(facts: &ExitFacts<'_>, limits: &Limits<'_>) -> bool {
    let is_success_code = facts.exit_code.is_some_and(|code| limits.success_exit_codes.contains(&code));
    let has_no_program = facts.guard.is_some_and(|guard| guard.missing_program.is_some());
    facts.ended == Ended::Exited && (is_success_code || has_no_program)
}

/// The guard that was false, as a clause.
fn guard_summary(guard: &FalseGuard) -> String {
    let FalseGuard { text, missing_program } = guard;
    match missing_program {
        Some(program) => {
            format!(
                "the guard `{}` before && was false, because {} is not installed",
                quotable(text),
                quotable(program)
            )
        }
        None => format!("the guard `{}` before && was false, so the rest did not run", quotable(text)),
    }
}

fn outcome_of(facts: &ExitFacts<'_>, limits: &Limits<'_>, hits: &[RuleHit]) -> (Outcome, String) {
    let note = facts.note.filter(|note| !note.is_empty());
    let (outcome, said) = match facts.ended {
        Ended::NotStarted => {
            return (outcome_of_unstarted(facts.reported), note.unwrap_or("could not be started").to_owned());
        }
        Ended::Lost => (Outcome::Lost, "its keeper died without recording an exit status".to_owned()),
        Ended::TimedOut => (
            Outcome::TimedOut,
            match limits.timeout {
                Some(limit) => format!("exceeded its timeout of {} and was stopped", format_duration(limit)),
                None => "exceeded its timeout and was stopped".to_owned(),
            },
        ),
        Ended::Stopped => (Outcome::Stopped, "stopped on request".to_owned()),
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

/// A command that never started has one of these outcomes; any other is reported as failed.
fn outcome_of_unstarted(reported: Outcome) -> Outcome {
    match reported {
        Outcome::Skipped | Outcome::Missed | Outcome::Stopped | Outcome::Lost => reported,
        _ => Outcome::Failed,
    }
}

fn good_exit(facts: &ExitFacts<'_>, limits: &Limits<'_>, hits: &[RuleHit]) -> (Outcome, String) {
    let mut exit = format!("exit code {}", facts.exit_code.unwrap_or_default());
    if let Some(guard) = facts.guard {
        exit.push_str(": ");
        exit.push_str(&guard_summary(guard));
    }
    if let Some(summary) = match_summary(hits, Severity::Fail) {
        return (Outcome::FalseSuccess, format!("{exit}, but {summary}"));
    }
    if let Some(missed) = missed_limit(facts, limits) {
        return (Outcome::FalseSuccess, format!("{exit}, but {missed}"));
    }
    let mut reason = exit;
    if let Some(warning) = match_summary(hits, Severity::Warn) {
        reason.push_str(&format!("; warning: {warning}"));
    }
    if facts.dropped_lines > 0 {
        reason.push_str(&format!("; {} dropped lines were not checked", facts.dropped_lines));
    }
    (Outcome::Succeeded, reason)
}

/// The limit of the job that a run with a good exit did not keep, as a clause.
fn missed_limit(facts: &ExitFacts<'_>, limits: &Limits<'_>) -> Option<String> {
    let took = || format_duration(Duration::from_millis(facts.duration.as_millis() as u64));
    if let Some(least) = limits.min_duration.filter(|least| facts.duration < *least) {
        let least = format_duration(least);
        return Some(format!("took {}, expected at least {least}; it probably did nothing", took()));
    }
    if let Some(most) = limits.max_duration.filter(|most| facts.duration > *most) {
        return Some(format!("took {}, expected at most {}", took(), format_duration(most)));
    }
    let (least, lines) = limits.min_lines.zip(facts.lines)?;
    let printed = match lines {
        0 => "printed nothing".to_owned(),
        1 => "printed 1 line".to_owned(),
        lines => format!("printed {lines} lines"),
    };
    (lines < u64::from(least)).then(|| format!("{printed}, expected at least {least}"))
}

fn bad_exit(facts: &ExitFacts<'_>) -> String {
    if let (Some(guard), Some(code)) = (facts.guard, facts.exit_code) {
        return format!("exit code {code}: {}", guard_summary(guard));
    }
    match (facts.signal, facts.exit_code) {
        (Some(signal), _) => {
            let name = signal_name(signal).map_or(String::new(), |name| format!(" ({name})"));
            let hint = match signal {
                9 => ", as the kernel does when memory is exhausted",
                _ => "",
            };
            format!("killed by signal {signal}{name}{hint}")
        }
        (None, Some(code)) => {
            // The meaning in shells: POSIX, Shell Command Language, 2.8.2.
            let meaning = match code {
                126 => ", in a shell: a file that cannot be executed".to_owned(),
                127 => ", in a shell: command not found".to_owned(),
                129..=192 => signal_name(code - 128)
                    .map_or(String::new(), |name| format!(", in a shell: a command killed by {name}")),
                _ => String::new(),
            };
            format!("exit code {code}{meaning}")
        }
        (None, None) => "ended without an exit status".to_owned(),
    }
}

/// The first hit of this severity, which is the worst, as a clause.
fn match_summary(hits: &[RuleHit], severity: Severity) -> Option<String> {
    let mut alike = hits.iter().filter(|hit| hit.severity == severity);
    let hit = alike.next()?;
    let more = match alike.count() {
        0 => String::new(),
        1 => " (and 1 more rule)".to_owned(),
        more => format!(" (and {more} more rules)"),
    };
    let too_many = hit.at_most.filter(|most| hit.required.is_some() && hit.count > *most);
    let place = match (hit.required, hit.first_seq, hit.count) {
        (Some(_), _, count) if too_many.is_some() => {
            format!("{count} lines (at most {} may) match", too_many.unwrap_or_default())
        }
        (Some(required), _, count) if required > 1 => format!("only {count} of {required} required lines match"),
        (Some(_), _, _) | (None, 0, _) => "no line matches".to_owned(),
        (None, seq, 1) => format!("line {seq} matches"),
        (None, seq, count) => format!("line {seq} and {} more match", count - 1),
    };
    let means = match hit.explain.is_empty() {
        false => format!(": {}", hit.explain),
        true if hit.first_line.is_empty() => String::new(),
        true => format!(": {}", quoted(&hit.first_line)),
    };
    Some(format!("{place} {}{more}{means}", hit.rule))
}

fn quoted(line: &str) -> String {
    format!("\"{}\"", quotable(line))
}

fn quotable(line: &str) -> String {
    let line: String = line.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.len() <= QUOTE_BYTES_MAX {
        true => line,
        false => format!("{}…", &line[..line.floor_char_boundary(QUOTE_BYTES_MAX)]),
    }
}

/// The name of a signal on Linux, x86 and ARM (signal(7)).
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
