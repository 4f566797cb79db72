//! The CA certificates of a machine, in error texts. Minimal images have none: connections without TLS work there, and
//! a connection with TLS fails with the remedy.

/// The error of a TLS connection on a machine without CA certificates.
pub const MISSING: &str = "this machine has no CA certificates, so no TLS server can be trusted; install the package \
                           ca-certificates, or set SSL_CERT_FILE to a PEM file of trusted certificates";

/// The text of the certificate verifier (rustls-platform-verifier) on such a machine.
const VERIFIER_TEXT: &str = "No CA certificates were loaded from the system";

/// Whether an error or one of its causes is the absence of CA certificates.
pub fn is_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.to_string().contains(VERIFIER_TEXT) {
            return true;
        }
        next = cause.source();
    }
    false
}
