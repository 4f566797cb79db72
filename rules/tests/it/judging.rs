use std::collections::BTreeSet;
use std::time::Duration;

use domain::event::{Ended, Report};
use domain::guard::FalseGuard;
use domain::line::Stream;
use domain::run::{ExcerptLine, JudgedOn, Outcome, OutputCounts, RuleHit, Severity};
use rules::{ExitFacts, Limits, Matcher, judge, judge_excerpt, judge_report};

use crate::rules_of;

fn hit(rule: &str, severity: Severity, first_seq: u64, explain: &str) -> RuleHit {
    RuleHit {
        rule: rule.to_owned(),
        pack: "own".to_owned(),
        severity,
        count: u64::from(first_seq > 0),
        first_seq,
        first_line: "the line".to_owned(),
        explain: explain.to_owned(),
        required: None,
        at_most: None,
    }
}

fn check(facts: &ExitFacts<'_>, limits: &Limits<'_>, hits: &[RuleHit], outcome: Outcome, reason: &str) {
    let verdict = judge(facts, limits, hits);
    assert_eq!((verdict.outcome, verdict.reason.as_str()), (outcome, reason));
    assert_eq!((verdict.judged_on, verdict.hits.as_slice()), (JudgedOn::All, hits));
}

#[test]
fn exit_limits_and_hits_give_one_outcome_with_a_reason() {
    let second = Duration::from_secs(1);
    let good = ExitFacts::exited(0, second);
    let plain = Limits::DEFAULT;
    let traceback = hit("python.traceback", Severity::Fail, 812, "An exception reached the top of the program.");
    let warning = hit("python.logged-error", Severity::Warn, 5, "");
    let missing =
        RuleHit { first_line: String::new(), ..hit("backup.finished", Severity::Fail, 0, "It never said so.") };

    check(&good, &plain, &[], Outcome::Succeeded, "exit code 0");
    check(
        &good,
        &plain,
        &[traceback.clone(), missing.clone(), warning.clone()],
        Outcome::FalseSuccess,
        "exit code 0, but line 812 matches python.traceback (and 1 more rule): \
         An exception reached the top of the program.",
    );
    check(
        &good,
        &plain,
        std::slice::from_ref(&warning),
        Outcome::Succeeded,
        "exit code 0; warning: line 5 matches python.logged-error: \"the line\"",
    );
    check(
        &good,
        &plain,
        std::slice::from_ref(&missing),
        Outcome::FalseSuccess,
        "exit code 0, but no line matches backup.finished: It never said so.",
    );
    check(
        &ExitFacts::exited(0, Duration::from_millis(400)),
        &Limits { min_duration: Some(Duration::from_secs(60)), ..plain },
        &[],
        Outcome::FalseSuccess,
        "exit code 0, but took 400ms, expected at least 1m; it probably did nothing",
    );
    check(
        &ExitFacts::exited(3, second),
        &plain,
        std::slice::from_ref(&traceback),
        Outcome::Failed,
        "exit code 3; line 812 matches python.traceback: An exception reached the top of the program.",
    );
    let codes = Limits { success_exit_codes: &[0, 24], ..plain };
    check(&ExitFacts::exited(24, second), &codes, &[], Outcome::Succeeded, "exit code 24");
    check(
        &ExitFacts::exited(127, second),
        &plain,
        &[],
        Outcome::Failed,
        "exit code 127, in a shell: command not found",
    );
    let killed = ExitFacts { exit_code: None, signal: Some(9), ..good };
    check(
        &killed,
        &plain,
        &[],
        Outcome::Failed,
        "killed by signal 9 (SIGKILL), as the kernel does when memory is exhausted",
    );
}

