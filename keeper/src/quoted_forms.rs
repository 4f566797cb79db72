//! The texts in which shells, languages and markup print a value: quoted, escaped, as a dump, in hex. Pure.
//!
//! Each function returns what one family of programs prints between its quotes. Where a family has several styles, all
//! are returned; equal texts are removed by the caller.

/// Every quoted form of a value, the most common first.
pub(crate) fn quoted_forms(value: &str) -> impl Iterator<Item = String> {
    shell_forms(value)
        .into_iter()
        .chain(sql_and_csv_forms(value))
        .chain(language_forms(value))
        .chain(html_forms(value))
        .chain(hex_forms(value))
}

/// Replaces each character for which `escape` returns a text.
fn replaced(value: &str, escape: impl Fn(char) -> Option<String>) -> String {
    value.chars().fold(String::with_capacity(value.len() + 16), |mut text, character| {
        match escape(character) {
            Some(escaped) => text.push_str(&escaped),
            None => text.push(character),
        }
        text
    })
}

fn with_backslash(value: &str, is_special: impl Fn(char) -> bool) -> String {
    replaced(value, |character| is_special(character).then(|| format!("\\{character}")))
}

/// `printf %q` and `set -x` of bash, dash, zsh and ksh; `declare -p`; `ls` and `printf %q` of coreutils; `shlex.quote`;
/// `Shellwords.escape`; quotemeta.
fn shell_forms(value: &str) -> Vec<String> {
    // bash, lib/sh/shquote.c; a `#` or `~` only as first character.
    let bash = |character: char| "\t !\"$&'()*,;<>?[\\]^`{|}".contains(character);
    let zsh = |character: char| "\t !\"#$&'()*;<=>?[\\]^`{|}~".contains(character);
    let ruby = |character: char| !character.is_ascii_alphanumeric() && !"_-.,:+/@\n".contains(character);
    let word = |character: char| character.is_ascii() && !character.is_ascii_alphanumeric() && character != '_';
    let python = |character: char| "\t\n\r\u{b}\u{c} #$&()*+-.?[\\]^{|}~".contains(character);
    let mut forms = vec![with_backslash(value, bash)];
    if value.starts_with(['#', '~']) {
        forms.push(format!("\\{}", with_backslash(value, bash)));
    }
    forms.extend([with_backslash(value, zsh), with_backslash(value, ruby)]);
    forms.extend([with_backslash(value, word), with_backslash(value, python)]);
    // Within double quotes, as `declare -p` prints.
    forms.push(with_backslash(value, |character| "\"$`\\".contains(character)));
    forms.push(with_backslash(value, |character| "\"$`\\!".contains(character)));
    // Within single quotes: bash, zsh, mksh and String::ShellQuote; Python; dash and busybox.
    let single = [value.replace('\'', r"'\''"), value.replace('\'', r#"'"'"'"#), dash_quoted(value)];
    for nonascii in [NonAscii::Kept, NonAscii::BytesInOctal] {
        forms.push(escaped(value, "'", SHELL_CONTROLS, nonascii));
        forms.push(escaped(value, "'\"?", SHELL_CONTROLS, nonascii));
        forms.push(coreutils_quoted(value, nonascii));
    }
    forms.extend(single);
    forms
}

/// quotemeta of Perl on bytes, which also escapes each byte of a character outside of ASCII.
pub(crate) fn quotemeta_bytes(value: &str) -> Vec<u8> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    value.bytes().flat_map(|byte| (!is_word(byte)).then_some(b'\\').into_iter().chain([byte])).collect()
}

/// dash puts each run of single quotes between double quotes.
fn dash_quoted(value: &str) -> String {
    let mut text = String::new();
    let mut is_quotes = false;
    for character in value.chars() {
        if (character == '\'') != is_quotes {
            is_quotes = !is_quotes;
            text.push_str(if is_quotes { "'\"" } else { "\"'" });
        }
        text.push(character);
    }
    text + if is_quotes { "\"'" } else { "" }
}

/// Coreutils leaves the single quotes for each run of characters that it escapes: `a'$'\n''b`.
fn coreutils_quoted(value: &str, nonascii: NonAscii) -> String {
    let mut text = String::new();
    let mut is_escaped = false;
    for character in value.chars() {
        let escape = character.is_control() || (!character.is_ascii() && nonascii != NonAscii::Kept);
        match (is_escaped, escape) {
            (false, true) => text.push_str("'$'"),
            (true, false) if character != '\'' => text.push_str("''"),
            _ => {}
        }
        is_escaped = escape;
        match character {
            character if escape => {
                text.push_str(&escaped(character.encode_utf8(&mut [0; 4]), "", COREUTILS_CONTROLS, nonascii));
            }
            '\'' => text.push_str(r"'\''"),
            character => text.push(character),
        }
    }
    text
}

/// Quotes doubled: SQL, CSV, and names in SQL.
fn sql_and_csv_forms(value: &str) -> Vec<String> {
    vec![value.replace('\'', "''"), value.replace('"', "\"\""), value.replace('\'', "''").replace('\\', "\\\\")]
}

/// How a language prints characters outside of ASCII.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NonAscii {
    Kept,
    /// `\xf6`, `\u20ac`, `\U0001f600`: Python's `ascii`.
    Python,
    /// `\xc3\xb6`: bytes of Python, C, Go.
    BytesInHex,
    BytesInUpperHex,
    /// `\303\266`: Perl, C, git.
    BytesInOctal,
    /// `\x{f6}`: Perl.
    PerlWide,
    /// `\u{f6}`: Rust, PHP, JavaScript.
    Braces,
    /// `\u00f6`: JavaScript, Java, Go.
    Units,
    UpperUnits,
}

