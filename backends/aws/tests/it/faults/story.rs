//! One morning of an installation: two jobs fire at once, one of them fails, and its alert is sent. All duties are
//! called as their loops call them, and repeated after an error. Two runners of one group take orders as `runner` does.

use std::collections::BTreeSet;
use std::time::Duration;

use aws::{Aws, Topics};
use aws_sdk_sqs::types::QueueAttributeName;
use contract::world::{GROUP, World, job, key};
use domain::alert::{Alert, AlertKind, DeliveryState};
use domain::event::{Body, Event};
use domain::order::Order;
use domain::ports::{Claim, Claimant, Delivery, Heartbeat, PortError, Ports};
use domain::run::RunId;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use services::{Links, alerts, collector, overdue, release, scheduler};

use crate::emulator::subscribe_queue;

/// Lease of received messages.
const LEASE: Duration = Duration::from_secs(2);

/// How long a receive waits for an expected message: longer than a lease.
const RECEIVE_WAIT: Duration = Duration::from_secs(4);

/// Minutes after which the story has ended: more than the lease of an alert and the delay of a channel.
const MINUTES_MAX: usize = 12;

const DAY_S: i64 = 86_400;

/// Attempts of a duty: more than the number of failing calls.
const ATTEMPTS_MAX: usize = 10;

pub(crate) struct Story {
    aws: Aws,
    /// Reads the state with calls that never fail.
    world: World,
    ports: Ports,
    topics: Topics,
    subscriber: String,
    runners: [Runner; 2],
    collected: BTreeSet<RunId>,
}

/// A runner as a sequence of its calls, in the order in which `runner` makes them.
struct Runner {
    name: &'static str,
    /// Its attempts: another order for one of them is a copy.
    disk: BTreeSet<(RunId, u32)>,
    outbox: Vec<Event>,
}

/// Repeats a duty until it succeeds or returns a permanent error.
async fn retry<T, E: Into<services::Error>>(what: &str, mut duty: impl AsyncFnMut() -> Result<T, E>) -> T {
    for _ in 0..ATTEMPTS_MAX {
        match duty().await.map_err(Into::into) {
            Ok(done) => return done,
            Err(services::Error::Port(PortError::Permanent(message))) => panic!("{what} failed permanently: {message}"),
            Err(_) => {}
        }
    }
    panic!("{what} failed {ATTEMPTS_MAX} times");
}

impl Story {
    /// Starts at 07:59, with two jobs for 08:00. `aws` never fails; the duties call `faulty`.
    pub(crate) async fn start(aws: &Aws, faulty: &Aws) -> Story {
        let world = World::new(&aws.ports);
        // Ahead of this machine's clock, which stamps entries: so no later tick finds an entry that one has missed.
        world.pass(2 * DAY_S);
        // Half as many calls, of the same kinds.
        faulty.change_shards(1, Timestamp::now() - SignedDuration::from_hours(72)).await.unwrap();
        let mut dump = job("dump", "0 8 * * *");
        dump.alert.remind = Some(Duration::from_secs(4 * 3600));
        world.put(&dump).await;
        world.put(&job("rotate", "0 8 * * *")).await;
        // A first tick would read the entries of a whole day.
        let ticked = serde_json::json!({ "ticked_at": world.now(), "cursor": world.now() });
        assert!(aws.ports.settings.write("scheduler", &ticked, None).await.unwrap());
        let (topic, subscriber) = subscribe_queue(aws).await;
        let topics = faulty.topics([("alerts".to_owned(), topic)].into());
        let runner = |name| Runner { name, disk: BTreeSet::new(), outbox: Vec::new() };
        let (ports, runners) = (faulty.ports.clone(), [runner("r1"), runner("r2")]);
        Story { aws: aws.clone(), world, ports, topics, subscriber, runners, collected: BTreeSet::new() }
    }

    /// Runs until the story has ended, and one minute longer.
    pub(crate) async fn run_to_end(&mut self) {
        for minute in 0..MINUTES_MAX {
            self.world.pass(60);
            let was_over = minute > 0 && self.is_over().await;
            self.run_minute().await;
            if was_over {
                return;
            }
            // A message whose lease ended is redelivered to the other runner.
            self.runners.reverse();
        }
    }

