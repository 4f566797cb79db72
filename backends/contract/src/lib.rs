//! The contract of a backend: one test suite over the ports of `domain::ports`, and scenarios of the services over
//! them. A backend passes a function that makes a fresh, empty backend. Each function of the suite becomes one test.
//!
//! | item | purpose |
//! |---|---|
//! | [`suite!`] | makes one test of each contract test of the ports |
//! | [`scenarios!`] | makes one test of each scenario: the services over the backend |
//! | [`Backend`] | a fresh backend, for one test |
//! | [`samples`] | records to store and send |
//! | [`world`] | an installation over any ports, with a clock that only the test moves |
//!
//! The tests use real waits only where a port has its own clock (leases). They wait for an event, never for time to
//! pass, and use leases of an hour where a message must not be redelivered.
//!
//! Never used outside tests.

#![warn(missing_docs)]

// Public for the macros only. Each function is one test, and its name is the guarantee.
#[doc(hidden)]
pub mod alerts;
#[doc(hidden)]
pub mod claims;
#[doc(hidden)]
pub mod due;
#[doc(hidden)]
pub mod jobs;
#[doc(hidden)]
pub mod orders;
#[doc(hidden)]
pub mod reports;
#[doc(hidden)]
pub mod runs;
pub mod samples;
#[doc(hidden)]
pub mod scenarios;
#[doc(hidden)]
pub mod settings;
pub mod world;

use std::any::Any;

use domain::ports::Ports;

/// A fresh, empty backend.
pub struct Backend {
    /// Its ports.
    pub ports: Ports,
    /// What must exist as long as the backend: a temporary directory, a process.
    pub keep: Box<dyn Any + Send>,
}

/// Makes one test of each contract test. `$make` is an `async fn() -> contract::Backend`, or one that returns an
/// `Option`: `None` when its server is not installed, which it has then printed.
#[macro_export]
macro_rules! suite {
    ($make:path) => {
        $crate::suite! { $make;
            jobs::a_job_comes_back_as_it_was_put,
            jobs::concurrent_creates_of_a_job_have_one_winner,
            jobs::a_job_changes_only_at_its_latest_version,
            jobs::removing_a_job_twice_is_harmless,
            jobs::a_batch_of_jobs_is_written_with_its_due_entries,
            jobs::all_jobs_are_listed_page_by_page_and_group_by_group,
            due::an_entry_is_listed_when_its_instant_is_within_both_bounds,
            due::an_entry_put_twice_is_there_once,
            due::every_entry_is_in_exactly_one_shard,
            due::a_listing_is_earliest_first_and_as_long_as_asked_for,
            due::a_listing_continues_at_a_job_of_an_instant,
            due::removing_an_entry_twice_is_harmless,
            runs::concurrent_creates_of_a_run_have_one_winner_that_all_see,
            runs::a_run_changes_only_at_its_latest_version,
            runs::writes_of_one_call_are_independent,
            runs::a_run_and_its_alert_step_change_together_or_not_at_all,
            runs::listing_is_newest_first_and_complete_over_its_pages,
            runs::listing_keeps_to_every_bound_of_the_query,
            runs::counts_add_up,
            runs::removing_runs_twice_is_harmless,
            alerts::a_state_changes_only_at_the_version_that_was_read,
            alerts::a_transition_stored_twice_is_claimed_once,
            alerts::each_transition_is_claimed_by_one_worker,
            alerts::a_claim_ends_with_its_lease,
            alerts::a_transition_is_not_claimed_before_it_is_due,
            alerts::a_settled_transition_is_not_claimed_again,
            alerts::a_worker_that_lost_its_claim_settles_nothing,
            alerts::progress_is_stored_while_the_claim_is_kept,
            alerts::transitions_are_listed_newest_first,
            settings::a_setting_changes_only_at_its_latest_version,
            settings::a_runners_latest_heartbeat_is_kept_until_it_is_deleted,
            settings::a_heartbeat_of_a_clock_that_was_set_back_is_the_latest,
            orders::an_order_comes_back_as_it_was_sent,
            orders::an_order_is_received_by_its_group_only,
            orders::a_leased_order_is_not_received_again,
            orders::an_order_whose_lease_ends_is_redelivered,
            orders::a_deleted_order_is_not_redelivered,
            orders::an_order_is_not_received_before_its_time,
            orders::a_waiting_receiver_gets_an_order_sent_later,
            orders::each_order_goes_to_one_of_many_receivers,
            claims::one_of_many_runners_gets_the_run,
            claims::a_claim_repeated_by_the_same_runner_is_granted,
            claims::a_claim_of_another_runner_with_the_same_name_is_refused,
            claims::a_second_runner_of_a_name_is_refused_until_the_first_is_silent_for_90_s,
            claims::a_heartbeat_of_an_older_build_is_accepted_by_its_name,
            claims::a_run_that_may_not_start_is_refused,
            claims::a_claim_and_an_end_without_report_exclude_each_other,
            claims::a_heartbeat_returns_the_stop_requests_of_its_own_runs_only,
            reports::a_report_comes_back_as_it_was_sent,
            reports::a_report_whose_lease_ends_is_redelivered,
            reports::a_deleted_report_is_not_redelivered_for_any_receipt,
            reports::a_report_sent_twice_is_harmless,
        }
    };
    ($make:path; $($area:ident :: $test:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                let Some(backend) = Option::<$crate::Backend>::from($make().await) else { return };
                $crate::$area::$test(&backend.ports).await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_contract_test_is_in_a_suite() {
        let areas = [
            ("alerts", include_str!("alerts.rs")),
            ("claims", include_str!("claims.rs")),
            ("due", include_str!("due.rs")),
            ("jobs", include_str!("jobs.rs")),
            ("orders", include_str!("orders.rs")),
            ("reports", include_str!("reports.rs")),
            ("runs", include_str!("runs.rs")),
            ("scenarios", include_str!("scenarios.rs")),
            ("settings", include_str!("settings.rs")),
        ];
        for (area, text) in areas {
            for line in text.lines() {
                let Some(rest) = line.strip_prefix("pub async fn ") else { continue };
                let name = rest.split('(').next().unwrap_or_default();
                let lists = [include_str!("lib.rs"), include_str!("scenarios.rs")];
                assert!(
                    lists.iter().any(|list| list.contains(&format!(" {area}::{name},"))),
                    "{area}::{name} is not in the suite"
                );
            }
        }
    }
}
