//! The text of one line as patterns see it: without colour codes, with the places where its message begins. Also
//! recognises traces of a shell. Used by the matcher, the collector's judge and the examples of packs, so that all of
//! them see the same text.

use std::ops::Range;

use regex_automata::{Anchored, Input};

use crate::message_begin::find_begins;

/// Starts a colour code and every other control sequence of a terminal (ECMA-48).
const ESCAPE: u8 = 0x1b;

/// Bytes of a line that can be recognised as shell source. Chosen, not measured.
const SOURCE_BYTES_MAX: usize = 4_096;

/// Memory of one reader of lines, reused from line to line.
#[derive(Debug, Default)]
pub(crate) struct LineReader {
    plain: Vec<u8>,
    found: Vec<usize>,
    messages: Vec<Range<usize>>,
}

/// One line as patterns see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineText<'l> {
    /// Without colour codes and without its line feed.
    pub(crate) text: &'l [u8],
    /// Where matches are searched. Of a line that the spool cut, the bytes around it are only context.
    pub(crate) begin: usize,
    /// End of the search.
    pub(crate) end: usize,
    /// Where a pattern's `^` matches besides the begin of a line: each from the begin of a message to the end of its
    /// line. A carriage return ends a line.
    pub(crate) messages: &'l [Range<usize>],
}

impl LineReader {
    /// Reads the line; valid until the next one is read.
    pub(crate) fn read<'s>(&'s mut self, raw: &'s [u8]) -> LineText<'s> {
        self.messages.clear();
        let text = match memchr::memchr(ESCAPE, raw) {
            None => raw,
            Some(first) => {
                self.plain.clear();
                remove_codes(raw, first, &mut self.plain);
                self.plain.as_slice()
            }
        };
        let mut begin = 0;
        loop {
            let end = memchr::memchr(b'\r', &text[begin..]).map_or(text.len(), |end| begin + end);
            self.found.clear();
            find_begins(&text[begin..end], &mut self.found);
            self.messages.extend(self.found.iter().map(|at| begin + at..end));
            if end == text.len() {
                break;
            }
            begin = end + 1;
        }
        LineText { text, begin: 0, end: text.len(), messages: &self.messages }
    }

    /// Reads a part of a line that the spool cut. `is_first`, `is_last`: whether the line begins and ends in it. Where
    /// it does not, the outermost byte is context, so that `^` and `$` do not match there.
    pub(crate) fn read_part<'s>(&'s mut self, raw: &'s [u8], is_first: bool, is_last: bool) -> LineText<'s> {
        self.read(raw);
        let text = match memchr::memchr(ESCAPE, raw) {
            None => raw,
            Some(_) => self.plain.as_slice(),
        };
        if !is_first {
            let line_end = memchr::memchr(b'\r', text).unwrap_or(text.len());
            self.messages.retain(|message| message.start > line_end);
        }
        let begin = usize::from(!is_first).min(text.len());
        let end = text.len().saturating_sub(usize::from(!is_last)).max(begin);
        LineText { text, begin, end, messages: &self.messages }
    }
}

impl LineText<'_> {
    /// The search in the whole line.
    pub(crate) fn whole(&self) -> Input<'_> {
        Input::new(self.text).range(self.begin..self.end)
    }

    /// The searches at the begin of each message, with the place of the message.
    pub(crate) fn at_messages(&self) -> impl Iterator<Item = (usize, Input<'_>)> {
        self.messages.iter().filter(|message| message.start <= self.end).map(|message| {
            let text = &self.text[message.clone()];
            let end = self.end.min(message.end) - message.start;
            (message.start, Input::new(text).range(..end).anchored(Anchored::Yes))
        })
    }

    /// Whether the line is a trace of a shell, which quotes commands and reports nothing.
    pub(crate) fn is_trace(&self) -> bool {
        let begins = std::iter::once(self.text).chain(self.messages.iter().map(|message| &self.text[message.clone()]));
        begins.into_iter().any(|text| is_executed_command(text) || is_shell_source(text))
    }
}

/// Appends `raw` without its control sequences, the first of which is at `first`.
fn remove_codes(raw: &[u8], first: usize, plain: &mut Vec<u8>) {
    let mut rest = raw;
    let mut next = Some(first);
    while let Some(at) = next {
        plain.extend_from_slice(&rest[..at]);
        rest = &rest[at + code_bytes(&rest[at..])..];
        next = memchr::memchr(ESCAPE, rest);
    }
    plain.extend_from_slice(rest);
}

