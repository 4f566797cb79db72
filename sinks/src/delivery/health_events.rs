//! What a sink's task counts and tells: its health for whoever asks, events for what people should hear, and our own log.

use std::time::Duration;

use tokio::time::Instant;

use super::Delivery;
use crate::encode::Tally;
use crate::engine::locked;
use crate::error::{Class, SinkError};
use crate::sink::{Refused, Sink};
use crate::status::{Failing, RefusedRecord, SinkEvent, SinkTrouble};

/// Losses are told at most so often; the counters are always right.
const TELL_LOSS_EVERY: Duration = Duration::from_secs(60);

impl<S: Sink> Delivery<S> {
    pub(super) fn note_failure(&mut self, error: &SinkError) {
        let now = (self.environment.now)();
        let mut health = locked(&self.shared.health);
        health.note_error(error, now);
        let since = health.failing.map_or(now, |failing| failing.since);
        let told = health.failing.is_some_and(|failing| failing.told && failing.class == error.class);
        if health.failing.is_none() {
            tracing::warn!(sink = %self.config.name, class = error.class.name(), %error, "the sink fails");
        }
        let lasted = now.duration_since(since).unsigned_abs();
        let tell = !told && (error.class == Class::Misconfigured || lasted >= self.config.alert_after);
        health.failing = Some(Failing { class: error.class, since, told: told || tell });
        drop(health);
        if tell {
            self.tell(SinkTrouble {
                sink: self.config.name.clone(),
                class: error.class,
                since,
                error: error.says.clone(),
            });
        }
    }

    pub(super) fn note_delivered(&mut self, total: &Tally) {
        self.failures = 0;
        let recovered = locked(&self.shared.health).failing.take();
        if let Some(failing) = recovered {
            tracing::info!(sink = %self.config.name, since = %failing.since, "the sink works again");
            if failing.told {
                self.send_event(SinkEvent::Recovered { sink: self.config.name.clone(), since: failing.since });
            }
        }
        self.count_delivered(total);
    }

    /// What is through while something else still fails.
    pub(super) fn count_delivered(&mut self, total: &Tally) {
        let mut health = locked(&self.shared.health);
        health.delivered(total.lines, std::time::Instant::now());
        health.dropped_lines += total.dropped_lines;
        health.dropped_bytes += total.dropped_bytes;
        drop(health);
        if total.dropped_lines > 0 {
            let age = domain::units::format_duration(self.config.retry.max_age);
            let says = format!("{} lines were dropped: older than max_age {age}", total.dropped_lines);
            self.tell_loss(says);
        }
    }

    pub(super) fn note_refused(&mut self, refused: &[Refused]) {
        let now = (self.environment.now)();
        let mut health = locked(&self.shared.health);
        let mut first = None;
        let mut count = 0;
        for Refused { frame, says } in refused {
            // A run that was removed meanwhile has nothing left to name.
            let Some((slot, place)) = self.places.get(*frame) else { continue };
            let Some(slot) = self.slots.get(slot) else { continue };
            let record = RefusedRecord::new(&slot.key, *place, says.clone(), now);
            if !health.note_refused(&record) {
                continue;
            }
            tracing::warn!(
                sink = %self.config.name, run_id = %record.run_id, attempt = record.attempt, record = record.record,
                seq = record.seq, "a record was refused for good and is set aside: {says}"
            );
            count += 1;
            first.get_or_insert(record);
        }
        let Some(first) = first else { return };
        let what = if count == 1 { "1 record was".to_owned() } else { format!("{count} records were") };
        let says = format!("{what} refused for good and set aside; the first is {}: {}", first.name(), first.says);
        health.note_error(&SinkError { class: Class::Permanent, says: says.clone() }, now);
        drop(health);
        self.tell_loss(says);
    }

    fn tell_loss(&mut self, says: String) {
        tracing::warn!(sink = %self.config.name, "{says}");
        if self.loss_told_at.is_none_or(|at| at.elapsed() >= TELL_LOSS_EVERY) {
            self.loss_told_at = Some(Instant::now());
            let since = (self.environment.now)();
            self.tell(SinkTrouble { sink: self.config.name.clone(), class: Class::Permanent, since, error: says });
        }
    }

    fn tell(&self, trouble: SinkTrouble) {
        self.send_event(SinkEvent::Trouble(trouble));
    }

    fn send_event(&self, event: SinkEvent) {
        if let Err(error) = self.environment.events.try_send(event) {
            tracing::error!(sink = %self.config.name, %error, "nobody takes the sink's events");
        }
    }
}
