//! From transitions to messages: thresholds, reminders, flapping, storms, channels that fail, many workers.

use std::time::Duration;

use domain::alert::{AlertKind, DeliveryState};
use domain::job::Job;
use services::alert_delivery::TRIES_MAX;
use services::alerts::AlertSummary;

use crate::faulty::{Faulty, Moment, Plan};
use crate::world::{World, job};

/// Runs the job's next firing with each exit code in turn, one a minute, and returns the alerts sent after each.
async fn alerts_after_exits(world: &World, exits: &[i32]) -> Vec<Vec<AlertKind>> {
    let mut alerts = Vec::new();
    for exit in exits {
        world.pass(60);
        world.schedule().await;
        world.run_all(*exit).await;
        world.collect().await;
        alerts.push(world.send_alert_kinds().await);
    }
    alerts
}

async fn world_with_job(change: impl FnOnce(&mut Job)) -> World {
    let world = World::new("2026-11-23T08:00:00Z");
    let mut job = job("dump", "* * * * *");
    change(&mut job);
    world.put(&job).await;
    world
}

#[tokio::test]
async fn only_changes_are_alerted_with_reason_count_and_start() {
    let world = world_with_job(|_| {}).await;
    let alerts = alerts_after_exits(&world, &[0, 3, 3, 3]).await;
    assert_eq!(alerts, [vec![], vec![AlertKind::Failed], vec![], vec![]]);
    world.pass(60);
    world.schedule().await;
    world.run_all(0).await;
    world.collect().await;
    let alert = world.send_alerts().await.remove(0);
    assert_eq!((alert.kind, alert.count), (AlertKind::Recovered, 3));
    assert_eq!(alert.since, Some("2026-11-23T08:02:00Z".parse().unwrap()));
    let reason = "recovered after 3 failed runs since 2026-11-23T08:02:00Z: exit code 0";
    assert!(alert.reason.starts_with(reason), "{}", alert.reason);
}

/// The worker survives and calls again. Only a lost answer of a channel may cause a second message.
#[tokio::test]
async fn a_failure_of_any_call_of_a_tick_sends_each_alert_once() {
    for moment in [Moment::Before, Moment::After] {
        for call in 0.. {
            let world = world_with_job(|job| job.alert.remind = Some(Duration::from_secs(4 * 3600))).await;
            world.pass(60);
            world.schedule().await;
            world.run_all(3).await;
            world.collect().await;
            let plan = Plan::new(call, moment);
            let faulty = Faulty::ports(&world.ports, &plan);
            let _ = world.tick_alerts_over(&faulty).await;
            // When the lease of the failed worker has ended.
            world.pass(301);
            assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed], "{moment:?} call {call}");
            world.pass(4 * 3600);
            assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed], "the reminder, {moment:?} call {call}");
            if plan.made() <= call {
                assert!(call > 5, "a tick makes more calls than that");
                break;
            }
        }
    }
}

#[tokio::test]
async fn runs_reported_together_cause_the_same_alerts_as_one_by_one() {
    let world = world_with_job(|_| {}).await;
    for exit in [0, 3, 3, 3, 0] {
        world.pass(60);
        world.schedule().await;
        world.run_all(exit).await;
    }
    assert_eq!(world.collect().await.ended, 5);
    let alerts: Vec<_> = world.send_alerts().await.into_iter().map(|alert| (alert.kind, alert.count)).collect();
    assert_eq!(alerts, [(AlertKind::Failed, 1), (AlertKind::Recovered, 3)]);
}

#[tokio::test]
async fn the_first_alert_waits_for_the_threshold() {
    let world = world_with_job(|job| job.alert.after = 3).await;
    let alerts = alerts_after_exits(&world, &[1, 1, 0, 1, 1, 1, 1, 0]).await;
    let alerted: Vec<usize> = alerts.iter().map(Vec::len).collect();
    assert_eq!(alerted, [0, 0, 0, 0, 0, 1, 0, 1]);
}

