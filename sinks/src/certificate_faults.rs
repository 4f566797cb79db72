//! Faults of certificates in plain words: what is wrong, and what the operator changes. Pure. A fault without words
//! here gets a general sentence: the texts of the TLS libraries are written for programmers.

use rustls::CertificateError;
use rustls_pki_types::CertificateDer;

use crate::key_kinds::{ACCEPTED_KEYS, unsupported_key};

/// The text of rustls-platform-verifier for a certificate that is not made for servers.
const PLATFORM_PURPOSE: &str = "certificate had invalid extensions";

/// What is wrong with a certificate, as a predicate ("has expired"), and what the operator changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateDefect {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl CertificateDefect {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> CertificateDefect {
        CertificateDefect { what: what.into(), remedy: remedy.into() }
    }

    /// A general sentence, for a fault that no other function has words for.
    fn unnamed() -> CertificateDefect {
        CertificateDefect::new(
            "is not accepted, and the TLS library names no reason",
            "check it with `openssl verify` and `openssl x509 -noout -text`, or make a new one with `openssl req -x509`",
        )
    }

    /// The predicate and the remedy as one sentence after `subject`.
    pub(crate) fn sentence(&self, subject: &str) -> String {
        format!("{subject} {}; {}", self.what, self.remedy)
    }
}

/// The defect of a certificate that cannot be read, or whose key is of a kind that is not accepted.
pub(crate) fn defect_alone(certificate: &CertificateDer<'_>) -> Option<CertificateDefect> {
    match webpki::EndEntityCert::try_from(certificate) {
        Err(error) => Some(parsing_defect(&error)),
        Ok(_) => weak_key(certificate).map(|key| {
            CertificateDefect::new(
                format!("has {key}, which is not accepted"),
                format!("make a new certificate with {ACCEPTED_KEYS}"),
            )
        }),
    }
}

/// The kind of the key of a readable certificate, if it is not accepted: `an RSA key of 1024 bits`.
pub(crate) fn weak_key(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    unsupported_key(&parsed.subject_public_key_info())
}

