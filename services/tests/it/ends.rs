//! How runs end: retries, missed, lost, late reports, reports out of order, runs of `sexton exec`, silence.

use std::time::Duration;

use domain::alert::AlertKind;
use domain::event::Body;
use domain::job::Retries;
use domain::line::Stream;
use domain::run::{ExcerptLine, JudgedOn, Outcome, Run, RunId, State, Trigger};
use services::commands;

use crate::world::{World, job, key};

fn retried(on: &[Outcome]) -> domain::job::Job {
    let mut job = job("dump", "0 8 * * *");
    job.retries = Some(Retries { max: 2, delay: Duration::from_secs(60), backoff: 2.0, on: on.to_vec() });
    job
}

#[tokio::test]
async fn a_failed_run_is_retried_after_its_delay_and_ends_once() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&retried(&[Outcome::Failed])).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    world.run_all(1).await;
    let summary = world.collect().await;
    assert_eq!((summary.ended, summary.retried), (0, 1));
    assert!(world.take_orders("r1").await.is_empty(), "the delay is not over");
    world.pass(60);
    assert_eq!(world.run_all(1).await[0].attempt, 2);
    world.collect().await;
    world.pass(119);
    assert!(world.take_orders("r1").await.is_empty(), "the second delay is twice as long");
    world.pass(1);
    assert_eq!(world.run_all(1).await[0].attempt, 3);
    assert_eq!(world.collect().await.ended, 1);
    let run = world.runs("dump").await.remove(0);
    assert_eq!((run.outcome, run.attempt, run.earlier_attempts.len()), (Some(Outcome::Failed), 3, 2));
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed], "one alert, when no attempt is left");
    assert_eq!(world.ledger().await.scheduled, 1);
}

#[tokio::test]
async fn a_retry_without_an_order_is_ordered_when_its_report_is_redelivered() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&retried(&[Outcome::Failed])).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    let first = world.run_all(1).await.remove(0);
    world.collect().await;
    world.edit_with_sqlite("DELETE FROM orders");
    world.report_finished(&first, 1).await;
    world.collect().await;
    world.pass(60);
    assert_eq!(world.take_orders("r1").await.iter().map(|order| order.attempt).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn after_a_pause_of_the_checks_each_runner_gets_a_full_timeout() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&job("dump", "0 8 * * *")).await;
    world.set("2026-11-23T08:00:00Z");
    world.send_heartbeat("r1").await;
    world.run_duties().await;
    let order = world.take_orders("r1").await.remove(0);
    world.report_started(&order).await;
    world.collect().await;
    // The machine was suspended; runner and scheduler resume together.
    world.set("2026-11-23T11:00:00Z");
    assert_eq!(world.check_overdue().await.lost, 0);
    world.check_liveness().await;
    world.pass(20);
    world.send_heartbeat("r1").await;
    world.pass(70);
    assert_eq!(world.check_overdue().await.lost, 0);
    assert!(world.send_alerts().await.is_empty());
    world.pass(80);
    assert_eq!(world.check_overdue().await.lost, 1);
}

#[tokio::test]
async fn a_lost_run_is_retried_and_reports_of_its_old_attempt_are_ignored() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&retried(&[Outcome::Lost])).await;
    world.check_overdue().await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    let order = world.take_orders("r1").await.remove(0);
    for _ in 0..5 {
        world.pass(60);
        world.check_overdue().await;
    }
    let second = world.take_orders("r2").await.remove(0);
    assert_eq!(second.attempt, 2);
    world.report_finished(&order, 0).await;
    world.collect().await;
    assert_eq!(world.run(&order.run_id).await.state, State::Claimed);
    world.report_finished(&second, 0).await;
    world.collect().await;
    let run = world.run(&order.run_id).await;
    assert_eq!((run.outcome, run.earlier_attempts[0].outcome), (Some(Outcome::Succeeded), Outcome::Lost));
    assert!(world.send_alerts().await.is_empty());
}

