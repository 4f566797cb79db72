//! What the sink keeps of a run: the stream it goes to, what is the same in all its messages, and how far it has come.

use std::sync::{Arc, Mutex};

use crate::cloudwatch_logs::batch::LogStream;
use crate::engine::locked;
use crate::record::Record;

/// A clock that steps back by more than this was wrong before: its lines follow it, else all later ones would be held in
/// a future that the service refuses.
const CLOCK_STEP_MS_MAX: i64 = 10 * 60 * 1000;

/// The place of a record in its run. Rises from `run.started` to `run.finished`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPlace {
    seq: u64,
    part: u64,
}

impl EventPlace {
    pub fn of(record: &Record<'_>) -> EventPlace {
        match record {
            Record::Started => EventPlace { seq: 0, part: 1 },
            Record::Line(piece) => EventPlace { seq: piece.seq, part: piece.part.saturating_add(1) },
            Record::Gap(gap) => EventPlace { seq: gap.last_seq, part: u64::MAX },
            Record::Finished(_) => EventPlace { seq: u64::MAX, part: u64::MAX },
        }
    }
}

/// A place and the event time there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventMark {
    pub place: EventPlace,
    pub ms: i64,
}

/// Survives a disconnect, so that after a failure in one stream the others are not sent twice: the service has had no
/// de-duplication since sequence tokens went.
#[derive(Debug)]
pub struct RunState {
    pub log_stream: Arc<LogStream>,
    progress: Mutex<Progress>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    accepted: EventMark,
    /// The last record that was encoded on this connection.
    encoded: EventPlace,
    /// On this connection.
    connection: u64,
    last_ms: i64,
}

impl RunState {
    /// `started_ms`: the time of records whose own is not known.
    pub fn new(log_stream: Arc<LogStream>, started_ms: i64) -> Arc<RunState> {
        let accepted = EventMark { place: EventPlace::default(), ms: started_ms };
        Arc::new(RunState {
            log_stream,
            progress: Mutex::new(Progress {
                accepted,
                encoded: EventPlace::default(),
                connection: 0,
                last_ms: started_ms,
            }),
        })
    }

    /// The event time of a record: its time of capture, never a little before that of an earlier record of the run. `None`
    /// when the service has the record.
    pub fn next_event_ms(&self, place: EventPlace, ms: i64, connection: u64) -> Option<i64> {
        let mut progress = locked(&self.progress);
        if progress.connection != connection {
            progress.connection = connection;
            progress.last_ms = progress.accepted.ms;
        }
        progress.encoded = place;
        if place <= progress.accepted.place {
            return None;
        }
        if ms > progress.last_ms || (ms > 0 && progress.last_ms - ms > CLOCK_STEP_MS_MAX) {
            progress.last_ms = ms;
        }
        Some(progress.last_ms)
    }

    /// The service has everything up to here.
    pub fn mark_accepted(&self, mark: EventMark) {
        let mut progress = locked(&self.progress);
        if mark.place > progress.accepted.place {
            progress.accepted = mark;
        }
    }

    /// Whether the service has everything that was encoded.
    pub fn is_complete(&self) -> bool {
        let progress = locked(&self.progress);
        progress.encoded <= progress.accepted.place
    }
}
