//! What every backend owes: one suite over the ports of `domain::ports`. A backend's test calls [`suite!`] in one line
//! with a function that makes a fresh, empty backend; each promise is then one test.
//!
//! The tests use real waits only where a port has its own clock (leases): they wait for what must come, never for time
//! to pass, and use leases of an hour where something must not come.

pub mod alerts;
pub mod claims;
pub mod due;
pub mod jobs;
pub mod orders;
pub mod reports;
pub mod runs;
pub mod samples;
pub mod scenarios;
pub mod settings;

use std::any::Any;

use domain::ports::Ports;

/// A fresh backend, and whatever must live as long as it (a temporary directory, a process).
pub struct Backend {
    pub ports: Ports,
    pub keep: Box<dyn Any + Send>,
}

/// Makes one test of each promise. `$make` is an `async fn() -> contract::Backend`, or of an `Option` of one: `None`
/// where it needs a server that is not there, and has said so.
#[macro_export]
macro_rules! suite {
    ($make:path) => {
        $crate::suite! { $make;
            jobs::a_job_comes_back_as_it_was_put,
            jobs::of_many_who_create_a_job_one_does,
            jobs::a_job_is_changed_only_by_who_saw_its_latest_version,
            jobs::removing_a_job_twice_is_removing_it_once,
            jobs::all_jobs_are_listed_page_by_page_and_group_by_group,
            due::an_entry_is_listed_when_its_instant_is_within_both_bounds,
            due::an_entry_put_twice_is_there_once,
            due::every_entry_is_in_exactly_one_shard,
            due::a_listing_is_earliest_first_and_as_long_as_asked_for,
            due::removing_an_entry_twice_is_harmless,
            runs::of_many_who_create_a_run_one_does_and_the_others_see_it,
            runs::a_run_is_changed_only_by_who_saw_its_latest_version,
            runs::writes_of_one_call_stand_alone,
            runs::a_run_and_its_alert_step_change_together_or_not_at_all,
            runs::listing_is_newest_first_and_complete_over_its_pages,
            runs::listing_keeps_to_every_bound_of_the_query,
            runs::counts_add_up,
            runs::removing_runs_twice_is_removing_them_once,
            alerts::a_state_is_moved_only_from_the_version_that_was_read,
            alerts::a_transition_stored_twice_is_told_once,
            alerts::of_many_workers_one_claims_a_transition,
            alerts::a_claim_ends_with_its_lease,
            alerts::what_is_not_due_is_not_claimed,
            alerts::a_settled_transition_is_not_claimed_again,
            alerts::who_lost_a_claim_settles_nothing,
            alerts::transitions_are_listed_newest_first,
            settings::a_setting_is_changed_only_by_who_saw_its_latest_version,
            settings::a_runners_latest_beat_is_kept_until_it_is_forgotten,
            settings::a_beat_of_a_clock_that_was_set_back_is_the_latest,
            orders::an_order_comes_back_as_it_was_sent,
            orders::an_order_is_received_by_its_group_only,
            orders::a_leased_order_is_not_received_again,
            orders::an_order_whose_lease_ends_comes_again,
            orders::a_deleted_order_never_comes_again,
            orders::an_order_does_not_come_before_its_time,
            orders::a_waiting_receiver_gets_what_is_sent_meanwhile,
            orders::of_many_receivers_each_order_goes_to_one,
            claims::of_many_runners_one_gets_the_run,
            claims::a_claim_repeated_by_the_same_runner_is_granted,
            claims::what_may_not_start_is_refused,
            claims::a_claim_and_a_declaration_exclude_each_other,
            claims::a_beat_brings_the_stop_requests_of_its_own_runs_only,
            reports::a_report_comes_back_as_it_was_sent,
            reports::a_report_whose_lease_ends_comes_again,
            reports::a_deleted_report_never_comes_again_whatever_the_receipt,
            reports::a_report_sent_twice_is_harmless,
        }
    };
    ($make:path; $($area:ident :: $promise:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $promise() {
                let Some(backend) = Option::<$crate::Backend>::from($make().await) else { return };
                $crate::$area::$promise(&backend.ports).await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_promise_is_in_the_suite() {
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