#[test]
fn a_missing_line_is_a_warning_where_lines_were_dropped_and_a_matching_one_fails_the_run() {
    let facts = ExitFacts { dropped_lines: 12, ..ExitFacts::exited(0, Duration::from_secs(1)) };
    let too_few =
        RuleHit { count: 2, required: Some(3), ..hit("backup.files", Severity::Fail, 7, "Too few files were saved.") };
    let missing = RuleHit { required: Some(1), ..hit("backup.finished", Severity::Fail, 0, "It never said so.") };
    let verdict = judge(&facts, &Limits::DEFAULT, &[too_few.clone(), missing.clone()]);
    assert_eq!(
        (verdict.outcome, verdict.reason.as_str()),
        (
            Outcome::Succeeded,
            "exit code 0; warning: only 2 of 3 required lines match backup.files (and 1 more rule): \
             Too few files were saved.; 12 dropped lines were not checked"
        )
    );
    assert!(verdict.hits.iter().all(|hit| hit.severity == Severity::Warn), "{verdict:?}");
    // An older runner does not name the rule's kind, but its line number.
    let old = RuleHit { required: None, ..missing.clone() };
    assert_eq!(judge(&facts, &Limits::DEFAULT, &[old]).outcome, Outcome::Succeeded);
    let traceback = hit("python.traceback", Severity::Fail, 812, "");
    let verdict = judge(&facts, &Limits::DEFAULT, &[missing, traceback]);
    assert_eq!(verdict.outcome, Outcome::FalseSuccess);
    assert_eq!(verdict.reason, "exit code 0, but line 812 matches python.traceback: \"the line\"");
    let whole = ExitFacts { dropped_lines: 0, ..facts };
    let verdict = judge(&whole, &Limits::DEFAULT, &[too_few]);
    assert_eq!(verdict.outcome, Outcome::FalseSuccess);
    let reason = "exit code 0, but only 2 of 3 required lines match backup.files: Too few files were saved.";
    assert_eq!(verdict.reason, reason);
}

/// The runner matches whole lines; its report has at most 1 KiB of each.
#[test]
fn cut_lines_change_no_verdict_where_runner_and_collector_have_different_rules() {
    let text = "[[rule]]\nid = \"end\"\npattern = 'error$'\n\
                [[rule]]\nid = \"unless\"\npattern = '^begin'\nunless = 'fine$'\n\
                [[rule]]\nid = \"done\"\nrequire = 'complete$'\n";
    let (own, newer) = (rules_of(text), rules_of(&format!("{text}[[rule]]\nid = \"new\"\npattern = 'boom'\n")));
    let (long, cut) = ("x".repeat(2_000), format!("begin {}…", "x".repeat(1_012)));
    let lines = [format!("{long} error"), format!("begin {long} fine"), format!("{long} complete")];
    let printed: Vec<(Stream, &[u8])> = lines.iter().map(|line| (Stream::Stdout, line.as_bytes())).collect();
    let block = crate::block(1, &printed);
    let mut matcher = Matcher::new(own.clone());
    matcher.feed(&block);
    let names = |hits: &[RuleHit]| hits.iter().map(|hit| hit.rule.clone()).collect::<Vec<_>>();
    assert_eq!(names(&matcher.hits()), ["end"]);
    let mut report = report("old", matcher.hits(), &[cut.as_str(), cut.as_str(), cut.as_str()], 3);
    let verdict = judge_report(&report, &Limits::DEFAULT, &newer);
    assert_eq!((names(&verdict.hits), verdict.judged_on), (vec!["end".to_owned()], JudgedOn::Excerpt));
    // A pack that both have is judged by the runner's matches, although another pack differs.
    report.pack_digests = own.pack_digests().clone();
    let verdict = judge_report(&report, &Limits::DEFAULT, &own);
    assert_eq!((names(&verdict.hits), verdict.judged_on), (vec!["end".to_owned()], JudgedOn::All));
}

#[test]
fn a_run_that_did_not_exit_is_not_judged_by_its_output() {
    let good = ExitFacts::exited(0, Duration::from_secs(1));
    let plain = Limits { timeout: Some(Duration::from_secs(7200)), ..Limits::DEFAULT };
    let note = Some("KILL after 10s");
    let ended = |ended| ExitFacts { ended, ..good };
    check(
        &ExitFacts { note, ..ended(Ended::TimedOut) },
        &plain,
        &[],
        Outcome::TimedOut,
        "exceeded its timeout of 2h and was stopped; KILL after 10s",
    );
    check(&ended(Ended::Stopped), &plain, &[], Outcome::Stopped, "stopped on request");
    check(&ended(Ended::Lost), &plain, &[], Outcome::Lost, "its keeper died without recording an exit status");
    let refused = ExitFacts { note: Some("no user `bob` here"), reported: Outcome::Failed, ..ended(Ended::NotStarted) };
    check(&refused, &plain, &[], Outcome::Failed, "no user `bob` here");
    let late = ExitFacts { note: Some("too late"), reported: Outcome::Missed, ..ended(Ended::NotStarted) };
    check(&late, &plain, &[], Outcome::Missed, "too late");
}

