//! Masks secrets in the job's output before the spool, and so before all readers: sinks, rules, excerpt, `sexton logs`.
//! A seat belt, not a boundary: a job can always print a secret in a form that is not known here.
//!
//! Every byte of an occurrence of a secret text is masked, also where occurrences overlap. Masked bytes without a break
//! within a line become one [`MARK`]. Line ends stay, so the line count is the job's own. The result does not depend on
//! how the output was cut into reads: a byte is released only when no secret text that may still continue can contain
//! it. Jobs without secrets have no masker.

use std::collections::VecDeque;
use std::ops::Range;

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::noncontiguous::NFA;
use domain::line::Stream;

use crate::secret_encodings::texts_to_mask;

/// Replaces a secret.
pub(crate) const MARK: &[u8] = b"***";

pub(crate) struct Masker {
    texts: SecretTexts,
    stdout: MaskedStream,
    stderr: MaskedStream,
}

impl Masker {
    /// None when these values need no masking.
    ///
    /// # Errors
    /// Returns one sentence when the automaton for these values would be too large.
    pub(crate) fn new<'v>(values: impl Iterator<Item = &'v str>) -> Result<Option<Masker>, String> {
        let texts = texts_to_mask(values);
        if texts.is_empty() {
            return Ok(None);
        }
        let texts = SecretTexts::new(texts.into_iter().collect())?;
        Ok(Some(Masker { stdout: MaskedStream::new(&texts), stderr: MaskedStream::new(&texts), texts }))
    }

    /// Masks bytes as they came from the pipe. Returns the bytes that can be released by now.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) -> &[u8] {
        let (texts, masked) = self.parts(stream);
        masked.push(texts, bytes);
        &masked.out
    }

    /// Ends a stream. Returns the remaining bytes.
    pub(crate) fn end(&mut self, stream: Stream) -> &[u8] {
        let (_, masked) = self.parts(stream);
        masked.out.clear();
        masked.release_to(masked.end());
        &masked.out
    }

    /// Masks a sentence about the job.
    pub(crate) fn mask(&self, message: &str) -> String {
        let mut masked = MaskedStream::new(&self.texts);
        masked.push(&self.texts, message.as_bytes());
        let begin = masked.out.clone();
        masked.out.clear();
        masked.release_to(masked.end());
        String::from_utf8_lossy(&[begin, masked.out].concat()).into_owned()
    }

    /// Whether complete lines are held back because a secret text of several lines may continue.
    pub(crate) fn holds_lines(&self) -> bool {
        [&self.stdout, &self.stderr].iter().any(|masked| memchr::memchr(b'\n', &masked.held).is_some())
    }

    /// Returns the complete lines that are held back, after a time without output. If the secret text does continue,
    /// only its rest is masked.
    pub(crate) fn release_lines(&mut self, stream: Stream) -> &[u8] {
        let (_, masked) = self.parts(stream);
        masked.out.clear();
        if let Some(newline) = memchr::memrchr(b'\n', &masked.held) {
            masked.release_to(masked.begin + newline as u64 + 1);
        }
        &masked.out
    }

    fn parts(&mut self, stream: Stream) -> (&SecretTexts, &mut MaskedStream) {
        match stream {
            Stream::Stdout => (&self.texts, &mut self.stdout),
            Stream::Stderr => (&self.texts, &mut self.stderr),
        }
    }
}

/// The texts to mask, as an automaton.
struct SecretTexts {
    automaton: NFA,
    start: StateID,
    /// By state: the length of the longest start of a text that the last bytes form.
    depths: Vec<u32>,
    /// The bytes that a text can start with.
    begins: [bool; 256],
}

impl SecretTexts {
    fn new(texts: Vec<Vec<u8>>) -> Result<SecretTexts, String> {
        let message = |error: &dyn std::fmt::Display| format!("cannot mask the job's secrets in its output: {error}");
        let automaton = NFA::builder().prefilter(false).build(&texts).map_err(|error| message(&error))?;
        let start = automaton.start_state(Anchored::No).map_err(|error| message(&error))?;
        let mut depths = vec![0; 1];
        let mut begins = [false; 256];
        for text in &texts {
            begins[usize::from(text[0])] = true;
            let mut state = start;
            for (index, byte) in text.iter().enumerate() {
                // The first bytes of a text lead to the state of exactly these bytes.
                state = automaton.next_state(Anchored::No, state, *byte);
                if depths.len() <= state.as_usize() {
                    depths.resize(state.as_usize() + 1, 0);
                }
                depths[state.as_usize()] = index as u32 + 1;
            }
        }
        Ok(SecretTexts { automaton, start, depths, begins })
    }

