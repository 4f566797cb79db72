//! The ports against ministack.

mod emulator;
mod suite;
