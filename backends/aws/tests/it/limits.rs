//! Requests that AWS would refuse and an emulator may accept are refused with one sentence.

use contract::samples::{key, order, run};
use domain::job::{Command, Job, JobKey};
use domain::ports::{PortError, RunWrite, SendResult, WriteResult};
use jiff::{SignedDuration, Timestamp};
use services::{commands, scheduler};

use crate::emulator::Installation;

/// Returns the text of a permanent error.
#[track_caller]
fn permanent<T: std::fmt::Debug>(answer: Result<T, PortError>) -> String {
    match answer {
        Err(PortError::Permanent(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_one_error_and_stops_no_other_order() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let ports = &installation.aws.ports;
    let mut long = order("db", 0);
    long.job.command = Command::Shell("x".repeat(1024 * 1024));
    let sent = ports.orders.send(&[order("db", 60), long]).await.unwrap();
    let [SendResult::Sent, SendResult::Never(message)] = sent.as_slice() else { panic!("{sent:?}") };
    assert!(message.starts_with("the order for db/dump has 10") && message.contains("sexton-orders-db"), "{message}");
    let (groups, lease) = (["db".to_owned()], std::time::Duration::from_secs(60));
    let received = ports.orders.receive(&groups, 10, lease, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(received.len(), 1, "the other order");

    let large = Job::new(key("dump"), "@daily", Command::Shell("x".repeat(400 * 1024)));
    let message = permanent(ports.jobs.put(&large, None).await);
    assert!(message.contains("does not fit into the table sexton-jobs"), "{message}");
    let mut large = run("dump", 0);
    large.reason = Some("x".repeat(400 * 1024));
    let writes = [large, run("dump", 60)].map(|run| RunWrite { run, expected: None, alert: None });
    let written = ports.runs.write(&writes).await.unwrap();
    let [WriteResult::Never(message), WriteResult::Done] = written.as_slice() else { panic!("{written:?}") };
    assert!(message.contains("does not fit into the table sexton-runs"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_have_a_queue_is_refused_in_jobs_and_orders() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let ports = &installation.aws.ports;
    let job = Job::new(JobKey::new("a.b", "dump"), "@daily", Command::Shell("x".to_owned()));
    assert!(permanent(ports.jobs.put(&job, None).await).contains("group `a.b` cannot be part"));
    let orders = [order("a.b", 0), order("db", 0), order("absent", 0), order("absent", 60)];
    let sent = ports.orders.send(&orders).await.unwrap();
    let [SendResult::Never(illegal), SendResult::Sent, SendResult::Never(absent), SendResult::Never(second)] =
        sent.as_slice()
    else {
        panic!("{sent:?}")
    };
    assert!(illegal.contains("group `a.b`"), "{illegal}");
    let queue = "group absent has no queue: the queue sexton-orders-absent does not exist; add the group";
    assert!(absent.starts_with(queue) && absent == second, "{absent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_a_queue_costs_one_request_a_tick_and_no_other_group_anything() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let aws = &installation.aws;
    // Ahead of this machine's clock, which stamps entries.
    let mut now = Timestamp::from_second((Timestamp::now().as_second() / 86_400 + 1) * 86_400).unwrap();
    for number in 0..20 {
        let group = if number == 10 { "absent" } else { "db" };
        let job = Job::new(JobKey::new(group, format!("each-{number}")), "* * * * *", Command::Shell("true".into()));
        commands::put(&aws.ports, &job, now - SignedDuration::from_secs(30)).await.unwrap();
    }
    let mut calls = Vec::new();
    for _ in 0..14 {
        let before = (aws.meter.total("").requests, aws.meter.total("sqs GetQueueUrl").requests);
        let ticked = scheduler::tick(&aws.ports, now).await.unwrap();
        assert_eq!((ticked.started, ticked.missed, ticked.failed), (20, 1, 0));
        let after = (aws.meter.total("").requests, aws.meter.total("sqs GetQueueUrl").requests);
        calls.push((after.0 - before.0, after.1 - before.1));
        now += SignedDuration::from_secs(60);
    }
    // A bucket of ten minutes is opened now and then.
    let (second, last) = (calls[1], calls[13]);
    assert!(last.0 * 10 <= second.0 * 11, "{calls:?}");
    assert!(calls[1..].iter().all(|call| call.1 == 1), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_installation_is_named_with_the_remedy() {
    let Some(installation) = Installation::start(&[]).await else { return };
    let options = aws::Options { prefix: "other".to_owned(), ..installation.options.clone() };
    let other = aws::connect(&options).await.unwrap();
    let message = permanent(other.ports.jobs.get(&[key("dump")]).await);
    assert!(message.contains("the table other-jobs") && message.contains("deploy the template"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_characters_of_an_order_and_the_sender_of_a_report_are_received() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let (aws, wait) = (&installation.aws, std::time::Duration::from_secs(20));
    let mut odd = order("db", 0);
    odd.job.command = Command::Shell("\u{1}\u{fffe}\u{ffff}\"é\u{10ffff}".to_owned());
    aws.ports.orders.send(std::slice::from_ref(&odd)).await.unwrap();
    let received = aws.ports.orders.receive(&["db".to_owned()], 10, wait, wait).await.unwrap();
    assert_eq!(received[0].message, odd);
    aws.ports.reports.send(&[contract::samples::event(0)]).await.unwrap();
    let sent = aws.receive_sent(10, wait, wait).await.unwrap();
    assert_eq!(sent[0].delivery.message, contract::samples::event(0));
    assert!(sent[0].sender_id.as_ref().is_some_and(|sender| !sender.is_empty()), "{:?}", sent[0].sender_id);
}
