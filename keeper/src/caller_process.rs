//! A keeper that serves a process in the foreground, `sexton exec`: the job keeps the caller's process group, terminal,
//! working directory, environment and standard input, as it would have without Sexton. Both communicate over a socket.

#![expect(unsafe_code, reason = "descriptors that were inherited by number have no safe form")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use serde::{Deserialize, Serialize};

use crate::signals;

/// Bytes of the longest message to the caller.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// Bit of a signal that the command has already got from its terminal.
pub(crate) const ALREADY_DELIVERED: u8 = 0x80;

/// Whether a signal asks a process to end.
pub(crate) fn is_end_signal(signal: i32) -> bool {
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM].contains(&signal)
}

/// What the keeper gets from its caller. Part of the launch document, so it is never stored.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Process id of the caller.
    pub pid: u32,
    /// Descriptor of the caller's standard input, inherited by the keeper; the job reads /dev/null when absent.
    pub stdin: Option<RawFd>,
    /// Where standard output is copied; not copied when absent.
    pub stdout: Option<RawFd>,
    /// Where standard error is copied; not copied when absent.
    pub stderr: Option<RawFd>,
    /// The keeper's end of the socket.
    pub control: RawFd,
    /// The standard streams that are closed in the caller.
    #[serde(default)]
    pub closed_streams: [bool; 3],
    /// The machine allows only few more processes, so that the keeper starts no threads.
    #[serde(default)]
    pub is_frugal: bool,
    /// The exact words of the command. Those of the order are text.
    pub words: Vec<Vec<u8>>,
    /// The caller's environment, as `NAME=VALUE`.
    pub environment: Vec<Vec<u8>>,
    /// Signals that the caller ignores, as a bit set: bit 0 is signal 1.
    pub ignored_signals: u64,
    /// Signals that the caller blocks.
    pub blocked_signals: u64,
}

/// What a keeper reports to its caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "message")]
pub enum KeeperMessage {
    /// The job has started.
    Started,
    /// The job did not start.
    NotStarted {
        /// One sentence.
        reason: String,
        /// The error of the kernel when the program could not be executed.
        error: Option<i32>,
        /// The policy of this machine refuses the job.
        #[serde(default)]
        is_refused: bool,
    },
    /// A signal suspended the job, as ^Z of a terminal does.
    Suspended,
    /// The job has ended, and everything that it printed was copied.
    Ended {
        /// None when a signal ended the job.
        exit_code: Option<i32>,
        /// The signal that ended the job.
        signal: Option<i32>,
        /// Why a part of the output could not be copied.
        copy_error: Option<String>,
    },
    /// The end cannot be recorded on disk now.
    Unrecorded {
        /// One sentence.
        reason: String,
    },
}

/// The descriptors that a caller has passed.
pub(crate) struct Passed {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub control: Rc<Control>,
    /// Open for the job only, like the job server of make.
    pub inherited: Vec<RawFd>,
}

impl Passed {
    /// Takes the descriptors of the document, so that the job inherits only its own three and those of its caller.
    pub(crate) fn take(caller: &Caller) -> io::Result<Passed> {
        let take = |number: Option<RawFd>| number.map(take_descriptor).transpose();
        let control = Rc::new(Control { socket: take_descriptor(caller.control)?, caller: caller.pid });
        let (stdin, stdout, stderr) = (take(caller.stdin)?, take(caller.stdout)?, take(caller.stderr)?);
        Ok(Passed { stdin, stdout, stderr, control, inherited: inherited_descriptors() })
    }
}

/// The keeper's end of the socket.
pub(crate) struct Control {
    socket: OwnedFd,
    caller: u32,
}

/// The result of [`Control::receive`].
pub(crate) enum Received {
    /// A signal for the job; `is_delivered` when the job has it already.
    Signal {
        number: i32,
        is_delivered: bool,
    },
    Nothing,
    /// The caller has exited.
    CallerGone,
}

impl Control {
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.socket
    }

    /// Sends a message. A caller that has exited gets none.
    pub(crate) fn send(&self, message: &KeeperMessage) {
        if let Ok(bytes) = serde_json::to_vec(message) {
            // The keeper blocks SIGPIPE.
            let _ = rustix::io::write(&self.socket, &bytes[..bytes.len().min(MESSAGE_BYTES_MAX)]);
        }
    }

    pub(crate) fn receive(&self) -> Received {
        let mut byte = [0u8];
        match rustix::io::read(&self.socket, &mut byte[..]) {
            Ok(1..) => Received::Signal {
                number: i32::from(byte[0] & !ALREADY_DELIVERED),
                is_delivered: byte[0] & ALREADY_DELIVERED != 0,
            },
            Ok(_) => Received::CallerGone,
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Err(_) => Received::CallerGone,
        }
    }

    /// Lets the caller continue after the job was continued.
    pub(crate) fn continue_caller(&self) {
        // The number may belong to another process once the caller has exited.
        if std::os::unix::process::parent_id() == self.caller {
            signals::send(self.caller, libc::SIGCONT);
        }
    }
}

/// Takes a descriptor that was inherited by number, and sets close-on-exec.
fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the process that started this one passed the descriptor; nothing else in this process uses it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// The descriptors above the standard three that the job inherits.
fn inherited_descriptors() -> Vec<RawFd> {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let is_inherited = |number: &RawFd| {
        // SAFETY: a number that is not open only makes the call fail.
        *number > 2 && fcntl_getfd(unsafe { BorrowedFd::borrow_raw(*number) }).is_ok_and(|flags| flags.is_empty())
    };
    numbers.filter(is_inherited).collect()
}

/// Closes descriptors that were only open for the job.
pub(crate) fn close_descriptors(numbers: &[RawFd]) {
    for number in numbers {
        // SAFETY: the numbers are those of `inherited_descriptors`, which nothing else in this process uses.
        unsafe { libc::close(*number) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_json() {
        let message = KeeperMessage::Ended { exit_code: Some(3), signal: None, copy_error: None };
        let text = serde_json::to_string(&message).expect("json");
        assert_eq!(text, r#"{"message":"ended","exit_code":3,"signal":null,"copy_error":null}"#);
        assert_eq!(serde_json::from_str::<KeeperMessage>(&text).expect("message"), message);
    }
}