/// The bytes of the control sequence at the begin of `rest` (ECMA-48, 5.4 and 5.6). Of an incomplete one, those that
/// surely belong to it.
fn code_bytes(rest: &[u8]) -> usize {
    let count = |from: usize, kind: std::ops::RangeInclusive<u8>| {
        rest.get(from..).unwrap_or_default().iter().take_while(|byte| kind.contains(byte)).count()
    };
    let ended = |at: usize, kind: std::ops::RangeInclusive<u8>| at + usize::from(count(at, kind) > 0);
    match rest.get(1) {
        Some(b'[') => {
            let parameters = count(2, 0x30..=0x3f);
            let between = count(2 + parameters, 0x20..=0x2f);
            ended(2 + parameters + between, 0x40..=0x7e)
        }
        // A string, like the target of a link: up to BEL or ESC \.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let end = rest.iter().skip(2).position(|byte| matches!(*byte, 0x07 | ESCAPE));
            match end.map(|end| end + 2) {
                Some(end) if rest[end] == 0x07 => end + 1,
                Some(end) if rest.get(end + 1) == Some(&b'\\') => end + 2,
                _ => 2,
            }
        }
        Some(0x20..=0x2f) => ended(1 + count(1, 0x20..=0x2f), 0x30..=0x7e),
        Some(0x30..=0x7e) => 2,
        _ => 1,
    }
}

/// `+ command`, of `set -x`; also `++ command`, `+ script.sh:12: command` and `+script.sh:12: command`.
fn is_executed_command(text: &[u8]) -> bool {
    let depth = text.iter().take_while(|byte| **byte == b'+').count();
    if depth == 0 {
        return false;
    }
    let rest = &text[depth..];
    let word = |text: &[u8]| text.iter().take_while(|byte| !byte.is_ascii_whitespace()).count();
    match rest.strip_prefix(b" ") {
        Some(command) => {
            let first = &command[..word(command)];
            // A list may have the bullet `+`: `+ 4 failed`, `+ backup: failed`. A place in front ends in digits.
            let is_place = first.strip_suffix(b":").is_some_and(ends_in_number);
            let is_label = first.len() > 1 && first.ends_with(b":") && !is_place;
            !first.is_empty() && !first.iter().all(u8::is_ascii_digit) && !is_label
        }
        None => rest[..word(rest)].strip_suffix(b":").is_some_and(ends_in_number),
    }
}

