//! The plain listeners keep every byte, and the proxy treats connections as configured.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use testbed::{Capture, DEADLINE, Proxy, Transport};

#[test]
fn a_capture_keeps_each_connection_and_datagram_apart() {
    for transport in [Transport::Tcp, Transport::Udp, Transport::UnixStream, Transport::UnixDatagram] {
        let capture = Capture::start(transport);
        for (count, bytes) in [b"first\0".as_slice(), b"second\n\xff"].into_iter().enumerate() {
            match transport {
                Transport::Tcp => TcpStream::connect(capture.address()).unwrap().write_all(bytes).unwrap(),
                Transport::UnixStream => UnixStream::connect(capture.path()).unwrap().write_all(bytes).unwrap(),
                Transport::Udp => {
                    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(bytes, capture.address()).map(drop).unwrap()
                }
                Transport::UnixDatagram => {
                    UnixDatagram::unbound().unwrap().send_to(bytes, capture.path()).map(drop).unwrap()
                }
            }
            capture.wait_for(|received| received.get(count).is_some_and(|found| found == bytes), DEADLINE);
        }
        assert_eq!(capture.bytes(), b"first\0second\n\xff", "{transport:?}");
    }
}

#[test]
fn a_capture_that_disconnects_takes_the_next_connection() {
    let capture = Capture::start(Transport::Tcp);
    let mut stream = TcpStream::connect(capture.address()).unwrap();
    stream.write_all(b"one").unwrap();
    capture.wait_for(|received| received == [b"one"], DEADLINE);
    capture.disconnect();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    TcpStream::connect(capture.address()).unwrap().write_all(b"two").unwrap();
    capture.wait_for(|received| received == [b"one", b"two"], DEADLINE);
}

#[test]
fn a_proxy_passes_bytes_until_it_refuses_and_again_afterwards() {
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"one").unwrap();
    capture.wait_for(|received| received == [b"one"], DEADLINE);

    proxy.refuse();
    assert_eq!(TcpStream::connect(proxy.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));

    proxy.pass();
    TcpStream::connect(proxy.address()).unwrap().write_all(b"two").unwrap();
    capture.wait_for(|received| received == [b"one", b"two"], DEADLINE);
    assert_eq!((proxy.connections(), proxy.forwarded_bytes()), (2, 6));
}

#[test]
fn a_hanging_proxy_holds_bytes_back_until_it_passes() {
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    proxy.hang();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"late").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(matches!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    assert_eq!((capture.bytes(), proxy.forwarded_bytes()), (Vec::new(), 0));
    proxy.pass();
    capture.wait_for(|received| received == [b"late"], DEADLINE);
}

#[test]
fn a_proxy_cuts_after_exactly_the_bytes_named() {
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    proxy.cut_after(5);
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"record one").unwrap();
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
    capture.wait_for(|received| received == [b"recor"], DEADLINE);
    TcpStream::connect(proxy.address()).unwrap().write_all(b"record one").unwrap();
    capture.wait_for(|received| received == [b"recor".as_slice(), b"record one"], DEADLINE);
}

#[test]
fn a_slow_proxy_loses_nothing() {
    let capture = Capture::start(Transport::Tcp);
    let proxy = Proxy::start(capture.address());
    proxy.slow(100_000);
    let bytes: Vec<u8> = (0..20_000_u32).map(|index| index as u8).collect();
    let start = std::time::Instant::now();
    TcpStream::connect(proxy.address()).unwrap().write_all(&bytes).unwrap();
    let received = capture.wait_for(|received| received.concat().len() >= bytes.len(), DEADLINE);
    assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    assert!(received.concat() == bytes);
}
