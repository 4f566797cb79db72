//! Mails the output of runs as Debian's cron does (crontab(5): MAILTO): its subject and headers, through an SMTP
//! channel or the sendmail of this machine. Bodies are encoded, so that any bytes and any length of line arrive.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::mailto::{Mailer, OutputMail, check_recipients, recipients};
use domain::ports::{PortError, PortResult};
use lettre::address::Envelope;
use lettre::message::Body;
use lettre::message::header::{ContentTransferEncoding, HeaderName, HeaderValue, Headers};
use tokio::process::Command;

use crate::command::{ProcessGroup, feed_and_wait, last_line, passed_environment};
use crate::smtp::Smtp;

/// Bytes of a line in a mail (RFC 5322, 2.1.1), without CR LF.
const LINE_BYTES_MAX: usize = 998;

/// Time for sendmail to accept a mail. Chosen: it only queues, but a full queue or a slow disk takes seconds.
const SENDMAIL_TIMEOUT: Duration = Duration::from_secs(60);

/// Where sendmail is installed (hier(7), FHS 3.0), after PATH.
const SENDMAIL_FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/lib"];

/// How output is mailed from this machine.
pub struct OutputMailer {
    route: Route,
}

enum Route {
    Smtp(Arc<Smtp>),
    Sendmail(PathBuf),
    /// With the reason, which names the remedy.
    None(String),
}

impl OutputMailer {
    pub(crate) fn over_smtp(smtp: Arc<Smtp>) -> OutputMailer {
        OutputMailer { route: Route::Smtp(smtp) }
    }

    /// Through the sendmail of this machine, if there is one. `otherwise` is the reason when there is none.
    pub(crate) fn over_sendmail(otherwise: &str) -> OutputMailer {
        let route = find_sendmail().map_or_else(|| Route::None(otherwise.to_owned()), Route::Sendmail);
        OutputMailer { route }
    }

    /// Why no mail can be sent from this machine; `None` when it can.
    pub fn missing(&self) -> Option<&str> {
        match &self.route {
            Route::None(reason) => Some(reason),
            Route::Smtp(_) | Route::Sendmail(_) => None,
        }
    }
}

#[async_trait]
impl Mailer for OutputMailer {
    async fn send(&self, mail: &OutputMail) -> PortResult<()> {
        check_recipients(&mail.settings.to)
            .map_err(|why| PortError::Permanent(format!("MAILTO `{}`: {why}", mail.settings.to)))?;
        match &self.route {
            Route::Smtp(smtp) => send_over_smtp(smtp, mail).await,
            Route::Sendmail(program) => send_over_sendmail(program, mail).await,
            Route::None(reason) => Err(PortError::Permanent(reason.clone())),
        }
    }
}

fn find_sendmail() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SENDMAIL_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join("sendmail")).find(|program| program.is_file())
}

/// Names of accounts get the domain of the channel's sender: a mail server does not know this machine's accounts.
async fn send_over_smtp(smtp: &Smtp, mail: &OutputMail) -> PortResult<()> {
    let sender = mail.settings.from.as_deref().filter(|from| from.contains('@'));
    let domain = smtp.from().email.domain();
    let address = |text: &str| {
        let whole = if text.contains('@') { text.to_owned() } else { format!("{text}@{domain}") };
        whole.parse().map_err(|_| PortError::Permanent(format!("`{whole}` is not a mail address; correct MAILTO")))
    };
    let from = sender.map_or_else(|| Ok(smtp.from().email.clone()), address)?;
    let to = recipients(&mail.settings.to).map(address).collect::<Result<Vec<lettre::Address>, _>>()?;
    let shown: Vec<String> = to.iter().map(ToString::to_string).collect();
    let message = message(mail, &format!("\"Cron Daemon\" <{from}>"), &shown.join(", "), false);
    let envelope = Envelope::new(Some(from), to)
        .map_err(|error| PortError::Permanent(format!("MAILTO `{}`: {error}", mail.settings.to)))?;
    smtp.send_raw(&envelope, &message).await
}

