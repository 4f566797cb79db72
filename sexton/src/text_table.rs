//! Tables on standard output: columns padded to their widest cell, two spaces apart. On a terminal, a table fits its
//! width: long texts are cut, then columns are left out, and a line names those that are. Where the rest is still too
//! wide, each row goes on below. Names are never cut.

use unicode_width::UnicodeWidthStr;

use crate::folded_lines::{FoldedCell, FoldedColumn, GAP, indent_of, lay_out, wrap_text};
use crate::terminal::{Terminal, Tone};

/// A text is cut to this width before a column is left out. Chosen: half a line of a usual terminal.
const CUT_FIRST: usize = 40;

/// Smallest width of a cut text. Chosen: a few words.
const CUT_LAST: usize = 12;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    name: &'static str,
    fit: Fit,
    /// The cells are outcomes or states, which have colours.
    has_states: bool,
}

/// What happens to a column when the table is wider than the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// Stays as it is: names that users copy.
    Whole,
    /// Is cut, with `…` at its end.
    Cut,
    /// Is left out; the lowest rank first.
    LeftOut { rank: u8 },
}

impl Column {
    /// A column that is always printed whole.
    pub(crate) const fn whole(name: &'static str) -> Column {
        Column { name, fit: Fit::Whole, has_states: false }
    }

    /// A column of texts that can be cut.
    pub(crate) const fn text(name: &'static str) -> Column {
        Column { name, fit: Fit::Cut, has_states: false }
    }

    /// A column that can be left out, before those with a higher rank.
    pub(crate) const fn extra(name: &'static str, rank: u8) -> Column {
        Column { name, fit: Fit::LeftOut { rank }, has_states: false }
    }

    /// A column of outcomes or states.
    pub(crate) const fn state(name: &'static str) -> Column {
        Column { name, fit: Fit::Whole, has_states: true }
    }
}

