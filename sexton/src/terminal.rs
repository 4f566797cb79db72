//! The terminal that a command prints to: its width, and whether it shows colours. Used by tables and progress.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use anstyle::{AnsiColor, Style};
use rustix::termios::tcgetwinsize;

/// What standard output or standard error is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// Columns; none when it is no terminal, or when the terminal does not know them.
    pub(crate) width: Option<usize>,
    /// Colours may be used: it is a terminal, `NO_COLOR` is not set, and `TERM` is not `dumb`.
    pub(crate) colours: bool,
}

impl Terminal {
    /// A file or a pipe: no limit of width, no colours.
    #[cfg(test)]
    pub(crate) const NONE: Terminal = Terminal { width: None, colours: false };

    pub(crate) fn of_stdout() -> Terminal {
        Terminal::of(&std::io::stdout())
    }

    pub(crate) fn of(stream: &(impl IsTerminal + AsFd)) -> Terminal {
        if !stream.is_terminal() {
            return Terminal { width: None, colours: false };
        }
        let columns = tcgetwinsize(stream).map_or(0, |size| usize::from(size.ws_col));
        Terminal {
            width: Some(columns).filter(|columns| *columns > 0),
            colours: !anstyle_query::no_color() && anstyle_query::term_supports_color(),
        }
    }

    /// Returns the text in the colour of its tone.
    pub(crate) fn paint(self, text: &str, tone: Tone) -> String {
        match tone.style() {
            Some(style) if self.colours && !text.is_empty() => format!("{style}{text}{style:#}"),
            _ => text.to_owned(),
        }
    }
}

/// What a word means to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Head,
    Dim,
    Good,
    Bad,
    Warning,
    Active,
}

impl Tone {
    /// The tone of an outcome, or of the state of a run, a job or a sink.
    pub(crate) fn of_state(text: &str) -> Tone {
        let word = text.split([' ', ':']).next().unwrap_or_default();
        match word {
            "succeeded" | "working" => Tone::Good,
            "failed" | "false_success" | "timed_out" | "missed" | "lost" | "bad" | "unreadable" | "misconfigured"
            | "broken" => Tone::Bad,
            "skipped" | "stopped" | "held" | "paused" | "disabled" | "retrying" | "waiting" => Tone::Warning,
            "running" | "claimed" => Tone::Active,
            _ => Tone::Plain,
        }
    }

    /// Colours of the terminal's own palette, so that they suit light and dark backgrounds.
    fn style(self) -> Option<Style> {
        match self {
            Tone::Plain => None,
            Tone::Head => Some(Style::new().bold()),
            Tone::Dim => Some(Style::new().dimmed()),
            Tone::Good => Some(AnsiColor::Green.on_default()),
            Tone::Bad => Some(AnsiColor::Red.on_default().bold()),
            Tone::Warning => Some(AnsiColor::Yellow.on_default()),
            Tone::Active => Some(AnsiColor::Cyan.on_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::run::Outcome;

    use super::*;

    #[test]
    fn each_outcome_has_a_tone() {
        for outcome in Outcome::ALL {
            let tone = Tone::of_state(outcome.name());
            assert_eq!(tone == Tone::Bad, outcome.is_failure(), "{outcome:?}");
            assert_ne!(tone, Tone::Plain, "{outcome:?}");
        }
    }

    #[test]
    fn only_a_terminal_gets_colours() {
        assert_eq!(Terminal::NONE.paint("failed", Tone::Bad), "failed");
        let coloured = Terminal { width: None, colours: true }.paint("failed", Tone::Bad);
        assert!(coloured.contains("failed") && coloured.starts_with('\u{1b}'), "{coloured:?}");
    }
}
