//! Mails the output of jobs with a MAILTO, and alerts as the system job `sexton/mail` while that fails.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use channels::{Channels, OutputMailer};
use domain::job::Job;
use domain::job_files;
use domain::job_list::JobList;
use domain::mailto::{Mailer, OutputMail};
use domain::ports::{PortError, PortResult, Ports, StoredJob};
use domain::run::Outcome;
use jiff::Timestamp;
use services::system_alerts::{self, Condition};

use crate::configuration::MailSection;
use crate::failure::{Failure, print_error_line};

/// How long mail may fail before the alert. Chosen: a mail server that restarts raises none.
const FAILING_MAX: Duration = Duration::from_secs(300);

/// Jobs read by one call of the store. Chosen, not measured.
const PAGE_JOBS_MAX: usize = 1000;

/// The mailer of a server. Without `ports` it only logs.
pub(crate) struct AlertingMailer {
    inner: OutputMailer,
    ports: Option<Ports>,
    state: Mutex<MailState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MailState {
    /// Since the start of this process; an earlier one may have raised an alert.
    Unknown,
    Works,
    FailsSince(Timestamp),
}

impl AlertingMailer {
    /// # Errors
    /// Exit 2 when `[mail] channel` names no smtp channel.
    pub(crate) fn new(
        channels: &Channels,
        section: &MailSection,
        ports: Option<Ports>,
    ) -> Result<Arc<AlertingMailer>, Failure> {
        let inner = channels.output_mailer(section.channel.as_deref()).map_err(Failure::usage)?;
        Ok(Arc::new(AlertingMailer { inner, ports, state: Mutex::new(MailState::Unknown) }))
    }

    /// Reports at the start that a stored job wants mail and none can be sent.
    ///
    /// # Errors
    /// Returns the port's error.
    pub(crate) async fn warn_if_missing(&self, ports: &Ports) -> PortResult<()> {
        let Some(reason) = self.inner.missing() else { return Ok(()) };
        let mut after = None;
        loop {
            let page = ports.jobs.list(None, after.as_ref(), PAGE_JOBS_MAX).await?;
            let wants_mail = |stored: &StoredJob| stored.job.as_ref().is_ok_and(|job| job.mail.is_some());
            if let Some(stored) = page.records.iter().find(|stored| wants_mail(stored)) {
                print_error_line(&format!("warning: the output of {} cannot be mailed: {reason}", stored.key));
                return Ok(());
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Notes the result of a mail. Returns the condition to record when it may have changed.
    fn note(&self, result: &PortResult<()>, now: Timestamp) -> Option<(Outcome, String)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) if *state == MailState::Works => None,
            Ok(()) => {
                *state = MailState::Works;
                Some((Outcome::Succeeded, "the output of jobs is mailed again".to_owned()))
            }
            Err(error) => {
                let since = match *state {
                    MailState::FailsSince(since) => since,
                    MailState::Unknown | MailState::Works => now,
                };
                *state = MailState::FailsSince(since);
                let lasts = Duration::try_from(now.duration_since(since)).is_ok_and(|span| span >= FAILING_MAX);
                let is_due = lasts || matches!(error, PortError::Permanent(_));
                is_due.then(|| (Outcome::Failed, format!("the output of jobs cannot be mailed: {error}")))
            }
        }
    }
}

#[async_trait]
impl Mailer for AlertingMailer {
    async fn send(&self, mail: &OutputMail) -> PortResult<()> {
        let result = self.inner.send(mail).await;
        let now = Timestamp::now();
        if let (Some(ports), Some((outcome, reason))) = (&self.ports, self.note(&result, now)) {
            let key = system_alerts::key("mail");
            let condition =
                Condition { key: &key, id_prefix: "mail", outcome, reason: &reason, sent_unrecorded: false };
            if let Err(error) = system_alerts::change(ports, condition, now).await {
                tracing::warn!(%error, reason, "cannot store the alert about mail; only this log has it");
            }
        }
        result
    }
}

/// What `lint` adds when an entry of a crontab has no MAILTO.
pub(crate) fn mail_note(jobs: &JobList) -> Option<&'static str> {
    let is_entry = |job: &Job| job.source.as_deref().is_some_and(|source| !job_files::is_jobs_file(source));
    jobs.iter().filter(is_entry).any(|job| !job.env.contains_key("MAILTO")).then_some(
        "note: cron mails the output of entries without MAILTO to their owner; Sexton does so only with owner = true \
         in [mail]",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_lasts_or_is_permanent_is_alerted_and_so_is_the_recovery() {
        let channels = Channels::new(Vec::new()).expect("no channels");
        let mailer = AlertingMailer::new(&channels, &MailSection::default(), None).expect("no channel is named");
        let at = |second: i64| Timestamp::from_second(second).expect("in range");
        let (busy, refused) = (Err(PortError::Retry("busy".to_owned())), Err(PortError::Permanent("no".to_owned())));
        assert_eq!(mailer.note(&busy, at(0)), None);
        assert_eq!(mailer.note(&busy, at(299)), None);
        assert_eq!(mailer.note(&busy, at(300)).map(|found| found.0), Some(Outcome::Failed));
        assert_eq!(mailer.note(&Ok(()), at(301)).map(|found| found.0), Some(Outcome::Succeeded));
        assert_eq!(mailer.note(&Ok(()), at(302)), None);
        assert_eq!(mailer.note(&refused, at(303)).map(|found| found.0), Some(Outcome::Failed));
    }
}