pub(crate) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &'static [Column]) -> Table {
        Table { columns, rows: Vec::new() }
    }

    pub(crate) fn add_row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(replace_controls).collect());
    }

    /// The table with a head line.
    pub(crate) fn to_text(&self, terminal: Terminal) -> String {
        let widths = self.fit(terminal.width);
        if let Some(most) = terminal.width.filter(|most| total(&widths) > *most) {
            return self.to_folded_text(&widths, most, terminal);
        }
        let mut text = String::new();
        let head = self.columns.iter().zip(&widths).map(|(column, width)| (column.name, *width, Tone::Head));
        add_line(&mut text, head, terminal);
        for row in &self.rows {
            let cells = row.iter().zip(self.columns).zip(&widths).map(|((cell, column), width)| {
                let tone = if column.has_states { Tone::of_state(cell) } else { Tone::Plain };
                (cell.as_str(), *width, tone)
            });
            add_line(&mut text, cells, terminal);
        }
        self.add_note(&mut text, &widths, terminal);
        text
    }

    /// Names the columns that are left out.
    fn add_note(&self, text: &mut String, widths: &[Option<usize>], terminal: Terminal) {
        let left_out = self.columns.iter().zip(widths).filter(|(_, width)| width.is_none());
        let left_out: Vec<&str> = left_out.map(|(column, _)| column.name).collect();
        if left_out.is_empty() {
            return;
        }
        let note = format!("not shown in this width: {}", left_out.join(", "));
        for line in wrap_text(&note, terminal.width.unwrap_or(usize::MAX)) {
            text.push_str(&terminal.paint(&line, Tone::Dim));
            text.push('\n');
        }
    }

    /// The table with rows of several lines, none wider than `most`.
    fn to_folded_text(&self, widths: &[Option<usize>], most: usize, terminal: Terminal) -> String {
        let natural = self.natural_widths();
        let shown = (0..self.columns.len()).filter(|index| widths[*index].is_some());
        let columns: Vec<FoldedColumn> = shown
            .map(|index| {
                let least = (self.columns[index].fit == Fit::Cut).then_some(CUT_LAST);
                FoldedColumn { index, natural: natural[index], least }
            })
            .collect();
        let layout = lay_out(&columns, most);
        let mut text = String::new();
        let names: Vec<&str> = self.columns.iter().map(|column| column.name).collect();
        self.add_folded(&mut text, &layout, |index| (names[index], Tone::Head), terminal);
        for row in &self.rows {
            let cell = |index: usize| {
                let tone = if self.columns[index].has_states { Tone::of_state(&row[index]) } else { Tone::Plain };
                (row[index].as_str(), tone)
            };
            self.add_folded(&mut text, &layout, cell, terminal);
        }
        self.add_note(&mut text, widths, terminal);
        text
    }

    fn add_folded<'c>(
        &self,
        text: &mut String,
        layout: &[Vec<FoldedCell>],
        cell: impl Fn(usize) -> (&'c str, Tone),
        terminal: Terminal,
    ) {
        for (number, cells) in layout.iter().enumerate() {
            let indent = indent_of(number);
            if let [(index, width)] = cells.as_slice()
                && self.columns[*index].fit != Fit::Cut
            {
                let (words, tone) = cell(*index);
                for line in wrap_text(words, *width).iter().filter(|line| !line.is_empty()) {
                    text.extend(std::iter::repeat_n(' ', indent));
                    text.push_str(&terminal.paint(line, tone));
                    text.push('\n');
                }
            } else if cells.iter().any(|(index, _)| !cell(*index).0.is_empty()) {
                text.extend(std::iter::repeat_n(' ', indent));
                let shown = cells.iter().map(|(index, width)| {
                    let (words, tone) = cell(*index);
                    (words, Some(*width), tone)
                });
                add_line(text, shown, terminal);
            }
        }
    }

    /// The width of the widest cell of each column.
    fn natural_widths(&self) -> Vec<usize> {
        let mut natural: Vec<usize> = self.columns.iter().map(|column| column.name.width()).collect();
        for row in &self.rows {
            for (width, cell) in natural.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        natural
    }

    /// The width of each column; none for one that is left out.
    fn fit(&self, width: Option<usize>) -> Vec<Option<usize>> {
        let natural = self.natural_widths();
        let mut shown: Vec<Option<usize>> = natural.iter().copied().map(Some).collect();
        let Some(most) = width else { return shown };
        while total(&self.cut(&shown, most, CUT_FIRST)) > most {
            let ranks = self.columns.iter().enumerate().filter_map(|(index, column)| match column.fit {
                Fit::LeftOut { rank } if shown[index].is_some() => Some((rank, index)),
                _ => None,
            });
            let Some((_, least)) = ranks.min() else { break };
            shown[least] = None;
        }
        self.add_back(&mut shown, &natural, most);
        let fitting = self.cut(&shown, most, CUT_FIRST);
        if total(&fitting) <= most { fitting } else { self.cut(&shown, most, CUT_LAST) }
    }

    /// Shows columns again that fit beside those that are left, the highest rank first.
    fn add_back(&self, shown: &mut [Option<usize>], natural: &[usize], most: usize) {
        let mut left_out: Vec<(u8, usize)> = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            if let (Fit::LeftOut { rank }, None) = (column.fit, shown[index]) {
                left_out.push((rank, index));
            }
        }
        left_out.sort_unstable();
        for (_, index) in left_out.into_iter().rev() {
            shown[index] = Some(natural[index]);
            if total(&self.cut(shown, most, CUT_FIRST)) > most {
                shown[index] = None;
            }
        }
    }

    /// Cuts texts, the widest first, to no less than `least`, until the table fits.
    fn cut(&self, widths: &[Option<usize>], most: usize, least: usize) -> Vec<Option<usize>> {
        let mut widths = widths.to_vec();
        loop {
            let excess = total(&widths).saturating_sub(most);
            let widest = (0..widths.len())
                .filter(|index| self.columns[*index].fit == Fit::Cut && widths[*index] > Some(least))
                .max_by_key(|index| widths[*index]);
            let Some(index) = widest.filter(|_| excess > 0) else { return widths };
            widths[index] = widths[index].map(|width| width.saturating_sub(excess.min(width - least)));
        }
    }
}

fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten();
    shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)
}

