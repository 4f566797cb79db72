//! Ends the process at a named step, for tests that kill it everywhere. Does nothing unless the feature `crash_points` is
//! on. The labels, in the order of a run's life:
//!
//! | label | process | what is on disk by then | what a restart does |
//! |---|---|---|---|
//! | `received` | runner | nothing | the message comes again after its lease |
//! | `claimed` | runner | nothing; the ledger names this runner | the message comes again, the claim is granted again |
//! | `ordered` | runner | order.json | starts it; the message, come again, is deleted |
//! | `deleted` | runner | order.json | starts it |
//! | `spawned` | runner | order.json, lock held by the keeper | watches the keeper |
//! | `locked` | keeper | as above, lock free again | starts it: nothing had begun |
//! | `starting` | keeper | the file `starting` | lost: it may have begun |
//! | `launched` | keeper | as above; the job runs | lost; what is left of it is ended |
//! | `started` | keeper | started.json | lost; what is left of it is ended |
//! | `reaped` | keeper | no exit.json | lost |
//! | `recorded` | keeper | exit.json | reports it |
//! | `seen` | runner | exit.json | reports it |
//! | `judged` | runner | finished.json | the same report is sent |
//! | `outboxed` | runner | the report in the outbox | sent, maybe twice; the second changes nothing |
//! | `told` | runner | told.finished | sent |
//! | `sent` | runner | the report still in the outbox | sent again |
//!
//! And those of whoever takes the reports, which `sexton up` passes:
//!
//! | label | what is stored by then | what a restart does |
//! |---|---|---|
//! | `received_reports` | the reports, leased | they come again after their lease |
//! | `judged_reports` | the runs with their outcomes and transitions, the reports gone | the transitions are told |
//! | `telling` | the transition, claimed | it is told after its claim |
//! | `alerted` | as above, and people have the message | told again: the one place where people hear twice |

/// Passes a step.
#[cfg(not(feature = "crash_points"))]
pub fn point(_label: &str) {}

#[cfg(feature = "crash_points")]
static PASSED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Passes a step, or ends here as by kill -9 when `SEXTON_CRASH_AT` names it; `label/3` names its third passing.
#[cfg(feature = "crash_points")]
pub fn point(label: &str) {
    let wanted = std::env::var("SEXTON_CRASH_AT").unwrap_or_default();
    let (name, pass) = wanted.split_once('/').unwrap_or((&wanted, "1"));
    if name == label && pass.parse() == Ok(1 + PASSED.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    }
}