    async fn run_minute(&mut self) {
        let (ports, now) = (self.ports.clone(), self.world.now());
        retry("scheduler", async || scheduler::tick(&ports, now).await).await;
        let check_runs = async || {
            let open = overdue::list_open_runs(&ports).await?;
            overdue::tick(&ports, &open, now).await?;
            release::release_due(&ports, &open, now).await
        };
        retry("overdue and release", check_runs).await;
        for place in 0..self.runners.len() {
            let started: usize = self.runners.iter().map(|runner| runner.disk.len()).sum();
            let wait = if started < 2 { RECEIVE_WAIT } else { Duration::ZERO };
            self.runners[place].run_once(&ports, &self.world, wait).await;
        }
        self.collect(&ports).await;
        let (channels, links) = (["alerts".to_owned()], Links([].into()));
        let worker = alerts::AlertWorker {
            notifier: &self.topics,
            channels: &channels,
            links: &links,
            name: "scheduler",
            limits: Default::default(),
        };
        retry("alerts", async || alerts::tick(&ports, &worker, now).await).await;
    }

    /// Collects reports until the end of every started run is stored.
    async fn collect(&mut self, ports: &Ports) {
        let (packs, now) = (&self.world.packs, self.world.now());
        let started: BTreeSet<RunId> =
            self.runners.iter().flat_map(|runner| runner.disk.iter().map(|(run_id, _)| run_id.clone())).collect();
        loop {
            let wait = if started.is_subset(&self.collected) { Duration::ZERO } else { RECEIVE_WAIT };
            let collect = retry("collector", async || {
                let reports = ports.reports.receive(10, LEASE, wait).await?;
                let ended: Vec<RunId> = reports.iter().filter_map(ended_run).collect();
                collector::collect(ports, packs, reports, now).await.map(|summary| (summary, ended))
            });
            let (summary, ended) = collect.await;
            if summary.received == 0 {
                return;
            }
            if summary.failed == 0 {
                self.collected.extend(ended);
            }
        }
    }

    /// Whether no duty has anything left to do.
    async fn is_over(&self) -> bool {
        let alerts = self.aws.ports.alerts.list(None, 100).await.unwrap().records;
        let is_sent =
            alerts.iter().any(|transition| !transition.reminder && transition.delivery == DeliveryState::Sent);
        let pending =
            alerts.iter().any(|transition| !transition.reminder && transition.delivery == DeliveryState::Pending);
        is_sent && !pending && self.world.ledger().await.open == 0 && self.queued_messages().await.is_empty()
    }

    /// Counts waiting and leased messages by queue.
    async fn queued_messages(&self) -> Vec<(String, String)> {
        let (sqs, names) = (aws_sdk_sqs::Client::new(&self.aws.sdk_config), &self.aws.names);
        let mut left = Vec::new();
        for queue in [names.orders(GROUP), names.orders_dead(GROUP), names.reports(), names.reports_dead()] {
            let url = sqs.get_queue_url().queue_name(&queue).send().await.unwrap().queue_url.unwrap();
            let waiting = QueueAttributeName::ApproximateNumberOfMessages;
            let leased = QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
            let request = sqs.get_queue_attributes().queue_url(url).attribute_names(waiting).attribute_names(leased);
            let counts = request.send().await.unwrap().attributes.unwrap();
            left.extend(counts.into_values().filter(|count| count != "0").map(|count| (queue.clone(), count)));
        }
        left
    }

