//! Sends alerts by mail through an SMTP server (RFC 5321), with STARTTLS (RFC 3207, the default), TLS from the first
//! byte (RFC 8314), or without encryption if `tls = "none"`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use domain::alert::Alert;
use domain::ca_store;
use domain::connection_error::{plain_cause, plain_words};
use domain::document::Section;
use domain::ports::{PortError, PortResult};
use domain::system_error::plain_text;
use lettre::address::Envelope;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};

use crate::alert_text;
use crate::secret_reference::read_secret;

/// Default timeout of each SMTP command. Chosen: RFC 5321, 4.5.3.2 allows minutes, but a failed alert is retried
/// anyway.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// Required: no mail is sent to a server without it. Port 587.
    StartTls,
    /// TLS from the first byte. Port 465.
    Tls,
    /// No encryption. Port 25.
    Plain,
}

/// The keys of an SMTP channel.
pub struct Options {
    host: String,
    port: u16,
    encryption: Encryption,
    credentials: Option<Credentials>,
    from: Mailbox,
    to: Vec<Mailbox>,
    ca_file: Option<PathBuf>,
    timeout: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "smtp by {}:{}", self.host, self.port)
    }
}

impl Options {
    pub(crate) fn read(section: &mut Section, folder: &Path) -> Option<Options> {
        let line = section.line_of("address");
        let address = section.required_text("address");
        let words = [("starttls", Encryption::StartTls), ("tls", Encryption::Tls), ("none", Encryption::Plain)];
        let encryption = section.choice("tls", &words).unwrap_or(Encryption::StartTls);
        let host_and_port = address.and_then(|text| {
            split_address(&text, encryption).or_else(|| {
                section.fault(
                    line,
                    text.as_str(),
                    "not a mail server; write HOST or HOST:PORT, like smtp.example.org:587",
                );
                None
            })
        });
        let from = section.required_text("from");
        let from = from.and_then(|text| mailbox(section, "from", &text));
        let to_given = section.has_unread("to");
        let to: Vec<Mailbox> =
            section.texts("to").unwrap_or_default().iter().filter_map(|text| mailbox(section, "to", text)).collect();
        if !to_given || to.is_empty() {
            section.fault(section.line(), "", "`to` names no recipient; write to = [\"oncall@example.org\"]");
        }
        let (user, password) = (read_secret(section, "user"), read_secret(section, "password"));
        if user.is_some() != password.is_some() {
            section.fault(section.line(), "", "`user` and `password` belong together; write both or neither");
        }
        let ca_file = section.path("ca_file", folder);
        let timeout = section.duration("timeout").unwrap_or(TIMEOUT_DEFAULT);
        let (host, port) = host_and_port?;
        let credentials = user.zip(password).map(|(user, password)| Credentials::new(user, password));
        Some(Options { host, port, encryption, credentials, from: from?, to, ca_file, timeout })
    }
}