#[tokio::test]
async fn a_run_of_exec_is_created_by_its_reports() {
    let world = World::new("2026-11-23T08:00:00Z");
    let mut order = {
        world.put(&job("dump", "0 8 * * *")).await;
        world.set("2026-11-24T08:00:00Z");
        world.schedule().await;
        world.take_orders("r1").await.remove(0)
    };
    order.run_id = RunId::unscheduled(world.now(), [7; 6]);
    order.job.name = "wrapped".to_owned();
    order.trigger = Trigger::Exec;
    world.report_finished(&order, 3).await;
    world.report_started(&order).await;
    world.collect().await;
    let run = world.run(&order.run_id).await;
    assert_eq!((run.outcome, run.trigger, run.job.as_str()), (Some(Outcome::Failed), Trigger::Exec, "wrapped"));
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed]);
    order.run_id = RunId::unscheduled(world.now(), [8; 6]);
    order.trigger = Trigger::Schedule;
    world.report_finished(&order, 0).await;
    assert_eq!(world.collect().await.unknown, 1, "a report for an unknown scheduled run is counted and creates no run");
}

#[tokio::test]
async fn the_collector_judges_by_its_own_rules_and_shows_the_match() {
    let world = World::new("2026-11-23T07:59:00Z");
    let mut dump = job("dump", "0 8 * * *");
    dump.rules = vec!["python".to_owned()];
    world.put(&dump).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    let order = world.take_orders("r1").await.remove(0);
    let mut report = world.report(0);
    report.rules_digest = "of other rules".to_owned();
    let text = |seq: u64| if seq == 12 { "Traceback (most recent call last):" } else { "all is well" };
    report.excerpt =
        (1..=40).map(|seq| ExcerptLine { seq, stream: Stream::Stderr, text: text(seq).to_owned() }).collect();
    report.output.last_seq = 40;
    world.ports.reports.send(&[world.event(&order, Body::Finished(Box::new(report)))]).await.unwrap();
    world.collect().await;
    let run = world.run(&order.run_id).await;
    assert_eq!((run.outcome, run.judged_on), (Some(Outcome::FalseSuccess), Some(JudgedOn::Excerpt)));
    let alert = world.send_alerts().await.remove(0);
    assert_eq!((alert.kind, alert.rule.as_deref()), (AlertKind::FalseSuccess, Some("python.traceback")));
    assert_eq!(alert.excerpt.iter().map(|line| line.seq).collect::<Vec<_>>(), (7..=17).collect::<Vec<_>>());
    assert_eq!(alert.links["console"], format!("http://console/runs/{}", order.run_id));
}

#[tokio::test]
async fn a_silent_run_is_alerted_once_per_silence() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.put(&job("dump", "0 8 * * *")).await;
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    let order = world.take_orders("r1").await.remove(0);
    world.report_started(&order).await;
    for (minute, expected) in [(5, 1), (5, 0), (40, 1)] {
        let since = format!("2026-11-23T08:{minute:02}:00Z").parse().unwrap();
        world.ports.reports.send(&[world.event(&order, Body::Quiet { since })]).await.unwrap();
        world.collect().await;
        let alerts = world.send_alerts().await;
        assert_eq!(alerts.len(), expected, "silence since {minute}");
        assert!(alerts.iter().all(|alert| alert.kind == AlertKind::Quiet && alert.since == Some(since)));
    }
}

#[tokio::test]
async fn a_silent_scheduler_and_an_abandoned_group_raise_alerts() {
    let world = World::new("2026-11-23T08:00:00Z");
    world.put(&job("dump", "0 9 * * *")).await;
    world.schedule().await;
    world.send_heartbeat("r1").await;
    for _ in 0..20 {
        world.pass(60);
        world.check_overdue().await;
        world.check_liveness().await;
    }
    let mut alerts = world.send_alerts().await;
    alerts.sort_by_key(|alert| alert.kind);
    assert_eq!(
        alerts.iter().map(|alert| alert.kind).collect::<Vec<_>>(),
        [AlertKind::Quiet, AlertKind::SchedulerSilent]
    );
    assert_eq!(alerts[0].group, "db");
    assert_eq!(alerts[0].reason, "no heartbeat from any runner of group db since 2026-11-23T08:00:00Z");
    assert!(alerts[1].reason.starts_with("the scheduler has not ticked since 2026-11-23T08:00:00Z"));
    let since = Some("2026-11-23T08:00:00Z".parse().unwrap());
    assert_eq!((alerts[0].since, alerts[1].since), (since, since));
}

