//! Removes terminal control sequences from a line (`strip_ansi`): ECMA-48 CSI, OSC and the other string controls, and
//! two-byte escapes. A text without an escape character is returned unchanged, without a copy.

const ESCAPE: u8 = 0x1b;
const BELL: u8 = 0x07;

/// The text without its control sequences; `scratch` is used only when there are any.
pub(crate) fn strip<'t>(text: &'t [u8], scratch: &'t mut Vec<u8>) -> &'t [u8] {
    let Some(first) = memchr::memchr(ESCAPE, text) else { return text };
    scratch.clear();
    scratch.extend_from_slice(&text[..first]);
    let mut rest = &text[first..];
    while !rest.is_empty() {
        rest = &rest[sequence_bytes(rest)..];
        let plain = memchr::memchr(ESCAPE, rest).unwrap_or(rest.len());
        scratch.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
    }
    scratch
}

/// Length of the sequence at the start of `text`, whose first byte is the escape character.
fn sequence_bytes(text: &[u8]) -> usize {
    match text.get(1) {
        // CSI: parameters and intermediates, then one final byte. A byte that is neither ends the sequence.
        Some(b'[') => {
            let body = text[2..].iter().take_while(|byte| (0x20..=0x3f).contains(*byte)).count();
            let closed = text.get(2 + body).is_some_and(|byte| (0x40..=0x7e).contains(byte));
            2 + body + usize::from(closed)
        }
        // OSC, DCS, SOS, PM, APC: up to BEL or ESC \. Without an end only the introducer is removed: losing text would
        // be worse.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let end = text[2..].iter().position(|byte| *byte == BELL || *byte == ESCAPE);
            match end {
                Some(end) if text[2 + end] == BELL => 3 + end,
                Some(end) if text.get(3 + end) == Some(&b'\\') => 4 + end,
                _ => 2,
            }
        }
        // Intermediates, then a final byte: `ESC ( B`.
        Some(0x20..=0x2f) => {
            let body = text[1..].iter().take_while(|byte| (0x20..=0x2f).contains(*byte)).count();
            (1 + body + 1).min(text.len())
        }
        Some(0x30..=0x7e) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_removed_and_the_text_is_kept() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("\x1b[31mred\x1b[0m and \x1b[1;4;38;5;200mmore\x1b[m", "red and more"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b(Btext\x1b7\x1b8", "text"),
            ("ends with \x1b", "ends with "),
            ("ends with \x1b[", "ends with "),
            ("\x1b]never closed", "never closed"),
            ("\x1b[12\u{e9}", "\u{e9}"),
        ] {
            let mut scratch = Vec::new();
            assert_eq!(strip(text.as_bytes(), &mut scratch), wanted.as_bytes(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_escape_character_is_left_and_plain_text_is_unchanged(text: Vec<u8>) {
            let mut scratch = Vec::new();
            let stripped = strip(&text, &mut scratch).to_vec();
            proptest::prop_assert!(!stripped.contains(&ESCAPE));
            if !text.contains(&ESCAPE) {
                proptest::prop_assert_eq!(stripped, text);
            }
        }
    }
}
