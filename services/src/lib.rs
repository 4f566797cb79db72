//! What the system does, one duty a file, over the ports of `domain`. Whoever runs the duties (the loops of `sexton
//! up`, or one Lambda each) gives them the time; nothing here reads a clock, sleeps, or knows where records are kept.
//!
//! | duty | does |
//! |---|---|
//! | `scheduler` | what is due becomes runs and orders; `firing_plan` decides (pure), `concurrency` minds concurrency (pure) |
//! | `boot` | `@reboot` jobs, once a boot |
//! | `sweep` | finds jobs whose due entry is missing, and broken jobs |
//! | `release` | held runs start when what they wait for is over |
//! | `collector` | reports are judged and applied; retries |
//! | `overdue` | who should have started or shown life, and did not |
//! | `liveness` | is the scheduler alive, is there a runner in each group |
//! | `alerts` | stored transitions become messages |
//! | `system_alerts` | alerts about Sexton itself: a full disk, a lagging sink, lost lines |
//! | `pruner` | old runs go |
//! | `commands` | what console and command line ask for |
//!
//! Every duty is idempotent, works in bounded batches, and leaves what it could not do to its next call. Two of each
//! may run at once. The names of runs and transitions are functions of what they stand for, and every write is
//! conditional: so a call that died halfway is healed by the next one.

pub mod alert_message;
pub mod alerts;
pub mod boot;
pub mod collector;
pub mod commands;
pub mod concurrency;
pub mod error;
pub mod firing_plan;
pub mod liveness;
pub mod maintenance;
mod new_runs;
pub mod overdue;
mod overlap;
pub mod pruner;
pub mod release;
mod run_end;
pub mod scheduler;
mod settings;
pub mod sweep;
pub mod system_alerts;

pub use alert_message::Links;
pub use error::{Error, Result};
