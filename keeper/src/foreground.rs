//! The process in the foreground whose command a keeper owns: `sexton exec`. It has the terminal, the signals and the
//! exit code; the keeper has the command. Used instead of a runner's [`crate::spawn::spawn_keeper`].
//!
//! The command is in the same process group as this process, so a terminal sends ^C and ^Z to both. A signal that only
//! this process got, as from kill(1), is passed on.

#![expect(unsafe_code, reason = "signal masks, signalfd and descriptors by number are system calls")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::process::Child;

use rustix::io::{Errno, FdFlags, fcntl_setfd};

use crate::caller_process::{ALREADY_DELIVERED, Caller, KeeperMessage, MESSAGE_BYTES_MAX, is_end_signal};
use crate::directory::RunDirectory;
use crate::records::Launch;
use crate::signals::empty_set;
use crate::spawn::{KeeperCommand, spawn_keeper};

/// The signals that are passed on to the command. The others keep their meaning for this process.
const PASSED_SIGNALS: [i32; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// [`PASSED_SIGNALS`], and those without a meaning (real-time signals).
fn passed_signals() -> impl Iterator<Item = i32> {
    PASSED_SIGNALS.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// A signal that this process got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// Whether the kernel sent it, as for a key of the terminal: the command has got it too.
    pub is_from_kernel: bool,
}

impl Signal {
    /// Whether it asks for an end.
    pub fn is_end(self) -> bool {
        is_end_signal(self.number)
    }
}

/// Bit of a signal in a set: bit 0 is signal 1.
fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signals of this process, read from a descriptor.
#[derive(Debug)]
pub struct CallerSignals {
    descriptor: OwnedFd,
    /// Bit sets, as they were at the start.
    blocked: u64,
    ignored: u64,
}

impl CallerSignals {
    /// Blocks the signals that are passed on. Called before any thread exists. A signal that was ignored at the start
    /// (nohup) stays ignored, also by the command.
    ///
    /// # Errors
    /// When the kernel has no descriptor for them.
    pub fn block() -> io::Result<CallerSignals> {
        // Rust ignores SIGPIPE at the start; what it was before is unknown.
        let ignored = ignored_signals() & !bit(libc::SIGPIPE);
        // SAFETY: all sets are initialised before use, and no handler is installed.
        unsafe {
            let mut set = empty_set();
            for signal in passed_signals().filter(|signal| ignored & bit(*signal) == 0) {
                libc::sigaddset(&mut set, signal);
            }
            let mut before = MaybeUninit::uninit();
            if libc::sigprocmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let before = before.assume_init();
            // A limit of file sizes ends no process of Sexton; the write fails instead.
            let mut limits = empty_set();
            libc::sigaddset(&mut limits, libc::SIGXFSZ);
            libc::sigprocmask(libc::SIG_BLOCK, &limits, std::ptr::null_mut());
            let blocked = (1..=64)
                .filter(|signal| libc::sigismember(&before, *signal) == 1)
                .map(bit)
                .fold(0, |all, one| all | one);
            let restored = |error| {
                restore_mask(blocked);
                Err(error)
            };
            match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => restored(io::Error::last_os_error()),
                descriptor => Ok(CallerSignals { descriptor: OwnedFd::from_raw_fd(descriptor), blocked, ignored }),
            }
        }
    }

    /// Readable when there is a signal.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// The next signal, if there is one.
    pub fn next(&self) -> Option<Signal> {
        let mut information = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has the given size, and zeroes are a value of the plain data.
        let information = unsafe {
            let read = libc::read(self.descriptor.as_raw_fd(), information.as_mut_ptr().cast(), size);
            (read == size as isize).then(|| information.assume_init())
        }?;
        Some(Signal { number: information.ssi_signo as i32, is_from_kernel: information.ssi_code > 0 })
    }

    /// Suspends this process like its command, until it gets CONT. The kernel refuses it where no shell could continue
    /// it.
    pub fn suspend(&self) {
        // SAFETY: the sets are initialised; the signal is at its default, which suspends the process.
        unsafe {
            let mut set = empty_set();
            libc::sigaddset(&mut set, libc::SIGTSTP);
            libc::raise(libc::SIGTSTP);
            libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
    }

    /// Restores the mask of the start, for a command that replaces this process.
    pub fn restore(self) {
        if self.blocked & bit(libc::SIGXFSZ) == 0 {
            // One that a refused write of this process left pending would end the command.
            // SAFETY: no handler is installed; ignoring a signal discards a pending one.
            unsafe {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                if self.ignored & bit(libc::SIGXFSZ) == 0 {
                    libc::signal(libc::SIGXFSZ, libc::SIG_DFL);
                }
            }
        }
        restore_mask(self.blocked);
    }
}

fn restore_mask(blocked: u64) {
    // SAFETY: the set is initialised.
    unsafe {
        let mut set = empty_set();
        for signal in (1..=64).filter(|signal| blocked & bit(*signal) != 0) {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Leaves the session of a caller that has started this process, and forgets the signals that its terminal has sent
/// until then. Called first.
pub fn leave_caller() {
    // Fails only for a group leader, which is already detached.
    let _ = rustix::process::setsid();
    for signal in passed_signals() {
        // SAFETY: no handler is installed; ignoring a signal discards a pending one.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    restore_mask(bit(libc::SIGXFSZ));
}

/// Reads the ignored signals of this process; none where /proc is missing.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

/// Closes every descriptor above the standard three in the programs that this process starts from now on. They are for
/// the command only: a lock of the caller must not be held by others.
pub fn keep_descriptors() {
    // SAFETY: the call only sets flags of descriptors.
    let set = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if set == 0 {
        return;
    }
    // Kernels before 5.11.
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|number| *number > 2)
        {
            // SAFETY: a number that is not open only makes the call fail.
            let _ = fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::CLOEXEC);
        }
    }
}

/// A pair of packet sockets, in which one packet is one message and no call waits.
fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the array has room for two descriptors, which have no other owner.
    unsafe {
        match libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) {
            0 => Ok((OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1]))),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A keeper that serves this process.
#[derive(Debug)]
pub struct Foreground {
    control: OwnedFd,
    is_gone: bool,
    /// Where it is not waited for, the init process reaps it after the end of this process.
    keeper: Child,
}

/// The command of a caller.
#[derive(Debug)]
pub struct CallerCommand<'c> {
    /// Its words.
    pub words: &'c [std::ffi::OsString],
    /// Its environment, as `NAME=VALUE`.
    pub environment: Vec<Vec<u8>>,
    /// It has the standard streams of this process, as exact copies; without, it reads and prints nowhere.
    pub tee: bool,
    /// The standard streams that were closed when this process was started.
    pub closed_streams: [bool; 3],
    /// The machine allows only few more processes, so that the keeper starts no threads.
    pub is_frugal: bool,
}

