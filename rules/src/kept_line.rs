//! The text that a hit keeps of its first matching line: short, and with the match in view.

use std::ops::Range;

/// Bytes that a hit keeps of its first matching line. Chosen: enough to recognise it in an alert, and
/// [`crate::matcher::HITS_MAX`] of them fit into one SQS message (1 MiB since August 2025, 256 KiB before).
pub const FIRST_LINE_BYTES_MAX: usize = 1_024;

/// Bytes before the match that are kept when a line is cut. Chosen, not measured.
const BEFORE_MATCH_BYTES: usize = 256;

/// Bytes that a cut line can be shorter than [`FIRST_LINE_BYTES_MAX`]: two marks, and a character that did not fit.
const CUT_SLACK_BYTES: usize = 16;

/// Marks where a kept line was cut.
const CUT: &str = "…";

/// Whether a text that a report keeps of a line may not be the whole line as it was printed.
pub(crate) fn is_altered(text: &str) -> bool {
    let is_cut = text.ends_with(CUT) && text.len() >= FIRST_LINE_BYTES_MAX - CUT_SLACK_BYTES;
    is_cut || text.contains(char::REPLACEMENT_CHARACTER)
}

/// The text that a hit keeps: the whole line, or the part around the match when it is long.
pub(crate) fn kept_line(text: &[u8], found: Option<Range<usize>>) -> String {
    let shown = String::from_utf8_lossy(text);
    if shown.len() <= FIRST_LINE_BYTES_MAX {
        return shown.into_owned();
    }
    let room = FIRST_LINE_BYTES_MAX - 2 * CUT.len();
    let begin = match found {
        Some(found) if found.end > room => found.start.saturating_sub(BEFORE_MATCH_BYTES).min(text.len() - room),
        _ => 0,
    };
    let begin = character_start(text, begin);
    let end = (begin + room).min(text.len());
    let mut line = String::from_utf8_lossy(&text[begin..character_start(text, end)]).into_owned();
    line.truncate(line.floor_char_boundary(room));
    if begin > 0 {
        line.insert_str(0, CUT);
    }
    line.push_str(CUT);
    line
}

/// The start of the UTF-8 character at `at`; `at` itself when the bytes are not UTF-8.
fn character_start(text: &[u8], at: usize) -> usize {
    let is_start = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
    (at.saturating_sub(3)..=at).rev().find(is_start).unwrap_or(at)
}
