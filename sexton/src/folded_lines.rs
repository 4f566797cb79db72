//! Lines that are wider than the terminal: rows of a table that go on below, indented, and texts that are broken. Pure.
//! Never shortens a name.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns between two cells.
pub(crate) const GAP: usize = 2;

/// Blanks before the second and later lines of a row.
const INDENT: usize = 2;

/// A column as a row shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoldedColumn {
    /// Its place in the row.
    pub(crate) index: usize,
    /// The width of its widest cell.
    pub(crate) natural: usize,
    /// The least width to which its cells may be cut; none where they stay whole.
    pub(crate) least: Option<usize>,
}

/// A cell of a folded row: the index of its column, and the width that it gets.
pub(crate) type FoldedCell = (usize, usize);

/// Distributes columns over lines of at most `most` columns, in their order.
pub(crate) fn lay_out(columns: &[FoldedColumn], most: usize) -> Vec<Vec<FoldedCell>> {
    let mut lines: Vec<Vec<FoldedCell>> = Vec::new();
    let mut used = 0;
    for column in columns {
        let needed = column.least.map_or(column.natural, |least| least.min(column.natural));
        match lines.last_mut() {
            Some(line) if used + GAP + needed <= most => {
                let width = column.natural.min(most - used - GAP);
                line.push((column.index, width));
                used += GAP + width;
            }
            _ => {
                let indent = indent_of(lines.len());
                let width = column.natural.min(most.saturating_sub(indent).max(1));
                lines.push(vec![(column.index, width)]);
                used = indent + width;
            }
        }
    }
    lines
}

/// The blanks before a line of a row.
pub(crate) fn indent_of(line: usize) -> usize {
    if line == 0 { 0 } else { INDENT }
}

/// Breaks a text into lines of at most `width` columns: at blanks where it has some, else within a word.
pub(crate) fn wrap_text(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while rest.width() > width {
        let mut end = 0;
        let mut columns = 0;
        for (at, character) in rest.char_indices() {
            columns += character.width().unwrap_or(0);
            if columns > width && at > 0 {
                break;
            }
            end = at + character.len_utf8();
        }
        // The break is after the last blank that fits, or the blank is the first that does not.
        let blank = match rest[end..].starts_with(' ') {
            true => Some(end),
            false => rest[..end].rfind(' ').filter(|at| *at > 0),
        };
        let at = blank.unwrap_or(end);
        lines.push(rest[..at].trim_end().to_owned());
        rest = rest[at..].trim_start_matches(' ');
    }
    if !rest.is_empty() || lines.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

/// Fields that are separated by tabs, as one line, or on a narrower terminal as several, indented.
pub(crate) fn join_fields(fields: &[&str], terminal_width: Option<usize>) -> String {
    const TAB_STOPS: usize = 8;
    let line = fields.join("\t");
    let columns = fields.iter().fold(0, |at: usize, field| {
        let start = if at == 0 { 0 } else { (at / TAB_STOPS + 1) * TAB_STOPS };
        start + field.width()
    });
    let Some(most) = terminal_width.filter(|most| columns > *most) else { return line };
    let shown: Vec<(usize, &&str)> = fields.iter().enumerate().filter(|(_, field)| !field.is_empty()).collect();
    let columns: Vec<FoldedColumn> = shown
        .iter()
        .map(|(index, field)| FoldedColumn { index: *index, natural: field.width(), least: None })
        .collect();
    let mut lines = Vec::new();
    for (number, cells) in lay_out(&columns, most).iter().enumerate() {
        let cells = match cells.as_slice() {
            // Only a cell that is alone in its line can be wider than it.
            [(index, width)] => wrap_text(fields[*index], *width),
            several => vec![several.iter().map(|(index, _)| fields[*index]).collect::<Vec<_>>().join("  ")],
        };
        for text in cells {
            lines.push(format!("{:indent$}{text}", "", indent = indent_of(number)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_broken_at_blanks_or_within_a_word_and_loses_nothing() {
        assert_eq!(wrap_text("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap_text("one two three", 6), ["one", "two", "three"]);
        assert_eq!(wrap_text("group/a-long-name", 6), ["group/", "a-long", "-name"]);
        assert_eq!(wrap_text("日本日本", 5), ["日本", "日本"]);
        assert_eq!(wrap_text("", 5), [""]);
        let text = "a name-without-any-blank and  some words, 日本日本日本日本 more";
        for width in 2..70 {
            let lines = wrap_text(text, width);
            assert!(lines.iter().all(|line| line.width() <= width), "{width}: {lines:?}");
            let letters = |text: &str| text.replace(' ', "");
            assert_eq!(letters(&lines.concat()), letters(text), "{width}");
        }
    }

    #[test]
    fn fields_are_folded_only_on_a_terminal_that_is_too_narrow() {
        let fields = ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", "group/name", "and every 1m until then"];
        let line = fields.join("\t");
        assert_eq!(join_fields(&fields, None), line);
        assert_eq!(join_fields(&fields, Some(200)), line);
        for width in 12..90 {
            let folded = join_fields(&fields, Some(width));
            assert!(folded.lines().all(|line| line.width() <= width), "{width}: {folded}");
        }
        let wanted = "2026-01-01T00:00:00Z\n  2026-01-01T01:00:00+01:00  group/name\n  and every 1m until then";
        assert_eq!(join_fields(&fields, Some(40)), wanted);
        assert_eq!(join_fields(&["a-long-field", "", ""], Some(8)), "a-long-f\nield");
    }
}
