//! Decides whether the certificate of a receiver is trusted: by its issuer, by a copy of itself in `ca_file`, or by its
//! fingerprint. A refusal is one sentence with the remedy.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::certificate_faults::{certificate_defect, defect_alone, weak_key};
use crate::key_kinds::ACCEPTED_KEYS;

const DIGEST_BYTES: usize = 32;
/// Names of a certificate that a message lists. Chosen: the certificate of a large installation has hundreds.
const NAMES_SHOWN_MAX: usize = 5;

/// SHA-256 of a whole certificate (DER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; DIGEST_BYTES]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate.as_ref()).into())
    }

    /// Reads 64 hexadecimal digits with or without separators, also with the words that openssl, rsyslog and syslog-ng
    /// write before them.
    ///
    /// # Errors
    /// One sentence: what is wrong, and how to get the fingerprint.
    pub(crate) fn parse(text: &str) -> Result<Fingerprint, String> {
        const REMEDY: &str = "write what `openssl x509 -in server.pem -noout -fingerprint -sha256` prints";
        let lower = text.trim().to_ascii_lowercase();
        let mut digits = lower.as_str();
        for word in ["sha256", "sha-256"] {
            digits = digits.strip_prefix(word).unwrap_or(digits);
        }
        digits = digits.trim_start();
        digits = digits.strip_prefix("fingerprint").unwrap_or(digits).trim_start_matches([' ', '=', ':']);
        let digits: String = digits.chars().filter(|c| !matches!(c, ':' | ' ' | '-')).collect();
        if let Some(other) = ["sha1", "sha512", "md5"].iter().find(|other| lower.starts_with(**other)) {
            return Err(format!("a fingerprint of {other} is not possible; {REMEDY}"));
        }
        if let Some(wrong) = digits.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(format!("`{wrong}` is not a hexadecimal digit of a SHA-256 fingerprint; {REMEDY}"));
        }
        let mut bytes = [0; DIGEST_BYTES];
        if digits.len() != 2 * DIGEST_BYTES {
            let count = digits.len();
            return Err(format!("{count} hexadecimal digits, but a SHA-256 fingerprint has 64; {REMEDY}"));
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let value = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(Fingerprint(bytes))
    }
}

/// As openssl prints it: `AB:CD:...`.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index > 0 { ":" } else { "" })?;
        }
        Ok(())
    }
}

/// Why a receiver's certificate is refused: one sentence with the remedy. Its subject is "its certificate".
#[derive(Debug)]
pub(crate) struct CertificateFault(pub String);

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateFault {}

/// See the module head. The certificate must pass every check that is present.
#[derive(Debug)]
pub(crate) struct ReceiverVerifier {
    /// Checks issuer, validity and name. Absent when only the fingerprint counts.
    pub issuer: Option<Arc<dyn ServerCertVerifier>>,
    /// The certificates of `ca_file`. A receiver that proves to have the key of one of them is trusted under any name:
    /// a name protects against other receivers of the same authority, and here is none.
    pub pinned: Vec<CertificateDer<'static>>,
    pub ca_file: Option<PathBuf>,
    pub fingerprint: Option<Fingerprint>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ReceiverVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = Fingerprint::of(end_entity);
        let refused = |words: String| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(CertificateFault(words)))))
        };
        if self.fingerprint.is_some_and(|wanted| wanted != found) {
            return Err(refused(format!(
                "its certificate has the SHA-256 fingerprint {found}, not the one in tls.fingerprint; if the receiver \
                 has a new certificate, set tls.fingerprint to the new one"
            )));
        }
        if let Some(defect) = defect_alone(end_entity) {
            return Err(refused(defect.sentence("its certificate")));
        }
        let Some(issuer) = &self.issuer else { return Ok(ServerCertVerified::assertion()) };
        match issuer.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(error)) if is_validity(&error) => {
                Err(refused(self.words(&error, found, intermediates)))
            }
            // Its validity is checked before everything else.
            Err(Error::InvalidCertificate(_)) if self.pinned.iter().any(|pinned| pinned == end_entity) => {
                Ok(ServerCertVerified::assertion())
            }
            Err(Error::InvalidCertificate(error)) => Err(refused(self.words(&error, found, intermediates))),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ReceiverVerifier {
    fn words(&self, error: &CertificateError, found: Fingerprint, intermediates: &[CertificateDer<'_>]) -> String {
        let place = match &self.ca_file {
            Some(path) => format!("ca_file {}", path.display()),
            None => "the CA certificates of this machine".to_owned(),
        };
        let pin = format!("set tls.fingerprint = \"{found}\" after you compared it on the receiver");
        // An authority whose key is refused is the reason of each error about signatures.
        if is_about_signatures(error)
            && let Some(key) = self.pinned.iter().chain(intermediates).find_map(weak_key)
        {
            return format!(
                "its certificate is signed by an authority with {key}, which is not accepted; make that authority again \
                 with {ACCEPTED_KEYS}, or {pin}"
            );
        }
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "its certificate is signed by no authority in {place}; set tls.ca_file to the certificate of its \
                 authority, or {pin}"
            ),
            CertificateError::NotValidForNameContext { expected, presented } => {
                wrong_name(&expected.to_str(), presented)
            }
            CertificateError::ExpiredContext { time, not_after } => format!(
                "its certificate expired at {} (the clock here: {}); renew the certificate of the receiver, or pin it \
                 with tls.fingerprint alone, which checks no dates",
                shown_time(*not_after),
                shown_time(*time)
            ),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "its certificate is not valid before {} (the clock here: {}); correct the clock that is wrong, here or \
                 where the certificate was made",
                shown_time(*not_before),
                shown_time(*time)
            ),
            error if is_authority_as_receiver(error) => format!(
                "its certificate is self-signed and not in {place}; set tls.ca_file to a copy of that certificate, or \
                 {pin}"
            ),
            error => certificate_defect(error).sentence("its certificate"),
        }
    }
}

