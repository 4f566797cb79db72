//! Takes orders, keeps processes, spools their output, ships it, reports. A library: `sexton up`, `sexton runner` and
//! `sexton exec` are thin around it.

mod crash;
pub mod directory;
pub mod keeper;
pub mod processes;
pub mod records;
pub mod spawn;
pub mod spool;
