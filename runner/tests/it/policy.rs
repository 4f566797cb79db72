//! The machine's policy for orders.

use std::fs;

use domain::event::Ended;
use domain::run::Outcome;

use crate::world::World;
use crate::world::argv;

#[test]
fn a_genuine_order_that_is_not_allowed_ends_failed_with_file_and_line() {
    let mut world = World::new();
    fs::write(world.path("policy.toml"), "timeout_max = \"1h\"\n[commands]\nargv = ['echo [a-z]+']\n").expect("policy");
    world.start();
    let mut job = argv(&["echo", "allowed"]);
    job.timeout = Some(std::time::Duration::from_secs(60));
    let allowed = world.order(job.clone());
    job.command = domain::job::Command::Shell("echo allowed".to_owned());
    let refused = world.order(job);
    assert_eq!(world.report(&allowed.run_id).outcome, Outcome::Succeeded);
    let report = world.report(&refused.run_id);
    assert_eq!((report.ended, report.outcome, report.output.last_seq), (Ended::NotStarted, Outcome::Failed, 0));
    let place = format!("{}:2", world.path("policy.toml").display());
    for part in ["refused by the policy of runner r1", &place, "shell command"] {
        assert!(report.reason.contains(part), "{}", report.reason);
    }
    world.end();
}

#[test]
fn the_policy_also_applies_to_exec() {
    let world = World::new();
    fs::write(world.path("policy.toml"), "[commands]\nargv = ['true']\n").expect("policy");
    let code = |words: &[&str]| world.command(words).status().expect("exec").code();
    // `exec` wraps commands without a timeout.
    assert_eq!(code(&["exec", "true"]), Some(0));
    assert_eq!(code(&["exec", "touch", &world.path("touched").display().to_string()]), Some(127));
    assert!(!world.path("touched").exists());
}