    /// Checks that one runner started each run, that each ended once, and that the alert of the failed one was sent.
    pub(crate) async fn assert_one_outcome(&self, may_repeat: bool) {
        assert_eq!(self.queued_messages().await, [], "messages left in queues");
        assert_eq!(self.world.history("dump").await, ["08:00 failed"]);
        assert_eq!(self.world.history("rotate").await, ["08:00 succeeded"]);
        for name in ["dump", "rotate"] {
            let run = self.world.runs(name).await.remove(0);
            let started = self.runners.iter().filter(|runner| runner.disk.contains(&(run.run_id.clone(), run.attempt)));
            assert_eq!((started.count(), run.attempt), (1, 1), "runners that started {name}");
        }
        let tomorrow = self.world.runs("dump").await[0].nominal + SignedDuration::from_secs(DAY_S);
        let next = self.aws.ports.due.list(0, tomorrow, tomorrow, 10).await.unwrap();
        assert_eq!(next.len(), 2, "both jobs fire again: {next:?}");
        let ledger = self.world.ledger().await;
        assert_eq!((ledger.scheduled, ledger.open), (2, 0));
        let transitions = self.aws.ports.alerts.list(None, 100).await.unwrap().records;
        let fates: Vec<(bool, DeliveryState)> =
            transitions.iter().map(|transition| (transition.reminder, transition.delivery)).collect();
        assert!(
            fates.contains(&(false, DeliveryState::Sent)) && fates.contains(&(true, DeliveryState::Pending)),
            "{fates:?}"
        );
        let alerts = self.received_alerts().await;
        assert!(alerts.iter().all(|alert| (alert.kind, &*alert.job) == (AlertKind::Failed, "dump")), "{alerts:?}");
        let (least, most) = (1, if may_repeat { 2 } else { 1 });
        assert!((least..=most).contains(&alerts.len()), "{} alerts were sent", alerts.len());
        if !may_repeat {
            assert_eq!(fates.len(), 2, "one alert and its reminder: {transitions:?}");
        }
    }

    /// Receives the alerts of the topic's subscriber.
    async fn received_alerts(&self) -> Vec<Alert> {
        let sqs = aws_sdk_sqs::Client::new(&self.aws.sdk_config);
        let mut alerts = Vec::new();
        loop {
            let request = sqs.receive_message().queue_url(&self.subscriber).max_number_of_messages(10);
            let received = request.visibility_timeout(3600).send().await.unwrap().messages.unwrap_or_default();
            if received.is_empty() {
                return alerts;
            }
            for message in received {
                let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
                alerts.push(serde_json::from_str(body["Message"].as_str().unwrap()).unwrap());
            }
        }
    }
}

/// Returns the run whose end a report contains.
fn ended_run(delivery: &Delivery<Event>) -> Option<RunId> {
    matches!(delivery.message.body, Body::Finished(_)).then(|| delivery.message.run_id.clone())
}

impl Runner {
    async fn run_once(&mut self, ports: &Ports, world: &World, wait: Duration) {
        let beat = Heartbeat {
            runner: self.name.to_owned(),
            host: self.name.to_owned(),
            groups: vec![GROUP.to_owned()],
            at: world.now(),
            id: None,
            running: 0,
            version: "0.1.0".to_owned(),
            held: None,
            order_keys: None,
        };
        retry("beat", async || ports.claims.heartbeat(&beat).await).await;
        let groups = [GROUP.to_owned()];
        for delivery in retry("receive", async || ports.orders.receive(&groups, 10, LEASE, wait).await).await {
            self.take_order(ports, world, delivery).await;
        }
        if !self.outbox.is_empty() {
            retry("outbox", async || ports.reports.send(&self.outbox).await).await;
            self.outbox.clear();
        }
    }

    /// Claims the order, stores it, and only then deletes its message.
    async fn take_order(&mut self, ports: &Ports, world: &World, delivery: Delivery<Order>) {
        let order = delivery.message;
        if !self.disk.contains(&(order.run_id.clone(), order.attempt)) {
            let run = order.run_key();
            let claim = async || {
                ports.claims.claim(&run, order.attempt, Claimant::new(self.name, self.name), world.now()).await
            };
            if retry("claim", claim).await == Claim::Granted {
                self.start_run(world, &order);
            }
        }
        retry("delete", async || ports.orders.delete(&delivery.receipt).await).await;
    }

    fn start_run(&mut self, world: &World, order: &Order) {
        self.disk.insert((order.run_id.clone(), order.attempt));
        let exit_code = if order.key() == key("dump") { 3 } else { 0 };
        for body in [
            Body::Started { pid: Some(7), command: "dump".to_owned() },
            Body::Finished(Box::new(world.report(exit_code))),
        ] {
            self.outbox.push(Event::new(order, self.name, self.name, world.now(), body));
        }
    }
}
