//! What is read and written, as DynamoDB counts it.

use contract::samples::{at, key, run};
use domain::ports::{Due, RunWrite};
use domain::run::{Outcome, RunKey};

use crate::emulator::Installation;

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_run_costs_six_write_units() {
    let Some(installation) = Installation::start(&["db"]).await else { return };
    let aws = &installation.aws;
    // The first of its ten minutes opens them for all.
    contract::samples::create(&aws.ports, &run("first", 0)).await;
    let before = aws.meter.total("dynamodb ").write_units;
    contract::samples::create(&aws.ports, &run("dump", 0)).await;
    let entry = Due { at: at(60), key: key("dump"), timing: "t".to_owned() };
    aws.ports.due.put(std::slice::from_ref(&entry)).await.unwrap();
    aws.ports.due.remove(&[entry]).await.unwrap();
    let name = RunKey::new("db", run("dump", 0).run_id);
    aws.ports.claims.claim(&name, 1, "r1", "h1", at(1)).await.unwrap();
    for ended in [false, true] {
        let mut stored = aws.ports.runs.get(std::slice::from_ref(&name)).await.unwrap().remove(0);
        if ended {
            stored.record.end(Outcome::Succeeded, "it ended with exit code 0", at(9));
        }
        let write = RunWrite { run: stored.record, expected: Some(stored.version), alert: None };
        contract::samples::write(&aws.ports, write).await;
    }
    let units = aws.meter.total("dynamodb ").write_units - before;
    println!("write units of a run: {units}; {:#?}", aws.meter.spent());
    assert!(units <= 6.0, "{units}");
}
