//! How much of a disk output may fill: endless output stops a little before the disk is full, so that small files that
//! must be written still fit: ledger, orders, reports, cursors, exit records. Used by the keeper for its spool, by the
//! file sink, and by the alerts about a full disk. Never reads the disk itself: the caller passes the numbers.

use std::io;

use crate::units::format_size;

/// The reserve of a large disk. Chosen: room for a ledger with its write-ahead log and for the small files of 1,000
/// runs.
const RESERVE_BYTES_MAX: u64 = 64 << 20;

/// The reserve of a small disk: its size divided by this. Chosen, not measured.
const RESERVE_DIVISOR: u64 = 8;

/// A writer reads the free space again after writing this much. Chosen: `statvfs` costs about 1 µs.
const CHECK_BYTES: u64 = 1 << 20;

/// The space of one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Available to users other than root.
    pub free_bytes: u64,
    /// 0 for what is no disk, like a pipe or a device.
    pub total_bytes: u64,
}

impl DiskSpace {
    /// The free space that output must leave.
    pub fn reserve_bytes(&self) -> u64 {
        // Whole KiB, for a short text in messages.
        RESERVE_BYTES_MAX.min(self.total_bytes / RESERVE_DIVISOR) >> 10 << 10
    }

    /// How much output may still be written. Unlimited where there is no disk.
    pub fn available_for_output_bytes(&self) -> u64 {
        match self.total_bytes {
            0 => u64::MAX,
            _ => self.free_bytes.saturating_sub(self.reserve_bytes()),
        }
    }
}

/// How much one writer may write before it reads the free space again.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteAllowance {
    left_bytes: u64,
}

impl WriteAllowance {
    /// Takes `bytes` off the allowance. Calls `read_space` when the allowance is too small; a disk whose space cannot
    /// be read counts as having room.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when only the reserve is left.
    pub fn consume(&mut self, bytes: u64, read_space: impl FnOnce() -> io::Result<DiskSpace>) -> io::Result<()> {
        if self.left_bytes < bytes
            && let Ok(space) = read_space()
        {
            let available = space.available_for_output_bytes();
            if available < bytes {
                self.left_bytes = 0;
                let message = format!("less than {} left on the disk", format_size(space.reserve_bytes()));
                return Err(io::Error::new(io::ErrorKind::StorageFull, message));
            }
            self.left_bytes = available.min(CHECK_BYTES.max(bytes));
        }
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_stops_before_the_disk_is_full_and_small_disks_reserve_less() {
        let check = |free_bytes: u64, total_bytes: u64, expected: u64| {
            let space = DiskSpace { free_bytes, total_bytes };
            assert_eq!(space.available_for_output_bytes(), expected, "{free_bytes} of {total_bytes}");
        };
        check(1 << 40, 1 << 41, (1 << 40) - (64 << 20));
        check(64 << 20, 1 << 41, 0);
        check(0, 1 << 41, 0);
        check(8 << 20, 32 << 20, 4 << 20);
        check(0, 0, u64::MAX);
    }

    #[test]
    fn the_free_space_is_read_once_per_mebibyte_and_at_every_write_when_it_is_short() {
        let mut reads = 0;
        let mut allowance = WriteAllowance::default();
        let mut consume = |bytes: u64, free_bytes: u64| {
            let read_space = || {
                reads += 1;
                Ok(DiskSpace { free_bytes, total_bytes: 64 << 20 })
            };
            (allowance.consume(bytes, read_space).map_err(|error| error.to_string()), reads)
        };
        let full = || Err("less than 8MiB left on the disk".to_owned());
        assert_eq!(consume(100, 32 << 20), (Ok(()), 1));
        assert_eq!(consume(100, 32 << 20), (Ok(()), 1));
        assert_eq!(consume(2 << 20, 32 << 20), (Ok(()), 2));
        assert_eq!(consume(100, 8 << 20), (full(), 3));
        assert_eq!(consume(100, 8 << 20), (full(), 4));
        assert_eq!(consume(100, (8 << 20) + 100), (Ok(()), 5));
        assert_eq!(consume(1, 8 << 20), (full(), 6));
    }
}