#[tokio::test]
async fn a_group_without_runners_raises_an_alert() {
    let world = World::new("2026-11-23T07:59:00Z");
    world.check_overdue().await;
    world.put(&job("dump", "0 8 * * *")).await;
    for minute in 0..5 {
        world.set(&format!("2026-11-23T08:{minute:02}:00Z"));
        world.run_duties().await;
    }
    let alerts = world.send_alerts().await;
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].reason, "no runner of group db has ever sent a heartbeat; 1 run waits for one");
    assert_eq!(alerts[0].since, Some("2026-11-23T08:00:00Z".parse().unwrap()));
}

#[tokio::test]
async fn stopping_ends_a_waiting_run_and_sends_a_request_for_a_running_one() {
    let world = World::new("2026-11-23T08:00:00Z");
    world.put(&job("dump", "@manually")).await;
    let waiting = commands::run_now(&world.ports, &key("dump"), [1; 6], world.now()).await.unwrap();
    let stopped = commands::stop(&world.ports, &waiting.run_id, "owner", world.now()).await.unwrap();
    assert_eq!((stopped.outcome, stopped.state), (Some(Outcome::Stopped), State::Finished));
    assert!(world.take_orders("r1").await.is_empty());
    let running = commands::run_now(&world.ports, &key("dump"), [2; 6], world.now()).await.unwrap();
    assert_eq!(world.take_orders("r1").await.len(), 1);
    commands::stop(&world.ports, &running.run_id, "owner", world.now()).await.unwrap();
    commands::stop(&world.ports, &running.run_id, "owner", world.now()).await.unwrap();
    assert_eq!(world.send_heartbeat("r1").await, std::slice::from_ref(&running.run_id));
    let error = commands::stop(&world.ports, &waiting.run_id, "owner", world.now()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("run {} has already ended: stopped", waiting.run_id));
    assert!(world.send_alerts().await.is_empty());
}

#[tokio::test]
async fn old_runs_are_deleted_but_never_an_open_one() {
    let world = World::new("2026-11-23T08:00:00Z");
    world.put(&job("dump", "* * * * *")).await;
    for _ in 0..20 {
        world.pass(60);
        world.schedule().await;
        let orders = world.take_orders("r1").await;
        if world.now().as_second() % 300 != 0 {
            world.report_finished(&orders[0], 0).await;
        }
        world.collect().await;
    }
    let keep = services::pruner::RetentionPolicy { age_max: Duration::from_secs(86_400), runs_per_job_max: 10 };
    let summary = services::pruner::tick(&world.ports, &keep, world.now()).await.unwrap();
    assert_eq!(summary.removed, 8, "10 are kept, and the two open ones of the 10 older");
    assert_eq!(world.ledger().await.open, 4);
    world.pass(2 * 86_400);
    services::pruner::tick(&world.ports, &keep, world.now()).await.unwrap();
    let left: Vec<Run> = world.runs("dump").await;
    assert!(left.len() == 4 && left.iter().all(Run::is_open));
}

#[tokio::test]
async fn one_run_that_cannot_be_stored_stops_no_other() {
    let world = World::new("2026-11-23T07:59:00Z");
    for name in ["a", "b"] {
        world.put(&job(name, "0 8 * * *")).await;
    }
    world.set("2026-11-23T08:00:00Z");
    world.schedule().await;
    let orders = world.run_all(0).await;
    world.edit_with_sqlite(
        "CREATE TRIGGER broken BEFORE UPDATE ON runs WHEN new.job = 'a' BEGIN SELECT raise(ABORT, 'no'); END",
    );
    let summary = world.collect().await;
    assert_eq!((summary.ended, summary.failed), (1, 1));
    world.edit_with_sqlite("DROP TRIGGER broken");
    world.pass(61);
    assert_eq!(world.collect().await.ended, 1, "its reports were redelivered");
    for order in orders {
        assert_eq!(world.run(&order.run_id).await.outcome, Some(Outcome::Succeeded));
    }
}
