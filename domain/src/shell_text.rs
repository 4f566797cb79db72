//! Splits the text of a shell command into words and operators (POSIX, Shell Command Language, 2.3), as far as the
//! warnings about crontabs and the guards of runs need it. Expands and executes nothing; never fails.

/// A piece of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'t> {
    /// A word as written, with its quotes and expansions.
    Word(&'t str),
    /// `&&`, `||`, `;`, `;;`, `&`, `|`, `|&`, `(`, `)`, `((` or a newline.
    Operator(&'static str),
    /// A redirection; the target is the next word, and empty when there is none.
    Redirection {
        /// The number before the operator.
        descriptor: Option<u32>,
        /// `>`, `>>`, `&>` and so on.
        operator: &'static str,
        /// As written.
        target: &'t str,
        /// The whole redirection as written.
        text: &'t str,
    },
}

/// Quotes a word so that a shell reads it as it is; a plain one needs no quotes.
pub fn quote_word(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

const OPERATORS: [&str; 11] = ["&&", "||", ";;", "|&", "((", "&", "|", ";", "(", ")", "\n"];
const REDIRECTIONS: [&str; 12] = ["&>>", "<<<", "<<-", "&>", ">>", ">|", ">&", "<<", "<&", "<>", ">", "<"];

/// All tokens of a command. A comment ends its line.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start_matches([' ', '\t', '\r']).len();
        let rest = &text[at..];
        if rest.is_empty() {
            return tokens;
        }
        if rest.starts_with('#') {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let is_substitution = rest.starts_with("<(") || rest.starts_with(">(");
        let redirection = REDIRECTIONS
            .into_iter()
            .find(|operator| rest[digits..].starts_with(operator) && !(digits > 0 && operator.starts_with('&')));
        if let Some(operator) = redirection.filter(|_| !is_substitution) {
            let after = at + digits + operator.len();
            let target_at = after + text[after..].len() - text[after..].trim_start_matches([' ', '\t']).len();
            let target = &text[target_at..target_at + word_length(&text[target_at..])];
            let end = if target.is_empty() { after } else { target_at + target.len() };
            let descriptor = rest[..digits].parse().ok();
            tokens.push(Token::Redirection { descriptor, operator, target, text: &text[at..end] });
            at = end;
        } else if let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator)) {
            tokens.push(Token::Operator(operator));
            at += operator.len();
        } else {
            // Every character is part of a token, so that the loop ends.
            let length = word_length(rest).max(rest.chars().next().map_or(1, char::len_utf8));
            tokens.push(Token::Word(&rest[..length]));
            at += length;
        }
    }
}

/// Bytes of the word at the start of a text.
fn word_length(text: &str) -> usize {
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        match c {
            ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | ')' => break,
            '<' | '>' if text[at + 1..].starts_with('(') => at += 1 + group_length(&text[at + 1..], '(', ')', 0),
            '<' | '>' => break,
            // `name=(a b)` is an array of bash; elsewhere a parenthesis ends the word.
            '(' if text[..at].ends_with('=') => at += group_length(&text[at..], '(', ')', 0),
            '(' => break,
            _ => at += piece_length(&text[at..]),
        }
    }
    at
}

/// Bytes of one quoted text, expansion or character.
pub(crate) fn piece_length(text: &str) -> usize {
    nested_length(text, 0)
}

/// Expansions inside of expansions that are followed. Chosen: more than any command that a person wrote; a file cannot
/// exhaust the stack.
const DEPTH_MAX: usize = 32;

fn nested_length(text: &str, depth: usize) -> usize {
    let mut characters = text.chars();
    let first = characters.next().map_or(0, char::len_utf8);
    match text.as_bytes().first() {
        _ if depth > DEPTH_MAX => first,
        Some(b'\\') => first + characters.next().map_or(0, char::len_utf8),
        Some(b'\'') => text[1..].find('\'').map_or(text.len(), |end| end + 2),
        Some(b'`') => text[1..].find('`').map_or(text.len(), |end| end + 2),
        Some(b'"') => {
            let mut at = 1;
            while at < text.len() && !text[at..].starts_with('"') {
                at += if text[at..].starts_with('\'') { 1 } else { nested_length(&text[at..], depth + 1) };
            }
            (at + 1).min(text.len())
        }
        Some(b'$') if text.starts_with("$(") => 1 + group_length(&text[1..], '(', ')', depth + 1),
        Some(b'$') if text.starts_with("${") => 1 + group_length(&text[1..], '{', '}', depth + 1),
        _ => first,
    }
}