    /// The length of the longest text that ends in this state; 0 when none does.
    fn longest_match(&self, state: StateID) -> u64 {
        if !self.automaton.is_match(state) {
            return 0;
        }
        let lengths = (0..self.automaton.match_len(state))
            .map(|index| self.automaton.pattern_len(self.automaton.match_pattern(state, index)));
        lengths.max().unwrap_or(0) as u64
    }

    fn depth(&self, state: StateID) -> u64 {
        self.depths.get(state.as_usize()).copied().map_or(0, u64::from)
    }
}

/// One stream of the output. Positions are byte offsets from its start.
struct MaskedStream {
    state: StateID,
    /// Bytes that are not decided yet.
    held: Vec<u8>,
    /// Position of the first byte of `held`.
    begin: u64,
    /// Ranges of `held` to mask: disjoint, in order.
    ranges: VecDeque<Range<u64>>,
    /// The last released byte was masked; its mark also covers masked bytes that follow.
    is_masking: bool,
    out: Vec<u8>,
}

impl MaskedStream {
    fn new(texts: &SecretTexts) -> MaskedStream {
        MaskedStream {
            state: texts.start,
            held: Vec::new(),
            begin: 0,
            ranges: VecDeque::new(),
            is_masking: false,
            out: Vec::new(),
        }
    }

    /// Position after the last byte received.
    fn end(&self) -> u64 {
        self.begin + self.held.len() as u64
    }

    fn push(&mut self, texts: &SecretTexts, bytes: &[u8]) {
        self.out.clear();
        let before = self.end();
        self.held.extend_from_slice(bytes);
        let mut index = 0;
        while index < bytes.len() {
            if self.state == texts.start {
                // Most bytes start no text.
                let skipped = bytes[index..].iter().position(|byte| texts.begins[usize::from(*byte)]);
                let Some(skipped) = skipped else { break };
                index += skipped;
            }
            self.state = texts.automaton.next_state(Anchored::No, self.state, bytes[index]);
            index += 1;
            let length = texts.longest_match(self.state);
            if length > 0 {
                self.mark_last(before + index as u64, length);
            }
        }
        self.release_to(self.end() - texts.depth(self.state).min(self.end()));
    }

    fn mark_last(&mut self, end: u64, length: u64) {
        let mut start = end - length;
        while let Some(last) = self.ranges.back()
            && last.end >= start
        {
            start = start.min(last.start);
            self.ranges.pop_back();
        }
        self.ranges.push_back(start..end);
    }

    /// Releases held bytes before this position. A position that was already released is ignored.
    fn release_to(&mut self, end: u64) {
        let held = std::mem::take(&mut self.held);
        let first = self.begin;
        let of = |range: Range<u64>| &held[(range.start - first) as usize..(range.end - first) as usize];
        while self.begin < end {
            let next = self.ranges.front().cloned().filter(|found| found.start < end);
            match next {
                Some(found) if found.start <= self.begin => {
                    let upto = found.end.min(end);
                    self.mask(of(self.begin..upto.max(self.begin)));
                    self.begin = upto.max(self.begin);
                    if found.end <= end {
                        self.ranges.pop_front();
                    }
                }
                next => {
                    let upto = next.map_or(end, |found| found.start);
                    self.out.extend_from_slice(of(self.begin..upto));
                    self.is_masking = false;
                    self.begin = upto;
                }
            }
        }
        self.held = held;
        self.held.drain(..(self.begin - first) as usize);
    }

    fn mask(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (byte, self.is_masking) {
                (b'\n', _) => {
                    self.out.push(b'\n');
                    self.is_masking = false;
                }
                (_, false) => {
                    self.out.extend_from_slice(MARK);
                    self.is_masking = true;
                }
                (_, true) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule in its simplest form.
    fn naive(texts: &[Vec<u8>], output: &[u8]) -> Vec<u8> {
        let mut hidden = vec![false; output.len()];
        for text in texts {
            for start in 0..output.len() {
                if output[start..].starts_with(text) {
                    hidden[start..start + text.len()].fill(true);
                }
            }
        }
        let mut shown = Vec::new();
        for (index, byte) in output.iter().enumerate() {
            let goes_on = index > 0 && hidden[index - 1] && output[index - 1] != b'\n';
            match hidden[index] && *byte != b'\n' {
                false => shown.push(*byte),
                true if goes_on => {}
                true => shown.extend_from_slice(MARK),
            }
        }
        shown
    }

    fn masker(texts: &[Vec<u8>]) -> Masker {
        let texts = SecretTexts::new(texts.to_vec()).expect("texts");
        Masker { stdout: MaskedStream::new(&texts), stderr: MaskedStream::new(&texts), texts }
    }

    fn masked(masker: &mut Masker, pieces: &[&[u8]], pause: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut shown = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            shown.extend_from_slice(masker.push(Stream::Stdout, piece));
            if pause(index) {
                shown.extend_from_slice(masker.release_lines(Stream::Stdout));
                assert!(!masker.holds_lines());
            }
        }
        shown.extend_from_slice(masker.end(Stream::Stdout));
        shown
    }

    fn pieces<'o>(output: &'o [u8], cuts: &[usize]) -> Vec<&'o [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (output.len() + 1)).collect();
        cuts.extend([0, output.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &output[pair[0]..pair[1]]).collect()
    }

