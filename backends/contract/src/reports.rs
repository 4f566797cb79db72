//! Contract tests of the report queue.

use std::time::Duration;

use domain::ports::Ports;

use crate::samples::event;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(30);

pub async fn a_report_comes_back_as_it_was_sent(ports: &Ports) {
    ports.reports.send(&[event(0)]).await.unwrap();
    let received = ports.reports.receive(10, LONG, DEADLINE).await.unwrap();
    assert_eq!(received.into_iter().map(|delivery| delivery.message).collect::<Vec<_>>(), [event(0)]);
    assert!(ports.reports.receive(10, LONG, Duration::ZERO).await.unwrap().is_empty());
}

pub async fn a_report_whose_lease_ends_is_redelivered(ports: &Ports) {
    ports.reports.send(&[event(0)]).await.unwrap();
    assert_eq!(ports.reports.receive(10, SHORT, DEADLINE).await.unwrap().len(), 1);
    assert_eq!(ports.reports.receive(10, LONG, DEADLINE).await.unwrap().len(), 1);
}

pub async fn a_deleted_report_is_not_redelivered_for_any_receipt(ports: &Ports) {
    ports.reports.send(&[event(0), event(60)]).await.unwrap();
    let first = ports.reports.receive(10, SHORT, DEADLINE).await.unwrap();
    assert_eq!(first.len(), 2);
    let receipts = [first[0].receipt.clone(), first[0].receipt.clone()];
    ports.reports.delete(&receipts).await.unwrap();
    ports.reports.delete(&receipts).await.unwrap();
    let again = ports.reports.receive(10, LONG, DEADLINE).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].message, first[1].message);
}

pub async fn a_report_sent_twice_is_harmless(ports: &Ports) {
    ports.reports.send(&[event(0)]).await.unwrap();
    ports.reports.send(&[event(0), event(60)]).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let received = ports.reports.receive(10, LONG, DEADLINE).await.unwrap();
        assert!(!received.is_empty(), "only {seen:?} came");
        let receipts: Vec<String> = received.iter().map(|delivery| delivery.receipt.clone()).collect();
        ports.reports.delete(&receipts).await.unwrap();
        seen.extend(received.into_iter().map(|delivery| delivery.message.id()));
        seen.sort();
        seen.dedup();
    }
    assert_eq!(seen, [event(0).id(), event(60).id()]);
}