#[tokio::test]
async fn reminders_are_sent_by_the_clock_while_the_job_stays_bad() {
    let world = World::new("2026-11-23T08:00:00Z");
    let mut nightly = job("dump", "1 8 * * *");
    nightly.alert.remind = Some(Duration::from_secs(4 * 3600));
    world.put(&nightly).await;
    world.pass(60);
    world.schedule().await;
    world.run_all(3).await;
    world.collect().await;
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed]);
    let mut reminded = Vec::new();
    while world.now() < "2026-11-24T07:00:00Z".parse().unwrap() {
        world.pass(600);
        for alert in world.send_alerts().await {
            assert_eq!((alert.kind, alert.count), (AlertKind::Failed, 1));
            reminded.push(world.now().strftime("%H:%M").to_string());
        }
    }
    assert_eq!(reminded, ["12:01", "16:01", "20:01", "00:01", "04:01"]);
    world.set("2026-11-24T08:01:00Z");
    world.schedule().await;
    world.run_all(0).await;
    world.collect().await;
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Recovered]);
    world.pass(6 * 3600);
    assert!(world.send_alert_kinds().await.is_empty(), "no reminder is left");
}

#[tokio::test]
async fn a_flapping_job_is_alerted_once() {
    let world = world_with_job(|_| {}).await;
    // Each alert has the instant since when: `World::send_alerts` checks it.
    let alerts = alerts_after_exits(&world, &[1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let alerted: Vec<AlertKind> = alerts.into_iter().flatten().collect();
    use AlertKind::{Failed, Flapping, Recovered};
    assert_eq!(alerted, [Failed, Recovered, Failed, Recovered, Failed, Flapping, Recovered]);
}

#[tokio::test]
async fn forty_alerts_at_once_become_one_digest() {
    let world = World::new("2026-11-23T08:00:00Z");
    for number in 0..40 {
        let mut failing = job(&format!("job-{number:02}"), "* * * * *");
        failing.alert.channels = vec!["oncall".to_owned()];
        world.put(&failing).await;
    }
    world.pass(60);
    world.schedule().await;
    world.run_all(1).await;
    world.collect().await;
    let alerts = world.send_alerts().await;
    assert_eq!(alerts.len(), 1);
    assert_eq!((alerts[0].kind, alerts[0].count, alerts[0].group.as_str()), (AlertKind::Digest, 40, "db"));
    let jobs: Vec<String> = (0..40).map(|number| format!("db/job-{number:02}")).collect();
    assert_eq!(alerts[0].reason, format!("40 alerts at once: 40 failed: {}", jobs.join(", ")));
    let transitions = world.ports.alerts.list(None, 100).await.unwrap().records;
    assert!(transitions.iter().all(|transition| transition.delivery == DeliveryState::Digested));
}

#[tokio::test]
async fn alerts_beyond_the_limits_of_a_minute_wait_for_the_next() {
    let world = World::new("2026-11-23T08:00:00Z");
    let step = |from: u32, until: u32| domain::ports::AlertStep {
        state: None,
        transitions: (from..until)
            .map(|number| {
                let key = crate::world::key(&format!("job-{number}"));
                let id = number.to_string();
                domain::alert::Transition::new(id, AlertKind::Failed, &key, "exit code 1", world.now())
            })
            .collect(),
    };
    for from in [0, 5] {
        world.ports.alerts.raise(&step(from, from + 5)).await.unwrap();
        assert_eq!(world.tick_alerts().await, AlertSummary { sent: 5, ..AlertSummary::default() });
    }
    // The ten messages of the minute are used up.
    world.ports.alerts.raise(&step(10, 12)).await.unwrap();
    let summary = world.tick_alerts().await;
    assert_eq!((summary.sent, summary.digested), (2, 2), "two alerts, of which a digest is one message");
    assert_eq!(world.channel.sent.lock().unwrap().len(), 11);
    world.ports.alerts.raise(&step(12, 15)).await.unwrap();
    let summary = world.tick_alerts().await;
    assert_eq!((summary.sent, summary.waiting), (0, 3));
    world.pass(59);
    assert_eq!(world.tick_alerts().await.sent, 0);
    world.pass(1);
    assert_eq!(world.tick_alerts().await.sent, 3);
}

#[tokio::test]
async fn a_digest_is_about_one_group_and_a_storm_over_many_groups_stays_within_the_limit() {
    let world = World::new("2026-11-23T08:00:00Z");
    let raise = async |groups: u32, jobs: u32| {
        let transitions = (0..groups * jobs)
            .map(|number| {
                let key = domain::job::JobKey::new(format!("g{:02}", number % groups), format!("job-{number}"));
                let id = format!("{}:{key}", world.now());
                domain::alert::Transition::new(id, AlertKind::Missed, &key, "not started in time", world.now())
            })
            .collect();
        world.ports.alerts.raise(&domain::ports::AlertStep { state: None, transitions }).await.unwrap();
        let alerts = world.send_alerts().await;
        alerts.iter().map(|alert| (alert.group.clone(), alert.count)).collect::<Vec<_>>()
    };
    assert_eq!(raise(3, 4).await, [("g00".to_owned(), 4), ("g01".to_owned(), 4), ("g02".to_owned(), 4)]);
    world.pass(60);
    assert_eq!(raise(12, 2).await, [(String::new(), 24)]);
    world.pass(60);
    // Each group has one alert, so a digest would show less.
    assert_eq!(raise(6, 1).await.len(), 6);
}

#[tokio::test]
async fn a_digest_names_as_many_jobs_as_the_channel_accepts_and_counts_the_others() {
    let world = World::new("2026-11-23T08:00:00Z");
    let transition = |number: u32, kind| {
        let key = crate::world::key(&format!("a-job-with-a-rather-long-name-{number:05}"));
        domain::alert::Transition::new(format!("{kind:?}{number}"), kind, &key, "exit code 1", world.now())
    };
    let failed = (0..2_000).map(|number| transition(number, AlertKind::Failed));
    let missed = (2_000..2_010).map(|number| transition(number, AlertKind::Missed));
    let transitions = failed.chain(missed).collect();
    world.ports.alerts.raise(&domain::ports::AlertStep { state: None, transitions }).await.unwrap();
    let alert = world.send_alerts().await.remove(0);
    assert_eq!(alert.count, 2_010);
    assert!((15 << 10..=16 << 10).contains(&alert.reason.len()), "{}", alert.reason.len());
    let named = alert.reason.matches("db/").count();
    let ending = format!(" and {} more; 10 missed and 10 more", 2_000 - named);
    assert!(alert.reason.ends_with(&ending), "{}", &alert.reason[alert.reason.len() - 100..]);
}

#[tokio::test]
async fn a_failed_channel_is_retried_and_the_others_get_one_alert() {
    let mut world = world_with_job(|_| {}).await;
    world.channels = vec!["first".to_owned(), "second".to_owned()];
    *world.channel.failures.lock().unwrap() = 1;
    assert_eq!(alerts_after_exits(&world, &[1]).await[0].len(), 1);
    assert!(world.send_alerts().await.is_empty(), "the backoff has not passed");
    world.pass(15);
    world.tick_alerts().await;
    let sent = std::mem::take(&mut *world.channel.sent.lock().unwrap());
    assert_eq!(sent.iter().map(|(channel, _)| channel.as_str()).collect::<Vec<_>>(), ["first"]);
    let transition = world.ports.alerts.list(None, 10).await.unwrap().records.remove(0);
    assert_eq!(
        (transition.delivery, transition.tries, transition.delivered_to),
        (DeliveryState::Sent, 1, vec!["second".into(), "first".into()])
    );
}

/// A worker that dies in any call after the first channel has answered.
#[tokio::test]
async fn a_dying_worker_repeats_no_channel_whose_answer_it_stored() {
    for call in 0.. {
        let mut world = world_with_job(|_| {}).await;
        world.channels = vec!["first".to_owned(), "second".to_owned()];
        world.pass(60);
        world.schedule().await;
        world.run_all(3).await;
        world.collect().await;
        let plan = Plan::new(call, Moment::Death);
        let _ = world.tick_alerts_over(&Faulty::ports(&world.ports, &plan)).await;
        let stored = world.ports.alerts.list(None, 10).await.unwrap().records.remove(0).delivered_to;
        let sent_first = world.channel.sent.lock().unwrap().clone();
        world.pass(301);
        world.tick_alerts().await;
        let sent = world.channel.sent.lock().unwrap().clone();
        for channel in ["first", "second"] {
            let count = sent.iter().filter(|(name, _)| name == channel).count();
            let is_stored = stored.iter().any(|name| name == channel);
            assert!(count == 1 || (count == 2 && !is_stored), "call {call}: {channel} got {count}, {stored:?}");
        }
        assert!(stored.len() <= sent_first.len(), "call {call}");
        if plan.made() <= call {
            assert_eq!(stored, ["first", "second"], "the last round dies in no call");
            return;
        }
    }
}

#[tokio::test]
async fn a_reminder_that_waited_or_whose_worker_died_is_sent() {
    let world = world_with_job(|job| job.alert.remind = Some(Duration::from_secs(4 * 3600))).await;
    assert_eq!(alerts_after_exits(&world, &[3]).await, [[AlertKind::Failed]]);
    world.pass(4 * 3600);
    // It has claimed the reminder and recorded it in the state of the job, and dies before it sends it.
    let _ = services::alerts::claim_due(&world.ports, "dead", world.now()).await.unwrap();
    world.pass(301);
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed]);
    world.pass(4 * 3600);
    assert_eq!(world.send_alert_kinds().await, [AlertKind::Failed], "and the next one");
}

