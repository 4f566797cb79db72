//! How much of a disk output leaves alone: what is written without end stops a little before the disk is full, so that
//! what must be written still can be: the ledger, orders, reports, cursors, the record of an end. Asked by the keeper for
//! its spool, by the file sink, and by whoever tells people.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use domain::units::format_size;

/// What stays free. Ours: a ledger with its log of writes, and the small files of some thousand runs.
const SPARE_BYTES_MAX: u64 = 64 << 20;

/// Of a small disk, this part at most stays free. Ours.
const SPARE_PART: u64 = 8;

/// The disk is looked at again after so many bytes; a look costs a microsecond. Ours.
const LOOK_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// For whoever is not root.
    pub free_bytes: u64,
    pub all_bytes: u64,
}

impl Room {
    /// Of the disk that the path is on.
    ///
    /// # Errors
    /// When the path is not there, or its disk does not tell.
    pub fn of(path: &Path) -> io::Result<Room> {
        Ok(Room::told(rustix::fs::statvfs(path)?))
    }

    /// Of the disk that an open file is on.
    ///
    /// # Errors
    /// When its disk does not tell.
    pub fn of_file(file: impl AsFd) -> io::Result<Room> {
        Ok(Room::told(rustix::fs::fstatvfs(file)?))
    }

    fn told(told: rustix::fs::StatVfs) -> Room {
        let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
        Room { free_bytes: bytes(told.f_bavail), all_bytes: bytes(told.f_blocks) }
    }

    /// What output leaves alone.
    pub fn spare_bytes(&self) -> u64 {
        // Of whole KiB, so that it can be named.
        SPARE_BYTES_MAX.min(self.all_bytes / SPARE_PART) >> 10 << 10
    }

    /// What output may still take. What is no disk (a pipe, a device) has no size, and any amount of room.
    pub fn for_output_bytes(&self) -> u64 {
        match self.all_bytes {
            0 => u64::MAX,
            _ => self.free_bytes.saturating_sub(self.spare_bytes()),
        }
    }
}

/// What one writer may write before it looks at the disk again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    left_bytes: u64,
}

impl Allowance {
    /// Takes so many bytes off; `look` is asked now and then.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when there is room only for what must be written. A disk that does not tell has room.
    pub fn take(&mut self, bytes: u64, look: impl FnOnce() -> io::Result<Room>) -> io::Result<()> {
        if self.left_bytes < bytes
            && let Ok(room) = look()
        {
            let most = room.for_output_bytes();
            if most < bytes {
                self.left_bytes = 0;
                let says = format!("less than {} left on the disk", format_size(room.spare_bytes()));
                return Err(io::Error::new(io::ErrorKind::StorageFull, says));
            }
            self.left_bytes = most.min(LOOK_BYTES.max(bytes));
        }
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_stops_before_the_disk_is_full_and_small_disks_keep_less_free() {
        let check = |free_bytes: u64, all_bytes: u64, expected: u64| {
            assert_eq!(Room { free_bytes, all_bytes }.for_output_bytes(), expected, "{free_bytes} of {all_bytes}");
        };
        check(1 << 40, 1 << 41, (1 << 40) - (64 << 20));
        check(64 << 20, 1 << 41, 0);
        check(0, 1 << 41, 0);
        check(8 << 20, 32 << 20, 4 << 20);
        check(0, 0, u64::MAX);
    }

    #[test]
    fn the_disk_is_looked_at_now_and_then_and_always_when_it_is_short() {
        let mut looks = 0;
        let mut allowance = Allowance::default();
        let mut take = |bytes: u64, free_bytes: u64| {
            let look = || {
                looks += 1;
                Ok(Room { free_bytes, all_bytes: 64 << 20 })
            };
            (allowance.take(bytes, look).map_err(|error| error.to_string()), looks)
        };
        let full = || Err("less than 8MiB left on the disk".to_owned());
        assert_eq!(take(100, 32 << 20), (Ok(()), 1));
        assert_eq!(take(100, 32 << 20), (Ok(()), 1));
        assert_eq!(take(2 << 20, 32 << 20), (Ok(()), 2));
        assert_eq!(take(100, 8 << 20), (full(), 3));
        assert_eq!(take(100, 8 << 20), (full(), 4));
        assert_eq!(take(100, (8 << 20) + 100), (Ok(()), 5));
        assert_eq!(take(1, 8 << 20), (full(), 6));
    }
}
