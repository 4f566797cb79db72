//! A full disk.

use domain::run::Outcome;
use testbed::{SmallDisk, wait_for};

use crate::world::{World, shell};

#[test]
fn a_refusal_is_reported_only_after_it_is_stored() {
    let Some(disk) = SmallDisk::mount(4 << 20) else { return };
    let mut world = World::on(disk.path());
    std::fs::write(world.path("doomed"), "3").expect("doomed");
    std::fs::write(world.path("wait"), "").expect("wait");
    world.start();
    let order = world.order(shell("true"));
    let directory = world.directory(&order);
    wait_for("a keeper", || directory.lock().exists().then_some(()));
    let ballast = disk.fill();
    std::fs::remove_file(world.path("wait")).expect("wait");
    let beside = directory.file(".order.json.new");
    wait_for("the disk's refusal", || std::fs::metadata(&beside).is_ok_and(|file| file.len() == 0).then_some(()));
    std::fs::remove_file(ballast).expect("room");
    let report = world.report(&order.run_id);
    assert_eq!(report.outcome, Outcome::Failed, "{}", report.reason);
    let stored = std::fs::read_to_string(directory.order()).expect("order.json");
    assert!(stored.contains("3 keepers exited"), "{stored}");
}
