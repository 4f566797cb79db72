//! aiosmtpd and smtp-sink accept and refuse the mail of Python's smtplib as configured.

use testbed::{Aiosmtpd, SmtpMode, SmtpSink, certificates, python};

use crate::client;

/// Fails unless the server answers with the expected code (250 when it accepts the mail).
const SMTPLIB: &str = r#"
import smtplib, ssl, sys
from email.message import EmailMessage
host, port, mode, expected = "localhost", int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
context = ssl.create_default_context(cafile=sys.argv[5])
message = EmailMessage()
message["From"], message["To"], message["Subject"] = "sexton@example.org", "oncall@example.org", "failed: db/nightly"
message.set_content("exit code 3\n")
client = smtplib.SMTP_SSL(host, port, context=context) if mode == "smtps" else smtplib.SMTP(host, port)
with client:
    if mode == "starttls":
        client.starttls(context=context)
    try:
        client.send_message(message)
        answer = 250
    except smtplib.SMTPRecipientsRefused as error:
        answer = list(error.recipients.values())[0][0]
    except smtplib.SMTPResponseException as error:
        answer = error.smtp_code
assert answer == expected, answer
"#;

fn send(address: std::net::SocketAddr, mode: &str, expected: u16) {
    let ca = certificates().expect("the server has started with them").ca.display().to_string();
    client::python(SMTPLIB, address, &[mode, &expected.to_string(), &ca]);
}

#[test]
fn aiosmtpd_returns_mail_in_every_mode() {
    for (mode, name) in [(SmtpMode::Plain, "plain"), (SmtpMode::StartTls, "starttls"), (SmtpMode::Smtps, "smtps")] {
        let Some(server) = Aiosmtpd::start(mode) else { return };
        send(server.address(), name, 250);
        let messages = server.wait_for_count(1);
        for line in [
            "From: sexton@example.org",
            "Subject: failed: db/nightly",
            "X-MailFrom: sexton@example.org",
            "X-RcptTo: oncall@example.org",
            "exit code 3",
        ] {
            assert!(messages[0].lines().any(|found| found == line), "{line} in {}", messages[0]);
        }
    }
}

#[test]
fn aiosmtpd_refuses_plain_mail_where_starttls_is_required() {
    let Some(server) = Aiosmtpd::start(SmtpMode::StartTls) else { return };
    send(server.address(), "plain", 530);
    assert_eq!(server.messages(), Vec::<String>::new());
}

#[test]
fn smtp_sink_accepts_mail_or_refuses_it_temporarily_or_permanently() {
    if python().is_none() {
        return;
    }
    for (flags, answer, taken) in [(&[][..], 250, 1), (&["-r", "rcpt"], 450, 0), (&["-f", "data"], 500, 0)] {
        let Some(server) = SmtpSink::start(flags) else { return };
        send(server.address(), "plain", answer);
        let messages = server.messages();
        assert_eq!(messages.len(), taken, "{flags:?}: {messages:?}");
        assert!(messages.iter().all(|text| text.contains("Subject: failed: db/nightly")), "{messages:?}");
    }
}
