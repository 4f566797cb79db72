//! Required sinks: what holds a run, what does not, and how a held run starts.

use std::net::{SocketAddr, TcpListener};

use domain::run::Outcome;

use crate::world::World;
use crate::world::argv;
use testbed::wait_for;

/// A world whose only sink is a syslog server at an address without a listener.
fn world(required: bool) -> (World, SocketAddr) {
    let world = World::new();
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let sinks = format!("[sink.central]\ntype = \"syslog\"\naddress = \"tcp://{address}\"\nrequired = {required}\n");
    std::fs::write(world.path("sinks.toml"), sinks).expect("sinks.toml");
    (world, address)
}

fn waits_for_the_sink(world: &World) -> bool {
    std::fs::read_to_string(world.path("beat")).is_ok_and(|beat| beat.contains("`central` is unreachable"))
}

#[test]
fn a_run_waits_in_the_queue_while_a_required_sink_is_unreachable() {
    let (mut world, address) = world(true);
    let order = world.order(argv(&["true"]));
    world.start();
    wait_for("the reason in the beat", || waits_for_the_sink(&world).then_some(()));
    assert_eq!(std::fs::read_dir(world.path("claims")).expect("claims").count(), 0, "another runner may take it");
    assert!(!world.directory(&order).path().exists());
    let _listening = TcpListener::bind(address).expect("the port is still free");
    assert_eq!(world.report(&order.run_id).outcome, Outcome::Succeeded);
    wait_for("a beat without a reason", || (!waits_for_the_sink(&world)).then_some(()));
}

#[test]
fn a_required_sink_holds_only_jobs_whose_output_it_wants() {
    let (mut world, _address) = world(true);
    let mut sinks = std::fs::read_to_string(world.path("sinks.toml")).expect("sinks.toml");
    sinks.push_str("when = { jobs = [\"held\"] }\n");
    std::fs::write(world.path("sinks.toml"), sinks).expect("sinks.toml");
    let mut job = argv(&["true"]);
    job.name = "held".to_owned();
    let held = world.order(job);
    let free = world.order(argv(&["true"]));
    world.start();
    assert_eq!(world.report(&free.run_id).outcome, Outcome::Succeeded);
    wait_for("the reason in the beat", || waits_for_the_sink(&world).then_some(()));
    assert!(world.events(&held.run_id).is_empty() && !world.directory(&held).path().exists());
}

#[test]
fn a_sink_that_is_not_required_never_holds_a_run() {
    let (mut world, _address) = world(false);
    let order = world.order(argv(&["true"]));
    world.start();
    assert_eq!(world.report(&order.run_id).outcome, Outcome::Succeeded);
}

#[test]
fn exec_does_not_wait_for_a_required_sink() {
    let (world, _address) = world(true);
    let status = world.command(&["exec", "true"]).env("SEXTON_FLUSH_MS", "300").status();
    assert!(status.expect("exec").success(), "the command always runs");
    world.end_senders();
}
