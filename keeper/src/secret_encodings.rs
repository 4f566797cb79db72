//! The texts in which a secret can appear in output: the value, its lines, the leaves of its JSON, and each of these as
//! base64, percent-encoded, and escaped for JSON. Pure.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Shorter values are not masked: they are words of every log, and masking `1` or `{` would make it unreadable
/// (actions/runner#326).
pub const SECRET_BYTES_MIN: usize = 6;

/// Whether the masker masks this value in the output.
pub fn is_masked(value: &str) -> bool {
    value.trim().len() >= SECRET_BYTES_MIN
}

/// Every text to mask for these values. None is shorter than [`SECRET_BYTES_MIN`].
pub(crate) fn texts_to_mask<'v>(values: impl Iterator<Item = &'v str>) -> BTreeSet<Vec<u8>> {
    let mut texts = BTreeSet::new();
    values.for_each(|value| add_value(value, &mut texts));
    texts
}

fn add_value(value: &str, texts: &mut BTreeSet<Vec<u8>>) {
    let value = value.trim();
    if !is_masked(value) {
        return;
    }
    texts.insert(value.into());
    let lines = value.lines().map(str::trim).filter(|line| is_masked(line));
    texts.extend(lines.map(|line| line.as_bytes().to_owned()));
    add_json_encodings(value, texts);
    add_url_encodings(value, texts);
    add_base64_encodings(value.as_bytes(), texts);
    if let Ok(json) = serde_json::from_str(value) {
        add_leaves(&json, texts);
    }
}

/// Adds the values inside an object or a list, also those of JSON inside a string.
fn add_leaves(json: &serde_json::Value, texts: &mut BTreeSet<Vec<u8>>) {
    match json {
        serde_json::Value::Object(members) => members.values().for_each(|value| add_inner(value, texts)),
        serde_json::Value::Array(items) => items.iter().for_each(|value| add_inner(value, texts)),
        _ => {}
    }
}

fn add_inner(json: &serde_json::Value, texts: &mut BTreeSet<Vec<u8>>) {
    match json {
        serde_json::Value::String(text) => add_value(text, texts),
        serde_json::Value::Number(number) => add_value(&number.to_string(), texts),
        inner => add_leaves(inner, texts),
    }
}

/// The value as JSON writers escape it between quotes: with characters unchanged, with `\\u` for non-ASCII characters
/// (Python), and with `\\/` for the slash (PHP).
fn add_json_encodings(value: &str, texts: &mut BTreeSet<Vec<u8>>) {
    let quoted = serde_json::Value::from(value).to_string();
    let plain = &quoted[1..quoted.len() - 1];
    let mut ascii = String::new();
    for character in plain.chars() {
        match character.is_ascii() {
            true => ascii.push(character),
            false => {
                character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}")))
            }
        }
    }
    for text in [plain, &ascii] {
        texts.insert(text.into());
        texts.insert(text.replace('/', "\\/").into());
    }
}

/// Characters that stay unchanged in a URL: RFC 3986 2.3; the same and the slash (Python's `quote`); encodeURIComponent
/// (ECMA-262).
const UNRESERVED: [&str; 3] = ["-_.~", "-_.~/", "-_.!~*'()"];

fn add_url_encodings(value: &str, texts: &mut BTreeSet<Vec<u8>>) {
    for kept in UNRESERVED {
        let upper = percent_encoded(value, kept, |byte| format!("%{byte:02X}"));
        // application/x-www-form-urlencoded writes a space as a plus.
        texts.insert(upper.replace("%20", "+").into());
        texts.insert(upper.into());
        texts.insert(percent_encoded(value, kept, |byte| format!("%{byte:02x}")).into());
    }
}

fn percent_encoded(value: &str, kept: &str, escape: impl Fn(u8) -> String) -> String {
    let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte);
    value.bytes().map(|byte| if is_kept(byte) { char::from(byte).to_string() } else { escape(byte) }).collect()
}

/// Columns at which `base64` (76) and PEM writers (64) break lines.
const WRAP_COLUMNS: [usize; 2] = [64, 76];