fn report(digest: &str, hits: Vec<RuleHit>, excerpt: &[&str], last_seq: u64) -> Report {
    let line = |(index, text): (usize, &&str)| ExcerptLine {
        seq: index as u64 + 1,
        stream: Stream::Stdout,
        text: (*text).to_owned(),
    };
    Report {
        ended: Ended::Exited,
        note: None,
        exit_code: Some(0),
        signal: None,
        started_at: None,
        finished_at: "2026-11-23T07:50:00Z".parse().expect("instant"),
        duration_ms: 1_000,
        output: OutputCounts {
            stdout_lines: last_seq,
            stderr_lines: 0,
            stdout_bytes: 0,
            stderr_bytes: 0,
            last_seq,
            dropped_lines: 0,
            dropped_bytes: 0,
        },
        cpu_ms: None,
        max_rss_bytes: None,
        guard: None,
        leaked: Vec::new(),
        rules: hits,
        rules_digest: digest.to_owned(),
        pack_digests: Default::default(),
        interpreters: Default::default(),
        excerpt: excerpt.iter().enumerate().map(line).collect(),
        outcome: Outcome::Succeeded,
        reason: String::new(),
        output_open: false,
    }
}

#[test]
fn newer_rules_judge_the_excerpt_and_the_reason_states_it() {
    let rules = rules_of(
        "[[rule]]\nid = \"a\"\npattern = 'boom'\nexplain = \"It blew up.\"\n\
         [[rule]]\nid = \"done\"\nrequire = 'complete'\n",
    );
    let judged = |report: &Report| {
        let verdict = judge_report(report, &Limits::DEFAULT, &rules);
        let names: Vec<String> = verdict.hits.iter().map(|hit| hit.rule.clone()).collect();
        (verdict.outcome, verdict.judged_on, names.join(" "))
    };
    let (bad, good) = (Outcome::FalseSuccess, Outcome::Succeeded);
    let same = rules.digest();
    assert_eq!(judged(&report(same, vec![], &["boom"], 1)), (good, JudgedOn::All, String::new()));
    assert_eq!(judged(&report("old", vec![], &["boom", "complete"], 2)), (bad, JudgedOn::Excerpt, "a".to_owned()));
    assert_eq!(judged(&report("old", vec![], &["fine", "complete"], 2)), (good, JudgedOn::Excerpt, String::new()));
    // Only an excerpt with the whole output proves that a line is missing.
    assert_eq!(judged(&report("old", vec![], &["fine"], 1)), (bad, JudgedOn::Excerpt, "done".to_owned()));
    assert_eq!(judged(&report("old", vec![], &["fine"], 900)), (good, JudgedOn::Excerpt, String::new()));
    // Hits of the runner are kept unless the newer rules contradict them.
    let found = |rule: &str, pack: &str, line: &str| RuleHit {
        pack: pack.to_owned(),
        first_line: line.to_owned(),
        ..hit(rule, Severity::Fail, 400, "")
    };
    let with = |hit: RuleHit| judged(&report("old", vec![hit], &["fine"], 900)).2;
    assert_eq!(with(found("a", "own", "a boom")), "a");
    assert_eq!(with(found("a", "own", "no longer matched")), "");
    assert_eq!(with(found("withdrawn", "own", "x")), "");
    assert_eq!(with(found("theirs", "only-there", "x")), "theirs");
    let reason = judge_report(&report("old", vec![], &["boom"], 900), &Limits::DEFAULT, &rules).reason;
    assert_eq!(
        reason,
        "exit code 0, but line 1 matches a: It blew up. (judged on the first and last lines only: \
         the runner used different rules)"
    );
}

#[test]
fn a_false_guard_is_the_reason_and_a_missing_program_a_success() {
    let judged = |guard: &FalseGuard, limits: Limits<'_>| {
        let facts = ExitFacts { guard: Some(guard), ..ExitFacts::exited(1, Duration::ZERO) };
        let verdict = judge(&facts, &limits, &[]);
        (verdict.outcome, verdict.reason)
    };
    let missing =
        FalseGuard { text: "[ -x /usr/sbin/dma ]".to_owned(), missing_program: Some("/usr/sbin/dma".to_owned()) };
    let reason =
        "exit code 1: the guard `[ -x /usr/sbin/dma ]` before && was false, because /usr/sbin/dma is not installed";
    assert_eq!(judged(&missing, Limits::DEFAULT), (Outcome::Succeeded, reason.to_owned()));
    let other = FalseGuard { text: "[ -d /mnt/backup ]".to_owned(), missing_program: None };
    let reason = "exit code 1: the guard `[ -d /mnt/backup ]` before && was false, so the rest did not run";
    assert_eq!(judged(&other, Limits::DEFAULT), (Outcome::Failed, reason.to_owned()));
    // What the operator expects of a success is still checked.
    let slow = Limits { min_duration: Some(Duration::from_secs(60)), ..Limits::DEFAULT };
    assert_eq!(judged(&missing, slow).0, Outcome::FalseSuccess);
}