async fn send_over_sendmail(program: &Path, mail: &OutputMail) -> PortResult<()> {
    let from = mail.settings.from.as_deref();
    let header = from.map_or_else(|| "root (Cron Daemon)".to_owned(), |from| format!("{from} (Cron Daemon)"));
    let to: Vec<&str> = recipients(&mail.settings.to).collect();
    let mut command = Command::new(program);
    command.args(["-i", "-FCronDaemon", "-oem"]);
    if let Some(from) = from {
        command.args(["-f", from]);
    }
    command.args(&to).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command.env_clear().envs(passed_environment(&[]));
    // Programs read standard input with the line ends of this system.
    let message: Vec<u8> =
        message(mail, &header, &to.join(", "), true).into_iter().filter(|byte| *byte != b'\r').collect();
    let shown = program.display();
    let mut child = command.spawn().map_err(|why| PortError::Retry(format!("cannot start {shown}: {why}")))?;
    let _group = child.id().map(ProcessGroup);
    match tokio::time::timeout(SENDMAIL_TIMEOUT, feed_and_wait(&mut child, &message)).await {
        Ok(Ok((status, _))) if status.success() => Ok(()),
        Ok(Ok((status, quote))) => Err(PortError::Retry(format!("{shown} ended with {status}{}", last_line(&quote)))),
        Ok(Err(why)) => Err(PortError::Retry(format!("{shown}: {why}"))),
        Err(_) => Err(PortError::Retry(format!("{shown} ran longer than 60s and was killed"))),
    }
}

/// The whole mail, with CR LF. `eight_bit`: the receiver takes bytes above 127.
fn message(mail: &OutputMail, from: &str, to: &str, eight_bit: bool) -> Vec<u8> {
    let of = |name: &str| mail.environment.get(name).filter(|value| !value.is_empty());
    let (body, encoding) = body(mail, of("CONTENT_TRANSFER_ENCODING").map(String::as_str), eight_bit);
    let short_host = mail.host.split('.').next().unwrap_or_default();
    let content_type = of("CONTENT_TYPE").map_or("text/plain; charset=UTF-8", String::as_str);
    let mut text = String::new();
    let mut push = |name: &'static str, value: &str| {
        let line = format!("{name}: {}\r\n", one_line(value));
        if line.is_ascii() && line.len() <= LINE_BYTES_MAX {
            // As cron writes it: not folded.
            return text.push_str(&line);
        }
        let mut headers = Headers::new();
        headers.insert_raw(HeaderValue::new(HeaderName::new_from_ascii_str(name), one_line(value)));
        let _infallible = write!(text, "{headers}");
    };
    push("From", from);
    push("To", to);
    push("Subject", &format!("Cron <{}@{short_host}> {}", mail.user, mail.command));
    push("Date", &mail.ended_at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string());
    push("MIME-Version", "1.0");
    push("Content-Type", content_type);
    push("Content-Transfer-Encoding", &encoding);
    push("Auto-Submitted", "auto-generated");
    for (name, value) in &mail.environment {
        push("X-Cron-Env", &format!("<{name}={value}>"));
    }
    push("X-Sexton-Run", mail.run_id.as_str());
    let mut whole = text.into_bytes();
    whole.extend_from_slice(b"\r\n");
    whole.extend_from_slice(&body);
    whole
}

/// The body and its transfer encoding. A job that sets CONTENT_TRANSFER_ENCODING prints its output encoded already.
fn body(mail: &OutputMail, given: Option<&str>, eight_bit: bool) -> (Vec<u8>, String) {
    let text = &mail.text;
    let fits = text.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE_BYTES_MAX) && !text.contains(&0);
    let plain = match (text.is_ascii(), eight_bit) {
        (true, _) => Some("7bit"),
        (false, true) => Some("8bit"),
        (false, false) => None,
    };
    if let Some(encoding) = given.or(plain.filter(|_| fits)) {
        return (with_crlf(text), encoding.to_owned());
    }
    match String::from_utf8(text.clone()) {
        Ok(text) => match Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable) {
            Ok(body) => (body.into_vec(), "quoted-printable".to_owned()),
            // Not reached: this encoding takes any text.
            Err(text) => (with_crlf(&text), "8bit".to_owned()),
        },
        Err(bytes) => (Body::new(bytes.into_bytes()).into_vec(), "base64".to_owned()),
    }
}

fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len() + text.len() / 40);
    for byte in text {
        if *byte == b'\n' && lines.last() != Some(&b'\r') {
            lines.push(b'\r');
        }
        lines.push(*byte);
    }
    lines
}

/// A header must not begin another one.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
