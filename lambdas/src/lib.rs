//! What the four Lambdas do with what they are called with: decode it, call services, encode the answer. `src/bin` holds a
//! main for each.
//!
//! | file | called by |
//! |---|---|
//! | `scheduler` | EventBridge Scheduler each minute; the stream of the jobs table |
//! | `collector` | the reports queue |
//! | `pruner` | EventBridge Scheduler each hour |
//! | `api` | the function URL |
//! | `environment` | all: what the template says, in variables |
//! | `senders` | the collector: who may report for a group |
//!
//! Nothing is kept between two calls but connections and what is cheap to read again.

pub mod api;
pub mod collector;
pub mod environment;
pub mod pruner;
pub mod scheduler;
pub mod senders;