fn split_address(text: &str, encryption: Encryption) -> Option<(String, u16)> {
    let default = match encryption {
        Encryption::StartTls => 587,
        Encryption::Tls => 465,
        Encryption::Plain => 25,
    };
    let (host, port) = match text.rsplit_once(':') {
        // Without brackets, several colons are an IPv6 address.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let good = !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || ".-_:".contains(c));
    good.then(|| (host.to_owned(), port))
}

fn mailbox(section: &Section, key: &str, text: &str) -> Option<Mailbox> {
    let message = "not a mail address; write user@example.org or Name <user@example.org>";
    text.parse().map_err(|_| section.fault(section.line(), text, format!("`{key}` is {message}"))).ok()
}

pub(crate) struct Smtp {
    options: Options,
    /// Made at the first use where the machine has no CA certificates yet.
    transport: OnceLock<AsyncSmtpTransport<Tokio1Executor>>,
}

/// Why no session can be opened.
enum TransportError {
    /// The machine has no CA certificates; they may be installed later.
    NoCaStore,
    /// One message.
    Options(String),
}

impl Smtp {
    pub(crate) fn new(options: Options) -> Result<Smtp, String> {
        let smtp = Smtp { options, transport: OnceLock::new() };
        match smtp.transport() {
            Ok(_) | Err(TransportError::NoCaStore) => Ok(smtp),
            Err(TransportError::Options(message)) => Err(message),
        }
    }

    fn transport(&self) -> Result<&AsyncSmtpTransport<Tokio1Executor>, TransportError> {
        if let Some(transport) = self.transport.get() {
            return Ok(transport);
        }
        let options = &self.options;
        let tls = match options.encryption {
            Encryption::Plain => Tls::None,
            Encryption::StartTls => Tls::Required(tls_parameters(options)?),
            Encryption::Tls => Tls::Wrapper(tls_parameters(options)?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&options.host)
            .port(options.port)
            .tls(tls)
            .timeout(Some(options.timeout));
        if let Some(credentials) = &options.credentials {
            builder = builder.credentials(credentials.clone());
        }
        let transport = builder.build();
        Ok(self.transport.get_or_init(|| transport))
    }

    pub(crate) async fn send(&self, alert: &Alert) -> PortResult<()> {
        let message = self.message(alert).map_err(PortError::Permanent)?;
        self.transport()?.send(message).await.map(drop).map_err(classify)
    }

    pub(crate) fn from(&self) -> &Mailbox {
        &self.options.from
    }

    /// Sends a whole message, with CR LF.
    pub(crate) async fn send_raw(&self, envelope: &Envelope, message: &[u8]) -> PortResult<()> {
        self.transport()?.send_raw(envelope, message).await.map(drop).map_err(classify)
    }

    /// Connects, encrypts and authenticates; sends no mail.
    pub(crate) async fn probe(&self) -> PortResult<&'static str> {
        match self.transport()?.test_connection().await {
            Ok(true) => Ok("accepts the session (nothing was sent)"),
            Ok(false) => Err(PortError::Retry("the server accepted the connection but did not answer".to_owned())),
            Err(error) => Err(classify(error)),
        }
    }

    fn message(&self, alert: &Alert) -> Result<Message, String> {
        let mut builder = Message::builder().from(self.options.from.clone()).subject(alert_text::subject(alert));
        for to in &self.options.to {
            builder = builder.to(to.clone());
        }
        builder
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .body(alert_text::body(alert))
            .map_err(|error| format!("cannot write the alert as a mail: {error}"))
    }
}

/// RFC 3834: keeps automatic responders from answering.
#[derive(Clone)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted)
    }

    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn tls_parameters(options: &Options) -> Result<TlsParameters, TransportError> {
    let mut builder = TlsParameters::builder(options.host.clone());
    if let Some(path) = &options.ca_file {
        let fault = |message: String| TransportError::Options(format!("{} {message}", path.display()));
        let pem = std::fs::read(path).map_err(|why| fault(format!("cannot be read: {}", plain_text(&why))))?;
        let certificate =
            Certificate::from_pem(&pem).map_err(|why| fault(format!("contains no certificate: {why}")))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|why| match ca_store::is_missing(&why) {
        true => TransportError::NoCaStore,
        false => TransportError::Options(format!("cannot set up TLS for {}: {}", options.host, plain_cause(&why))),
    })
}

impl From<TransportError> for PortError {
    fn from(error: TransportError) -> PortError {
        match error {
            TransportError::NoCaStore => PortError::Retry(ca_store::MISSING.to_owned()),
            TransportError::Options(message) => PortError::Permanent(message),
        }
    }
}

