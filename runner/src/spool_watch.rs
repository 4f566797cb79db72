//! Wakes run tasks when their directory or spool changes: one inotify instance for all runs. Rescans all of them when
//! its queue overflows.

#![expect(unsafe_code, reason = "tokio can only poll a descriptor that stays open, which the caller asserts")]

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use crate::local_run::{LocalRun, lock};

#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchedPart {
    Directory,
    Spool,
}

pub(crate) struct SpoolWatch {
    /// None where the machine has no inotify instance left.
    instance: Option<AsyncFd<OwnedFd>>,
    /// Not every run is watched.
    is_incomplete: AtomicBool,
    watched: Mutex<HashMap<i32, (Arc<LocalRun>, WatchedPart)>>,
}

fn open_instance() -> io::Result<AsyncFd<OwnedFd>> {
    let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // SAFETY: an OwnedFd keeps the same descriptor open during its whole life.
    let instance = unsafe { AsyncFd::register_with_interest(instance, Interest::READABLE)? };
    Ok(instance)
}

/// Pause after each wake-up. A job that prints continuously does not cause a wake-up per block, and a line after a
/// silence waits for nothing. Chosen; the timer makes it 1 to 2 ms.
const PAUSE: Duration = Duration::from_millis(1);

/// Fits a few hundred events without names.
const BUFFER_BYTES: usize = 16 << 10;

impl SpoolWatch {
    /// Opens the inotify instance. Without one, because the user has too many (fs.inotify.max_user_instances), the
    /// periodic poll finds every change.
    pub(crate) fn new() -> SpoolWatch {
        let instance = open_instance();
        if let Err(error) = &instance {
            tracing::warn!(%error, "no inotify instance available; polling runs");
        }
        let is_incomplete = AtomicBool::new(instance.is_err());
        SpoolWatch { instance: instance.ok(), is_incomplete, watched: Mutex::default() }
    }

    /// Whether the changes of some run are only found by polls.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.is_incomplete.load(Ordering::Relaxed)
    }

    /// Wakes the run at every change from now on. Idempotent.
    ///
    /// # Errors
    /// When the user has too many watches (fs.inotify.max_user_watches). The periodic poll still finds every change.
    pub(crate) fn add(&self, run: &Arc<LocalRun>) -> io::Result<()> {
        let files = WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
        let growth = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::ONLYDIR;
        // Locked for both insertions, so that no event arrives before its run is known.
        let mut watched = lock(&self.watched);
        // Logged at the start.
        let Some(instance) = &self.instance else { return Ok(()) };
        let add = |path, flags| {
            inotify::add_watch(instance.get_ref(), path, flags)
                .inspect_err(|_too_many| self.is_incomplete.store(true, Ordering::Relaxed))
        };
        let directory = add(run.directory.path().to_owned(), files)?;
        watched.insert(directory, (run.clone(), WatchedPart::Directory));
        let spool = add(run.directory.spool(), growth)?;
        watched.insert(spool, (run.clone(), WatchedPart::Spool));
        Ok(())
    }

    /// Stops watching the run.
    pub(crate) fn remove(&self, run: &Arc<LocalRun>) {
        let mut watched = lock(&self.watched);
        let task_run = watched.iter().filter(|(_, (one, _))| Arc::ptr_eq(one, run));
        let ended: Vec<i32> = task_run.map(|(descriptor, _)| *descriptor).collect();
        for descriptor in ended {
            watched.remove(&descriptor);
            if let Some(instance) = &self.instance {
                let _ = inotify::remove_watch(instance.get_ref(), descriptor);
            }
        }
    }

    /// Dispatches events until dropped. Calls `grown` for every run whose spool has grown.
    pub(crate) async fn serve(&self, mut grown: impl FnMut(&Arc<LocalRun>)) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let Some(instance) = &self.instance else { return };
        loop {
            let Ok(mut ready) = instance.readable().await else { return };
            let mut events = Reader::new(instance.get_ref(), &mut buffer);
            loop {
                match events.next() {
                    Ok(event) => self.dispatch(event.wd(), event.events(), &mut grown),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            ready.clear_ready();
            sleep(PAUSE).await;
        }
    }

    fn dispatch(&self, descriptor: i32, events: ReadFlags, grown: &mut impl FnMut(&Arc<LocalRun>)) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            let all: Vec<Arc<LocalRun>> = lock(&self.watched).values().map(|(run, _)| run.clone()).collect();
            for run in all {
                run.note_change();
                run.note_growth();
                grown(&run);
            }
            return;
        }
        let Some((run, place)) = lock(&self.watched).get(&descriptor).cloned() else { return };
        match place {
            WatchedPart::Directory => run.note_change(),
            WatchedPart::Spool => {
                run.note_growth();
                grown(&run);
            }
        }
    }
}
