//! Remembers that a process was ended by SIGBUS, so that the next start alerts about it. The kernel sends it when a
//! file that is mapped into memory was cut, as `sexton.db-shm` of a running ledger, or when its disk cannot be read. No
//! code of the process can handle that, so the signal handler only writes a word to a file that is open already.

#![expect(unsafe_code, reason = "signal handlers have no safe form")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use domain::ports::{PortResult, Ports};
use jiff::Timestamp;
use services::system_alerts::{key, loss};

/// What the file contains after SIGBUS. A new process empties it.
const WORD: &[u8] = b"SIGBUS\n";

/// The descriptor that the signal handler writes to; negative before there is one.
static DESCRIPTOR: AtomicI32 = AtomicI32::new(-1);

/// The end of an earlier process.
pub(crate) struct BusFault {
    path: PathBuf,
    at: Option<Timestamp>,
}

/// Writes the word, and ends the process as without a handler: its action is the default again (SA_RESETHAND), and the
/// raised signal is delivered when the handler returns.
extern "C" fn note_signal(signal: libc::c_int) {
    // SAFETY: write and raise are async-signal-safe (signal-safety(7)); the word is a constant.
    unsafe {
        libc::write(DESCRIPTOR.load(Ordering::Relaxed), WORD.as_ptr().cast(), WORD.len());
        libc::raise(signal);
    }
}

/// Reads how an earlier process ended, and notes SIGBUS of this one from now on. Called once, by the process that holds
/// the lock of the state directory. A file that cannot be used prevents no start.
pub(crate) fn watch(path: &Path) -> BusFault {
    let at = open_and_install(path).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "a signal BUS would not be alerted");
        None
    });
    BusFault { path: path.to_owned(), at }
}

/// Returns when SIGBUS has ended an earlier process.
fn open_and_install(path: &Path) -> io::Result<Option<Timestamp>> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    let written_at = Timestamp::try_from(metadata.modified()?).unwrap_or_else(|_| Timestamp::now());
    // Open until the process ends.
    DESCRIPTOR.store(file.into_raw_fd(), Ordering::Relaxed);
    // SAFETY: `sigaction` has only integers and a pointer, for which all zeros is a value; `note_signal` is
    // async-signal-safe, and no other code of this process handles SIGBUS but the detection of stack overflows in
    // Rust's runtime, which are SIGSEGV on Linux.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note_signal as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if installed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((metadata.len() > 0).then_some(written_at))
}

impl BusFault {
    /// Stores the alert about an earlier process that SIGBUS has ended. Does nothing when there was none.
    ///
    /// # Errors
    /// Returns the port's error; the next start repeats it.
    pub(crate) async fn alert(self, ports: &Ports) -> PortResult<()> {
        let Some(at) = self.at else { return Ok(()) };
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
        let reason = format!(
            "the last `sexton up` was ended by the signal BUS at {at}: another program cut a file that was in use, \
             like sexton.db-shm, or the disk cannot be read; no job was started until this start. Let no other \
             program write to the state directory, and check the disk"
        );
        tracing::error!("{reason}");
        loss(ports, &key("store"), &format!("store:bus:{at}"), reason, Timestamp::now()).await?;
        if let Err(error) = File::options().write(true).open(&self.path).and_then(|file| file.set_len(0)) {
            tracing::warn!(%error, path = %self.path.display(), "cannot empty the file");
        }
        Ok(())
    }
}