/// What [`Foreground::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A message of the keeper.
    Message(KeeperMessage),
    /// Nothing now.
    Nothing,
    /// The keeper has exited.
    KeeperGone,
}

impl Foreground {
    /// Starts the keeper of a run that has its order.json.
    ///
    /// # Errors
    /// When no keeper can be started; the command was then not started.
    pub fn start(
        command: &KeeperCommand,
        run: &RunDirectory,
        mut launch: Launch,
        signals: &CallerSignals,
        caller: CallerCommand<'_>,
    ) -> io::Result<Foreground> {
        let (own, other) = packet_pair()?;
        let mut passed = Vec::new();
        let mut pass = |descriptor: BorrowedFd<'_>| -> io::Result<i32> {
            // Without close-on-exec, so that the keeper inherits it under this number.
            let descriptor = rustix::io::dup(descriptor)?;
            let number = descriptor.as_raw_fd();
            passed.push(descriptor);
            Ok(number)
        };
        let control = pass(std::os::fd::AsFd::as_fd(&other))?;
        let mut streams = [None; 3];
        let closed_streams = caller.closed_streams.map(|is_closed| is_closed && caller.tee);
        if caller.tee {
            // SAFETY: the standard streams are open for the whole life of the process: std opens missing ones.
            let standard = [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) });
            for ((stream, descriptor), is_closed) in streams.iter_mut().zip(standard).zip(closed_streams) {
                *stream = if is_closed { None } else { Some(pass(descriptor)?) };
            }
        }
        let [stdin, stdout, stderr] = streams;
        launch.caller = Some(Caller {
            pid: std::process::id(),
            stdin,
            stdout,
            stderr,
            control,
            closed_streams,
            is_frugal: caller.is_frugal,
            words: caller.words.iter().map(|word| word.clone().into_vec()).collect(),
            environment: caller.environment,
            ignored_signals: signals.ignored,
            blocked_signals: signals.blocked,
        });
        let keeper = spawn_keeper(command, run, &launch)?;
        let keeper = keeper.ok_or_else(|| io::Error::other("another keeper holds the lock of a new run"))?;
        Ok(Foreground { control: own, is_gone: false, keeper })
    }

    /// Readable when there is a message.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.control
    }

    /// Whether the keeper has exited, so that no message follows.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Notes that the keeper has exited. Returns whether that is new.
    pub fn note_gone(&mut self) -> bool {
        !std::mem::replace(&mut self.is_gone, true)
    }

    /// The next message.
    pub fn receive(&self) -> Received {
        let mut buffer = vec![0u8; MESSAGE_BYTES_MAX];
        match rustix::io::read(&self.control, &mut buffer[..]) {
            Ok(bytes @ 1..) => match serde_json::from_slice(&buffer[..bytes]) {
                Ok(message) => Received::Message(message),
                Err(_) => Received::Nothing,
            },
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Ok(_) | Err(_) => Received::KeeperGone,
        }
    }

    /// Waits until the keeper has exited, so that nothing writes to the run directory any more.
    pub fn wait_for_keeper(&mut self) {
        let _ = self.keeper.wait();
    }

    /// Passes a signal on to the command, unless the command has it already. The keeper also learns that the caller
    /// should end.
    pub fn pass_on(&self, signal: Signal) {
        let known = if signal.is_from_kernel { ALREADY_DELIVERED } else { 0 };
        // Rust ignores SIGPIPE.
        let _ = rustix::io::write(&self.control, &[signal.number as u8 | known]);
    }
}
