//! What the words mean. Pure: no I/O, no clock, no runtime.
//!
//! | word | meaning |
//! |---|---|
//! | job | what to run, when, and what to make of how it ends |
//! | firing | an instant at which a schedule says that its job is due |
//! | run | one nominal firing of one job; ends in exactly one outcome |
//! | attempt | one start of a run's command; a retry is the next attempt of the same run |
//! | order | the scheduler asks a runner for an attempt |
//! | claim | a runner makes an order its own; only one can |
//! | event, report | what a runner says about an attempt |
//! | outcome | how a run ended, after judgement |
//! | spool, segment, record, seq | a run's output on disk, its files, one line or part of a line there, its number |
//! | block | a piece of a spool: whole records |
//! | cursor | how far one reader of a spool has come |
//! | sink | where lines are sent |
//! | rule, pack, hit | a pattern that tells a false success, a file of rules, what a rule found |
//! | transition, alert | a job went bad or recovered; the message about it |
//! | channel | where alerts are sent |
//! | reference | where a secret is to be found; its value exists only on the runner |
//! | ledger | scheduled = the sum of outcomes + still open |

pub mod alert;
pub mod crontab;
pub mod disk_space;
pub mod document;
pub mod event;
pub mod fault;
pub mod glob;
pub mod job;
pub mod job_files;
pub mod jobs_file;
pub mod ledger;
pub mod line;
pub mod order;
pub mod plan;
pub mod ports;
pub mod run;
pub mod schedule;
pub mod secret;
pub mod units;