/// `script.sh:12` and `(script.sh:12)`.
fn ends_in_number(place: &[u8]) -> bool {
    let place = place.strip_suffix(b")").unwrap_or(place);
    let Some(colon) = memchr::memrchr(b':', place) else { return false };
    let number = &place[colon + 1..];
    colon > 0 && !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

/// A line of a shell script, as `set -v` prints it: one that prints a text or branches, with the syntax of a shell.
fn is_shell_source(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let text = String::from_utf8_lossy(&text[..text.len().min(SOURCE_BYTES_MAX)]);
    let (first, rest) = text.split_once(' ').unwrap_or((&text, ""));
    match first {
        "echo" | "printf" => prints_text(rest),
        "if" | "elif" => rest.contains("; then") || rest.ends_with(" then") || starts_test(rest),
        "while" | "until" | "for" => rest.contains("; do"),
        "[" | "[[" => starts_test(&text) && (rest.contains(" ]") || rest.contains("&&") || rest.contains("||")),
        "trap" => rest.starts_with(['\'', '"']),
        _ if first.starts_with("#!/") => true,
        _ => ["|| ", "&& "].iter().any(|operator| has_branch(&text, operator)),
    }
}

/// The arguments of `echo` or `printf`: quoted, or sent to standard error.
fn prints_text(arguments: &str) -> bool {
    let first = arguments.split(' ').find(|word| !word.starts_with('-')).unwrap_or_default();
    first.starts_with(['"', '\'', '$']) || arguments.contains(">&2")
}

/// `[ -s file ]`, `! grep`, `[[ $x ]]`; not `[ ERROR ]`.
fn starts_test(text: &str) -> bool {
    let text = text.strip_prefix("! ").unwrap_or(text);
    let inner = text.strip_prefix("[[ ").or_else(|| text.strip_prefix("[ "));
    inner.is_some_and(|inner| inner.starts_with(['-', '!', '"', '$', '\'']))
}

/// `command || die "text"`: before the operator a command and no message, behind it a command with a quoted text, a
/// group, or an end.
fn has_branch(text: &str, operator: &str) -> bool {
    let Some((command, behind)) = text.split_once(operator) else { return false };
    let is_command = !command.is_empty() && command.ends_with(' ') && !command.contains(": ");
    let (word, argument) = behind.split_once(' ').unwrap_or((behind, ""));
    let is_branch = matches!(word, "{" | "(" | "exit" | "return" | "continue" | "break" | "true" | ":")
        || (is_plain_word(word) && (argument.starts_with(['"', '\'', '$']) || prints_text(argument)));
    is_command && is_branch
}

fn is_plain_word(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(raw: &str) -> String {
        let mut reader = LineReader::default();
        String::from_utf8_lossy(reader.read(raw.as_bytes()).text).into_owned()
    }

    #[test]
    fn control_sequences_are_removed_and_nothing_else() {
        for (raw, expected) in [
            ("plain", "plain"),
            ("\x1b[31mERROR:\x1b[0m full", "ERROR: full"),
            ("\x1b[1;38;5;196mERROR\x1b[m", "ERROR"),
            ("\x1b[2K\x1b[1Gdone", "done"),
            ("\x1b(B\x1b[mERROR", "ERROR"),
            ("\x1b]8;;https://x.example\x1b\\link\x1b]8;;\x1b\\ end", "link end"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b7text\x1b8", "text"),
            ("text\x1b[3", "text"),
            ("text\x1b[", "text"),
            ("text\x1b", "text"),
            ("\x1b]never ended", "never ended"),
            ("\x1b\x1b[0mx", "x"),
        ] {
            assert_eq!(plain(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn a_message_begins_in_each_line_that_a_carriage_return_ends() {
        let mut reader = LineReader::default();
        let line = reader.read(b"10 %\r\x1b[31m07:50:00 failed\r[x] done\r");
        let messages: Vec<_> = line.messages.iter().map(|message| &line.text[message.clone()]).collect();
        assert_eq!(messages, [b"failed".as_slice(), b"done"]);
    }

    fn is_trace(text: &str) -> bool {
        LineReader::default().read(text.as_bytes()).is_trace()
    }

    #[test]
    fn traces_of_a_shell_are_recognised() {
        for text in [
            "+ pg_dump -f /x orders",
            "++ date +%s",
            "+ echo 'ERROR: no space left'",
            "+ : ignored",
            "+ backup.sh:12: echo failed",
            "+backup.sh:12: echo failed",
            "+(backup.sh:12): echo failed",
            "2026-11-23 07:50:00 + exit 1",
            "[backup] + exit 1",
            "+ 7z a x.7z x",
            "#!/bin/sh",
            "echo \"ERROR: upload failed\" >&2",
            "    echo -e 'FATAL: failed'",
            "echo ERROR: upload failed >&2",
            "pg_dump orders || { echo \"FATAL: dump failed\"; exit 1; }",
            "pg_dump orders || die \"dump failed\"",
            "[ -s x.sql ] || echo \"ERROR: empty\"",
            "if [ ! -s x.sql ]; then echo \"ERROR: empty\"; fi",
            "if ! grep -q \"failed\" log; then",
            "trap 'echo failed' ERR",
        ] {
            assert!(is_trace(text), "{text}");
        }
    }

    #[test]
    fn output_is_no_trace() {
        for text in [
            "",
            "+",
            "+ ",
            "+ 4 failed",
            "+ backup: failed",
            "+ERROR: a line of a diff",
            "[ ERROR ] disk full",
            "[-] failed",
            "echo: write error: No space left on device",
            "echo request failed",
            "if this fails, call the operator",
            "ERROR: failed to solve: process \"/bin/sh -c make || exit 1\" did not complete successfully",
            "backup.sh: line 3: x || echo \"y\": command not found",
            "level=error msg=\"upload failed\"",
            "make: *** [Makefile:3: all] Error 1",
        ] {
            assert!(!is_trace(text), "{text}");
        }
    }
}