/// Bytes from an opening bracket to its closing one, quotes respected.
fn group_length(text: &str, open: char, close: char, depth: usize) -> usize {
    let (mut at, mut opened) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        if c == open {
            opened += 1;
            at += 1;
        } else if c == close {
            opened -= 1;
            at += 1;
            if opened == 0 {
                return at;
            }
        } else {
            at += nested_length(&text[at..], depth);
        }
    }
    text.len()
}

/// The value of a word whose only expansions are variables that `value` knows, as `$NAME` or `${NAME}`.
pub(crate) fn expanded(word: &str, value: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut text = String::with_capacity(word.len());
    let (mut at, mut in_quotes) = (0, false);
    while let Some(c) = word[at..].chars().next() {
        let rest = &word[at..];
        let mut length = c.len_utf8();
        match c {
            '"' => in_quotes = !in_quotes,
            '\'' if !in_quotes => {
                length = piece_length(rest);
                text.push_str(rest.get(1..length - 1).unwrap_or_default());
            }
            '\\' => {
                let next = rest[1..].chars().next();
                length += next.map_or(0, char::len_utf8);
                if in_quotes && !matches!(next, Some('$' | '`' | '"' | '\\')) {
                    text.push('\\');
                }
                text.extend(next);
            }
            '$' => {
                let name = variable(rest)?;
                length = if rest.starts_with("${") { name.len() + 3 } else { name.len() + 1 };
                if rest.starts_with("${") && !rest[2 + name.len()..].starts_with('}') {
                    return None;
                }
                text.push_str(&value(name)?);
            }
            '`' => return None,
            '*' | '?' | '[' if !in_quotes && word != "[" => return None,
            '~' if !in_quotes && at == 0 => return None,
            _ => text.push(c),
        }
        at += length;
    }
    (!in_quotes).then_some(text)
}

/// The name in `$NAME` or `${NAME...`.
pub(crate) fn variable(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("${").or_else(|| text.strip_prefix('$'))?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
}

/// A pipeline at the top level of a command, and the operator after it; empty at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pipeline<'t> {
    /// Its tokens; those of compound commands inside included.
    pub tokens: Vec<Token<'t>>,
    /// `&&`, `||`, `;`, `&`, a newline, or empty.
    pub end: &'static str,
}

/// The pipelines at the top level of a command. What is inside of `( )`, `{ }`, `if`, `for`, `while` and `case` stays
/// one pipeline.
pub(crate) fn pipelines<'t>(tokens: &[Token<'t>]) -> Vec<Pipeline<'t>> {
    let mut found = Vec::new();
    let mut current: Vec<Token<'t>> = Vec::new();
    let mut nesting = Nesting::default();
    for token in tokens {
        nesting.read(token);
        match token {
            Token::Operator(end @ ("&&" | "||" | ";" | "&" | "\n")) if nesting.open.is_empty() => {
                if !current.is_empty() {
                    found.push(Pipeline { tokens: std::mem::take(&mut current), end });
                }
            }
            token => current.push(*token),
        }
    }
    if !current.is_empty() {
        found.push(Pipeline { tokens: current, end: "" });
    }
    found
}

impl<'t> Pipeline<'t> {
    /// The commands between the pipes.
    pub(crate) fn commands(&self) -> Vec<&[Token<'t>]> {
        let (mut commands, mut start) = (Vec::new(), 0);
        let mut nesting = Nesting::default();
        for (index, token) in self.tokens.iter().enumerate() {
            nesting.read(token);
            if matches!(token, Token::Operator("|" | "|&")) && nesting.open.is_empty() {
                commands.push(&self.tokens[start..index]);
                start = index + 1;
            }
        }
        commands.push(&self.tokens[start..]);
        commands
    }

    /// The words, without redirections.
    pub(crate) fn words(&self) -> Vec<&'t str> {
        words(&self.tokens)
    }
}

/// The words of a command, without redirections and operators.
pub(crate) fn words<'t>(tokens: &[Token<'t>]) -> Vec<&'t str> {
    tokens.iter().filter_map(|token| if let Token::Word(word) = token { Some(*word) } else { None }).collect()
}

/// Every simple command, at any depth: the tokens between operators and reserved words.
pub(crate) fn simple_commands<'a, 't>(tokens: &'a [Token<'t>]) -> impl Iterator<Item = &'a [Token<'t>]> {
    tokens
        .split(|token| matches!(token, Token::Operator(_)))
        .map(|command| {
            let reserved = |token: &&Token<'_>| matches!(token, Token::Word(word) if RESERVED.contains(word));
            &command[command.iter().take_while(reserved).count()..]
        })
        .filter(|command| !command.is_empty())
}

