//! Updates the health of a sink, sends events about it (they become alerts), and writes Sexton's own log. Called by the
//! delivery task.

use std::time::Duration;

use tokio::time::Instant;

use super::Delivery;
use crate::encode::BatchCounts;
use crate::engine::locked;
use crate::error::{ErrorClass, SinkError};
use crate::sink::{NamedRefusal, Refused, Sink};
use crate::status::{FailureSpan, RefusedRecord, SinkEvent, SinkTrouble};

/// At most one loss event per sink in this time; the counters stay exact. Chosen: an alert a minute is enough to act.
const LOSS_EVENT_INTERVAL: Duration = Duration::from_secs(60);

impl<S: Sink> Delivery<S> {
    pub(super) fn note_failure(&mut self, error: &SinkError, retry_at: Instant) {
        let now = (self.environment.now)();
        let mut health = locked(&self.shared.health);
        health.note_error(error, now);
        let before = health.failing;
        let since = before.map_or(now, |failing| failing.since);
        let is_same = before.is_some_and(|failing| failing.class == error.class);
        let event_sent = is_same && before.is_some_and(|failing| failing.event_sent);
        let lasted = now.duration_since(since).unsigned_abs();
        let send_now = !event_sent && (error.class == ErrorClass::Misconfigured || lasted >= self.config.alert_after);
        // One line for each change of the state, and one when the failure is alerted.
        if !is_same || send_now {
            let what = if is_same { "sink still fails" } else { "sink failed" };
            let class = error.class.name();
            tracing::warn!(sink = %self.config.name, class, %since, %error, "{what}; its lines are kept");
        }
        health.failing = Some(FailureSpan {
            class: error.class,
            since,
            event_sent: event_sent || send_now,
            is_unreachable: self.attempt.is_unreachable(),
            retry_at,
            is_accepting: false,
        });
        drop(health);
        self.shared.outcomes.send_modify(|count| *count += 1);
        if send_now {
            self.send_trouble(SinkTrouble {
                sink: self.config.name.clone(),
                class: error.class,
                since,
                error: error.message.clone(),
            });
        }
    }

    pub(super) fn note_delivered(&mut self, total: &BatchCounts) {
        self.failures = 0;
        self.note_recovered();
        self.count_delivered(total);
    }

    /// The sink works: its failure, if any, is over.
    pub(super) fn note_recovered(&mut self) {
        let Some(failing) = locked(&self.shared.health).failing.take() else { return };
        tracing::info!(sink = %self.config.name, since = %failing.since, "sink recovered");
        self.shared.outcomes.send_modify(|count| *count += 1);
        if failing.event_sent {
            self.send_event(SinkEvent::Recovered { sink: self.config.name.clone(), since: failing.since });
        }
    }

    /// Counts delivered and dropped lines; another run's records may still fail.
    pub(super) fn count_delivered(&mut self, total: &BatchCounts) {
        let mut health = locked(&self.shared.health);
        health.note_confirmed(total.lines, std::time::Instant::now());
        if total.dropped_lines > 0 {
            health.note_dropped(total.dropped_lines, total.dropped_bytes);
        }
        drop(health);
        if total.dropped_lines > 0 {
            let age = domain::units::format_duration(self.config.retry.max_age);
            let message = format!("{} lines were dropped: older than max_age {age}", total.dropped_lines);
            self.report_loss(message);
        }
    }

    pub(super) fn note_refused(&mut self, refused: &[Refused]) {
        let now = (self.environment.now)();
        let name = |Refused { frame, message }: &Refused| {
            // The run was removed: no record to name.
            let (feed_id, record_id) = self.sent_records.get(*frame)?;
            Some(RefusedRecord::new(&self.feeds.get(feed_id)?.key, *record_id, message.clone(), now))
        };
        let records = refused.iter().filter_map(name).collect();
        self.note_refused_records(records);
    }

    pub(super) fn note_named_refusals(&mut self) {
        let now = (self.environment.now)();
        let refused = self.sink.named_refusals().into_iter();
        let name = |NamedRefusal { attempt, record, message }| RefusedRecord::new(&attempt, record, message, now);
        self.note_refused_records(refused.map(name).collect());
    }

    fn note_refused_records(&mut self, records: Vec<RefusedRecord>) {
        let now = (self.environment.now)();
        let mut health = locked(&self.shared.health);
        let mut first = None;
        let mut count = 0;
        for record in records {
            if !health.note_refused(&record) {
                continue;
            }
            tracing::warn!(
                sink = %self.config.name, run_id = %record.run_id, attempt = record.attempt, record = &*record.record,
                seq = record.seq, "record permanently refused; skipped: {}", record.message
            );
            count += 1;
            first.get_or_insert(record);
        }
        let Some(first) = first else { return };
        let what = if count == 1 { "1 record was".to_owned() } else { format!("{count} records were") };
        let message =
            format!("{what} permanently refused and skipped; the first is {}: {}", first.name(), first.message);
        health.note_error(&SinkError { class: ErrorClass::Permanent, message: message.clone() }, now);
        drop(health);
        self.report_loss(message);
    }

    fn report_loss(&mut self, message: String) {
        tracing::warn!(sink = %self.config.name, "{message}");
        if self.loss_sent_at.is_none_or(|at| at.elapsed() >= LOSS_EVENT_INTERVAL) {
            self.loss_sent_at = Some(Instant::now());
            let since = (self.environment.now)();
            self.send_trouble(SinkTrouble {
                sink: self.config.name.clone(),
                class: ErrorClass::Permanent,
                since,
                error: message,
            });
        }
    }

    fn send_trouble(&self, trouble: SinkTrouble) {
        self.send_event(SinkEvent::Trouble(trouble));
    }

    fn send_event(&self, event: SinkEvent) {
        if let Err(error) = self.environment.events.try_send(event) {
            tracing::error!(sink = %self.config.name, %error, "event channel full or closed; the event is lost");
        }
    }
}
