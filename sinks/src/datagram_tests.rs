//! Tests of UDP that need a shorter interval between lookups than the user's 30 s.

use std::net::UdpSocket as Listener;

use super::*;

fn frame(text: &str) -> Frames {
    let mut frames = Frames::default();
    frames.bytes.extend_from_slice(text.as_bytes());
    frames.end_frame();
    frames
}

#[test]
fn a_name_whose_address_changes_is_followed_and_the_latest_lines_are_sent_again() {
    testbed::in_own_network("", |hosts| {
        let (old, new) = (Listener::bind("127.0.0.2:5514").expect("bind"), Listener::bind("127.0.0.3:5514"));
        let new = new.expect("bind");
        new.set_nonblocking(true).expect("a socket");
        std::fs::write(hosts, "127.0.0.2 logs.test\n").expect("written");
        let address = Address::parse("udp://logs.test:5514", &[Scheme::Udp], |_| 514).expect("an address");
        let mut wire = DatagramWire::new(address);
        wire.targets.set_interval(Duration::from_millis(1));
        tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            wire.connect().await.expect("connected");
            wire.send(&frame("one"), 0).await.expect("sent");
            let mut buffer = [0; 64];
            assert_eq!(old.recv(&mut buffer).expect("received"), 3);
            // The old machine still receives: only the lookup shows the change.
            std::fs::write(hosts, "127.0.0.3 logs.test\n").expect("written");
            let deadline = Instant::now() + testbed::DEADLINE;
            let changed = loop {
                assert!(Instant::now() < deadline, "the change was not noticed");
                match wire.send(&frame("more"), 0).await {
                    Ok(_) => sleep(Duration::from_millis(5)).await,
                    Err(error) => break error,
                }
            };
            assert!(changed.message.contains("has the new address 127.0.0.3; sending"), "{changed}");
            // The engine rewinds, connects and sends again.
            wire.disconnect();
            wire.connect().await.expect("connected");
            wire.send(&frame("one"), 0).await.expect("sent");
            let received = loop {
                assert!(Instant::now() < deadline, "nothing was received");
                match new.recv(&mut buffer) {
                    Ok(bytes) => break bytes,
                    Err(_) => sleep(Duration::from_millis(5)).await,
                }
            };
            assert_eq!(&buffer[..received], b"one");
            wire.drain().await.expect("confirmed");
            // Without lines at risk the change is followed in silence.
            std::fs::write(hosts, "127.0.0.2 logs.test\n").expect("written");
            old.set_nonblocking(true).expect("a socket");
            while old.recv(&mut buffer).is_ok() {}
            loop {
                assert!(Instant::now() < deadline, "the change was not noticed");
                wire.send(&frame("back"), 0).await.expect("no error: nothing was unconfirmed");
                wire.sent_at.clear();
                sleep(Duration::from_millis(5)).await;
                if old.recv(&mut buffer).is_ok() {
                    break;
                }
            }
            // A name that no longer resolves keeps its address.
            std::fs::write(hosts, "").expect("written");
            for _ in 0..3 {
                wire.send(&frame("kept"), 0).await.expect("sent");
                wire.drain().await.expect("confirmed");
            }
        });
    });
}
