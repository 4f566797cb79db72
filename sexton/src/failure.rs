//! Failures of subcommands: the messages on standard error, and the exit code.
//!
//! Every subcommand returns them. The exit codes are fixed, because scripts depend on them.

use std::io::{self, Write};

use domain::fault::Faults;
use domain::system_error::without_numbers;

use crate::state::StateError;

/// Exit code of success.
pub(crate) const SUCCESS: u8 = 0;
/// Exit code of a command that ran and failed, or whose result is negative.
pub(crate) const FAILED: u8 = 1;
/// Exit code of wrong arguments or a faulty file.
pub(crate) const USAGE: u8 = 2;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Exit 2; one message per fault.
    Usage(Vec<String>),
    /// Exit 1; one message per fault.
    Failed(Vec<String>),
    /// The reader of standard output closed it (`sexton runs | head`). Exit 0: this is not an error.
    ReaderGone,
}

pub(crate) type Outcome = Result<u8, Failure>;

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage(vec![message.into()])
    }

    pub(crate) fn failed(message: impl Into<String>) -> Failure {
        Failure::Failed(vec![message.into()])
    }

    /// The messages, one per fault.
    pub(crate) fn messages(self) -> Vec<String> {
        match self {
            Failure::Usage(messages) | Failure::Failed(messages) => messages,
            Failure::ReaderGone => Vec::new(),
        }
    }

    /// Prints the messages and returns the exit code.
    pub(crate) fn print(&self) -> u8 {
        let (code, messages): (u8, &[String]) = match self {
            Failure::Usage(messages) => (USAGE, messages),
            Failure::Failed(messages) => (FAILED, messages),
            Failure::ReaderGone => (SUCCESS, &[]),
        };
        for message in messages {
            print_error_line(message);
        }
        code
    }
}

/// Prints one line on standard error, without numbers of system errors. A closed standard error is ignored.
pub(crate) fn print_error_line(line: &str) {
    let _closed = writeln!(io::stderr().lock(), "{}", without_numbers(line));
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Failure {
        Failure::Usage(faults.0.iter().map(ToString::to_string).collect())
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        Failure::failed(error.to_string())
    }
}

/// Only for writes to standard output. Other I/O errors get the name of their file where they arise.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::failed(format!("cannot write to standard output: {error}")),
        }
    }
}