/// Why a certificate is refused. The verifier of receivers has better words for issuers, names and dates.
pub(crate) fn certificate_defect(error: &CertificateError) -> CertificateDefect {
    #[expect(deprecated, reason = "the verifier still returns the older variants")]
    match error {
        CertificateError::BadEncoding => parsing_defect(&webpki::Error::BadDer),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateDefect::new("has expired, or ends before it begins", "renew it")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => CertificateDefect::new(
            "is not valid yet",
            "correct the clock that is wrong, here or where the certificate was made",
        ),
        CertificateError::Revoked => CertificateDefect::new("is revoked", "renew it"),
        CertificateError::UnhandledCriticalExtension => parsing_defect(&webpki::Error::UnsupportedCriticalExtension),
        CertificateError::UnknownIssuer => CertificateDefect::new(
            "is signed by no known authority",
            "set tls.ca_file to the certificate of its authority",
        ),
        CertificateError::BadSignature => CertificateDefect::new(
            "or that of its authority has a signature that does not match",
            "check that the receiver presents the certificate that this authority signed, and make it again",
        ),
        CertificateError::UnsupportedSignatureAlgorithm => signature_defect(&[]),
        CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { signature_algorithm_id, .. } => {
            signature_defect(signature_algorithm_id)
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => CertificateDefect::new(
            "is for another name than the one in the address",
            "use a name of its subjectAltName in the address",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => CertificateDefect::new(
            "is not made for servers (extended key usage)",
            "make one with extendedKeyUsage = serverAuth",
        ),
        CertificateError::InvalidOcspResponse
        | CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => CertificateDefect::new(
            "comes with a revocation status that is damaged or too old",
            "update it on the receiver, or turn OCSP stapling off there",
        ),
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(error) => parsing_defect(error),
            // The verifier that uses the CA certificates of the machine keeps its type to itself.
            None if other.0.to_string() == PLATFORM_PURPOSE => certificate_defect(&CertificateError::InvalidPurpose),
            None => CertificateDefect::unnamed(),
        },
        _ => CertificateDefect::unnamed(),
    }
}

/// A defect that needs no other certificate to be seen, or one of the chain.
fn parsing_defect(error: &webpki::Error) -> CertificateDefect {
    const NEW: &str = "make a new one with `openssl req -x509`";
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateDefect::new("is damaged", format!("copy it again, or {NEW}"))
        }
        webpki::Error::UnsupportedCertVersion => {
            CertificateDefect::new("is X.509 version 1, which TLS libraries refuse", NEW)
        }
        webpki::Error::UnsupportedCriticalExtension => CertificateDefect::new(
            "has an extension that is marked critical and is not known here, so it must be refused (RFC 5280)",
            "make one where the extension that `openssl x509 -noout -text` lists as critical is not critical",
        ),
        webpki::Error::MalformedExtensions
        | webpki::Error::ExtensionValueInvalid
        | webpki::Error::EmptyEkuExtension => CertificateDefect::new("has a damaged or empty extension", NEW),
        webpki::Error::InvalidSerialNumber => CertificateDefect::new("has a serial number that is not valid", NEW),
        webpki::Error::MalformedDnsIdentifier => {
            CertificateDefect::new("has a name in subjectAltName that is no host name", NEW)
        }
        webpki::Error::SignatureAlgorithmMismatch => {
            CertificateDefect::new("names two different algorithms for its signature", NEW)
        }
        webpki::Error::CaUsedAsEndEntity => CertificateDefect::new(
            "is that of an authority (basicConstraints CA:TRUE)",
            "make one with CA:FALSE for the receiver, or put this certificate itself into tls.ca_file",
        ),
        webpki::Error::EndEntityUsedAsCa => CertificateDefect::new(
            "is signed by a certificate that may not sign others (basicConstraints CA:FALSE)",
            "sign it with a certificate that has CA:TRUE",
        ),
        webpki::Error::PathLenConstraintViolated => CertificateDefect::new(
            "has more certificates between itself and its authority than an authority permits (pathlen)",
            "sign it with another authority, or raise pathlen there",
        ),
        webpki::Error::NameConstraintViolation
        | webpki::Error::MalformedNameConstraint
        | webpki::Error::InvalidNetworkMaskConstraint
        | webpki::Error::MaximumNameConstraintComparisonsExceeded => CertificateDefect::new(
            "has a name for which its authority may not sign (nameConstraints)",
            "sign it with another authority, or correct nameConstraints there",
        ),
        webpki::Error::MaximumPathDepthExceeded
        | webpki::Error::MaximumPathBuildCallsExceeded
        | webpki::Error::MaximumSignatureChecksExceeded => CertificateDefect::new(
            "has too many certificates between itself and its authority",
            "let the receiver send only those that lead to its authority",
        ),
        webpki::Error::CertDistrusted => CertificateDefect::new(
            "is signed by an authority that is not trusted any more",
            "renew it at another authority",
        ),
        _ => CertificateDefect::unnamed(),
    }
}

/// Bytes of object identifiers (X.690), with their algorithms.
const SIGNATURES: [(&[u8], &str); 12] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04], "MD5"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], "SHA-1"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0e], "SHA-224"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a], "RSA-PSS with unusual parameters"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], "SHA-1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x01], "SHA-224"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03], "DSA"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x01], "DSA"),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x02], "DSA"),
    (&[0x2b, 0x65, 0x71], "Ed448"),
    (&[0x2a, 0x81, 0x1c, 0xcf, 0x55, 0x01, 0x83, 0x75], "SM2"),
    (&[0x2b, 0x0e, 0x03, 0x02, 0x1d], "SHA-1"),
];

fn signature_defect(algorithm: &[u8]) -> CertificateDefect {
    // An identifier begins with its type and its length.
    let identifier = algorithm.get(2..).unwrap_or_default();
    let name = SIGNATURES.iter().find(|(bytes, _)| identifier.starts_with(bytes)).map(|(_, name)| *name);
    let name = name.unwrap_or("an algorithm");
    CertificateDefect::new(
        format!("or that of its authority is signed with {name}, which is not accepted"),
        format!("sign it with SHA-256 and {ACCEPTED_KEYS}"),
    )
}
