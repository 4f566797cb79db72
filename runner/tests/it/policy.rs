//! The machine's policy for orders.

use std::fs;
use std::os::unix::fs::symlink;

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

#[test]
fn directories_are_compared_with_links_resolved() {
    let mut world = World::new();
    let [allowed, other] = ["allowed", "other"].map(|name| {
        fs::create_dir(world.path(name)).expect("folder");
        world.path(name)
    });
    symlink(&other, allowed.join("elsewhere")).expect("link");
    symlink(&allowed, world.path("alias")).expect("link");
    let text = |path: std::path::PathBuf| path.display().to_string();
    let policy = format!("directories = [{:?}]\n", text(world.path("alias")));
    fs::write(world.path("policy.toml"), policy).expect("policy");
    world.start();
    let check = |cwd: String, outcome: Outcome| {
        let mut job = argv(&["true"]);
        job.cwd = Some(cwd.clone());
        let order = world.order(job);
        let report = world.report(&order.run_id);
        assert_eq!(report.outcome, outcome, "{cwd}: {}", report.reason);
        report.reason
    };
    check(text(allowed.clone()), Outcome::Succeeded);
    check(text(world_path(&allowed, "alias")), Outcome::Succeeded);
    let reason = check(text(allowed.join("elsewhere")), Outcome::Failed);
    assert!(reason.contains("policy.toml:1 does not allow") && reason.contains(&text(other.clone())), "{reason}");
    check(text(other), Outcome::Failed);
    check(format!("{}/../other", text(allowed.clone())), Outcome::Failed);
    // HOME is the working directory of a job without `cwd`.
    let mut job = argv(&["true"]);
    job.env.insert("HOME".to_owned(), text(allowed.join("elsewhere")));
    let order = world.order(job);
    assert_eq!(world.report(&order.run_id).outcome, Outcome::Failed);
    world.end();
}

fn world_path(beside: &std::path::Path, name: &str) -> std::path::PathBuf {
    beside.parent().expect("a folder").join(name)
}
