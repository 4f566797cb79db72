//! Reads the due entries of each shard and fires them in chunks. A shard whose entries could not be processed continues
//! at the first of them in the next tick, and delays no other shard.

use std::collections::HashSet;

use domain::job::JobKey;
use domain::ports::Due;
use jiff::Timestamp;

use super::Tick;
use crate::Result;
use crate::settings::{SchedulerState, ShardCursor};
use crate::tick_progress::{Window, windows_due};

/// Entries processed together. Chosen, not measured.
pub(super) const CHUNK_MAX: usize = 500;

/// Entries processed in one tick; the next tick continues, which [`more`](crate::scheduler::SchedulerSummary::more)
/// requests at once. Chosen, not measured.
const ENTRIES_PER_TICK_MAX: usize = 20_000;

impl Tick<'_> {
    /// Fires the due entries of a shard.
    pub(super) async fn scan_shard(&mut self, shard: u32, state: &SchedulerState) -> Result<()> {
        let (late, due) = windows_due(state, shard, self.context.now);
        if let Some(late) = late {
            self.put_late_before = Some(due.from);
            let scanned = self.scan_late(shard, &late).await;
            self.put_late_before = None;
            if let Err(error) = scanned {
                // The next tick reads the same windows.
                self.progress.leave(shard, ShardCursor { at: due.from, job: due.job });
                return Err(error);
            }
        }
        self.scan_due(shard, &due).await
    }

    /// Whether the time of the tick is over. Each tick fires at least one chunk, so that none is in vain.
    fn must_stop(&mut self) -> bool {
        let is_first = !std::mem::replace(&mut self.has_fired, true);
        !is_first && !(self.has_time)()
    }

    /// Fires entries that were written after a tick had processed their instants.
    async fn scan_late(&mut self, shard: u32, window: &Window) -> Result<()> {
        let Some(written_since) = window.written_since else { return Ok(()) };
        let mut seen: HashSet<Due> = HashSet::new();
        let mut from = window.from;
        while from <= window.until {
            let limit = CHUNK_MAX + seen.iter().filter(|entry| entry.at >= from).count();
            let due = &self.ports.due;
            let entries = due.list_late(shard, from, window.until, written_since, limit).await?;
            let mut fresh: Vec<Due> = entries.into_iter().filter(|entry| !seen.contains(entry)).collect();
            fresh.truncate(CHUNK_MAX);
            let (Some(first), Some(last)) = (fresh.first(), fresh.last()) else { return Ok(()) };
            // Entries before this instant are processed, even if the adapter still lists them.
            from = last.at;
            if self.must_stop() || seen.len() >= ENTRIES_PER_TICK_MAX {
                self.summary.more = true;
                self.progress.leave(shard, ShardCursor { at: first.at, job: None });
                return Ok(());
            }
            seen.extend(fresh.iter().cloned());
            let chunk = fresh.clone();
            self.fire_entries(fresh).await?;
            if let Some(first) = self.first_left(&chunk) {
                self.progress.leave(shard, ShardCursor { at: first.at, job: None });
            }
        }
        Ok(())
    }

    /// Fires the entries that became due since the last tick, in the order of the index.
    async fn scan_due(&mut self, shard: u32, window: &Window) -> Result<()> {
        let (mut from, mut job) = (window.from, window.job.clone());
        // Entries of the job at which the next listing begins.
        let mut processed: Vec<Due> = Vec::new();
        let mut count = 0;
        while from <= window.until {
            let limit = CHUNK_MAX + processed.len();
            let listed = self.list_due(shard, from, job.as_ref(), window.until, limit).await;
            let entries = match listed {
                Ok(entries) => entries,
                Err(error) => {
                    self.progress.leave(shard, ShardCursor { at: from, job });
                    return Err(error);
                }
            };
            let chunk: Vec<Due> = entries.into_iter().filter(|entry| !processed.contains(entry)).collect();
            let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else { return Ok(()) };
            let at_first = cursor_at(first);
            if self.must_stop() || count >= ENTRIES_PER_TICK_MAX {
                self.summary.more = true;
                self.progress.leave(shard, at_first);
                return Ok(());
            }
            (from, job) = (last.at, Some(last.key.clone()));
            processed = chunk.iter().filter(|entry| (entry.at, &entry.key) == (last.at, &last.key)).cloned().collect();
            count += chunk.len();
            if let Err(error) = self.fire_entries(chunk.clone()).await {
                self.progress.leave(shard, at_first);
                return Err(error);
            }
            if let Some(first) = self.first_left(&chunk) {
                self.progress.leave(shard, cursor_at(first));
            }
        }
        Ok(())
    }

    async fn list_due(
        &self,
        shard: u32,
        from: Timestamp,
        job: Option<&JobKey>,
        until: Timestamp,
        most: usize,
    ) -> Result<Vec<Due>> {
        Ok(match job {
            Some(job) => self.ports.due.list_from(shard, from, job, until, most).await?,
            None => self.ports.due.list(shard, from, until, most).await?,
        })
    }

    /// The first entry of a chunk that the next tick must process again.
    fn first_left<'e>(&self, chunk: &'e [Due]) -> Option<&'e Due> {
        chunk.iter().find(|entry| self.left.contains(*entry))
    }
}

fn cursor_at(entry: &Due) -> ShardCursor {
    ShardCursor { at: entry.at, job: Some(entry.key.clone()) }
}
