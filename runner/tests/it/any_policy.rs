//! Reads policy files with any text.

use runner::{Policy, PolicyFile};
use testbed::try_inputs;

use crate::world::{argv, order, shell};

#[test]
fn any_text_is_a_policy_or_has_faults() {
    let orders = [shell("seq 10"), argv(&["seq", "10"])].map(|mut job| {
        job.group = "db".to_owned();
        order(job)
    });
    try_inputs("policy_file", |input| match PolicyFile::parse("policy.toml", &String::from_utf8_lossy(input)) {
        Ok((policy, faults)) => {
            faults.to_string();
            for order in &orders {
                assert_ne!(policy.check_order(order), Err(String::new()), "a refusal has a reason");
            }
        }
        Err(faults) => assert!(!faults.to_string().is_empty()),
    });
}
