//! Ends the process at a named step, for tests that kill it at every step. Does nothing without the feature
//! `crash_points`. The labels, in the order of a run's life:
//!
//! | label | process | on disk by then | what a restart does |
//! |---|---|---|---|
//! | `received` | runner | nothing | the message is redelivered after its lease |
//! | `claimed` | runner | nothing; the ledger names this runner | the message is redelivered, the claim granted again |
//! | `ordered` | runner | order.json | starts the run; deletes the redelivered message |
//! | `deleted` | runner | order.json | starts the run |
//! | `spawned` | runner | order.json, lock held by the keeper | watches the keeper |
//! | `locked` | keeper | as above, lock free again | starts the run: nothing had started |
//! | `starting` | keeper | the file `starting` | lost: the job may have started |
//! | `launched` | keeper | as above; the job runs | lost; kills the leaked processes |
//! | `started` | keeper | started.json | lost; kills the leaked processes |
//! | `reaped` | keeper | no exit.json | lost |
//! | `recorded` | keeper | exit.json | reports the end |
//! | `seen` | runner | exit.json | reports the end |
//! | `judged` | runner | finished.json | sends the same report |
//! | `outboxed` | runner | the report in the outbox | sends the report, perhaps twice; the second changes nothing |
//! | `told` | runner | told.finished | sends the report |
//! | `sent` | runner | the report still in the outbox | sends the report again |
//!
//! The labels of the collector and the notifier, which `sexton up` passes:
//!
//! | label | stored by then | what a restart does |
//! |---|---|---|
//! | `received_reports` | the reports, leased | they are redelivered after their lease |
//! | `judged_reports` | the runs with outcomes and transitions; the reports are deleted | sends the alerts |
//! | `telling` | the transition, claimed | sends the alert after the claim expires |
//! | `alerted` | as above; the alert was sent | sends the alert again: the one place where an alert is duplicated |

/// Does nothing in this build.
#[cfg(not(feature = "crash_points"))]
pub fn point(_label: &str) {}

#[cfg(feature = "crash_points")]
static PASSED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Ends the process as by kill -9 when `SEXTON_CRASH_AT` names this step; `label/3` names its third passing.
#[cfg(feature = "crash_points")]
pub fn point(label: &str) {
    let wanted = std::env::var("SEXTON_CRASH_AT").unwrap_or_default();
    let (name, pass) = wanted.split_once('/').unwrap_or((&wanted, "1"));
    if name == label && pass.parse() == Ok(1 + PASSED.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}
