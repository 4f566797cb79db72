//! Mails the output of runs whose job asks for it. The run's directory is the outbox: it is kept until the marker
//! `mailed` is in it, so a mail survives restarts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use domain::mailto::{MailSettings, OutputMail};
use domain::ports::PortError;
use domain::run::Outcome;
use domain::system_error::plain_text;
use jiff::Timestamp;
use keeper::directory::create_marker;
use keeper::output::{LineFormat, Output, Piece};

use crate::local_run::LocalRun;
use crate::runner_state::RunnerState;

/// Bytes of output in one mail. Chosen: mail servers accept it, and a reader sees what happened.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Mails sent at once. Chosen, not measured.
pub(crate) const MAILS_MAX: usize = 4;

/// First delay before a mail is sent again; doubled up to [`RETRY_DELAY_MAX`]. Chosen, not measured.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Chosen: a mail server that is back gets the mails within minutes.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(300);

/// How long a mail is tried. Chosen: as long as mail servers do (RFC 5321, 4.5.4.1: 4 to 5 days).
const GIVE_UP_AFTER: Duration = Duration::from_secs(5 * 86_400);

/// Whether the run's output must still be mailed. `false` before the run is judged.
pub(crate) fn needs_mail(shared: &RunnerState, run: &LocalRun) -> bool {
    shared.options.mailer.is_some() && settings(run).is_some() && !run.directory.mailed().exists()
}

/// The mail settings of a run that printed something its recipients want.
fn settings(run: &LocalRun) -> Option<&MailSettings> {
    let (settings, finished) = (run.job().mail.as_ref()?, run.finished()?);
    let wanted = !settings.only_failed || finished.outcome != Outcome::Succeeded;
    (wanted && run.last_known_seq() > 0).then_some(settings)
}

/// Starts to mail the output of a run that is judged, if it must be mailed. As with Debian's cron, the mail has the
/// lines up to the end of the run's process; only where there were none, it has those that its children print later.
pub(crate) fn start_mailing(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) {
    if !needs_mail(shared, run) || !run.begin_mailing() {
        return;
    }
    let (shared, run) = (shared.clone(), run.clone());
    tokio::spawn(async move {
        let leave = shared.leave.clone();
        // The next start of the runner continues.
        let _left = leave.run_until_cancelled(mail_until_settled(&shared, &run)).await;
    });
}

async fn mail_until_settled(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) {
    let mut delay = RETRY_DELAY;
    loop {
        match mail_once(shared, run).await {
            Ok(()) => break,
            Err(PortError::Permanent(error)) => {
                tracing::error!(run_id = %run.run_id(), job = %run.job().key(), error, "the output cannot be mailed");
                break;
            }
            Err(PortError::Retry(error)) if is_too_old(run, Timestamp::now()) => {
                tracing::error!(
                    run_id = %run.run_id(), job = %run.job().key(), error,
                    "the output could not be mailed for 5 days; giving up"
                );
                break;
            }
            Err(PortError::Retry(error)) => {
                tracing::warn!(run_id = %run.run_id(), error, "cannot mail the output; retrying");
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_DELAY_MAX);
    }
    while let Err(error) = create_marker(&run.directory.mailed()) {
        tracing::warn!(%error, run_id = %run.run_id(), "cannot mark the output as mailed; it may be mailed twice");
        tokio::time::sleep(RETRY_DELAY_MAX).await;
    }
}

fn is_too_old(run: &LocalRun, now: Timestamp) -> bool {
    run.over_at()
        .is_some_and(|over_at| Duration::try_from(now.duration_since(over_at)).is_ok_and(|age| age > GIVE_UP_AFTER))
}

async fn mail_once(shared: &Arc<RunnerState>, run: &Arc<LocalRun>) -> Result<(), PortError> {
    let _turn = shared.mail_permits.acquire().await;
    let Some(mailer) = shared.options.mailer.clone() else { return Ok(()) };
    let (task_run, host) = (run.clone(), shared.options.host.clone());
    let built = tokio::task::spawn_blocking(move || build_mail(&task_run, &host)).await;
    match built.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(Some(mail)) => mailer.send(&mail).await,
        Ok(None) => Ok(()),
        Err(error) => Err(PortError::Retry(format!("cannot read the output: {}", plain_text(&error)))),
    }
}

fn build_mail(run: &LocalRun, host: &str) -> io::Result<Option<OutputMail>> {
    let (Some(settings), Some(finished)) = (settings(run), run.finished()) else { return Ok(None) };
    let job = run.job();
    let (user, home) = keeper::name_and_home(job.user.as_deref());
    let mut environment = BTreeMap::from([
        ("SHELL".to_owned(), "/bin/sh".to_owned()),
        ("HOME".to_owned(), home),
        ("LOGNAME".to_owned(), user.clone()),
    ]);
    environment.extend(job.env.clone());
    Ok(Some(OutputMail {
        run_id: run.run_id().clone(),
        settings: settings.clone(),
        user,
        host: host.to_owned(),
        command: job.command.to_string(),
        environment,
        text: mail_text(run)?,
        ended_at: finished.finished_at,
    }))
}

/// The output up to [`TEXT_BYTES_MAX`], whole lines, then the command that prints the rest.
fn mail_text(run: &LocalRun) -> io::Result<Vec<u8>> {
    let mut output = Output::open(run.directory.clone(), None, LineFormat::Raw);
    let mut text = Vec::new();
    loop {
        match output.read()? {
            Piece::Bytes(bytes) => text.extend_from_slice(&bytes),
            Piece::Missing(missing) => text.extend_from_slice(format!("[{missing}]\n").as_bytes()),
            Piece::Pending | Piece::End => return Ok(text),
        }
        if text.len() > TEXT_BYTES_MAX {
            let cut =
                text[..TEXT_BYTES_MAX].iter().rposition(|byte| *byte == b'\n').map_or(TEXT_BYTES_MAX, |at| at + 1);
            text.truncate(cut);
            let rest = format!("\n[the mail ends here; the whole output: sexton logs {}]\n", run.run_id());
            text.extend_from_slice(rest.as_bytes());
            return Ok(text);
        }
    }
}
