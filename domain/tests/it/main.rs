//! What must hold of the words, seen from outside the crate.

mod schedule;
mod schedule_model;
