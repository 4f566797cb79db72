//! The texts in which a secret can appear in output: the value, its lines, the leaves of its JSON, and each of these as
//! base64, percent-encoded, escaped for JSON (also twice), and as shells, languages and markup print it. Pure.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::quoted_forms::{quoted_forms, quotemeta_bytes};

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
    let lines = || value.lines().map(str::trim).filter(|line| is_masked(line));
    texts.extend(lines().map(|line| line.as_bytes().to_owned()));
    add_json_encodings(value, texts);
    add_url_encodings(value, texts);
    add_base64_encodings(value.as_bytes(), texts);
    add_quoted_forms(value, texts);
    lines().filter(|line| *line != value).for_each(|line| add_quoted_forms(line, texts));
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

/// Bytes of the quoted forms of one value at most. Chosen: the automaton of one value needs less than 100 MB. The lines
/// of a longer value are masked each by itself.
const FORMS_BYTES_MAX: usize = 1 << 20;

/// Adds the quoted forms, also escaped for JSON: a job may log its trace as JSON.
fn add_quoted_forms(value: &str, texts: &mut BTreeSet<Vec<u8>>) {
    let mut bytes = 0;
    texts.insert(quotemeta_bytes(value));
    let mut known = BTreeSet::from([value.to_owned()]);
    for form in quoted_forms(value) {
        if bytes > FORMS_BYTES_MAX {
            return;
        }
        if known.contains(&form) {
            continue;
        }
        bytes += form.len();
        for text in json_texts(&form) {
            bytes += text.len();
            texts.insert(text.into());
        }
        texts.insert(form.as_bytes().into());
        known.insert(form);
    }
}

/// How a JSON writer escapes characters that it need not escape.
#[derive(Clone, Copy)]
struct JsonStyle {
    /// Characters that it writes as `\u` with four digits.
    escaped: &'static str,
    /// Whether non-ASCII characters are among them.
    ascii: bool,
    upper: bool,
    /// Whether the slash is written as `\/`.
    slash: bool,
}

/// Sets of characters that writers escape without need: none; Go and Rails; Gson; PHP with JSON_HEX flags;
/// System.Text.Json.
const JSON_ESCAPED: [&str; 5] = ["", "<>&", "<>&='", "\"'<>&", "\"'<>&+`\u{7f}"];

/// All styles, the most common first. Python escapes non-ASCII characters; PHP and JavaScript the slash.
fn json_styles() -> impl Iterator<Item = JsonStyle> {
    let flags = (0..8).map(|bits: u8| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0));
    JSON_ESCAPED.into_iter().flat_map(move |escaped| {
        flags.clone().map(move |(ascii, slash, upper)| JsonStyle { escaped, ascii, upper, slash })
    })
}

/// The value as JSON writers escape it between quotes.
fn json_escaped(value: &str, style: JsonStyle) -> String {
    let mut text = String::with_capacity(value.len() + 16);
    let unit = |unit: u16| if style.upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
    for character in value.chars() {
        let is_escaped = style.escaped.contains(character) || (style.ascii && !character.is_ascii());
        match character {
            character if is_escaped => {
                character.encode_utf16(&mut [0; 2]).iter().for_each(|one| text.push_str(&unit(*one)));
            }
            '"' | '\\' => text.extend(['\\', character]),
            '/' if style.slash => text.push_str("\\/"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            character if character.is_ascii_control() && character != '\u{7f}' => {
                text.push_str(&unit(u32::from(character) as u16));
            }
            character => text.push(character),
        }
    }
    text
}

/// The common styles of JSON, each different from the value.
fn json_texts(value: &str) -> impl Iterator<Item = String> {
    let texts: BTreeSet<String> = json_styles().take(4).map(|style| json_escaped(value, style)).collect();
    texts.into_iter().filter(move |text| text != value)
}

/// JSON, JSON as a string in JSON, and that in a string once more.
fn add_json_encodings(value: &str, texts: &mut BTreeSet<Vec<u8>>) {
    let mut bytes = 0;
    let mut known = BTreeSet::new();
    for once in json_styles().map(|style| json_escaped(value, style)) {
        if bytes > FORMS_BYTES_MAX || !known.insert(once.clone()) {
            continue;
        }
        for twice in json_texts(&once) {
            for text in json_texts(&twice).chain([twice.clone()]) {
                bytes += text.len();
                texts.insert(text.into());
            }
        }
        texts.insert(once.into());
    }
}

/// Characters that stay unchanged in a URL: RFC 3986 2.3; the same and the slash (Python's `quote`); encodeURIComponent
/// and encodeURI (ECMA-262); urlencode of PHP and Java; none.
const UNRESERVED: [&str; 6] = ["-_.~", "-_.~/", "-_.!~*'()", "-_.!~*'();/?:@&=+$,#", "-_.*", ""];

fn add_url_encodings(value: &str, texts: &mut BTreeSet<Vec<u8>>) {
    let mut add = |text: String| {
        // application/x-www-form-urlencoded writes a space as a plus. A URL within a URL is encoded twice.
        texts.insert(text.replace("%20", "+").into());
        texts.insert(text.replace('%', "%25").into());
        texts.insert(text.into());
    };
    for kept in UNRESERVED {
        add(percent_encoded(value, kept, |byte| format!("%{byte:02X}")));
        add(percent_encoded(value, kept, |byte| format!("%{byte:02x}")));
    }
    for escape in [|byte: &u8| format!("%{byte:02X}"), |byte: &u8| format!("%{byte:02x}")] {
        texts.insert(value.as_bytes().iter().map(escape).collect::<String>().into());
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
        texts.into_iter().filter_map(|text| String::from_utf8(text).ok()).collect()
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
