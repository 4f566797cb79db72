//! Errors of TLS connections in plain words, with the remedy. Pure, but for the handshake itself.

use std::fmt::Display;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, PeerIncompatible, ProtocolVersion};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate_faults::certificate_defect;
use crate::error::{SinkError, SinkResult, network_words};
use crate::key_kinds::ACCEPTED_KEYS;
use crate::tls::TlsClient;
use crate::tls_verifier::CertificateFault;

/// Under TLS 1.3 a server judges the client certificate after the handshake. Where one was requested, its answer is
/// awaited for this time before lines are sent. Chosen: a few round trips; most servers send a session ticket at once.
const VERDICT_WAIT: Duration = Duration::from_millis(500);
/// Interval of the checks whether a session ticket has arrived. Chosen, not measured.
const VERDICT_POLL: Duration = Duration::from_millis(5);

/// Makes a TLS connection over `stream`; `shown` is the address in errors.
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    client: TlsClient,
    name: ServerName<'static>,
    stream: S,
    shown: &str,
    limit: Duration,
) -> SinkResult<TlsStream<S>> {
    let requested = client.certificate_requested;
    let handshake = timeout(limit, TlsConnector::from(client.config).connect(name, stream)).await;
    let seconds = limit.as_secs();
    let mut stream = handshake
        .map_err(|_| {
            SinkError::retry(format!(
                "{shown} did not answer the TLS handshake within {seconds} s; does that port speak TLS? For one without \
                 TLS, begin the address with tcp://"
            ))
        })?
        .map_err(|error| handshake_fault(shown, &error))?;
    let is_tls13 = stream.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    if is_tls13 && requested.load(Ordering::Relaxed) {
        wait_for_verdict(&mut stream).await.map_err(|error| handshake_fault(shown, &error))?;
    }
    Ok(stream)
}

/// Returns the error that refuses the client certificate. Data of the server is dropped: these receivers send none.
async fn wait_for_verdict<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut TlsStream<S>) -> io::Result<()> {
    let deadline = Instant::now() + VERDICT_WAIT;
    let mut buffer = [0; 64];
    while stream.get_ref().1.tls13_tickets_received() == 0 && Instant::now() < deadline {
        match timeout(VERDICT_POLL, stream.read(&mut buffer)).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(())
}

fn handshake_fault(shown: &str, error: &io::Error) -> SinkError {
    tls_fault(shown, error).unwrap_or_else(|| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            SinkError::retry(format!(
                "{shown} ended the connection during the TLS handshake; does that port speak TLS? For one without TLS, \
                 begin the address with tcp://"
            ))
        }
        _ => SinkError::retry(format!("the TLS handshake with {shown} failed: {}", network_words(error))),
    })
}

/// The fault, when TLS is the cause of a failed connection: an operator must act if one side does not accept the
/// certificate of the other, or if that port does not speak TLS.
pub(crate) fn tls_fault(shown: impl Display, error: &(dyn std::error::Error + 'static)) -> Option<SinkError> {
    let misconfigured = |words: String| Some(SinkError::misconfigured(format!("{shown}: {words}")));
    match find_tls_error(error)? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if let Some(CertificateFault(words)) = other.0.downcast_ref() =>
        {
            misconfigured(words.clone())
        }
        // Other than by the verifier: a signature of the handshake.
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => misconfigured(
            "it does not prove that it has the key of its certificate; give it the key that belongs to the certificate"
                .to_owned(),
        ),
        rustls::Error::InvalidCertificate(error) => {
            misconfigured(certificate_defect(error).sentence("its certificate"))
        }
        rustls::Error::AlertReceived(alert) => match alert_words(*alert) {
            Some(words) => misconfigured(words),
            None => Some(SinkError::retry(format!(
                "{shown} ended the TLS connection (alert {}); its log has the reason",
                alert_name(*alert)
            ))),
        },
        rustls::Error::InvalidMessage(_) => misconfigured(
            "this port does not speak TLS; use the port that does, or begin the address with tcp:// (http:// instead \
             of https://) for one without TLS"
                .to_owned(),
        ),
        rustls::Error::PeerIncompatible(what) => misconfigured(incompatible_words(what).to_owned()),
        rustls::Error::NoCertificatesPresented => {
            misconfigured("it presents no certificate; give the receiver a certificate and its key".to_owned())
        }
        rustls::Error::PeerMisbehaved(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. }
        | rustls::Error::PeerSentOversizedRecord
        | rustls::Error::NoApplicationProtocol => Some(SinkError::retry(format!(
            "{shown} breaks the rules of TLS; update the receiver, or the proxy that decrypts in front of it"
        ))),
        rustls::Error::DecryptError => Some(SinkError::retry(format!(
            "what {shown} sent was changed on the way, or encrypted with another key; check the network and the \
             receiver"
        ))),
        _ => Some(SinkError::retry(format!(
            "the TLS connection to {shown} failed; the log of the receiver may have the reason"
        ))),
    }
}

