//! A process that forks keepers, for a runner that starts many. A forked keeper needs no exec: no dynamic linking and
//! no page faults of a large program, which are most of the cost of a short run. The runner starts it with the first
//! keeper ([`crate::spawn::KeeperStarter`]) and replaces it when it has died.
//!
//! One thread and little memory, so that a fork is safe and cheap. It exits with its runner; keepers never depend on
//! it. It reaps those that exit before.

#![expect(unsafe_code, reason = "fork, and exit of the forked process, are system calls")]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{WaitOptions, wait};

use crate::directory::RunDirectory;
use crate::process_title::ProcessTitle;
use crate::spawn::KeeperCommand;
use crate::{cgroup, launch, processes, signals, user};

/// In place of the run directory, this argument makes the program a fork server ([`serve`]).
pub const ARGUMENT: &str = "--fork-server";

/// The longest path (PATH_MAX of Linux). The arguments of the fork server have room for one, so that `ps` can show
/// which run a forked keeper has.
const PATH_BYTES_MAX: usize = 4_096;

/// How long a fork may take before the server counts as hanging. Chosen: a fork takes less than a millisecond, and a
/// keeper that is executed instead costs little.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The fork server of a runner. It is killed when this is dropped.
pub(crate) struct ForkServer {
    socket: OwnedFd,
    process: Child,
}

impl ForkServer {
    /// Starts the program as a fork server. A program that cannot be one exits, which the first request finds.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub(crate) fn start(command: &KeeperCommand) -> io::Result<ForkServer> {
        let (socket, far_end) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        set_socket_timeout(&socket, Timeout::Send, Some(ANSWER_TIMEOUT))?;
        let room = " ".repeat(PATH_BYTES_MAX);
        let process = command.spawn(&[OsStr::new(ARGUMENT), OsStr::new(&room)], false, || {
            Ok((Stdio::from(far_end.try_clone()?), Stdio::null()))
        })?;
        Ok(ForkServer { socket, process })
    }

    /// Forks a keeper, which gets the lock of its directory and the launch document.
    ///
    /// # Errors
    /// [`ForkError::Refused`] when the kernel refuses the fork: no keeper was started. [`ForkError::Server`] when the
    /// server does not answer: a keeper may have been started, and then it has the lock.
    pub(crate) fn fork_keeper(&self, run: &RunDirectory, lock: &OwnedFd, document: &File) -> Result<(), ForkError> {
        let server_error = |_: Errno| ForkError::Server;
        let descriptors = [lock.as_fd(), document.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let path = [IoSlice::new(run.path().as_os_str().as_bytes())];
        sendmsg(&self.socket, &path, &mut control, SendFlags::NOSIGNAL).map_err(server_error)?;
        let mut answer = [0; size_of::<i32>()];
        let (_, length) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty()).map_err(server_error)?;
        match i32::from_ne_bytes(answer) {
            _ if length != answer.len() => Err(ForkError::Server),
            1.. => Ok(()),
            refused => Err(ForkError::Refused(io::Error::from_raw_os_error(-refused))),
        }
    }
}

impl Drop for ForkServer {
    /// Returns when the server has exited: from then on it forks no keeper.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Why a fork server started no keeper.
#[derive(Debug)]
pub(crate) enum ForkError {
    /// The kernel refuses a fork.
    Refused(io::Error),
    /// The server has died or hangs.
    Server,
}

/// Serves as fork server until the runner closes its end of the socket, which is the standard input. `keeper` is the
/// whole life of a keeper, as [`crate::main`].
pub fn serve(keeper: impl Fn(&Path) -> ExitCode) -> ExitCode {
    match serve_requests(keeper) {
        Ok(()) => ExitCode::SUCCESS,
        // The runner starts keepers without it, and logs nothing else.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve_requests(keeper: impl Fn(&Path) -> ExitCode) -> io::Result<()> {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // Away from the terminal and process group of the runner: their signals are not for keepers.
    let _ = rustix::process::setsid();
    // SAFETY: nothing is open yet but the standard streams and what the runner was started with. Kernels before 5.9
    // refuse the call; there, keepers inherit it, as those that are executed do.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let signals = signals::block_and_open()?;
    let socket = launch::move_fd_above_stdio(0)?;
    launch::open_null_as_stdio()?;
    let title = ProcessTitle::find(ARGUMENT);
    remember_for_keepers();
    loop {
        let mut waited = [PollFd::new(&socket, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [is_requested, is_signalled] = waited.map(|waited| !waited.revents().is_empty());
        if is_signalled {
            signals::drain(&signals);
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        }
        if !is_requested {
            continue;
        }
        let Some(request) = receive(&socket)? else { return Ok(()) };
        // SAFETY: this process has one thread, so the child may continue as the parent would.
        let answer = match unsafe { libc::fork() } {
            0 => {
                drop((socket, signals));
                title.show(&request.path);
                let is_success = request.into_streams().is_ok_and(|path| keeper(&path) == ExitCode::SUCCESS);
                // SAFETY: the keeper has written and synced everything; nothing of the server must run again.
                unsafe { libc::_exit(i32::from(!is_success)) }
            }
            -1 => -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN),
            pid => pid,
        };
        send(&socket, &answer.to_ne_bytes(), SendFlags::NOSIGNAL)?;
    }
}

/// Reads once what each keeper would read: its control group, the boot, and how the machine looks up users.
fn remember_for_keepers() {
    cgroup::remember_own_folder();
    processes::boot_id();
    let _ = user::own_user();
}

struct Request {
    path: PathBuf,
    lock: OwnedFd,
    document: OwnedFd,
}

/// The next request. None when the runner has closed its end.
fn receive(socket: &OwnedFd) -> io::Result<Option<Request>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut path = [0; PATH_BYTES_MAX];
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut path)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut descriptors = descriptors.next().into_iter().flatten();
    let (Some(lock), Some(document)) = (descriptors.next(), descriptors.next()) else {
        return Err(io::Error::other("a request without its files"));
    };
    let path = PathBuf::from(OsStr::from_bytes(&path[..received.bytes]));
    Ok(Some(Request { path, lock, document }))
}

impl Request {
    /// Makes the files the standard streams, as [`crate::spawn::spawn_keeper`] does for a keeper that is executed.
    /// Returns the path.
    fn into_streams(self) -> io::Result<PathBuf> {
        for (stream, file) in [(0, &self.document), (1, &self.lock)] {
            // SAFETY: both descriptors are open, and no Rust object uses the standard streams.
            if unsafe { libc::dup2(file.as_raw_fd(), stream) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(self.path)
    }
}
