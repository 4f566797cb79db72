//! Items that an operator creates in the AWS console.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use domain::job::{Command, JobKey};
use jiff::{SignedDuration, Timestamp};

use crate::emulator::Installation;

fn item(fields: &[(&str, &str)]) -> HashMap<String, AttributeValue> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), AttributeValue::S((*value).to_owned()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_made_by_hand_fires_and_an_invalid_one_raises_an_alert_and_blocks_no_other() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let (ports, table) = (&installation.aws.ports, installation.aws.names.jobs());
    let client = aws_sdk_dynamodb::Client::new(&installation.aws.sdk_config);
    let fields = |name| [("group", "db"), ("name", name), ("command", "dump.sh"), ("schedule", "* * * * *")];
    for (name, enabled) in [("by-hand", "true"), ("broken", "perhaps")] {
        let mut item = item(&fields(name));
        item.insert("enabled".to_owned(), AttributeValue::S(enabled.to_owned()));
        client.put_item().table_name(&table).set_item(Some(item)).send().await.unwrap();
    }
    let minute = Timestamp::from_second(Timestamp::now().as_second().div_euclid(60) * 60).unwrap();
    let swept = services::sweep::sweep(ports, minute + SignedDuration::from_secs(30)).await.unwrap();
    assert_eq!((swept.jobs, swept.bad_jobs), (2, 1));
    let ticked = services::scheduler::tick(ports, minute + SignedDuration::from_secs(60)).await.unwrap();
    assert_eq!(ticked.started, 1);
    let alerts = ports.alerts.list(None, 10).await.unwrap().records;
    assert_eq!(alerts.len(), 1);
    assert!(alerts[0].job == "broken" && alerts[0].reason.contains("`enabled` is \"perhaps\""), "{:?}", alerts[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_can_change_a_job_made_by_hand() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let (ports, table) = (&installation.aws.ports, installation.aws.names.jobs());
    let client = aws_sdk_dynamodb::Client::new(&installation.aws.sdk_config);
    let minimal_item =
        item(&[("group", "db"), ("name", "x"), ("command", "x"), ("schedule", "@daily"), ("enabled", "no")]);
    client.put_item().table_name(&table).set_item(Some(minimal_item)).send().await.unwrap();
    let stored = ports.jobs.get(&[JobKey::new("db", "x")]).await.unwrap().remove(0);
    assert_eq!(stored.version, 0);
    let mut job = stored.job.unwrap();
    assert!(!job.enabled);
    job.command = Command::Shell("y".to_owned());
    assert!(!ports.jobs.put(&job, None).await.unwrap(), "the job exists");
    assert!(ports.jobs.put(&job, Some(0)).await.unwrap());
    assert!(!ports.jobs.put(&job, Some(0)).await.unwrap());
    let stored = ports.jobs.get(&[JobKey::new("db", "x")]).await.unwrap().remove(0);
    assert_eq!((stored.version, stored.job.unwrap()), (1, job));
}
