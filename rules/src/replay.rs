//! Counts the lines of a short text that match one rule, as the matcher does it for all output: of an excerpt, for the
//! judge, and of the examples of a pack. Never used for more than some kilobytes.

use domain::line::Stream;

use crate::line_text::LineReader;
use crate::rule::Rule;
use crate::rule_set::Streams;

/// A line of the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplayLine<'t> {
    /// Its number. Where a number is left out, lines are missing.
    pub(crate) seq: u64,
    /// None in a text without streams: every rule counts its lines.
    pub(crate) stream: Option<Stream>,
    pub(crate) text: &'t str,
    /// Whether a part of the line is missing.
    pub(crate) is_cut: bool,
}

/// A match that waits for the rule's `then`.
struct Waiting {
    seq: u64,
    stream: Option<Stream>,
    left: u32,
}

/// The `seq` of each line that counts for the rule. A match counts only where no missing text can exclude it.
/// The last line is the end of the output.
pub(crate) fn matching_lines(rule: &Rule, streams: Streams, lines: &[ReplayLine<'_>]) -> Vec<u64> {
    let mut reader = LineReader::default();
    let (mut counted, mut waiting): (Vec<u64>, Vec<Waiting>) = (Vec::new(), Vec::new());
    let mut next_seq = lines.first().map_or(0, |line| line.seq);
    for line in lines {
        if line.seq != next_seq {
            // A missing line can clear the rule; and it counts against `within`.
            if rule.cleared_by.is_some() {
                counted.clear();
            }
            waiting.clear();
        }
        next_seq = line.seq + 1;
        let text = reader.read(line.text.as_bytes());
        if text.is_trace() {
            continue;
        }
        let may_clear = |cleared_by: &crate::pattern::Pattern| line.is_cut || cleared_by.is_match(&text);
        if rule.cleared_by.as_deref().is_some_and(may_clear) {
            counted.clear();
            waiting.clear();
        }
        if let Some(then) = &rule.then {
            let is_met = then.pattern.is_match(&text);
            waiting.retain_mut(|match_| {
                if match_.stream != line.stream {
                    return true;
                }
                match_.left -= 1;
                if is_met {
                    counted.push(match_.seq);
                }
                !is_met && match_.left > 0
            });
        }
        let is_certain = rule.unless.is_none() || !line.is_cut;
        let is_match = streams.has(line.stream) && is_certain && rule.match_in(&text).is_some();
        if is_match && !rule.is_excluded(&text) {
            match &rule.then {
                Some(then) => waiting.push(Waiting { seq: line.seq, stream: line.stream, left: then.within }),
                None => counted.push(line.seq),
            }
        }
    }
    counted.sort_unstable();
    counted
}

/// Whether a line of this example counts for the rule.
pub(crate) fn counts_in(rule: &Rule, example: &str) -> bool {
    let line = |(number, text)| ReplayLine { seq: number, stream: None, text, is_cut: false };
    let lines: Vec<_> = (1..).zip(example.split('\n')).map(line).collect();
    !matching_lines(rule, Streams::of(rule.stream), &lines).is_empty()
}
