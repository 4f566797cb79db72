//! Required sinks: what holds a run, what does not, and how a held run starts.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use domain::run::Outcome;

use crate::world::World;
use crate::world::argv;
use testbed::{DEADLINE, wait_for};

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
fn exec_waits_for_a_required_sink_and_can_be_stopped() {
    let (world, _address) = world(true);
    let ran = world.path("ran");
    let command = ["exec", "touch", ran.to_str().expect("text")];
    let mut command = world.command(&command);
    command.env("SEXTON_FLUSH_MS", "300").stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("exec");
    // By then it handles signals.
    wait_for("the order", || {
        let exec = std::fs::read_dir(world.path("state").join("exec")).ok()?.flatten().next()?;
        let run = std::fs::read_dir(exec.path().join("runs")).ok()?.flatten().next()?;
        run.path().join("order.json").exists().then_some(())
    });
    let process = keeper::processes::find(child.id()).expect("exec");
    let start = Instant::now();
    let status = loop {
        keeper::processes::send_signal(&process, rustix::process::Signal::INT);
        match child.try_wait().expect("exec") {
            Some(status) => break status,
            None if start.elapsed() > DEADLINE => {
                child.kill().expect("kill");
                panic!("exec does not end");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    // Ended by the signal, or stopped before it started: the command did not run in either case.
    assert!(!status.success(), "{status:?}");
    assert!(!ran.exists());
}
