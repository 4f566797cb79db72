//! A policy file that anybody may have written.

use domain::job::{Command, Job, JobKey};
use domain::order::{FORMAT_VERSION, Order};
use domain::run::{RunId, Trigger};
use jiff::Timestamp;
use runner::{Policy, PolicyFile};
use testbed::try_inputs;

#[test]
fn any_text_is_a_policy_with_faults_or_without_and_what_is_none_allows_nothing() {
    let now = Timestamp::UNIX_EPOCH;
    let commands = [Command::Shell("seq 10".to_owned()), Command::Argv(["seq", "10"].map(str::to_owned).to_vec())];
    let orders = commands.map(|command| Order {
        version: FORMAT_VERSION,
        run_id: RunId::unscheduled(now, [7; 6]),
        attempt: 1,
        nominal: now,
        trigger: Trigger::Manual,
        issued_at: now,
        not_before: None,
        start_by: None,
        job: Job::new(JobKey::new("db", "count"), "@manually", command),
    });
    try_inputs("policy_file", |input| match PolicyFile::parse("policy.toml", &String::from_utf8_lossy(input)) {
        Ok((policy, faults)) => {
            faults.to_string();
            for order in &orders {
                assert_ne!(policy.allows(order), Err(String::new()), "who is refused is told why");
            }
        }
        Err(faults) => assert!(!faults.to_string().is_empty()),
    });
}
