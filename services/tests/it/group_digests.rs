//! Messages of channels whose subscribers choose groups, as on AWS: each message is about one group, within the limits
//! of the group and of the channel.

use std::collections::BTreeMap;

use domain::alert::{Alert, AlertKind, Transition};
use domain::job::JobKey;
use domain::ports::AlertStep;
use services::alert_batch::BatchLimits;

use crate::world::World;

fn world() -> World {
    let mut world = World::new("2026-11-23T08:00:00Z");
    world.limits = BatchLimits::by_group(250);
    world
}

/// Raises one alert for each job.
async fn raise(world: &World, keys: impl IntoIterator<Item = JobKey>) {
    let transition = |key: JobKey| {
        Transition::new(format!("{}:{key}", world.now()), AlertKind::Failed, &key, "exit code 1", world.now())
    };
    let transitions = keys.into_iter().map(transition).collect();
    world.ports.alerts.raise(&AlertStep { state: None, transitions }).await.unwrap();
}

fn jobs(group: &str, numbers: std::ops::Range<u32>) -> Vec<JobKey> {
    numbers.map(|number| JobKey::new(group, format!("job-{number:03}"))).collect()
}

/// Messages and alerts of each group.
fn by_group(alerts: &[Alert]) -> BTreeMap<&str, (usize, u32)> {
    let mut groups = BTreeMap::new();
    for alert in alerts {
        let (messages, count) = groups.entry(alert.group.as_str()).or_insert((0, 0));
        *messages += 1;
        *count += if alert.kind == AlertKind::Digest { alert.count } else { 1 };
    }
    groups
}

#[tokio::test]
async fn in_a_storm_each_group_has_its_digest_that_names_all_its_jobs() {
    let world = world();
    let alerts_without_group =
        Transition::new("silent".to_owned(), AlertKind::SchedulerSilent, &JobKey::new("", ""), "silent", world.now());
    world.ports.alerts.raise(&AlertStep { state: None, transitions: vec![alerts_without_group] }).await.unwrap();
    raise(&world, [jobs("g1", 0..50), jobs("g2", 0..200), jobs("g3", 0..50)].concat()).await;
    let alerts = world.send_alerts().await;
    assert_eq!(by_group(&alerts), [("", (1, 1)), ("g1", (1, 50)), ("g2", (1, 200)), ("g3", (1, 50))].into());
    for alert in alerts.iter().filter(|alert| alert.kind == AlertKind::Digest) {
        let named = alert.reason.matches(&format!("{}/job-", alert.group)).count() as u32;
        assert_eq!((named, alert.digest.len() as u32), (alert.count, alert.count));
        assert!(alert.digest.iter().all(|entry| entry.group == alert.group), "{alert:?}");
    }
}

/// Many collectors find the failures of a storm one after the other.
#[tokio::test]
async fn what_comes_due_within_ten_seconds_of_a_message_shares_the_next_one() {
    let world = world();
    raise(&world, jobs("g1", 0..3)).await;
    assert_eq!(by_group(&world.send_alerts().await), [("g1", (3, 3))].into());
    world.pass(4);
    raise(&world, [jobs("g1", 3..5), jobs("g2", 0..1)].concat()).await;
    assert_eq!(by_group(&world.send_alerts().await), [("g1", (2, 2)), ("g2", (1, 1))].into(), "five single messages");
    for number in 5..8 {
        world.pass(1);
        raise(&world, jobs("g1", number * 10..number * 10 + 10)).await;
        assert!(world.send_alerts().await.is_empty(), "the window is not over");
    }
    world.pass(3);
    assert_eq!(by_group(&world.send_alerts().await), [("g1", (1, 30))].into());
}

#[tokio::test]
async fn a_group_has_ten_messages_and_a_digest_in_a_minute() {
    let world = world();
    for (alerts, messages) in [(5, 5), (5, 5), (3, 1), (2, 0)] {
        raise(&world, jobs("g1", 0..alerts)).await;
        let sent = world.send_alerts().await;
        assert_eq!(sent.len(), messages, "{sent:?}");
        world.pass(10);
    }
    // Another group has its own allowance.
    raise(&world, jobs("g2", 0..5)).await;
    assert_eq!(by_group(&world.send_alerts().await), [("g2", (5, 5))].into());
    world.pass(20);
    assert_eq!(by_group(&world.send_alerts().await), [("g1", (2, 2))].into(), "the next minute");
}

#[tokio::test]
async fn a_channel_has_sixty_messages_in_a_minute_and_then_each_group_a_digest() {
    let world = world();
    let groups: Vec<String> = (0..20).map(|number| format!("g{number:02}")).collect();
    let all = |numbers: std::ops::Range<u32>| {
        groups.iter().flat_map(|group| jobs(group, numbers.clone())).collect::<Vec<_>>()
    };
    raise(&world, all(0..4)).await;
    let sent = world.send_alerts().await;
    let of_group = by_group(&sent);
    let messages: Vec<usize> = groups.iter().map(|group| of_group[group.as_str()].0).collect();
    assert_eq!(messages, [vec![4; 15], vec![1; 5]].concat(), "fifteen groups have sixty messages, five have a digest");
    assert_eq!(of_group.values().map(|(_, count)| count).sum::<u32>(), 80);
    world.pass(11);
    raise(&world, all(4..8)).await;
    let sent = world.send_alerts().await;
    assert_eq!(sent.len(), 15, "a digest of each group that had none");
    assert!(sent.iter().all(|alert| alert.count == 4 && *alert.group < *"g15"), "{sent:?}");
    world.pass(49);
    let sent = world.send_alerts().await;
    assert_eq!(by_group(&sent).len(), 5, "the others in the next minute");
    assert_eq!(by_group(&sent).values().map(|(_, count)| count).sum::<u32>(), 20);
}

#[tokio::test]
async fn a_digest_that_cannot_name_all_jobs_becomes_several() {
    let world = world();
    let keys: Vec<JobKey> =
        (0..1_500).map(|number| JobKey::new("g1", format!("a-rather-long-name-{number:05}"))).collect();
    raise(&world, keys.clone()).await;
    let sent = world.send_alerts().await;
    assert!(sent.len() > 1 && sent.len() <= 10, "{}", sent.len());
    let text: String = sent.iter().map(|alert| alert.reason.as_str()).collect();
    for key in keys {
        assert_eq!(text.matches(&key.to_string()).count(), 1, "{key}");
    }
}

#[tokio::test]
async fn a_call_sends_no_more_messages_than_its_timeout_allows() {
    let mut world = world();
    world.limits = BatchLimits::by_group(12);
    let groups = (0..20).flat_map(|number| jobs(&format!("g{number:02}"), 0..1)).collect::<Vec<_>>();
    raise(&world, groups).await;
    assert_eq!(world.send_alerts().await.len(), 12);
    world.pass(10);
    assert_eq!(world.send_alerts().await.len(), 8);
}
