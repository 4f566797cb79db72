//! Patterns with `*` and `?`, as in the `when` of a sink and the `suggest` of a rule pack.

/// Whether all of `text` matches: `*` is any run of bytes, `?` is exactly one byte, each other byte is itself. Takes
/// time linear in the text for each `*`.
pub fn matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut glob_at, mut text_at) = (0, 0);
    // The latest `*`, and where the text after what it covers begins.
    let mut star: Option<(usize, usize)> = None;
    while text_at < text.len() {
        match glob.get(glob_at) {
            Some(b'*') => {
                star = Some((glob_at, text_at));
                glob_at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[text_at] => {
                glob_at += 1;
                text_at += 1;
            }
            _ => match star {
                Some((star_at, covered_to)) => {
                    star = Some((star_at, covered_to + 1));
                    glob_at = star_at + 1;
                    text_at = covered_to + 1;
                }
                None => return false,
            },
        }
    }
    glob[glob_at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_one_byte() {
        for (glob, text, expected) in [
            ("db*", "db-main", true),
            ("db*", "web", false),
            ("*", "", true),
            ("*-dump", "nightly-dump", true),
            ("*-dump", "nightly-dumps", false),
            ("n?ght*d*p", "nightly-dump", true),
            ("", "x", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("python*", "python3.11", true),
            ("*.py", "x.py", true),
            ("*.py", "x.pyc", false),
            ("?sh", "sh", false),
            ("?sh", "zsh", true),
            ("*ab?", "abcabd", true),
            ("?", "", false),
            ("?", "é", false),
        ] {
            assert_eq!(matches(glob, text), expected, "{glob} {text}");
        }
    }
}
