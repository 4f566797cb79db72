//! The arguments that `ps` shows for a keeper that was forked. The runner also finds a keeper by them
//! ([`crate::spawn::find_keeper`]). Linux shows the memory in which the arguments were passed, so they are replaced
//! there.

#![expect(unsafe_code, reason = "the arguments of a process are memory that no Rust object has")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longer than any argument that is replaced.
const REPLACED_BYTES_MAX: usize = 64;

/// The memory of the last arguments, with room for a path.
pub(crate) struct ProcessTitle {
    start: usize,
    bytes: usize,
}

impl ProcessTitle {
    /// Finds the arguments of this process, and empties those after `replaced`. Where they cannot be found, nothing is
    /// ever shown.
    pub(crate) fn find(replaced: &str) -> ProcessTitle {
        let (start, bytes) = memory_of_arguments().unwrap_or_default();
        let arguments = fs::read("/proc/self/cmdline").unwrap_or_default();
        let kept = memchr::memmem::find(&arguments, format!("\0{replaced}\0").as_bytes()).map(|at| at + 1);
        let title = match kept {
            Some(kept) if arguments.len() == bytes => ProcessTitle { start: start + kept, bytes: bytes - kept },
            _ => ProcessTitle { start: 0, bytes: 0 },
        };
        title.write(replaced.as_bytes(), title.bytes);
        title
    }

    /// Shows the path in place of the replaced argument. What follows is empty already.
    pub(crate) fn show(&self, path: &Path) {
        let path = path.as_os_str().as_bytes();
        self.write(path, REPLACED_BYTES_MAX.max(path.len() + 1));
    }

    /// Writes the text, and NUL up to `bytes`. The last byte stays NUL: otherwise Linux shows the memory behind it,
    /// too.
    fn write(&self, text: &[u8], bytes: usize) {
        if text.len() >= self.bytes {
            return;
        }
        let mut written = text.to_vec();
        written.resize(bytes.min(self.bytes), 0);
        // SAFETY: the kernel put the arguments into this memory, which stays mapped and writable. The process has one
        // thread, and it reads its arguments before.
        unsafe { std::ptr::copy_nonoverlapping(written.as_ptr(), self.start as *mut u8, written.len()) }
    }
}

/// Fields 48 and 49 of /proc/self/stat (proc_pid_stat(5)): start and length of the arguments.
fn memory_of_arguments() -> Option<(usize, usize)> {
    let stat = fs::read("/proc/self/stat").ok()?;
    let after_name = memchr::memrchr(b')', &stat)? + 1;
    let rest = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse::<usize>().ok();
    let (start, end) = (field(48)?, field(49)?);
    (start > 0).then_some((start, end.checked_sub(start)?))
}