/// The value at each of the three offsets that it can have in the encoded bytes (RFC 4648): only the characters that no
/// neighbouring byte changes, and up to the end when nothing follows.
fn add_base64_encodings(value: &[u8], texts: &mut BTreeSet<Vec<u8>>) {
    for bytes_before in 0..3 {
        let mut bytes = vec![0; bytes_before];
        bytes.extend_from_slice(value);
        let first = [0, 2, 3][bytes_before];
        let certain = bytes.len() * 8 / 6;
        for text in [STANDARD.encode(&bytes), URL_SAFE.encode(&bytes)] {
            texts.insert(text[first..certain].into());
            texts.insert(text[first..].trim_end_matches('=').into());
        }
    }
    let text = STANDARD.encode(value);
    for columns in WRAP_COLUMNS.into_iter().filter(|columns| text.len() > *columns) {
        let lines: Vec<&[u8]> = text.as_bytes().chunks(columns).collect();
        texts.insert(lines.join(&b'\n'));
        texts.extend(lines.into_iter().filter(|line| line.len() >= SECRET_BYTES_MIN).map(<[u8]>::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(value: &str) -> Vec<String> {
        let texts = texts_to_mask(std::iter::once(value));
        assert!(texts.iter().all(|text| text.len() >= SECRET_BYTES_MIN), "{texts:?}");
        texts.into_iter().map(|text| String::from_utf8(text).expect("text")).collect()
    }

    #[test]
    fn a_value_is_found_in_every_encoding() {
        let check = |value: &str, encodings: &[&str]| {
            let masked = masked(value);
            for encoding in encodings {
                assert!(masked.iter().any(|text| text == encoding), "{value}: {encoding} is not among {masked:?}");
            }
        };
        check(
            "p/ss \"wörd\"",
            &[
                "p/ss \"wörd\"",
                "p/ss \\\"wörd\\\"",
                "p\\/ss \\\"w\\u00f6rd\\\"",
                "p%2Fss%20%22w%C3%B6rd%22",
                "p%2fss%20%22w%c3%b6rd%22",
                "p/ss%20%22w%C3%B6rd%22",
                "p%2Fss+%22w%C3%B6rd%22",
                "cC9zcyAid8O2cmQi",
            ],
        );
        check("hunter2~?>", &["aHVudGVyMn4/Pg", "aHVudGVyMn4_Pg", "h1bnRlcjJ+Pz4", "odW50ZXIyfj8+"]);
        check("  padded\n", &["padded"]);
        check("one line\n\tthe other\r\n{\n", &["one line\n\tthe other\r\n{", "one line", "the other"]);
        check(
            r#"{"user":"app","password":"s3cr3t!","more":[{"pin":1234567}],"inner":"{\"deep\":\"deeper\"}"}"#,
            &["s3cr3t!", "1234567", "deeper", "czNjcjN0I"],
        );
    }

    #[test]
    fn short_values_are_not_masked() {
        for value in ["", "12345", "  ab  \n"] {
            assert!(masked(value).is_empty(), "{value}");
        }
        assert!(!masked("{\nkey of many lines\n}").contains(&"{".to_owned()));
        assert!(!masked(r#"{"region":"eu","id":"longer"}"#).contains(&"eu".to_owned()));
    }

    proptest! {
        /// At any position in the encoded text, the characters that depend only on the secret are found.
        #[test]
        fn base64_is_found_at_every_offset(value in "[ -~]{6,40}", before in "[ -~]{0,9}", after in "[ -~]{0,9}") {
            prop_assume!(value.trim() == value);
            let bits = |bytes: usize| bytes * 8;
            let first = bits(before.len()).div_ceil(6);
            let last = bits(before.len() + value.len()) / 6;
            let texts = texts_to_mask(std::iter::once(value.as_str()));
            for encoded in [STANDARD.encode(format!("{before}{value}{after}")), URL_SAFE.encode(format!("{before}{value}{after}"))] {
                prop_assert!(texts.contains(&encoded.as_bytes()[first..last]), "{}", encoded);
            }
        }
    }
}
