//! Datagrams are sent in bursts that fit a receive buffer of the default size, not as fast as the kernel accepts them.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::memory::{Run, deliver};

const LINES: u64 = 3200;
/// Pauses between bursts of at most 32 datagrams, each of at least 1 ms.
const PAUSES_MIN: u32 = 3200 / 32 - 2;

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_are_paced() {
    // The receiver never reads: the kernel drops what overflows, and the sender does not notice.
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = receiver.local_addr().expect("address");
    let run = Run::new(1);
    run.print_numbers(0..LINES);
    run.finish();
    let started = Instant::now();
    deliver(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"udp://{address}\"\n"), &run).await;
    let took = started.elapsed();
    assert!(took >= PAUSES_MIN * Duration::from_millis(1), "{LINES} datagrams in {took:?}");
}
