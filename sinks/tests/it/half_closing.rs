//! A receiver that ends only its own sending side and reads on: it may be shutting down, so age confirms nothing more
//! on that connection.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::false_receivers::{copies, listener, sink};
use crate::memory::{Run, flush, start, step, wait_until};

/// Reads everything on each connection, and ends its own sending side of the open ones on request.
struct HalfClosing {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl HalfClosing {
    fn start() -> HalfClosing {
        let (received, open) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (keep, opened) = (received.clone(), open.clone());
        let address = listener(move |mut stream: TcpStream| {
            opened.lock().expect("no panic").push(stream.try_clone().expect("a handle"));
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                keep.lock().expect("no panic").extend_from_slice(&buffer[..count]);
            }
        });
        HalfClosing { address, received, open }
    }

    fn half_close(&self) {
        for stream in self.open.lock().expect("no panic").drain(..) {
            stream.shutdown(std::net::Shutdown::Write).ok();
        }
    }

    fn copies(&self, lines: u64) -> Vec<usize> {
        copies(&String::from_utf8_lossy(&self.received.lock().expect("no panic")), lines)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_ends_only_its_own_side_gets_what_it_had_not_confirmed_by_age_again() {
    let server = HalfClosing::start();
    let run = Run::new(1);
    run.print_numbers(0..2);
    let (engine, _events) = start(&sink(format!("tcp://{}", server.address), ""));
    engine.add(run.feed());
    wait_until(|| server.copies(2) == [1, 1] && engine.status().unconfirmed_lines == 2).await;
    step(Duration::from_secs(11));
    wait_until(|| run.durable().seq == 3).await;
    run.print_numbers(2..4);
    engine.wake(&run.header.run_id);
    wait_until(|| server.copies(4) == [1; 4] && engine.status().unconfirmed_lines == 2).await;
    // 8 s later it ends its side, and reads on. Age confirms nothing on this connection any more.
    step(Duration::from_secs(8));
    server.half_close();
    wait_until(|| server.copies(4) == [1, 1, 2, 2]).await;
    assert_eq!(run.durable().seq, 3, "the present connection is young");
    run.finish();
    engine.wake(&run.header.run_id);
    assert!(flush(&engine).await && run.is_delivered(), "{:?}", engine.status());
    assert_eq!(server.copies(4), [1, 1, 2, 2]);
    engine.shutdown().await;
}
