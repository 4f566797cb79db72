//! Runs that wait on this machine before their start: why they wait, and those that waited past their latest start.

use std::sync::Arc;

use domain::job::Needs;
use jiff::Timestamp;
use keeper::records::{Refusal, RefusalKind};

use crate::local_run::{LocalRun, lock};
use crate::runner_state::RunnerState;
use crate::supervise::{refuse, supervise};

impl RunnerState {
    /// Why an order with these needs, or one that is not received yet, waits for admission.
    pub(crate) fn waiting_reason(&self, needs: Option<Needs>) -> Option<String> {
        let (busy, running) = {
            let admission = lock(&self.admission);
            (admission.waiting_reason(needs), admission.running_at_limit())
        };
        let Some(busy) = busy else { return running.map(|running| self.open_files.waiting_reason(running)) };
        // With one run at a time, the run that is awaited has a name.
        let is_serial = matches!(self.options.mode, crate::options::Mode::Serial);
        let active = lock(&self.runs).values().find(|run| run.header().is_some() && run.finished().is_none()).cloned();
        match active.filter(|_| is_serial) {
            Some(active) => Some(format!("waits for run {} of {}: {busy}", active.run_id(), active.job().key())),
            None => Some(busy),
        }
    }

    /// Refuses the runs that wait for admission and must not start any more.
    pub(crate) fn refuse_late_runs(self: &Arc<Self>, now: Timestamp) {
        let waiting: Vec<_> = lock(&self.admission).waiting().cloned().collect();
        let is_late = |run: &Arc<LocalRun>| run.accepted.order.start_by.is_some_and(|start_by| start_by < now);
        for run in waiting.iter().filter_map(|key| self.run(key)).filter(is_late) {
            let reason = self.waiting_reason(Some(run.job().needs)).unwrap_or_default();
            if !lock(&self.admission).cancel(&run.key()) {
                continue;
            }
            let start_by = run.accepted.order.start_by.unwrap_or(now);
            let message = format!("the runner could not start it before {start_by}: {reason}");
            let refused = refuse(self, &run, Refusal { why: RefusalKind::TooLate, message });
            lock(&self.admission).count_running(run.job().needs);
            self.supervisors.spawn(supervise(self.clone(), refused));
        }
    }
}
