//! Kills at every step between a message and its report: every order still ends in one report, and no command is
//! started twice. Needs the feature `crash_points`.

use std::fs;

use domain::event::Ended;

use crate::world::World;
use crate::world::shell;
use testbed::wait_for;

/// The steps of [`keeper::crash`], and how the run ends after a kill there.
const STEPS: [(&str, Ended); 16] = [
    ("received", Ended::Exited),
    ("claimed", Ended::Exited),
    ("ordered", Ended::Exited),
    ("deleted", Ended::Exited),
    ("spawned", Ended::Exited),
    ("locked", Ended::NotStarted),
    ("starting", Ended::Lost),
    ("launched", Ended::Lost),
    ("started", Ended::Lost),
    ("reaped", Ended::Lost),
    ("recorded", Ended::Exited),
    ("seen", Ended::Exited),
    ("judged", Ended::Exited),
    ("outboxed", Ended::Exited),
    ("told", Ended::Exited),
    ("sent", Ended::Exited),
];

#[test]
fn a_kill_at_any_step_loses_nothing_and_starts_nothing_twice() {
    for (label, expected) in STEPS {
        let mut world = World::new();
        world.start_as("free", "leave", Some(label));
        let path = world.path("starts");
        let order = world.order(shell(&format!("echo started >> {}; echo line", path.display())));
        let in_keeper = matches!(label, "locked" | "starting" | "launched" | "started" | "reaped" | "recorded");
        if !in_keeper {
            let runner = world.runner.as_mut().expect("runner");
            let status = wait_for("the crash", || runner.try_wait().expect("wait"));
            assert!(!status.success(), "{label} was never passed");
            world.runner = None;
            world.start();
        }
        let report = world.report(&order.run_id);
        assert_eq!(report.ended, expected, "{label}: {report:?}");
        let starts = fs::read_to_string(&path).unwrap_or_default().lines().count();
        assert!(starts <= 1, "{label}: started {starts} times");
        assert!(expected != Ended::Exited || starts == 1, "{label}: never started");
        let shipped = world.shipped(&order.run_id);
        assert_eq!(shipped.first().map(|record| record["event"].clone()), Some("run.started".into()), "{label}");
        world.end();
    }
}
