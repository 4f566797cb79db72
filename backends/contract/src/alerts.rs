//! Contract tests of the alert store.

use domain::alert::{DeliveryState, JobState, Status};
use domain::ports::{AlertStep, Ports, StateChange};
use tokio::task::JoinSet;

use crate::samples::{at, key, transition};

async fn raise(ports: &Ports, ids: &[(&str, i64)]) {
    let transitions = ids.iter().map(|(id, second)| transition(id, *second)).collect();
    assert!(ports.alerts.raise(&AlertStep { state: None, transitions }).await.unwrap());
}

async fn claim_ids(ports: &Ports, worker: &str, second: i64) -> Vec<String> {
    let claimed = ports.alerts.claim(worker, at(second), at(second + 60), 100).await.unwrap();
    claimed.into_iter().map(|transition| transition.id).collect()
}

pub async fn a_state_changes_only_at_the_version_that_was_read(ports: &Ports) {
    let first = ports.alerts.state(&key("dump")).await.unwrap();
    assert_eq!((first.record, first.version), (JobState::default(), 0));
    let step = |expected, streak| AlertStep {
        state: Some(StateChange {
            key: key("dump"),
            expected,
            state: JobState { status: Status::Bad, streak, ..JobState::default() },
        }),
        transitions: vec![transition(&format!("t{streak}"), 0)],
    };
    assert!(ports.alerts.raise(&step(0, 1)).await.unwrap());
    assert!(!ports.alerts.raise(&step(0, 2)).await.unwrap());
    let second = ports.alerts.state(&key("dump")).await.unwrap();
    assert_eq!(second.record.streak, 1);
    assert!(ports.alerts.raise(&step(second.version, 3)).await.unwrap());
    assert_eq!(ports.alerts.state(&key("dump")).await.unwrap().record.streak, 3);
    let states = ports.alerts.states(&[key("other"), key("dump"), key("another"), key("other")]).await.unwrap();
    assert_eq!(states.iter().map(|state| state.version).collect::<Vec<_>>(), [0, 2, 0, 0]);
    assert!(ports.alerts.states(&[]).await.unwrap().is_empty());
    assert_eq!(claim_ids(ports, "w", 0).await, ["t1", "t3"]);
}

pub async fn a_transition_stored_twice_is_claimed_once(ports: &Ports) {
    raise(ports, &[("a", 0)]).await;
    raise(ports, &[("a", 0)]).await;
    assert_eq!(claim_ids(ports, "w", 0).await, ["a"]);
    assert_eq!(ports.alerts.list(None, 10).await.unwrap().records.len(), 1);
}

pub async fn each_transition_is_claimed_by_one_worker(ports: &Ports) {
    let ids: Vec<String> = (0..40).map(|number| format!("t{number:02}")).collect();
    raise(ports, &ids.iter().map(|id| (id.as_str(), 0)).collect::<Vec<_>>()).await;
    let mut workers = JoinSet::new();
    for number in 0..16 {
        let ports = ports.clone();
        workers.spawn(async move {
            let worker = format!("w{number}");
            let mut mine = Vec::new();
            loop {
                let claimed = ports.alerts.claim(&worker, at(0), at(3600), 3).await.unwrap();
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed.into_iter().map(|transition| transition.id));
            }
        });
    }
    let mut all: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    all.sort();
    assert_eq!(all, ids);
}

pub async fn a_claim_ends_with_its_lease(ports: &Ports) {
    raise(ports, &[("a", 0)]).await;
    assert_eq!(claim_ids(ports, "w1", 0).await, ["a"]);
    assert!(claim_ids(ports, "w2", 59).await.is_empty());
    assert_eq!(claim_ids(ports, "w2", 60).await, ["a"]);
}

pub async fn a_transition_is_not_claimed_before_it_is_due(ports: &Ports) {
    raise(ports, &[("late", 90), ("early", 30)]).await;
    assert!(claim_ids(ports, "w", 29).await.is_empty());
    assert_eq!(claim_ids(ports, "w", 30).await, ["early"]);
    assert_eq!(claim_ids(ports, "w", 90).await, ["early", "late"], "the first is due again, as its lease is over");
}

pub async fn a_settled_transition_is_not_claimed_again(ports: &Ports) {
    raise(ports, &[("sent", 0), ("again", 0)]).await;
    let mut both = ports.alerts.claim("w", at(0), at(60), 10).await.unwrap();
    both.sort_by(|one, other| other.id.cmp(&one.id));
    both[0].delivery = DeliveryState::Sent;
    both[1].tries = 1;
    both[1].not_before = at(300);
    both[1].last_error = Some("refused".to_owned());
    ports.alerts.settle("w", &both, None).await.unwrap();
    assert!(claim_ids(ports, "w", 299).await.is_empty());
    let again = ports.alerts.claim("w", at(300), at(360), 10).await.unwrap();
    assert_eq!(again, [both[1].clone()]);
}

pub async fn a_worker_that_lost_its_claim_settles_nothing(ports: &Ports) {
    raise(ports, &[("a", 0)]).await;
    let mut mine = ports.alerts.claim("slow", at(0), at(60), 10).await.unwrap();
    assert_eq!(claim_ids(ports, "fast", 60).await, ["a"]);
    mine[0].delivery = DeliveryState::GivenUp;
    ports.alerts.settle("slow", &mine, None).await.unwrap();
    assert_eq!(ports.alerts.list(None, 10).await.unwrap().records[0].delivery, DeliveryState::Pending);
    mine[0].delivery = DeliveryState::Sent;
    ports.alerts.settle("fast", &mine, None).await.unwrap();
    assert_eq!(ports.alerts.list(None, 10).await.unwrap().records[0].delivery, DeliveryState::Sent);
}

pub async fn progress_is_stored_while_the_claim_is_kept(ports: &Ports) {
    raise(ports, &[("a", 0)]).await;
    let mut mine = ports.alerts.claim("w", at(0), at(60), 10).await.unwrap();
    mine[0].delivered_to = vec!["mail".to_owned()];
    ports.alerts.settle("w", &mine, Some(at(90))).await.unwrap();
    assert_eq!(ports.alerts.list(None, 10).await.unwrap().records, mine);
    assert!(claim_ids(ports, "other", 89).await.is_empty());
    let claimed = ports.alerts.claim("other", at(90), at(150), 10).await.unwrap();
    assert_eq!(claimed, mine, "a worker that dies leaves its progress");
    mine[0].delivery = DeliveryState::Sent;
    ports.alerts.settle("w", &mine, Some(at(200))).await.unwrap();
    assert_eq!(ports.alerts.list(None, 10).await.unwrap().records, claimed, "the claim was lost");
    ports.alerts.settle("other", &mine, None).await.unwrap();
    assert!(claim_ids(ports, "other", 10_000).await.is_empty());
}

pub async fn transitions_are_listed_newest_first(ports: &Ports) {
    raise(ports, &[("a", 0), ("c", 20), ("b", 10), ("d", 20), ("e", 30)]).await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = ports.alerts.list(after.as_ref(), 2).await.unwrap();
        seen.extend(page.records.into_iter().map(|transition| transition.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["e", "d", "c", "b", "a"]);
}
