//! A process under test that prints `ready` alone on a line. Called by the tests and the benchmark that start the
//! binary; it knows nothing else of it.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::wait::{DEADLINE, wait_until};

/// A running process. Killed when it is dropped.
#[derive(Debug)]
pub struct ReadyProcess {
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
    ready: Mutex<Receiver<()>>,
}

impl ReadyProcess {
    /// Starts the process and keeps all its output; standard input is empty.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> io::Result<ReadyProcess> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let printed = Arc::default();
        let (sender, ready) = channel();
        collect(child.stderr.take().expect("a pipe"), &printed, |_| {});
        collect(child.stdout.take().expect("a pipe"), &printed, move |line| {
            if line == "ready" {
                // Fails when the test has ended, which is fine.
                sender.send(()).ok();
            }
        });
        Ok(ReadyProcess { child, printed, ready: Mutex::new(ready) })
    }

    /// Whether it prints `ready` within this time; does not wait longer for a process that has ended.
    pub fn is_ready_within(&self, timeout: Duration) -> bool {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(timeout).is_ok()
    }

    /// All lines so far of standard output and standard error.
    pub fn printed(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it with SIGTERM, and returns its exit code.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        // Fails for a process that has ended, which is fine.
        Command::new("kill").arg(self.pid().to_string()).stderr(Stdio::null()).status().ok();
        wait_until(DEADLINE, || self.has_ended());
        self.child.wait().expect("its status").code()
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        // Fails for a process that has ended, which is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for ReadyProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn collect(
    stream: impl Read + Send + 'static,
    printed: &Arc<Mutex<Vec<String>>>,
    mut seen: impl FnMut(&str) + Send + 'static,
) {
    let printed = Arc::clone(printed);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            seen(&line);
            printed.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}