/// Replies 5xx and faults of this client are permanent; all other errors are retried.
fn classify(error: lettre::transport::smtp::Error) -> PortError {
    let mut message = format!("the mail server: {}", plain_words(&error.to_string()));
    let mut source = std::error::Error::source(&error);
    while let Some(why) = source {
        let deeper = plain_words(&why.to_string());
        if !message.contains(&deeper) {
            message.push_str(": ");
            message.push_str(&deeper);
        }
        source = why.source();
    }
    let message = message.replace(['\r', '\n'], " ");
    if error.is_permanent() || error.is_client() { PortError::Permanent(message) } else { PortError::Retry(message) }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use testbed::{Aiosmtpd, SmtpMode, SmtpSink};

    use super::*;
    use crate::alert_text::tests::{failed_alert, long_alert};

    fn smtp(address: SocketAddr, encryption: Encryption) -> Smtp {
        let ca_file = testbed::certificates().map(|certificates| certificates.ca);
        let to = vec![
            "Night Shift <night@example.org>".parse().expect("address"),
            "b@example.org".parse().expect("address"),
        ];
        Smtp::new(Options {
            host: "localhost".to_owned(),
            port: address.port(),
            encryption,
            credentials: None,
            from: "sexton@example.org".parse().expect("address"),
            to,
            ca_file,
            timeout: Duration::from_secs(30),
        })
        .expect("options are good")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_mail_arrives_complete_with_every_encryption() {
        for (mode, encryption) in [
            (SmtpMode::Plain, Encryption::Plain),
            (SmtpMode::StartTls, Encryption::StartTls),
            (SmtpMode::Smtps, Encryption::Tls),
        ] {
            let Some(server) = Aiosmtpd::start(mode) else { return };
            let smtp = smtp(server.address(), encryption);
            smtp.probe().await.expect("reachable");
            smtp.send(&failed_alert()).await.expect("delivered");
            let mail = server.wait_for_count(1).remove(0).replace("\r\n", "\n");
            for line in [
                "Subject: [sexton] db/nightly-dump failed on web-3: exit code 2\n",
                "From: sexton@example.org\n",
                "Auto-Submitted: auto-generated\n",
                "X-RcptTo: night@example.org, b@example.org\n",
                "  pg_dump: error: no space left\n",
                "  sexton logs 20261123T023000Z-3f9a1c0e7b2d\n",
            ] {
                assert!(mail.contains(line), "{mode:?}: {line} in {mail}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_without_starttls_gets_no_mail() {
        let Some(server) = Aiosmtpd::start(SmtpMode::Plain) else { return };
        let error = smtp(server.address(), Encryption::StartTls).send(&failed_alert()).await.expect_err("refused");
        assert!(matches!(error, PortError::Permanent(_)), "{error:?}");
        assert!(server.messages().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_transient_refusal_is_retried_and_a_permanent_one_is_not() {
        let Some(server) = SmtpSink::start(&["-r", "rcpt"]) else { return };
        let error = smtp(server.address(), Encryption::Plain).send(&failed_alert()).await.expect_err("450");
        assert!(matches!(&error, PortError::Retry(message) if message.contains("450")), "{error:?}");
        let Some(server) = SmtpSink::start(&["-f", "data"]) else { return };
        let error = smtp(server.address(), Encryption::Plain).send(&failed_alert()).await.expect_err("500");
        assert!(matches!(&error, PortError::Permanent(message) if message.contains("500")), "{error:?}");
        let Some(server) = SmtpSink::start(&[]) else { return };
        let smtp = smtp(server.address(), Encryption::Plain);
        smtp.send(&long_alert()).await.expect("delivered");
        assert_eq!(server.messages().len(), 1);
        drop(server);
        let error = smtp.send(&failed_alert()).await.expect_err("no server");
        assert!(matches!(error, PortError::Retry(_)), "{error:?}");
    }

    #[test]
    fn the_default_port_depends_on_the_encryption() {
        for (text, expected) in [
            ("smtp.example.org", Some(("smtp.example.org", 587))),
            ("smtp.example.org:2525", Some(("smtp.example.org", 2525))),
            ("[::1]:25", Some(("::1", 25))),
            ("::1", Some(("::1", 587))),
            ("smtp.example.org:mail", None),
            ("smtp://x", None),
            ("", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(split_address(text, Encryption::StartTls), expected, "{text}");
        }
    }
}
