//! Texts of system errors for people: without the number of the error, which the standard library appends. Pure. Used
//! by every crate where an `io::Error` becomes part of a message.

use std::borrow::Cow;
use std::io;

/// How the standard library begins the number of an error.
const NUMBER: &str = " (os error ";

/// The system's text in lower case, without its number: `no such file or directory`.
pub fn plain_text(error: &io::Error) -> String {
    let text = error.to_string();
    let plain = without_numbers(&text);
    match plain.chars().nth(1) {
        // Not the first letter of an abbreviation, and not a name that another crate put before the error.
        Some(second) if second.is_lowercase() && error.raw_os_error().is_some() => {
            plain[..1].to_lowercase() + &plain[1..]
        }
        _ => plain.into_owned(),
    }
}

/// The text without ` (os error 2)`, each time that it contains one.
pub fn without_numbers(text: &str) -> Cow<'_, str> {
    if !text.contains(NUMBER) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(NUMBER) {
        plain.push_str(&rest[..at]);
        let after = &rest[at + NUMBER.len()..];
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        rest = match after[digits..].strip_prefix(')') {
            Some(following) if digits > 0 => following,
            _ => {
                plain.push_str(NUMBER);
                after
            }
        };
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_system_errors_have_no_number() {
        assert_eq!(plain_text(&io::Error::from_raw_os_error(2)), "no such file or directory");
        assert_eq!(plain_text(&io::Error::other("/X: Not a directory (os error 20)")), "/X: Not a directory");
        for (text, plain) in [
            ("plain", "plain"),
            ("a (os error 1), b (os error 22); c", "a, b; c"),
            ("a (os error )", "a (os error )"),
            ("a (os error 1", "a (os error 1"),
            ("a (os error x1)", "a (os error x1)"),
        ] {
            assert_eq!(without_numbers(text), plain);
        }
    }
}
