//! The ports against ministack.

mod alerts;
mod by_hand;
mod costs;
mod emulator;
mod faults;
mod limits;
mod suite;