fn add_line<'a>(text: &mut String, cells: impl Iterator<Item = (&'a str, Option<usize>, Tone)>, terminal: Terminal) {
    let mut padding = 0;
    for (cell, width, tone) in cells {
        let Some(width) = width else { continue };
        let cell = cut_text(cell, width);
        // Padding is written before the next cell, so that no line ends in blanks.
        if !cell.is_empty() {
            text.extend(std::iter::repeat_n(' ', padding));
            text.push_str(&terminal.paint(&cell, tone));
            padding = 0;
        }
        padding += width.saturating_sub(cell.width()) + GAP;
    }
    text.push('\n');
}

/// Cuts a text to a width, with `…` as its last character.
pub(crate) fn cut_text(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for character in text.chars() {
        cut.push(character);
        if cut.width() >= width {
            cut.pop();
            break;
        }
    }
    cut + "…"
}

/// Control characters, which names of jobs and lines of output may contain, would break the table or control the
/// terminal.
pub(crate) fn replace_controls(cell: String) -> String {
    if !cell.chars().any(char::is_control) {
        return cell;
    }
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] =
        &[Column::whole("job"), Column::state("outcome"), Column::extra("exit", 1), Column::text("reason")];

    fn table() -> Table {
        let mut table = Table::new(COLUMNS);
        let reason = "line 41 matches shell.command-not-found, and the run exited 0";
        table.add_row(vec!["db/dump".into(), "failed".into(), "1".into(), reason.into()]);
        table.add_row(vec!["db/\u{1b}[2Jx".into(), "succeeded".into(), "0".into(), String::new()]);
        table
    }

    fn at(width: usize) -> Terminal {
        Terminal { width: Some(width), colours: false }
    }

    #[test]
    fn a_table_is_aligned_and_contains_no_control_characters() {
        let lines = "job       outcome    exit  reason\n\
                     db/dump   failed     1     line 41 matches shell.command-not-found, and the run exited 0\n\
                     db/\u{fffd}[2Jx  succeeded  0\n";
        assert_eq!(table().to_text(Terminal::NONE), lines);
        assert_eq!(table().to_text(at(200)), lines);
    }

    #[test]
    fn a_row_that_is_wider_than_the_terminal_goes_on_below_it() {
        let text = "job\n  outcome\n  reason\n\
                    db/dump\n  failed\n  line 41 match…\n\
                    db/\u{fffd}[2Jx\n  succeeded\n\
                    not shown in\nthis width: exit\n";
        assert_eq!(table().to_text(at(16)), text);
        let mut table = Table::new(COLUMNS);
        let name = format!("{}/{}", "group".repeat(10), "name".repeat(20));
        let other = format!("{}/{}x", "group".repeat(10), "name".repeat(20));
        for name in [&name, &other] {
            table.add_row(vec![name.clone(), "failed".into(), "1".into(), "it failed for a reason".into()]);
        }
        for width in 14..200 {
            let text = table.to_text(at(width));
            assert!(text.lines().all(|line| line.width() <= width), "{width}: {text}");
            let joined: String = text.split_whitespace().collect();
            assert!(joined.contains(&name) && joined.contains(&other), "{width}: {text}");
        }
        assert!(table.to_text(Terminal::NONE).contains(&other));
    }

    #[test]
    fn a_table_fits_every_terminal_that_has_room_for_its_names() {
        for width in 34..120 {
            let text = table().to_text(at(width));
            let mut lines: Vec<&str> = text.lines().collect();
            if lines.len() == 4 {
                assert_eq!(lines.pop(), Some("not shown in this width: exit"), "{width}");
            }
            assert!(lines.iter().all(|line| line.width() <= width), "{width}: {text}");
            assert!(text.contains("db/dump") && text.contains("succeeded"), "{width}: {text}");
        }
        assert!(table().to_text(at(75)).contains("line 41 matches shell.command-not-found, and th…"));
    }

    #[test]
    fn wide_characters_count_twice() {
        let mut table = Table::new(COLUMNS);
        table.add_row(vec!["db/日本".into(), "failed".into(), String::new(), "x".into()]);
        assert_eq!(table.to_text(Terminal::NONE), "job      outcome  exit  reason\ndb/日本  failed         x\n");
        assert_eq!(cut_text("日本日本", 5), "日本…");
        assert_eq!(cut_text("日本日本", 4), "日…");
    }

    #[test]
    fn only_states_have_colours() {
        let text = table().to_text(Terminal { width: None, colours: true });
        assert!(text.contains("db/dump   \u{1b}["), "{text:?}");
    }
}