fn incompatible_words(what: &PeerIncompatible) -> &'static str {
    match what {
        PeerIncompatible::NoCipherSuitesInCommon
        | PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::UncompressedEcPointsRequired
        | PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::KeyShareExtensionRequired
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "it accepts no cipher, key exchange or signature that is accepted here; allow ECDHE with AES-GCM or \
             ChaCha20-Poly1305, on X25519 or P-256, on the receiver"
        }
        PeerIncompatible::IncorrectCertificateTypeExtension | PeerIncompatible::UnsolicitedCertificateTypeExtension => {
            "it presents a bare public key in place of a certificate; give the receiver an X.509 certificate"
        }
        _ => "it speaks no version of TLS that is accepted here; enable TLS 1.2 or 1.3 on the receiver",
    }
}

/// What an operator changes after an alert of the receiver; `None` when the receiver only ended the connection.
fn alert_words(alert: AlertDescription) -> Option<String> {
    let name = alert_name(alert);
    let words = match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "it requires a client certificate; set tls.crt_file and tls.key_file".to_owned()
        }
        AlertDescription::HandshakeFailure => format!(
            "it refused the TLS handshake (alert {name}); it may require a client certificate (tls.crt_file and \
             tls.key_file), allow no cipher that is accepted here, or have a certificate without {ACCEPTED_KEYS}"
        ),
        AlertDescription::CertificateExpired => {
            "the client certificate in tls.crt_file has expired; renew it, or correct the clock of the receiver"
                .to_owned()
        }
        AlertDescription::UnknownCA => {
            "it does not know the authority of the client certificate in tls.crt_file; present one that it knows, or \
             add that authority to the receiver"
                .to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => format!(
            "it does not accept the client certificate (alert {name}); set tls.crt_file and tls.key_file to a \
             certificate that it accepts"
        ),
        AlertDescription::ProtocolVersion => {
            "it speaks no version of TLS that is accepted here; enable TLS 1.2 or 1.3 on the receiver".to_owned()
        }
        AlertDescription::UnrecognisedName => {
            "it does not know the name in the address; use a name that it knows, or set tls.server_name".to_owned()
        }
        AlertDescription::CloseNotify | AlertDescription::InternalError | AlertDescription::UserCanceled => {
            return None;
        }
        _ => format!("it refused the TLS handshake (alert {name}); the log of the receiver has the reason"),
    };
    Some(words)
}

/// As in RFC 8446, section 6: `bad_certificate`.
fn alert_name(alert: AlertDescription) -> String {
    if alert == AlertDescription::UnknownCA {
        return "unknown_ca".to_owned();
    }
    let Some(known) = alert.as_str() else { return format!("number {}", u8::from(alert)) };
    let mut name = String::new();
    for c in known.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// The TLS error among the causes. The error inside an I/O error is not its source, so both are followed.
fn find_tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}
