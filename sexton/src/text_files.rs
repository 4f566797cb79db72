//! Reads files that users write, with a limit of their size. A file that is watched or named in a configuration is a
//! regular file: a FIFO would block, and a device may never end. Commands that read one file read pipes too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use domain::system_error::plain_text;
use domain::units::format_size;

use crate::ownership::{FileOwner, check_when_root};

/// Longest file that is read. Chosen: far above any handwritten file, so a longer one is a mistake (a log, a dump).
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;

/// Names of this process's standard input.
const STANDARD_INPUT_PATHS: [&str; 3] = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

/// The content of a file, and who can write it; for a pipe, only its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ReadFile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) owner: Option<FileOwner>,
}

/// Why a file cannot be read: one sentence without its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) message: String,
    /// There is no such file now.
    pub(crate) is_missing: bool,
}

impl Unreadable {
    fn new(message: impl Into<String>) -> Unreadable {
        Unreadable { message: message.into(), is_missing: false }
    }
}

impl From<io::Error> for Unreadable {
    fn from(why: io::Error) -> Unreadable {
        let is_missing = why.kind() == io::ErrorKind::NotFound;
        Unreadable { message: format!("cannot be read: {}", plain_text(&why)), is_missing }
    }
}

/// Reads a regular file of at most [`FILE_BYTES_MAX`]. Never blocks on a FIFO or device.
///
/// # Errors
/// Fails for every other kind of file, and for one that is longer.
pub(crate) fn read_file(path: &Path) -> Result<ReadFile, Unreadable> {
    // Checked before opening, because opening some devices has effects.
    check_is_regular(&fs::metadata(path)?)?;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // Another file may have replaced it since.
    let metadata = file.metadata()?;
    check_is_regular(&metadata)?;
    Ok(ReadFile { bytes: read_limited(file)?, owner: Some(FileOwner::of(&metadata)) })
}

/// Reads a regular file, a FIFO or an inherited pipe (`<(crontab -l)`), with the same limit. Waits for the writer of a
/// pipe.
///
/// # Errors
/// Fails for directories and devices, and for a longer text.
pub(crate) fn read_file_or_pipe(path: &Path) -> Result<ReadFile, Unreadable> {
    if STANDARD_INPUT_PATHS.iter().any(|name| path.as_os_str() == *name) {
        return read_standard_input();
    }
    match fs::metadata(path)?.file_type().is_fifo() {
        true => Ok(ReadFile { bytes: read_limited(File::open(path)?)?, owner: None }),
        false => read_file(path),
    }
}

/// Reads standard input to its end, with the same limit.
///
/// # Errors
/// Fails if it is longer or cannot be read.
pub(crate) fn read_standard_input() -> Result<ReadFile, Unreadable> {
    Ok(ReadFile { bytes: read_limited(io::stdin().lock())?, owner: None })
}

fn check_is_regular(metadata: &fs::Metadata) -> Result<(), Unreadable> {
    let kind = metadata.file_type();
    let name = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(Unreadable::new(format!("{name}, not a regular file; name a regular file")))
}

fn read_limited(source: impl Read) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    source.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Unreadable::new(format!("longer than {}; is it the right file?", format_size(FILE_BYTES_MAX))));
    }
    Ok(bytes)
}

/// The text of a file that decides what Sexton does. As root, only of one that no other user can write.
///
/// # Errors
/// One sentence: why the file is refused, or the first line that is not UTF-8.
pub(crate) fn to_checked_text(file: ReadFile) -> Result<String, String> {
    check_when_root(file.owner, None)?;
    String::from_utf8(file.bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        format!("line {line} is not UTF-8; save the file as UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| folder.path().join(name);
        let message = |path: &Path| read_file(path).expect_err("refused").message;
        let fifo = path("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        assert_eq!(message(&fifo), "a FIFO, not a regular file; name a regular file");
        assert!(message(folder.path()).starts_with("a directory"));
        assert!(message(Path::new("/dev/zero")).starts_with("a device"));
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("bound");
        assert!(message(&path("socket")).starts_with("a socket"));
        std::os::unix::fs::symlink("/dev/full", path("link")).expect("made");
        assert!(message(&path("link")).starts_with("a device"));
        let file = File::create(path("sparse")).expect("made");
        file.set_len(FILE_BYTES_MAX).expect("set");
        assert_eq!(read_file(&path("sparse")).expect("read").bytes.len() as u64, FILE_BYTES_MAX);
        file.set_len(40 << 30).expect("set");
        assert_eq!(message(&path("sparse")), "longer than 16MiB; is it the right file?");
        assert!(read_file(&path("none")).expect_err("refused").is_missing);
    }
}
