//! Describes what a peer sent where the protocol has no answers: that port speaks something else. Called by `stream`.

/// Bytes of an answer that are shown. Chosen: a status line or a banner fits.
const SHOWN_BYTES_MAX: usize = 80;
/// First bytes of a TLS record: an alert, and the major version (RFC 8446, section 5.1).
const TLS_ALERT: [u8; 2] = [0x15, 0x03];
/// First bytes of a TLS record: a handshake message, and the major version.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// One clause for the operator: that the port speaks another protocol, what it said, and the remedy.
pub(crate) fn describe(answer: &[u8]) -> String {
    let remedy = if answer.starts_with(&TLS_ALERT) || answer.starts_with(&TLS_HANDSHAKE) {
        "write tcp+tls:// where it is a log server with TLS"
    } else if answer.starts_with(b"HTTP/") {
        "that is a web server; correct the address, or write http:// for GELF over HTTP"
    } else {
        "a receiver of syslog or GELF answers nothing; correct the address"
    };
    format!("that port speaks something else (it said {}); {remedy}", quoted(answer))
}

/// The first line in safe characters: no control character reaches a terminal or a log.
fn quoted(answer: &[u8]) -> String {
    if answer.starts_with(&TLS_ALERT) {
        return "a TLS alert".to_owned();
    }
    if answer.starts_with(&TLS_HANDSHAKE) {
        return "a TLS handshake message".to_owned();
    }
    let line = answer.split(|byte| matches!(byte, b'\r' | b'\n')).find(|line| !line.is_empty()).unwrap_or_default();
    let shown = &line[..line.len().min(SHOWN_BYTES_MAX)];
    let printable = shown.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    let more = if shown.len() < line.len() { "..." } else { "" };
    match (printable, shown.is_empty()) {
        (_, true) => "an empty line".to_owned(),
        (true, _) => format!("`{}{more}`", String::from_utf8_lossy(shown).replace('`', "'")),
        (false, _) => format!("`{}{more}`", shown.escape_ascii().to_string().replace('`', "'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shown_in_a_safe_short_form() {
        let long = [b'x'; 500];
        for (answer, said) in [
            (&b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html>"[..], "`HTTP/1.1 400 Bad Request`"),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", "`SSH-2.0-OpenSSH_9.2p1`"),
            (b"\r\n-ERR unknown command `<78>1`\r\n", "`-ERR unknown command '<78>1'`"),
            (b"\x15\x03\x03\x00\x02\x02\x46", "a TLS alert"),
            (b"\x16\x03\x03\x00\x7a", "a TLS handshake message"),
            (b"J\x00\x00\x00\x0a8.0\x1b[31m", "`J\\x00\\x00\\x00`"),
            (b"\x1b]0;owned\x07", "`\\x1b]0;owned\\x07`"),
            ("gr\u{fc}n".as_bytes(), "`gr\\xc3\\xbcn`"),
            (b"\r\n", "an empty line"),
            (&long, &format!("`{}...`", "x".repeat(80))),
        ] {
            let text = describe(answer);
            let shown =
                text.split_once(" (it said ").and_then(|(_, rest)| rest.split_once("); ")).map(|(said, _)| said);
            assert_eq!(shown, Some(said), "{text}");
            assert!(text.starts_with("that port speaks something else (it said "), "{text}");
            assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{text}");
        }
        assert!(describe(b"\x15\x03\x01").ends_with("; write tcp+tls:// where it is a log server with TLS"));
    }
}