/// Reserved words after which a command begins.
const RESERVED: [&str; 9] = ["if", "then", "elif", "else", "while", "until", "do", "{", "!"];

/// The compound commands that are open.
#[derive(Default)]
struct Nesting {
    open: Vec<&'static str>,
    /// The next word is not at the start of a command.
    in_command: bool,
}

impl Nesting {
    fn read(&mut self, token: &Token<'_>) {
        match token {
            Token::Operator("(") => self.open.push(")"),
            Token::Operator("((") => self.open.extend([")", ")"]),
            // The pattern of a case ends with a parenthesis that none opens.
            Token::Operator(")") if self.open.last() != Some(&"esac") => drop(self.open.pop()),
            Token::Word("]]") if self.open.last() == Some(&"]]") => drop(self.open.pop()),
            Token::Word(_) if self.open.last() == Some(&"]]") => {}
            Token::Word(word) if !self.in_command => {
                match *word {
                    "if" => self.open.push("fi"),
                    "while" | "until" | "for" | "select" => self.open.push("done"),
                    "case" => self.open.push("esac"),
                    "{" => self.open.push("}"),
                    "[[" => self.open.push("]]"),
                    word if self.open.last() == Some(&word) => drop(self.open.pop()),
                    _ => {}
                }
                self.in_command = !RESERVED.contains(word);
                return;
            }
            _ => {}
        }
        self.in_command = self.in_command && !matches!(token, Token::Operator(_));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_expansions_and_compound_commands_are_not_split() {
        let split = |text: &str| -> Vec<(String, &'static str)> {
            let tokens = tokens(text);
            pipelines(&tokens).iter().map(|pipeline| (pipeline.words().join(" "), pipeline.end)).collect()
        };
        for (text, expected) in [
            ("a && b || c", vec![("a", "&&"), ("b", "||"), ("c", "")]),
            ("a 'x && y' \"b;c\" `d;e` $(f && g) h\\;i", vec![("a 'x && y' \"b;c\" `d;e` $(f && g) h\\;i", "")]),
            ("if [ -x a ] && [ -r b ]; then a; fi; c &", vec![("if [ -x a ] [ -r b ] then a fi", ";"), ("c", "&")]),
            ("( cd /; a ) >/dev/null 2>&1 && b", vec![("cd / a", "&&"), ("b", "")]),
            ("case $x in a) b;; esac; d", vec![("case $x in a b esac", ";"), ("d", "")]),
            ("echo if; a # b; c", vec![("echo if", ";"), ("a", "")]),
            ("for f in *; do a; done && { b; c; }", vec![("for f in * do a done", "&&"), ("{ b c }", "")]),
            ("[[ -x a && ( -d if || -d b ) ]] && c", vec![("[[ -x a -d if -d b ]]", "&&"), ("c", "")]),
            ("diff <(a; b) x=(1 2) c", vec![("diff <(a; b) x=(1 2) c", "")]),
            ("\u{e4}\u{f6} && '", vec![("\u{e4}\u{f6}", "&&"), ("'", "")]),
        ] {
            let expected: Vec<(String, &str)> = expected.into_iter().map(|(a, b)| (a.to_owned(), b)).collect();
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn redirections_have_their_descriptor_and_target() {
        let found: Vec<String> = tokens("a >/dev/null 2>&1 2>> 'x y' &>z <<<w <")
            .iter()
            .filter_map(|token| match token {
                Token::Redirection { descriptor, operator, target, text } => {
                    Some(format!("{descriptor:?} {operator} {target} [{text}]"))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            found,
            [
                "None > /dev/null [>/dev/null]",
                "Some(2) >& 1 [2>&1]",
                "Some(2) >> 'x y' [2>> 'x y']",
                "None &> z [&>z]",
                "None <<< w [<<<w]",
                "None <  [<]",
            ]
        );
    }

    #[test]
    fn a_word_has_a_value_when_all_its_variables_are_known() {
        let value = |word: &str| expanded(word, |name| (name == "HOME").then(|| "/home/a".to_owned()));
        for (word, expected) in [
            ("$HOME/bin", Some("/home/a/bin")),
            ("\"${HOME}/a b\"'$x'\\$y", Some("/home/a/a b$x$y")),
            ("$OTHER", None),
            ("${HOME:-x}", None),
            ("$(a)", None),
            ("*.sh", None),
            ("\"open", None),
            ("[", Some("[")),
        ] {
            assert_eq!(value(word).as_deref(), expected, "{word}");
        }
    }
}