#[test]
fn an_excerpt_counts_a_match_only_where_no_missing_line_can_undo_it() {
    let rules = rules_of(
        "[[rule]]\nid = \"a\"\npattern = '^a'\ncleared_by = '^ok'\n\
         [[rule]]\nid = \"b\"\npattern = '^b'\nthen = '^c'\nwithin = 2\n\
         [[rule]]\nid = \"n\"\nrequire = '^n'\nat_most = 2\n[[rule]]\nid = \"m\"\npattern = '^n'\nat_most = 2\n\
         [[rule]]\nid = \"full\"\npattern = 'no space'\n",
    );
    let judged = |lines: &[(u64, &str)], last_seq: u64| {
        let excerpt: Vec<ExcerptLine> = lines
            .iter()
            .map(|(seq, text)| ExcerptLine { seq: *seq, stream: Stream::Stdout, text: (*text).to_owned() })
            .collect();
        let complete = excerpt.len() as u64 == last_seq;
        let facts = ExitFacts::exited(0, Duration::ZERO);
        let same = BTreeSet::new();
        let verdict = judge_excerpt(&facts, &Limits::DEFAULT, &[], &rules, &excerpt, complete, &same);
        verdict.hits.into_iter().map(|hit| hit.rule).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(judged(&[(1, "a"), (2, "x"), (3, "n"), (4, "n"), (5, "n")], 5), "a n");
    assert_eq!(judged(&[(1, "a"), (2, "ok"), (3, "n")], 3), "m");
    // What is missing between both lines could clear the first one, or be the second line of `within`.
    assert_eq!(judged(&[(1, "a"), (90, "x")], 90), "");
    assert_eq!(judged(&[(1, "x"), (90, "a")], 90), "a");
    assert_eq!(judged(&[(1, "b"), (90, "c")], 90), "");
    assert_eq!(judged(&[(1, "x"), (89, "b"), (90, "c")], 90), "b");
    // More lines may be among what is missing, but not fewer.
    assert_eq!(judged(&[(1, "n"), (90, "x")], 90), "");
    assert_eq!(judged(&[(1, "n"), (2, "n"), (3, "n"), (90, "x")], 90), "n");
    // The text of a gap is not the job's.
    assert_eq!(judged(&[(1, "n"), (2, "3 lines, 9 bytes dropped (seq 2-4): no space left")], 2), "m");
    assert_eq!(judged(&[(1, "n"), (2, "no space left")], 2), "m full");
}

#[test]
fn a_run_that_took_too_long_or_printed_too_little_is_a_false_success_with_that_reason() {
    let limits = Limits { max_duration: Some(Duration::from_secs(60)), min_lines: Some(3), ..Limits::DEFAULT };
    let check_run = |seconds: u64, lines: Option<u64>, outcome: Outcome, reason: &str| {
        let facts = ExitFacts { lines, ..ExitFacts::exited(0, Duration::from_secs(seconds)) };
        check(&facts, &limits, &[], outcome, reason);
    };
    let (good, bad) = (Outcome::Succeeded, Outcome::FalseSuccess);
    check_run(60, Some(3), good, "exit code 0");
    check_run(61, Some(3), bad, "exit code 0, but took 1m1s, expected at most 1m");
    check_run(1, Some(2), bad, "exit code 0, but printed 2 lines, expected at least 3");
    check_run(1, Some(1), bad, "exit code 0, but printed 1 line, expected at least 3");
    check_run(1, Some(0), bad, "exit code 0, but printed nothing, expected at least 3");
    check_run(1, None, good, "exit code 0");
    let failed = ExitFacts { lines: Some(0), ..ExitFacts::exited(1, Duration::from_secs(90)) };
    check(&failed, &limits, &[], Outcome::Failed, "exit code 1");
}
