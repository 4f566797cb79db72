//! A group whose orders cannot be sent affects no other group, and each of its runs still has one outcome.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::alert::AlertKind;
use domain::job::{Command, Job, JobKey};
use domain::order::Order;
use domain::ports::{Delivery, Orders, PortResult, Ports, RunQuery, SendResult};
use domain::run::{Outcome, Run, State};
use services::{commands, overdue, scheduler};

use crate::world::World;

/// The orders of SQLite, as of an installation where some groups refuse them.
struct PartlyRefused {
    real: Arc<dyn Orders>,
    refused: Mutex<BTreeMap<String, SendResult>>,
    /// Groups of the orders of each call.
    calls: Mutex<Vec<Vec<String>>>,
}

#[async_trait]
impl Orders for PartlyRefused {
    async fn send(&self, orders: &[Order]) -> PortResult<Vec<SendResult>> {
        self.calls.lock().unwrap().push(orders.iter().map(|order| order.job.group.clone()).collect());
        let refused = self.refused.lock().unwrap().clone();
        let accepted: Vec<Order> =
            orders.iter().filter(|order| !refused.contains_key(&order.job.group)).cloned().collect();
        self.real.send(&accepted).await?;
        let result = |order: &Order| refused.get(&order.job.group).cloned().unwrap_or(SendResult::Sent);
        Ok(orders.iter().map(result).collect())
    }

    async fn receive(
        &self,
        groups: &[String],
        most: usize,
        lease: Duration,
        wait: Duration,
    ) -> PortResult<Vec<Delivery<Order>>> {
        self.real.receive(groups, most, lease, wait).await
    }

    async fn delete(&self, receipt: &str) -> PortResult<()> {
        self.real.delete(receipt).await
    }
}

struct Installation {
    world: World,
    orders: Arc<PartlyRefused>,
    ports: Ports,
}

impl Installation {
    /// One job each minute in each of these groups.
    async fn start(groups: &[&str]) -> Installation {
        let mut world = World::new("2026-11-23T07:59:00Z");
        let real = world.ports.orders.clone();
        let orders = Arc::new(PartlyRefused { real, refused: Mutex::default(), calls: Mutex::default() });
        let ports = Ports { orders: orders.clone(), ..world.ports.clone() };
        world.ports = ports.clone();
        let installation = Installation { world, orders, ports };
        for group in groups {
            let command = Command::Shell("true".to_owned());
            let job = Job::new(JobKey::new(*group, "each"), "* * * * *", command);
            commands::put(&installation.ports, &job, installation.world.now()).await.unwrap();
        }
        scheduler::tick(&installation.ports, installation.world.now()).await.unwrap();
        installation
    }

    fn refuse(&self, group: &str, result: SendResult) {
        self.orders.refused.lock().unwrap().insert(group.to_owned(), result);
    }

    fn accept(&self, group: &str) {
        self.orders.refused.lock().unwrap().remove(group);
    }

    /// One minute later: a tick of the scheduler, and the check of open runs.
    async fn minute(&self) -> scheduler::SchedulerSummary {
        self.world.pass(60);
        let now = self.world.now();
        let ticked = scheduler::tick(&self.ports, now).await.unwrap();
        let open = overdue::list_open_runs(&self.ports).await.unwrap();
        overdue::tick(&self.ports, &open, now).await.unwrap();
        ticked
    }

    async fn runs(&self, group: &str) -> Vec<Run> {
        let query = RunQuery { group: Some(group.to_owned()), ..RunQuery::default() };
        let page = self.ports.runs.list(&query, None, 1000).await.unwrap();
        page.records.into_iter().map(|stored| stored.record).collect()
    }

    /// The alerts about these jobs so far, oldest first.
    async fn alert_kinds(&self, group: &str) -> Vec<(AlertKind, String)> {
        let page = self.ports.alerts.list(None, 1000).await.unwrap();
        let of_group = page.records.into_iter().filter(|alert| alert.group == group);
        let mut kinds: Vec<(AlertKind, String)> = of_group.map(|alert| (alert.kind, alert.reason)).collect();
        kinds.reverse();
        kinds
    }
}

const NO_QUEUE: &str = "group gone has no queue";

