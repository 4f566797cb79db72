//! Files that are no regular files: FIFOs, devices, and the standard streams of this process. None of them can be
//! synced, and writing to them never waits: a full one takes the rest later.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::error::{SinkError, SinkResult};
use domain::system_error::plain_text;

/// A pipe that poll(2) reports as writable takes this number of bytes at once (pipe(7), PIPE_BUF).
const PIPE_BYTES: usize = 4096;

/// How an open file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Regular,
    /// Opened here, so its writes do not wait.
    Fifo,
    /// As for a FIFO: a terminal, `/dev/null`.
    Device,
    /// Inherited: its flags belong to other processes too.
    StandardFile,
    StandardSocket,
    StandardPipe,
}

/// A copy of the standard stream that the path names. These links are followed in this way, because opening them fails
/// for sockets, and for pipes of another user.
fn standard_stream(path: &Path) -> Option<io::Result<OwnedFd>> {
    match path.to_str()? {
        "/dev/stdout" => Some(io::stdout().as_fd().try_clone_to_owned()),
        "/dev/stderr" => Some(io::stderr().as_fd().try_clone_to_owned()),
        _ => None,
    }
}

pub(crate) fn is_standard(path: &Path) -> bool {
    ["/dev/stdout", "/dev/stderr"].iter().any(|standard| Path::new(standard) == path)
}

/// Opens the path if it is a standard stream.
pub(crate) fn open_standard(path: &Path) -> Option<io::Result<(File, FileKind)>> {
    let stream = standard_stream(path)?;
    let opened = || {
        let copy = File::from(stream?);
        let kind = match FileType::from_raw_mode(fstat(&copy)?.st_mode) {
            FileType::RegularFile => FileKind::StandardFile,
            FileType::Socket => FileKind::StandardSocket,
            _ => FileKind::StandardPipe,
        };
        Ok((copy, kind))
    };
    Some(opened())
}

/// Why a file of this type cannot be written by a file sink.
pub(crate) fn type_fault(found: FileType, path: &Path) -> Option<SinkError> {
    if found == FileType::Symlink {
        return Some(SinkError::misconfigured(link_words(path)));
    }
    let path = path.display();
    let why = match found {
        FileType::Directory => format!("{path} is a directory; write the path of a file in it"),
        FileType::Socket => format!("{path} is a socket; use type = \"syslog\" with address = \"unix://{path}\""),
        FileType::BlockDevice => {
            format!("{path} is a block device, whose content the lines would replace; write another path")
        }
        _ => return None,
    };
    Some(SinkError::misconfigured(why))
}

/// What to write in place of a link.
fn link_words(path: &Path) -> String {
    let shown = path.display();
    let is_descriptor = path.parent().is_some_and(|folder| {
        folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && folder.ends_with("fd"))
    });
    let number = path.file_name().and_then(OsStr::to_str).filter(|_| is_descriptor);
    if path == Path::new("/dev/stdin") || number == Some("0") {
        return format!("{shown} is an input; for the output of Sexton itself, write /dev/stdout");
    }
    if let Some(number) = number {
        let stream = if number == "2" { "/dev/stderr" } else { "/dev/stdout" };
        return format!("{shown} is an open file of a process; for the output of Sexton itself, write {stream}");
    }
    // The links of a machine lead to sockets and devices, as /dev/log does.
    let followed = std::fs::metadata(path).map(|target| FileType::from_raw_mode(target.mode()));
    if let Ok(FileType::Socket) = followed {
        return format!("{shown} is a link to a socket; use type = \"syslog\" with address = \"unix://{shown}\"");
    }
    match std::fs::canonicalize(path) {
        Ok(target) => {
            format!("{shown} is a symbolic link, which is never followed; write its target, {}", target.display())
        }
        Err(_) => format!("{shown} is a symbolic link without a target; remove the link, or write another path"),
    }
}

/// A failed call on an open device or a device that is opened. Only another path helps, except for permissions.
pub(crate) fn device_error(doing: &str, path: &Path, error: &io::Error) -> SinkError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return SinkError::from_path_error(doing, path, error);
    }
    let text = plain_text(error);
    let path = path.display();
    SinkError::misconfigured(match error.kind() {
        io::ErrorKind::StorageFull => {
            format!("cannot {doing} {path}: this device takes no more bytes; write the path of a file")
        }
        _ => format!(
            "cannot {doing} {path}: {text}; a device must be attached and accept lines, so write the path of a file (for \
             the output of Sexton itself, /dev/stdout)"
        ),
    })
}

/// Opens a FIFO or a device. `None`: another file took its place at this moment.
pub(crate) fn open_special(
    directory: &OwnedFd,
    name: &OsStr,
    path: &Path,
    found: FileType,
) -> SinkResult<Option<(File, FileKind)>> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match openat(directory, name, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::NXIO) if found == FileType::Fifo => return Err(no_reader(path)),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(device_error("open", path, &errno.into())),
    };
    let stat =
        fstat(&opened).map_err(|errno| SinkError::from_path_error("read the metadata of", path, &errno.into()))?;
    let kind = if found == FileType::Fifo { FileKind::Fifo } else { FileKind::Device };
    Ok((FileType::from_raw_mode(stat.st_mode) == found).then(|| (opened.into(), kind)))
}

pub(crate) fn no_reader(path: &Path) -> SinkError {
    SinkError::retry(format!("no process reads the FIFO {}; its lines wait until one opens it", path.display()))
}

/// Writes as many bytes as the file takes now; 0 when it is full.
pub(crate) fn write_now(file: &File, kind: FileKind, bytes: &[u8]) -> io::Result<usize> {
    let mut writer = file;
    let written = match kind {
        FileKind::Regular | FileKind::StandardFile => writer.write_all(bytes).map(|()| bytes.len()),
        FileKind::Fifo | FileKind::Device => writer.write(bytes),
        FileKind::StandardSocket => {
            rustix::net::send(file, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(io::Error::from)
        }
        FileKind::StandardPipe => match state(file, PollFlags::OUT)?.intersects(PollFlags::OUT | PollFlags::ERR) {
            true => writer.write(&bytes[..bytes.len().min(PIPE_BYTES)]),
            false => Ok(0),
        },
    };
    match written {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

/// Bytes of a FIFO that no process has read.
pub(crate) fn unread_bytes(fifo: &File) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(fifo)?)
}

/// Whether a process has the FIFO open for reading.
pub(crate) fn has_reader(fifo: &File) -> bool {
    state(fifo, PollFlags::empty()).is_ok_and(|state| !state.contains(PollFlags::ERR))
}

fn state(file: &File, wanted: PollFlags) -> io::Result<PollFlags> {
    let mut polled = [PollFd::from_borrowed_fd(file.as_fd(), wanted)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polled[0].revents())
}
