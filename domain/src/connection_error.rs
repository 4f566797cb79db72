//! Why a call over HTTP or TLS failed, in plain words. The texts of the libraries are written for programmers, so they
//! are replaced by their meaning. Pure: knows the libraries by their texts only. Sinks have their own words, with the
//! keys of their file.

use std::error::Error;
use std::io;

use crate::system_error::{plain_text, without_numbers};

/// Parts of the texts of rustls, hyper and their users, with their meaning for an operator. The first that occurs
/// counts.
const WORDS: [(&str, &str); 21] = [
    ("UnknownIssuer", "no authority that this machine trusts has signed its certificate"),
    ("CaUsedAsEndEntity", "its certificate is self-signed, and this machine does not trust it"),
    ("certificate expired", "its certificate has expired, or a clock is wrong"),
    ("certificate not valid yet", "its certificate is not valid yet, or a clock is wrong"),
    ("certificate not valid for name", "its certificate is for another name than the one in the address"),
    ("NotValidForName", "its certificate is for another name than the one in the address"),
    ("UnsupportedCertVersion", "its certificate is X.509 version 1, which TLS libraries refuse"),
    ("UnhandledCriticalExtension", "its certificate has a critical extension that is not known here"),
    ("UnsupportedCriticalExtension", "its certificate has a critical extension that is not known here"),
    ("invalid peer certificate", "its certificate is not accepted; `openssl s_client` shows it"),
    ("received corrupt message", "that port does not speak TLS"),
    ("CertificateRequired", "it requires a client certificate"),
    ("received fatal alert", "it refused the TLS handshake; its log has the reason"),
    ("peer is incompatible", "it has no version or cipher of TLS in common; enable TLS 1.2 or 1.3 there"),
    ("peer misbehaved", "it breaks the rules of TLS; update it"),
    ("cannot decrypt peer", "what it sent was changed on the way"),
    ("connection closed before message completed", "it ended the connection without an answer"),
    ("tls handshake eof", "it ended the connection during the TLS handshake; does that port speak TLS?"),
    ("unexpected message from connection", "that port does not speak HTTP"),
    ("invalid HTTP", "that port does not speak HTTP"),
    ("message head is too large", "that port does not speak HTTP"),
];

/// What happened to a call, from the error and its causes; without the address, which the outer errors repeat.
pub fn plain_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    loop {
        if let Some(system) = innermost.downcast_ref::<io::Error>() {
            if system.raw_os_error().is_some() {
                return plain_text(system);
            }
            // The source of such an error is that of the error within it.
            if let Some(within) = system.get_ref() {
                innermost = within;
                continue;
            }
        }
        match innermost.source() {
            Some(deeper) => innermost = deeper,
            None => break,
        }
    }
    plain_words(&innermost.to_string())
}

/// The meaning of a text of a library; another text without numbers of system errors.
pub fn plain_words(text: &str) -> String {
    let known = WORDS.iter().find(|(part, _)| text.contains(part));
    known.map_or_else(|| without_numbers(text).into_owned(), |(_, words)| (*words).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_libraries_become_words_for_operators() {
        for (text, words) in [
            (
                "invalid peer certificate: UnknownIssuer",
                "no authority that this machine trusts has signed its certificate",
            ),
            (
                "invalid peer certificate: Other(OtherError(EkuError))",
                "its certificate is not accepted; `openssl s_client` shows it",
            ),
            ("invalid HTTP version parsed", "that port does not speak HTTP"),
            ("received fatal alert: HandshakeFailure", "it refused the TLS handshake; its log has the reason"),
            ("the name has no address", "the name has no address"),
            ("a (os error 3)", "a"),
        ] {
            assert_eq!(plain_words(text), words);
        }
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(plain_cause(&io::Error::other(refused)), "connection refused");
    }
}
