//! The standard streams that were closed when this process was started. std opens /dev/null in their place before main,
//! so a constructor checks them first.

#![expect(unsafe_code, reason = "a constructor, and descriptors by number")]

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// ELF calls the functions of this section before it starts the program.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = check;

extern "C" fn check() {
    for (number, closed) in (0..).zip(&CLOSED) {
        // SAFETY: a number that is not open only makes the call fail.
        let flags = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) });
        closed.store(flags == Err(rustix::io::Errno::BADF), Ordering::Relaxed);
    }
}

/// Standard input, output and error: whether each was closed.
pub(crate) fn closed() -> [bool; 3] {
    [0, 1, 2].map(|number: usize| CLOSED[number].load(Ordering::Relaxed))
}

/// Closes them again, for a program that replaces this one.
pub(crate) fn close_again() {
    for (number, is_closed) in (0..).zip(closed()) {
        if is_closed {
            // SAFETY: the descriptor is the /dev/null of std, and the program that closes it is about to be replaced.
            unsafe { rustix::io::close(number) };
        }
    }
}
