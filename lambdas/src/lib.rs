//! The four Lambdas of an installation on AWS. Each decodes its event, calls services, and encodes the result.
//! `src/bin` has a main function for each.
//!
//! | module | called by |
//! |---|---|
//! | [`scheduler`] | EventBridge Scheduler each minute; the stream of the jobs table |
//! | [`collector`] | the reports queue |
//! | [`pruner`] | EventBridge Scheduler each hour |
//! | [`api`] | the function URL |
//! | [`environment`] | all Lambdas: the variables that the template sets |
//! | [`senders`] | the collector: the roles that may report for a group |
//!
//! This crate decides nothing about runs: `services` does. A Lambda keeps nothing between two calls except connections
//! and caches that are cheap to read again.

#![warn(missing_docs)]

pub mod api;
pub mod collector;
pub mod environment;
pub mod pruner;
pub mod scheduler;
pub mod senders;
