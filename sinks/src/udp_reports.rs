//! Reports of the network about datagrams that did not arrive (ICMP, or no answer for the next machine), which the
//! kernel queues for a socket that asks for them: IP_RECVERR of ip(7), IPV6_RECVERR of ipv6(7).

#![expect(unsafe_code, reason = "the queue of errors is read with recvmsg(2) and its control messages")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for the control messages of one report: an extended error and the address of its sender, and a spare.
const CONTROL_BYTES: usize = 512;

/// Asks for reports. Without them, the kernel keeps "no route to host" to itself.
///
/// # Errors
/// That of setsockopt(2).
pub(crate) fn enable(socket: BorrowedFd<'_>, is_ipv4: bool) -> io::Result<()> {
    let (level, name) = match is_ipv4 {
        true => (libc::IPPROTO_IP, libc::IP_RECVERR),
        false => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `on` is valid during the call, and `bytes` is its size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the oldest report out of the queue.
pub(crate) fn take(socket: BorrowedFd<'_>) -> Option<io::Error> {
    let mut control = [0u64; CONTROL_BYTES / size_of::<u64>()];
    // SAFETY: plain data, for which zeros are valid. `control` outlives the calls and is aligned for `cmsghdr`; the
    // macros return pointers into it or null, and the report is copied unaligned.
    unsafe {
        let mut message: libc::msghdr = zeroed();
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_BYTES as _;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        if libc::recvmsg(socket.as_raw_fd(), &mut message, flags) < 0 {
            return None;
        }
        let mut head = libc::CMSG_FIRSTHDR(&message);
        while !head.is_null() {
            let kind = ((*head).cmsg_level, (*head).cmsg_type);
            if [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)].contains(&kind) {
                let report: libc::sock_extended_err = std::ptr::read_unaligned(libc::CMSG_DATA(head).cast());
                return Some(io::Error::from_raw_os_error(report.ee_errno as i32));
            }
            head = libc::CMSG_NXTHDR(&message, head);
        }
    }
    None
}
