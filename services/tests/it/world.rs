//! The world of the contract tests over SQLite, which uses the same clock, so nothing waits in real time.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use contract::world::Clock;
pub(crate) use contract::world::{job, key};
use domain::ports::Ports;
use embedded::Embedded;
use jiff::Timestamp;
use tempfile::TempDir;

pub(crate) struct World {
    world: contract::world::World,
    directory: TempDir,
}

impl World {
    pub(crate) fn new(now: &str) -> World {
        World::in_directory(tempfile::tempdir().unwrap(), now)
    }

    pub(crate) fn in_directory(directory: TempDir, now: &str) -> World {
        let clock = Arc::new(Mutex::new(now.parse::<Timestamp>().unwrap()));
        let ports = open(&directory, &clock);
        World { world: contract::world::World::with_clock(&ports, clock), directory }
    }

    /// The same file opened a second time, as by another process: with its own writer and readers.
    pub(crate) fn open_second(&self) -> Ports {
        open(&self.directory, &self.clock)
    }

    /// An operator edits the database with `sqlite3`.
    pub(crate) fn edit_with_sqlite(&self, statements: &str) {
        embedded::edit_by_hand(&self.directory.path().join("sexton.db"), statements).unwrap();
    }
}

fn open(directory: &TempDir, clock: &Clock) -> Ports {
    let clock = clock.clone();
    let file = directory.path().join("sexton.db");
    Embedded::open_at(&file, Arc::new(move || *clock.lock().unwrap())).unwrap().ports()
}

impl Deref for World {
    type Target = contract::world::World;

    fn deref(&self) -> &contract::world::World {
        &self.world
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut contract::world::World {
        &mut self.world
    }
}
