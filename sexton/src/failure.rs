//! How a command ends when it does not end well: what is told on standard error, and the exit code.
//!
//! Every subcommand returns these. The codes are fixed: scripts hold on to them.

use std::io::{self, Write};

use domain::fault::Faults;

/// It did what was asked.
pub const SUCCESS: u8 = 0;
/// It ran, and the answer is bad.
pub const FAILED: u8 = 1;
/// The arguments or a file are wrong.
pub const USAGE: u8 = 2;

#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Exit 2; one sentence a fault.
    Usage(Vec<String>),
    /// Exit 1; one sentence a fault.
    Failed(Vec<String>),
    /// Whoever read our output has gone (`sexton runs | head`): nothing is left to do, and nothing is wrong.
    ReaderGone,
}

pub type Outcome = Result<u8, Failure>;

impl Failure {
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage(vec![message.into()])
    }

    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::Failed(vec![message.into()])
    }

    /// Writes the sentences and returns the exit code.
    pub fn print(&self) -> u8 {
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

/// One line on standard error. When that is closed, nobody is left to be told.
pub fn print_error_line(line: &str) {
    let _closed = writeln!(io::stderr().lock(), "{line}");
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Failure {
        Failure::Usage(faults.0.iter().map(ToString::to_string).collect())
    }
}

/// Only for writing to standard output: other faults of I/O are given their file's name where they arise.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::failed(format!("cannot write to standard output: {error}")),
        }
    }
}
