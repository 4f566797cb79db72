//! A line that the spool cut into parts, while its parts are matched. A match across a cut is found, because the end of
//! the earlier parts is searched again together with the next part. Memory per stream: [`TAIL_BYTES_MAX`] and one part.

use std::collections::BTreeMap;

use domain::line::{Line, Stream};

use crate::automata::SetScratch;
use crate::kept_line::kept_line;
use crate::line_text::{LineReader, LineText};
use crate::matcher_state::{MarkKey, StoredMark, StoredOpenLine};
use crate::rule::Rule;
use crate::rule_set::{PatternUse, RuleSet};

/// Bytes of the earlier parts that are searched again. Chosen: a match across a cut is found up to half of this length.
pub(crate) const TAIL_BYTES_MAX: usize = 128 << 10;

/// One line of which not all parts were read.
#[derive(Clone, Debug)]
pub(crate) struct OpenLine {
    pub(crate) stream: Stream,
    /// The last bytes of the parts so far.
    pub(crate) tail: Vec<u8>,
    /// The begin of the line is not in `tail`.
    pub(crate) is_cut: bool,
    pub(crate) is_trace: bool,
    /// By rule: what its patterns match, with `seq` and text of the part.
    pub(crate) marks: BTreeMap<(usize, MarkKey), (u64, String)>,
}

impl OpenLine {
    pub(crate) fn new(stream: Stream) -> OpenLine {
        OpenLine { stream, tail: Vec::new(), is_cut: false, is_trace: false, marks: BTreeMap::new() }
    }

    /// Matches the next part. `awaited`: rules whose `then` the line can meet. `budget`: as in
    /// [`crate::automata::Automata::search`].
    pub(crate) fn feed(
        &mut self,
        rules: &RuleSet,
        scratch: &mut SetScratch<'_>,
        reader: &mut LineReader,
        part: &Line<'_>,
        awaited: &[usize],
        budget: &mut u64,
    ) {
        self.tail.extend_from_slice(part.text);
        let text = reader.read_part(&self.tail, !self.is_cut, part.tag.last);
        if !self.is_cut {
            self.is_trace = text.is_trace();
        }
        // A match close to the end may be longer than this part shows.
        let limit = if part.tag.last { usize::MAX } else { text.end.saturating_sub(TAIL_BYTES_MAX / 2) };
        let marks = &mut self.marks;
        let mut mark = |rule: usize, key: MarkKey, line: String| {
            marks.entry((rule, key)).or_insert((part.seq, line));
        };
        if let Some(found) = rules.automata().and_then(|automata| automata.search(scratch, &text, budget)) {
            for number in found.iter() {
                match rules.pattern_use(number.as_usize()) {
                    Some(PatternUse::Clears(rule)) => mark(rule, MarkKey::ClearedBy, String::new()),
                    Some(PatternUse::Counts(number)) => {
                        let found = rules.rule(number).and_then(|(_, rule)| match_before(rule, &text, limit));
                        if let Some(found) = found {
                            mark(number, MarkKey::Pattern, kept_line(text.text, Some(found)));
                        }
                    }
                    None => {}
                }
            }
        }
        rules.each_unless_on(&text, |rule| mark(rule, MarkKey::Unless, String::new()));
        for number in awaited {
            let then = rules.rule(*number).and_then(|(_, rule)| rule.then.as_ref());
            if then.is_some_and(|then| then.pattern.is_match(&text)) {
                mark(*number, MarkKey::Then, String::new());
            }
        }
        if let Some(excess) = self.tail.len().checked_sub(TAIL_BYTES_MAX).filter(|excess| *excess > 0) {
            self.tail.drain(..excess);
            self.is_cut = true;
        }
    }

    /// Whether some part matches this pattern of the rule.
    pub(crate) fn has(&self, rule: usize, key: MarkKey) -> bool {
        self.marks.contains_key(&(rule, key))
    }
}

/// The first match that counts; with `unless_here` only one that starts before `limit`, because what it overlaps must
/// be known.
fn match_before(rule: &Rule, text: &LineText<'_>, limit: usize) -> Option<std::ops::Range<usize>> {
    rule.match_in(text).filter(|found| rule.unless_here.is_none() || found.start < limit)
}

/// Reads a stored line. Marks of rules that no longer exist are left out.
pub(crate) fn open_line_of(rules: &RuleSet, stored: StoredOpenLine) -> OpenLine {
    let mark = |mark: StoredMark| Some(((rules.number_of(&mark.pack, &mark.rule)?, mark.key), (mark.seq, mark.line)));
    OpenLine {
        stream: stored.stream,
        tail: stored.tail.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect(),
        is_cut: stored.is_cut,
        is_trace: stored.is_trace,
        marks: stored.marks.into_iter().filter_map(mark).collect(),
    }
}

pub(crate) fn stored_open_line(rules: &RuleSet, line: &OpenLine) -> StoredOpenLine {
    let marks = line.marks.iter().filter_map(|((number, key), (seq, text))| {
        let (pack, rule) = rules.rule(*number)?;
        let (pack, rule) = (pack.name.clone(), rule.id.clone());
        Some(StoredMark { pack, rule, key: *key, seq: *seq, line: text.clone() })
    });
    StoredOpenLine {
        stream: line.stream,
        tail: line.tail.iter().map(|byte| char::from(*byte)).collect(),
        is_cut: line.is_cut,
        is_trace: line.is_trace,
        marks: marks.collect(),
    }
}