#[tokio::test]
async fn a_channel_that_always_fails_is_given_up_with_its_error() {
    let world = world_with_job(|_| {}).await;
    *world.channel.failures.lock().unwrap() = u32::MAX;
    alerts_after_exits(&world, &[1]).await;
    for _ in 0..TRIES_MAX {
        world.pass(3600);
        world.tick_alerts().await;
    }
    let transition = world.ports.alerts.list(None, 10).await.unwrap().records.remove(0);
    assert_eq!((transition.delivery, transition.tries), (DeliveryState::GivenUp, TRIES_MAX));
    assert_eq!(transition.last_error.as_deref(), Some("oncall: the mail server is down"));
}

#[tokio::test]
async fn an_unknown_channel_is_recorded_and_not_retried() {
    let world = world_with_job(|job| job.alert.channels = vec!["absent".to_owned(), "oncall".to_owned()]).await;
    assert_eq!(alerts_after_exits(&world, &[1]).await[0], [AlertKind::Failed]);
    let transition = world.ports.alerts.list(None, 10).await.unwrap().records.remove(0);
    assert_eq!(transition.delivery, DeliveryState::Sent);
    assert_eq!(transition.last_error.as_deref(), Some("absent: no channel absent; configured: oncall"));
}

#[tokio::test]
async fn an_alert_none_of_whose_channels_exists_goes_to_all_channels() {
    let world = world_with_job(|job| job.alert.channels = vec!["absent".to_owned()]).await;
    assert_eq!(alerts_after_exits(&world, &[1]).await[0], [AlertKind::Failed]);
    let transition = world.ports.alerts.list(None, 10).await.unwrap().records.remove(0);
    assert_eq!((transition.delivery, transition.delivered_to), (DeliveryState::Sent, vec!["oncall".to_owned()]));
}
