//! The state that the sink keeps of a run: its log stream, the last event time, and the position that the service has.

use std::sync::{Arc, Mutex};

use domain::run::AttemptKey;

use crate::cloudwatch_logs::batch::LogStream;
use crate::engine::locked;
use crate::record::Record;
use crate::sink::Place;

/// A larger step back means that the clock was wrong before: event times follow it, or all later lines would have a
/// future time, which the service rejects. Chosen, not measured.
const CLOCK_STEP_MS_MAX: i64 = 10 * 60 * 1000;

/// Position of a record in its run. Rises from `run.started` to the last bracket record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EventPlace {
    seq: u64,
    part: u64,
}

impl EventPlace {
    pub(super) fn of(record: &Record<'_>) -> EventPlace {
        match record {
            Record::Started => EventPlace { seq: 0, part: 1 },
            Record::Line(piece) => EventPlace { seq: piece.seq, part: piece.part.saturating_add(1) },
            Record::Gap(gap) => EventPlace { seq: gap.last_seq, part: u64::MAX - 1 },
            // Late lines follow.
            Record::Finished(finished) if finished.output_open => EventPlace { seq: finished.last_seq, part: u64::MAX },
            Record::Finished(_) | Record::OutputEnded(_) => EventPlace { seq: u64::MAX, part: u64::MAX },
        }
    }
}

/// A position and the event time at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EventMark {
    pub place: EventPlace,
    pub ms: i64,
}

/// Kept across connections, so that after a failure in one stream the others are not sent twice: the service has not
/// de-duplicated since it dropped sequence tokens.
#[derive(Debug)]
pub(super) struct RunState {
    pub log_stream: Arc<LogStream>,
    pub attempt: AttemptKey,
    progress: Mutex<Progress>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    accepted: EventMark,
    /// The last record encoded on this connection.
    encoded: EventPlace,
    /// Number of the connection.
    connection: u64,
    /// The longest message in bytes that parts of lines were cut to.
    message_bytes: usize,
    last_ms: i64,
}

impl RunState {
    /// `started_ms` is the time of records without a time.
    pub(super) fn new(log_stream: Arc<LogStream>, attempt: AttemptKey, started_ms: i64) -> Arc<RunState> {
        let accepted = EventMark { place: EventPlace::default(), ms: started_ms };
        Arc::new(RunState {
            log_stream,
            attempt,
            progress: Mutex::new(Progress {
                accepted,
                encoded: EventPlace::default(),
                connection: 0,
                message_bytes: 0,
                last_ms: started_ms,
            }),
        })
    }

    /// The event time of a record in ms: its capture time, but not slightly before that of an earlier record of the
    /// run. Returns `None` when the service already has the record.
    /// With another `message_bytes`, parts of lines have other numbers: the last line is sent again from its start.
    pub(super) fn next_event_ms(
        &self,
        place: EventPlace,
        ms: i64,
        connection: u64,
        message_bytes: usize,
    ) -> Option<i64> {
        let mut progress = locked(&self.progress);
        let accepted = progress.accepted.place;
        if progress.message_bytes != message_bytes {
            if progress.message_bytes > 0 && (2..u64::MAX - 1).contains(&accepted.part) {
                progress.accepted.place = EventPlace { seq: accepted.seq - 1, part: u64::MAX };
            }
            progress.message_bytes = message_bytes;
        }
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

    /// The service has every record up to `mark`.
    pub(super) fn mark_accepted(&self, mark: EventMark) {
        let mut progress = locked(&self.progress);
        if mark.place > progress.accepted.place {
            progress.accepted = mark;
        }
    }

    pub(super) fn encoded(&self) -> Place {
        let place = locked(&self.progress).encoded;
        (place.seq, place.part)
    }

    pub(super) fn accepted(&self) -> Place {
        let place = locked(&self.progress).accepted.place;
        (place.seq, place.part)
    }

    /// Whether the service has every encoded record.
    pub(super) fn is_complete(&self) -> bool {
        let progress = locked(&self.progress);
        progress.encoded <= progress.accepted.place
    }
}
