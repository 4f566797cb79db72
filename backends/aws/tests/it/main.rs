//! Tests of the AWS backend against the emulator ministack.

mod alerts;
mod by_hand;
mod costs;
mod emulator;
mod faults;
mod limits;
mod subscribers;
mod suite;
mod transient;