/// How a language prints control characters.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Controls {
    /// Letters of the characters that have a name, like `\n`.
    named: &'static str,
    number: Number,
}

/// How a language prints control characters without a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    /// As they are, and so are those with a name: strings in single quotes of Perl and PHP.
    Kept,
    /// `\x1b`
    Hex,
    /// `\x1B`
    UpperHex,
    /// `\u001b`
    Unit,
    /// `\033`
    Octal,
    /// `\33`, or `\033` before a digit.
    ShortOctal,
    /// `\u{1b}`
    Braces,
}

/// The names of bash.
const SHELL_CONTROLS: Controls = Controls { named: "nrtabvfE", number: Number::Octal };

/// The names of coreutils.
const COREUTILS_CONTROLS: Controls = Controls { named: "nrtabvf", number: Number::Octal };

/// The names of Python and Rust; of Node and Java; of C and Go; of Perl and Ruby.
const NAMES: [&str; 4] = ["nrt", "nrtbf", "nrtabvf", "nrtabvfe"];

const NUMBERS: [Number; 6] =
    [Number::Hex, Number::UpperHex, Number::Unit, Number::Octal, Number::ShortOctal, Number::Braces];

/// Characters that languages escape besides the backslash, by their kind of quotes.
const QUOTES: [&str; 7] = ["'", "\"", "'\"", "", "\"$@", "\"$", "\"#"];

const NON_ASCII: [NonAscii; 9] = [
    NonAscii::Kept,
    NonAscii::Python,
    NonAscii::BytesInHex,
    NonAscii::BytesInUpperHex,
    NonAscii::BytesInOctal,
    NonAscii::PerlWide,
    NonAscii::Braces,
    NonAscii::Units,
    NonAscii::UpperUnits,
];

/// Every way to print control characters.
fn all_controls() -> impl Iterator<Item = Controls> {
    let kept = Controls { named: "", number: Number::Kept };
    let written = NUMBERS.into_iter().flat_map(|number| NAMES.map(|named| Controls { named, number }));
    written.chain([kept])
}

/// `repr` and `ascii` of Python, Data::Dumper of Perl, `inspect` of Ruby, `var_export` of PHP, `%q` of Go, `{:?}` of
/// Rust, `util.inspect` of Node.
fn language_forms(value: &str) -> Vec<String> {
    let ways = if value.chars().any(char::is_control) { usize::MAX } else { 1 };
    let nonascii = if value.is_ascii() { &NON_ASCII[..1] } else { &NON_ASCII[..] };
    let mut forms = Vec::new();
    for quotes in QUOTES {
        for controls in all_controls().take(ways) {
            forms.extend(nonascii.iter().map(|nonascii| escaped(value, quotes, controls, *nonascii)));
        }
    }
    forms
}

fn escaped(value: &str, quotes: &str, controls: Controls, nonascii: NonAscii) -> String {
    let mut text = String::with_capacity(value.len() + 16);
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        let is_before_digit = characters.peek().is_some_and(char::is_ascii_digit);
        let escape = match character {
            '\\' => Some("\\\\".to_owned()),
            character if quotes.contains(character) => Some(format!("\\{character}")),
            character if character.is_ascii_control() => escaped_control(character, controls, is_before_digit),
            character if !character.is_ascii() => escaped_nonascii(character, nonascii),
            _ => None,
        };
        match escape {
            Some(escape) => text.push_str(&escape),
            None => text.push(character),
        }
    }
    text
}

