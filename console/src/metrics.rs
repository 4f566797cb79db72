//! `GET /metrics`: numbers for Prometheus, in its text format 0.0.4. Needs the token like every request
//! (`authorization: { credentials_file: ... }` in a scrape configuration).

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use domain::alert::DeliveryState;
use domain::ports::Ports;
use domain::run::Outcome;
use jiff::Timestamp;
use serde_json::Value;
use services::{commands, scheduler};

use crate::fault::ApiResult;
use crate::{Console, SourceState};

pub(crate) const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Pending alerts are counted among this many of the latest alerts, so that a scrape has a bounded cost.
const ALERTS_CHECKED_MAX: usize = 5000;
const PAGE_ALERTS: usize = 1000;

/// Name in a sink's status, name of the metric, type, help.
const SINK_METRICS: [(&str, &str, &str, &str); 9] = [
    ("lag_lines", "sexton_sink_lag_lines", "gauge", "Lines that the receiver has not yet accepted."),
    ("lag_bytes", "sexton_sink_lag_bytes", "gauge", "Bytes that the receiver has not yet accepted."),
    ("lag_seconds", "sexton_sink_lag_seconds", "gauge", "Age of the oldest line not yet accepted."),
    ("unconfirmed_lines", "sexton_sink_unconfirmed_lines", "gauge", "Lines accepted but not yet confirmed."),
    ("rate_lines_per_second", "sexton_sink_lines_per_second", "gauge", "Recent delivery rate."),
    ("delivered_lines", "sexton_sink_delivered_lines_total", "counter", "Lines delivered since the start."),
    (
        "dropped_lines",
        "sexton_sink_dropped_lines_total",
        "counter",
        "Lines older than max_age, not sent; also before a restart.",
    ),
    ("dropped_bytes", "sexton_sink_dropped_bytes_total", "counter", "Bytes of these lines."),
    (
        "refused_records",
        "sexton_sink_refused_records_total",
        "counter",
        "Records that the receiver refused permanently; also before a restart.",
    ),
];

pub(crate) async fn metrics(State(console): State<Console>) -> ApiResult<impl IntoResponse> {
    let mut page = Page::default();
    write_runs(&mut page, &console.ports).await?;
    write_sinks(&mut page, &console.sinks.status().await);
    write_sources(&mut page, &(console.sources)());
    write_alerts(&mut page, &console.ports).await?;
    write_runners(&mut page, &console.ports, console.now()).await?;
    write_ticks(&mut page, &console.ports, console.now()).await?;
    write_tzdata(&mut page);
    Ok(([(CONTENT_TYPE, TEXT_FORMAT)], page.text))
}

async fn write_runs(page: &mut Page, ports: &Ports) -> ApiResult<()> {
    let ledger = commands::ledger(ports, None, None).await?;
    page.family("sexton_runs", "gauge", "Ended runs in the history, by outcome.");
    for outcome in Outcome::ALL {
        page.sample("sexton_runs", &[("outcome", outcome.name())], ledger.count(outcome) as f64);
    }
    page.family("sexton_runs_open", "gauge", "Runs that have not ended.");
    page.sample("sexton_runs_open", &[], ledger.open as f64);
    Ok(())
}

pub(crate) fn write_sinks(page: &mut Page, statuses: &[Value]) {
    let text = |status: &Value, name: &str| status[name].as_str().unwrap_or_default().to_owned();
    page.family("sexton_sink_working", "gauge", "1 when nothing fails, else 0.");
    for status in statuses {
        let (name, kind) = (text(status, "name"), text(status, "kind"));
        let working = matches!(status["state"].as_str(), Some("working" | "waiting"));
        page.sample("sexton_sink_working", &[("sink", &name), ("type", &kind)], f64::from(u8::from(working)));
    }
    for (field, metric, kind, help) in SINK_METRICS {
        page.family(metric, kind, help);
        for status in statuses {
            let labels = [("sink", &*text(status, "name")), ("type", &*text(status, "kind"))];
            page.sample(metric, &labels, status[field].as_f64().unwrap_or_default());
        }
    }
}

pub(crate) fn write_sources(page: &mut Page, states: &[SourceState]) {
    let help = "1 when what is in use (for jobs: stored) is what the file defines, else 0.";
    page.family("sexton_source_in_sync", "gauge", help);
    for state in states {
        page.sample("sexton_source_in_sync", &[("source", &state.source)], f64::from(u8::from(state.in_sync)));
    }
}

async fn write_alerts(page: &mut Page, ports: &Ports) -> ApiResult<()> {
    let (mut pending, mut checked, mut after) = (0, 0, None);
    while checked < ALERTS_CHECKED_MAX {
        let found = ports.alerts.list(after.as_ref(), PAGE_ALERTS).await?;
        checked += found.records.len();
        pending += found.records.iter().filter(|alert| alert.delivery == DeliveryState::Pending).count();
        after = found.next;
        if after.is_none() {
            break;
        }
    }
    page.family("sexton_alerts_pending", "gauge", "Alerts not yet sent (latest 5000).");
    page.sample("sexton_alerts_pending", &[], pending as f64);
    Ok(())
}

async fn write_runners(page: &mut Page, ports: &Ports, now: Timestamp) -> ApiResult<()> {
    let beats = ports.settings.heartbeats().await?;
    page.family("sexton_runner_running", "gauge", "Running runs of a runner.");
    for beat in &beats {
        page.sample("sexton_runner_running", &[("runner", &beat.runner)], f64::from(beat.running));
    }
    page.family("sexton_runner_beat_age_seconds", "gauge", "Age of the runner's last heartbeat.");
    for beat in &beats {
        page.sample("sexton_runner_beat_age_seconds", &[("runner", &beat.runner)], age_seconds(beat.at, now));
    }
    Ok(())
}

/// Absent until the first complete tick of the scheduler.
async fn write_ticks(page: &mut Page, ports: &Ports, now: Timestamp) -> ApiResult<()> {
    if let Some(ticked_at) = scheduler::ticked_at(ports).await? {
        page.family("sexton_scheduler_tick_age_seconds", "gauge", "Time since the scheduler's last complete tick.");
        page.sample("sexton_scheduler_tick_age_seconds", &[], age_seconds(ticked_at, now));
    }
    Ok(())
}

fn write_tzdata(page: &mut Page) {
    let release = domain::zones::release();
    page.family("sexton_tzdata_info", "gauge", "Version and place of the tzdata in use.");
    page.sample("sexton_tzdata_info", &[("version", release.version_text()), ("place", &release.place)], 1.0);
}

fn age_seconds(at: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(at).as_secs_f64().max(0.0)
}

#[derive(Default)]
pub(crate) struct Page {
    pub text: String,
}

impl Page {
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escape_label(text))).collect();
        match labels.is_empty() {
            true => self.text.push_str(&format!("{name} {value}\n")),
            false => self.text.push_str(&format!("{name}{{{}}} {value}\n", labels.join(","))),
        }
    }
}

/// Escapes a label's value as the text format requires: backslash, quote and line feed.
fn escape_label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_quotes_stays_one_label() {
        let mut page = Page::default();
        page.family("a", "gauge", "b");
        page.sample("a", &[("sink", "x\"y\\z\n")], 1.5);
        assert_eq!(page.text, "# HELP a b\n# TYPE a gauge\na{sink=\"x\\\"y\\\\z\\n\"} 1.5\n");
    }
}