    fn words(length_max: usize, letters: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(letters), 1..=length_max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_result_does_not_depend_on_how_the_output_is_cut(
            texts in prop::collection::vec(words(6, b"ab\n"), 1..6),
            output in words(200, b"aabb\nc"),
            cuts in prop::collection::vec(any::<usize>(), 0..40),
        ) {
            let shown = masked(&mut masker(&texts), &pieces(&output, &cuts), |_| false);
            prop_assert_eq!(shown.escape_ascii().to_string(), naive(&texts, &output).escape_ascii().to_string());
        }

        /// When no text spans lines, pauses do not change the result.
        #[test]
        fn a_pause_changes_nothing_when_no_text_spans_lines(
            texts in prop::collection::vec(words(6, b"ab"), 1..6),
            output in words(200, b"aabb\nc"),
            cuts in prop::collection::vec(any::<usize>(), 0..40),
            pauses in any::<u64>(),
        ) {
            let shown = masked(&mut masker(&texts), &pieces(&output, &cuts), |index| pauses >> (index % 64) & 1 == 1);
            prop_assert_eq!(shown, naive(&texts, &output));
        }

        /// A pause inside a text of several lines loses no line.
        #[test]
        fn a_pause_within_a_text_loses_no_line(
            texts in prop::collection::vec(words(6, b"ab\n"), 1..6),
            output in words(200, b"aabb\nc"),
            cuts in prop::collection::vec(any::<usize>(), 0..40),
            pauses in any::<u64>(),
        ) {
            let shown = masked(&mut masker(&texts), &pieces(&output, &cuts), |index| pauses >> (index % 64) & 1 == 1);
            let rare = |bytes: &[u8]| bytes.iter().filter(|byte| b"\nc".contains(byte)).copied().collect::<Vec<u8>>();
            prop_assert_eq!(rare(&shown), rare(&output));
        }

        #[test]
        fn a_secret_is_masked_plain_and_in_json(value in "[!-~]{6,12}", before in "[ -~]{0,7}", after in "[ -~]{0,7}", step in 1..9usize) {
            let output = format!("{before}{value}{after}\n{}\n", serde_json::Value::from(value.as_str()));
            let mut masker = Masker::new(std::iter::once(value.as_str())).expect("texts").expect("a masker");
            let pieces: Vec<&[u8]> = output.as_bytes().chunks(step).collect();
            let shown = masked(&mut masker, &pieces, |_| false);
            prop_assert!(memchr::memmem::find(&shown, value.as_bytes()).is_none(), "{}", shown.escape_ascii());
        }
    }

    #[test]
    fn lines_are_held_only_while_a_text_of_several_lines_may_continue() {
        let mut masker = Masker::new(["first line\n{\nlast line"].into_iter()).expect("texts").expect("a masker");
        assert_eq!(masker.push(Stream::Stdout, b"before\nfirst line\n{\nla"), b"before\n");
        assert!(masker.holds_lines());
        assert_eq!(masker.push(Stream::Stderr, b"prompt: \n"), b"prompt: \n");
        assert_eq!(masker.push(Stream::Stdout, b"st line\nafter"), b"***\n***\n***\nafter");
        assert_eq!(masker.push(Stream::Stdout, b"\nfirst line\n{\n"), b"\n");
        assert_eq!(masker.release_lines(Stream::Stdout), b"***\n{\n");
        assert_eq!(masker.push(Stream::Stdout, b"last line!"), b"***!");
    }

    #[test]
    fn values_that_are_too_short_need_no_masker() {
        assert!(Masker::new(["12345", ""].into_iter()).expect("texts").is_none());
    }
}
