//! Wakes whoever waits for a change in a run's directory or spool: one inotify instance for all runs, and a rescan as the
//! safety net when its queue overflows.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use crate::local_run::{LocalRun, locked};

#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchedPart {
    Directory,
    Spool,
}

pub struct SpoolWatch {
    instance: AsyncFd<OwnedFd>,
    watched: Mutex<HashMap<i32, (Arc<LocalRun>, WatchedPart)>>,
}

/// After it was woken, everybody is left alone for so long: a job that prints without a pause wakes nobody for every
/// block, and a line after a silence waits for nothing. Ours; the timer makes one to two milliseconds of it.
const PAUSE: Duration = Duration::from_millis(1);

/// Room for a few hundred events without names.
const BUFFER_BYTES: usize = 16 << 10;

impl SpoolWatch {
    /// # Errors
    /// When the user has too many inotify instances (fs.inotify.max_user_instances).
    pub fn new() -> io::Result<SpoolWatch> {
        let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: an OwnedFd keeps the same descriptor open as long as it lives.
        let instance = unsafe { AsyncFd::register_with_interest(instance, Interest::READABLE)? };
        Ok(SpoolWatch { instance, watched: Mutex::default() })
    }

    /// From now on every change wakes the run. Idempotent.
    ///
    /// # Errors
    /// When the user has too many watches (fs.inotify.max_user_watches); the periodic look still finds every change.
    pub fn add(&self, run: &Arc<LocalRun>) -> io::Result<()> {
        let files = WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
        let growth = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::ONLYDIR;
        // Held over both, so that no event can come before its run is known.
        let mut watched = locked(&self.watched);
        let directory = inotify::add_watch(self.instance.get_ref(), run.directory.path(), files)?;
        watched.insert(directory, (run.clone(), WatchedPart::Directory));
        let spool = inotify::add_watch(self.instance.get_ref(), run.directory.spool(), growth)?;
        watched.insert(spool, (run.clone(), WatchedPart::Spool));
        Ok(())
    }

    /// Forgets the run.
    pub fn remove(&self, run: &Arc<LocalRun>) {
        let mut watched = locked(&self.watched);
        let of_run = watched.iter().filter(|(_, (one, _))| Arc::ptr_eq(one, run));
        let ended: Vec<i32> = of_run.map(|(descriptor, _)| *descriptor).collect();
        for descriptor in ended {
            watched.remove(&descriptor);
            let _ = inotify::remove_watch(self.instance.get_ref(), descriptor);
        }
    }

    /// Serves until dropped. `grown` is told of every run whose spool has grown.
    pub async fn serve(&self, mut grown: impl FnMut(&Arc<LocalRun>)) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        loop {
            let Ok(mut ready) = self.instance.readable().await else { return };
            let mut events = Reader::new(self.instance.get_ref(), &mut buffer);
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
            let all: Vec<Arc<LocalRun>> = locked(&self.watched).values().map(|(run, _)| run.clone()).collect();
            for run in all {
                run.note_change();
                run.note_growth();
                grown(&run);
            }
            return;
        }
        let Some((run, place)) = locked(&self.watched).get(&descriptor).cloned() else { return };
        match place {
            WatchedPart::Directory => run.note_change(),
            WatchedPart::Spool => {
                run.note_growth();
                grown(&run);
            }
        }
    }
}
