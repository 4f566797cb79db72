//! Contract tests of the order queue.

use std::time::Duration;

use domain::ports::Ports;
use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::samples::order;

/// Lease of what must not be redelivered within a test.
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(100);
/// How long a test waits for a message.
const DEADLINE: Duration = Duration::from_secs(30);

fn group(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

pub async fn an_order_comes_back_as_it_was_sent(ports: &Ports) {
    let sent = order("db", 0);
    ports.orders.send(std::slice::from_ref(&sent)).await.unwrap();
    let received = ports.orders.receive(&group("db"), 10, LONG, DEADLINE).await.unwrap();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].message, sent);
}

pub async fn an_order_is_received_by_its_group_only(ports: &Ports) {
    ports.orders.send(&[order("db", 0), order("web", 0)]).await.unwrap();
    assert!(ports.orders.receive(&group("other"), 10, LONG, Duration::ZERO).await.unwrap().is_empty());
    let received = ports.orders.receive(&group("web"), 10, LONG, DEADLINE).await.unwrap();
    assert_eq!(received.iter().map(|delivery| delivery.message.job.group.as_str()).collect::<Vec<_>>(), ["web"]);
    let received = ports.orders.receive(&[], 10, LONG, DEADLINE).await.unwrap();
    assert_eq!(received.iter().map(|delivery| delivery.message.job.group.as_str()).collect::<Vec<_>>(), ["db"]);
}

pub async fn a_leased_order_is_not_received_again(ports: &Ports) {
    ports.orders.send(&[order("db", 0)]).await.unwrap();
    assert_eq!(ports.orders.receive(&[], 10, LONG, DEADLINE).await.unwrap().len(), 1);
    assert!(ports.orders.receive(&[], 10, LONG, Duration::ZERO).await.unwrap().is_empty());
}

pub async fn an_order_whose_lease_ends_is_redelivered(ports: &Ports) {
    ports.orders.send(&[order("db", 0)]).await.unwrap();
    assert_eq!(ports.orders.receive(&[], 10, SHORT, DEADLINE).await.unwrap().len(), 1);
    let again = ports.orders.receive(&[], 10, LONG, DEADLINE).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].message, order("db", 0));
}

pub async fn a_deleted_order_is_not_redelivered(ports: &Ports) {
    ports.orders.send(&[order("db", 0), order("db", 60)]).await.unwrap();
    let received = ports.orders.receive(&[], 1, SHORT, DEADLINE).await.unwrap();
    assert_eq!(received.len(), 1);
    ports.orders.delete(&received[0].receipt).await.unwrap();
    ports.orders.delete(&received[0].receipt).await.unwrap();
    let other = ports.orders.receive(&[], 10, SHORT, DEADLINE).await.unwrap();
    assert_eq!(other.len(), 1);
    assert_ne!(other[0].message, received[0].message);
    // When the other one is redelivered, the lease of the first has ended too.
    let again = ports.orders.receive(&[], 10, LONG, DEADLINE).await.unwrap();
    assert_eq!(again.iter().map(|delivery| &delivery.message).collect::<Vec<_>>(), [&other[0].message]);
}

pub async fn an_order_is_not_received_before_its_time(ports: &Ports) {
    let not_before = Timestamp::now() + Duration::from_millis(300);
    let mut later = order("db", 0);
    later.not_before = Some(not_before);
    ports.orders.send(&[later, order("db", 60)]).await.unwrap();
    let first = ports.orders.receive(&[], 1, LONG, DEADLINE).await.unwrap();
    assert_eq!(first[0].message, order("db", 60));
    let second = ports.orders.receive(&[], 1, LONG, DEADLINE).await.unwrap();
    assert_eq!(second[0].message.not_before, Some(not_before));
    assert!(Timestamp::now() >= not_before);
}

pub async fn a_waiting_receiver_gets_an_order_sent_later(ports: &Ports) {
    let receiver = {
        let orders = ports.orders.clone();
        tokio::spawn(async move { orders.receive(&group("db"), 10, LONG, DEADLINE).await.unwrap() })
    };
    tokio::task::yield_now().await;
    ports.orders.send(&[order("db", 0)]).await.unwrap();
    assert_eq!(receiver.await.unwrap().len(), 1);
}

pub async fn each_order_goes_to_one_of_many_receivers(ports: &Ports) {
    let orders: Vec<_> = (0..64).map(|minute| order("db", minute * 60)).collect();
    ports.orders.send(&orders).await.unwrap();
    let mut receivers = JoinSet::new();
    for _ in 0..8 {
        let ports = ports.clone();
        receivers.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let received = ports.orders.receive(&[], 5, LONG, Duration::ZERO).await.unwrap();
                if received.is_empty() {
                    return mine;
                }
                mine.extend(received.into_iter().map(|delivery| delivery.message.run_id));
            }
        });
    }
    let mut all: Vec<_> = receivers.join_all().await.into_iter().flatten().collect();
    all.sort();
    assert_eq!(all, orders.iter().map(|order| order.run_id.clone()).collect::<Vec<_>>());
}