#[tokio::test]
async fn runs_of_a_group_without_a_queue_are_missed_with_one_alert_and_cost_the_same_each_minute() {
    let installation = Installation::start(&["db", "gone", "web"]).await;
    installation.refuse("gone", SendResult::Never(NO_QUEUE.to_owned()));
    for minute in 1..=10 {
        let ticked = installation.minute().await;
        assert_eq!((ticked.started, ticked.missed, ticked.failed), (3, 1, 0), "minute {minute}");
    }
    let mut calls = installation.orders.calls.lock().unwrap().clone();
    // The others are orders that wait for a runner, sent again.
    calls.retain(|groups| groups.contains(&"gone".to_owned()));
    assert_eq!(calls, vec![["db", "gone", "web"].map(str::to_owned).to_vec(); 10], "one call a minute, for all groups");
    let runs = installation.runs("gone").await;
    assert_eq!(runs.len(), 10);
    for run in &runs {
        assert_eq!((run.outcome, run.reason.as_deref()), (Some(Outcome::Missed), Some(NO_QUEUE)));
    }
    assert_eq!(installation.alert_kinds("gone").await, [(AlertKind::Missed, NO_QUEUE.to_owned())]);
    assert!(installation.runs("db").await.iter().all(|run| run.state == State::Scheduled));

    // The group appears: its next firing runs.
    installation.accept("gone");
    installation.minute().await;
    let newest = installation.runs("gone").await.remove(0);
    assert_eq!((newest.state, newest.outcome), (State::Scheduled, None));
}

#[tokio::test]
async fn a_refused_permission_ends_no_run_and_is_one_alert() {
    let installation = Installation::start(&["db", "web"]).await;
    let denied = "SQS SendMessageBatch failed with AccessDenied; allow the role of this process sqs:SendMessage there";
    installation.refuse("web", SendResult::Denied(denied.to_owned()));
    for _ in 0..3 {
        assert_eq!(installation.minute().await.missed, 0);
    }
    for run in installation.runs("web").await {
        assert_eq!((run.state, run.reason.as_deref()), (State::Scheduled, Some(denied)));
    }
    let alerts = installation.alert_kinds("sexton").await;
    assert_eq!(alerts, [(AlertKind::Failed, format!("no run of group web can start: {denied}"))]);

    // Allowed again: the waiting orders are sent at doubling intervals, and the alert recovers.
    installation.accept("web");
    for _ in 0..8 {
        installation.minute().await;
    }
    let kinds: Vec<AlertKind> = installation.alert_kinds("sexton").await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [AlertKind::Failed, AlertKind::Recovered]);
    let groups = ["web".to_owned()];
    let received =
        installation.ports.orders.receive(&groups, 100, Duration::from_secs(60), Duration::ZERO).await.unwrap();
    let mut runs: Vec<String> = received.iter().map(|delivery| delivery.message.run_id.as_str().to_owned()).collect();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), 11, "the order of each run can be received");
}

#[tokio::test]
async fn an_order_that_was_not_sent_is_sent_by_the_next_tick_alone() {
    let installation = Installation::start(&["db", "web"]).await;
    installation.refuse("web", SendResult::Retry("throttled".to_owned()));
    installation.world.pass(60);
    let error = scheduler::tick(&installation.ports, installation.world.now()).await.unwrap_err();
    assert_eq!(error.to_string(), "throttled");
    assert_eq!(installation.runs("db").await.len(), 1, "the other group's order is sent");
    installation.accept("web");
    installation.world.pass(1);
    let ticked = scheduler::tick(&installation.ports, installation.world.now()).await.unwrap();
    assert_eq!((ticked.started, ticked.resent), (0, 1));
    assert_eq!(installation.orders.calls.lock().unwrap().last(), Some(&vec!["web".to_owned()]));
    assert_eq!(installation.runs("web").await.len(), 1);
}

#[tokio::test]
async fn overdue_runs_of_other_groups_are_found_beside_a_group_that_refuses_orders() {
    let installation = Installation::start(&["db"]).await;
    for (group, name) in [("a-refused", "waits"), ("z-late", "late")] {
        let mut job = Job::new(JobKey::new(group, name), "0 8 * * *", Command::Shell("true".to_owned()));
        job.start_within = Some(Duration::from_secs(if group == "z-late" { 240 } else { 86_400 }));
        commands::put(&installation.ports, &job, installation.world.now()).await.unwrap();
    }
    installation.minute().await;
    // The queue disappears after the first order was sent.
    installation.refuse("a-refused", SendResult::Never("group a-refused has no queue".to_owned()));
    for _ in 0..6 {
        installation.minute().await;
    }
    for group in ["a-refused", "z-late"] {
        let runs = installation.runs(group).await;
        assert_eq!((runs.len(), runs[0].outcome), (1, Some(Outcome::Missed)), "{group}");
    }
}

#[tokio::test]
async fn a_manual_run_of_a_group_without_a_queue_is_refused_with_the_reason() {
    let installation = Installation::start(&["gone"]).await;
    installation.refuse("gone", SendResult::Never(NO_QUEUE.to_owned()));
    let key = JobKey::new("gone", "each");
    let refused = commands::run_now(&installation.ports, &key, [1; 6], installation.world.now()).await.unwrap_err();
    assert!(refused.to_string().contains(NO_QUEUE), "{refused}");
    assert_eq!(installation.runs("gone").await[0].outcome, Some(Outcome::Missed));
}