fn escaped_control(character: char, controls: Controls, is_before_digit: bool) -> Option<String> {
    if controls.number == Number::Kept {
        return None;
    }
    let code = u32::from(character);
    let names = match character {
        '\n' => "n",
        '\r' => "r",
        '\t' => "t",
        '\u{7}' => "a",
        '\u{8}' => "b",
        '\u{b}' => "v",
        '\u{c}' => "f",
        '\u{1b}' => "eE",
        _ => "",
    };
    if let Some(name) = controls.named.chars().find(|name| names.contains(*name)) {
        return Some(format!("\\{name}"));
    }
    Some(match controls.number {
        Number::Kept => return None,
        Number::Hex => format!("\\x{code:02x}"),
        Number::UpperHex => format!("\\x{code:02X}"),
        Number::Unit => format!("\\u{code:04x}"),
        Number::ShortOctal if !is_before_digit => format!("\\{code:o}"),
        Number::Octal | Number::ShortOctal => format!("\\{code:03o}"),
        Number::Braces => format!("\\u{{{code:x}}}"),
    })
}

fn escaped_nonascii(character: char, nonascii: NonAscii) -> Option<String> {
    let code = u32::from(character);
    let bytes = |form: fn(u8) -> String| Some(character.encode_utf8(&mut [0; 4]).bytes().map(form).collect::<String>());
    let units = |form: fn(u16) -> String| {
        Some(character.encode_utf16(&mut [0; 2]).iter().map(|unit| form(*unit)).collect::<String>())
    };
    match nonascii {
        NonAscii::Kept => None,
        NonAscii::Python if code <= 0xff => Some(format!("\\x{code:02x}")),
        NonAscii::Python if code <= 0xffff => Some(format!("\\u{code:04x}")),
        NonAscii::Python => Some(format!("\\U{code:08x}")),
        NonAscii::BytesInHex => bytes(|byte| format!("\\x{byte:02x}")),
        NonAscii::BytesInUpperHex => bytes(|byte| format!("\\x{byte:02X}")),
        NonAscii::BytesInOctal => bytes(|byte| format!("\\{byte:03o}")),
        NonAscii::PerlWide => Some(format!("\\x{{{code:x}}}")),
        NonAscii::Braces => Some(format!("\\u{{{code:x}}}")),
        NonAscii::Units => units(|unit| format!("\\u{unit:04x}")),
        NonAscii::UpperUnits => units(|unit| format!("\\u{unit:04X}")),
    }
}

/// What libraries write for `"` and `'`: none; Python; Go and MarkupSafe; Ruby and lodash; PHP; XML; attributes.
const HTML_QUOTES: [(&str, &str); 8] = [
    ("\"", "'"),
    ("&quot;", "&#x27;"),
    ("&#34;", "&#39;"),
    ("&quot;", "&#39;"),
    ("&quot;", "&#039;"),
    ("&quot;", "&apos;"),
    ("&quot;", "'"),
    ("&#x22;", "&#x27;"),
];

/// Text and attributes of HTML and XML, with non-ASCII characters as they are, decimal, or in hex.
fn html_forms(value: &str) -> Vec<String> {
    let mut forms = Vec::new();
    let numbers: [fn(u32) -> Option<String>; 4] = [
        |_| None,
        |code| Some(format!("&#{code};")),
        |code| Some(format!("&#x{code:x};")),
        |code| Some(format!("&#x{code:X};")),
    ];
    let numbers = if value.is_ascii() { &numbers[..1] } else { &numbers[..] };
    let slashes = if value.contains(['/', '`', '=']) { &["/", "&#x2F;", "&#47;"][..] } else { &["/"] };
    for ((double, single), slash) in
        HTML_QUOTES.into_iter().flat_map(|pair| slashes.iter().map(move |one| (pair, *one)))
    {
        for (number, greater) in numbers.iter().flat_map(|number| [(number, "&gt;"), (number, ">")]) {
            forms.push(replaced(value, |character| match character {
                '&' => Some("&amp;".to_owned()),
                '<' => Some("&lt;".to_owned()),
                '>' => Some(greater.to_owned()),
                '"' => Some(double.to_owned()),
                '\'' => Some(single.to_owned()),
                '/' => Some(slash.to_owned()),
                // mustache.js
                '`' | '=' if slash == "&#x2F;" => Some(format!("&#x{:X};", u32::from(character))),
                character if !character.is_ascii() => number(u32::from(character)),
                _ => None,
            }));
        }
    }
    forms
}

/// The bytes in hex, in both cases: `xxd -p`, `hexdump`, `od`, bytes with separators, `\x70\x61`.
fn hex_forms(value: &str) -> Vec<String> {
    let lower = |separator: &str| value.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(separator);
    let pairs =
        value.as_bytes().chunks(2).map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let pairs = pairs.collect::<Vec<_>>().join(" ");
    let separators = ["", " ", ":", "-", ", ", "\\x", ", 0x", ",0x"];
    let forms = separators.map(lower).into_iter().chain([pairs]);
    forms.flat_map(|form| [upper_hex(&form), form]).collect()
}

/// Digits in upper case; the `x` of a prefix stays.
fn upper_hex(form: &str) -> String {
    form.chars().map(|c| if c == 'x' { c } else { c.to_ascii_uppercase() }).collect()
}
