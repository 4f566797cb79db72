//! Datagrams come in bursts that a receiver of ordinary size can hold, not as fast as the kernel takes them.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::memory::{Run, deliver};

const LINES: u64 = 3200;
/// Pauses there must be between bursts of at most 32 datagrams, each of a millisecond at least.
const PAUSES_MIN: u32 = 3200 / 32 - 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_spread_out() {
    // Nobody reads: what overflows is dropped by the kernel, and the sender cannot know.
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = receiver.local_addr().expect("address");
    let run = Run::new(1);
    run.print_numbers(0..LINES);
    run.finish();
    let begun = Instant::now();
    deliver(&format!("[sink.a]\ntype = \"syslog\"\naddress = \"udp://{address}\"\n"), &run).await;
    let took = begun.elapsed();
    assert!(took >= PAUSES_MIN * Duration::from_millis(1), "{LINES} datagrams in {took:?}");
}