fn is_about_signatures(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
    )
}

/// Whether a receiver presents the certificate of an authority as its own, as the usual self-signed one is.
fn is_authority_as_receiver(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

fn is_validity(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Revoked
    )
}

fn wrong_name(expected: &str, presented: &[String]) -> String {
    // The verifier writes `DnsName("a")` and `IpAddress(1.2.3.4)`.
    let name = |text: &String| -> Option<String> {
        let inner = text.split_once('(')?.1.strip_suffix(')')?;
        Some(inner.trim_matches('"').to_owned())
    };
    let mut names: Vec<String> = presented.iter().filter_map(name).collect();
    if names.is_empty() {
        return format!(
            "its certificate names no host (it has no subjectAltName), so it is not one for {expected}; put that \
             certificate itself into tls.ca_file, or make one with subjectAltName"
        );
    }
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
    names.truncate(NAMES_SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "its certificate is for {}{more}, not for {expected}; use one of these names in the address or (not with https) \
         as tls.server_name, or put that certificate itself into tls.ca_file",
        names.join(", ")
    )
}

fn shown_time(time: UnixTime) -> String {
    let at = Timestamp::from_second(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    at.map_or_else(|_| format!("second {}", time.as_secs()), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_spellings_of_a_fingerprint_are_read() {
        let plain = "0f".repeat(32);
        let colons = vec!["0F"; 32].join(":");
        let wanted = Fingerprint([15; 32]);
        for text in [
            plain.clone(),
            plain.to_uppercase(),
            colons.clone(),
            colons.to_lowercase(),
            vec!["0f"; 32].join(" "),
            vec!["0f"; 32].join("-"),
            format!("SHA256:{colons}"),
            format!("sha-256:{plain}"),
            format!("sha256 Fingerprint={colons}"),
            format!(" SHA256 Fingerprint={colons}\n"),
        ] {
            assert_eq!(Fingerprint::parse(&text), Ok(wanted), "{text}");
        }
        assert_eq!(wanted.to_string(), colons);
        for (text, part) in [
            ("", "0 hexadecimal digits"),
            (&plain[2..], "62 hexadecimal digits"),
            (&"ab".repeat(20), "40 hexadecimal digits, but a SHA-256 fingerprint has 64"),
            ("sha1 Fingerprint=AB:CD", "a fingerprint of sha1 is not possible"),
            ("xyz", "`x` is not a hexadecimal digit"),
        ] {
            let fault = Fingerprint::parse(text).expect_err(text);
            assert!(fault.contains(part) && fault.contains("openssl x509"), "{text}: {fault}");
        }
    }
}
