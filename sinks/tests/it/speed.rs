//! Measures the cost of a line: `cargo test --release -p sinks --test it -- --ignored --nocapture speed`.

use std::io::Read;
use std::net::TcpListener;
use std::time::Instant;

use testbed::Capture;

use crate::memory::{Run, flush, start};

const LINES: u64 = 1_000_000;

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    ticks / 100.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement: it depends on the machine and asserts nothing about speed"]
async fn speed_of_encoding_and_sending() {
    for (name, kind) in [
        ("syslog octet_counting", "syslog\"\nframing = \"octet_counting"),
        ("syslog newline", "syslog\"\nframing = \"newline"),
        ("gelf", "gelf"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        // The reader's CPU time, measured in its thread, is subtracted.
        let reader = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut buffer = vec![0; 1 << 20];
            let mut total = 0;
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                total += count;
            }
            (total, thread_seconds())
        });
        let run = Run::new(1);
        run.print_numbers(0..LINES);
        run.finish();
        let reading_feed = cost_of_feed(&run);
        let (engine, _events) = start(&format!("[sink.a]\ntype = \"{kind}\"\naddress = \"tcp://{address}\"\n"));
        let (before, started) = (cpu_seconds(), Instant::now());
        engine.add(run.feed());
        assert!(flush(&engine).await);
        let wall = started.elapsed().as_secs_f64();
        let (bytes, reading) = reader.join().expect("reader");
        let cpu = cpu_seconds() - before - reading - reading_feed;
        println!("{name}: {cpu:.3} CPU-s per M lines of 100 bytes, {wall:.3} s, {bytes} bytes on the wire");
        engine.shutdown().await;
    }
}

/// CPU time of the feed in memory alone.
fn cost_of_feed(run: &Run) -> f64 {
    let mut feed = run.feed();
    let before = cpu_seconds();
    while let Ok(sinks::feed::Next::Item { item, .. }) = feed.read(64 * 1024) {
        std::hint::black_box(item);
    }
    cpu_seconds() - before
}

fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    (fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime")) / 100.0
}

/// Time of a single line from `wake` to the receiver.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: it depends on the machine and asserts nothing about speed"]
async fn speed_of_a_single_line() {
    let capture = Capture::start(testbed::Transport::Tcp);
    let (engine, _events) = start(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp://{}\"\n", capture.address()));
    let run = Run::new(1);
    engine.add(run.feed());
    let mut waits = Vec::new();
    for number in 0..100 {
        let before = capture.bytes().len();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        run.print_numbers(number..number + 1);
        let started = Instant::now();
        engine.wake(&run.header.run_id);
        while capture.bytes().len() == before {
            std::hint::spin_loop();
        }
        waits.push(started.elapsed());
    }
    waits.sort();
    println!("wake to receiver: median {:?}, p99 {:?}", waits[50], waits[98]);
    engine.shutdown().await;
}
