//! Takes a file apart: comments, strings and code of Rust, prose and code of Markdown, comments of other files.

use crate::tidy::Source;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of Rust. Comments on lines that follow each other are one piece.
    Comment,
    /// A literal of Rust, without its escapes and `{name}`.
    Text,
    /// Of Rust, without comments and literals.
    Code,
    /// A paragraph of Markdown, or comments of another file.
    Prose,
    /// A table or code of Markdown, or a line of YAML.
    Data,
}

pub(crate) struct Piece {
    pub kind: Kind,
    /// Numbers from 0, with what each line has of the piece.
    pub lines: Vec<(usize, String)>,
}

pub(crate) fn pieces(source: &Source) -> Vec<Piece> {
    match source.path.rsplit('.').next() {
        Some("rs") => rust(&source.text),
        Some("md") => markdown(&source.text),
        Some("yaml" | "yml") => pieces_of_lines(&source.text, |line| match line.split_once('#') {
            Some((before, comment)) if before.trim().is_empty() => Some((Kind::Prose, comment)),
            _ => Some((Kind::Data, line)),
        }),
        _ => pieces_of_lines(&source.text, |line| {
            let comment =
                if line.starts_with('#') { line.get(1..) } else { line.split_once(" #").map(|(_, text)| text) };
            comment.map(|comment| (Kind::Prose, comment))
        }),
    }
}

/// One piece for each run of lines of the same kind.
fn pieces_of_lines<'t>(text: &'t str, piece_of: impl Fn(&'t str) -> Option<(Kind, &'t str)>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some((kind, text)) = piece_of(line) else { continue };
        push(&mut pieces, kind, number, text.to_owned(), kind != Kind::Data);
    }
    pieces
}

fn markdown(text: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        if fence || line.trim().is_empty() {
            continue;
        }
        let kind = if in_code || line.starts_with('|') { Kind::Data } else { Kind::Prose };
        push(&mut pieces, kind, number, line.to_owned(), kind == Kind::Prose);
    }
    pieces
}

/// Adds a line to the last piece when it is of the same kind and ends on the line before, otherwise as a new piece.
fn push(pieces: &mut Vec<Piece>, kind: Kind, number: usize, text: String, may_join: bool) {
    if let Some(last) = pieces.last_mut().filter(|last| may_join && last.kind == kind)
        && last.lines.last().is_some_and(|(line, _)| line + 1 == number)
    {
        last.lines.push((number, text));
        return;
    }
    pieces.push(Piece { kind, lines: vec![(number, text)] });
}

fn rust(text: &str) -> Vec<Piece> {
    let mut reader = Reader { rest: text, line: 0, pieces: Vec::new() };
    let mut code = String::new();
    while let Some(c) = reader.rest.chars().next() {
        let raw = raw_string(reader.rest).filter(|_| !code.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        if reader.rest.starts_with("//") {
            reader.code(&mut code);
            reader.line_comment();
        } else if reader.rest.starts_with("/*") {
            reader.code(&mut code);
            reader.literal(Kind::Comment, 2, |text| text.find("*/").map(|at| (at, 2)));
        } else if let Some((start, end)) = raw {
            reader.code(&mut code);
            reader.literal(Kind::Text, start, |text| text.find(&end).map(|at| (at, end.len())));
        } else if c == '"' {
            reader.code(&mut code);
            reader.literal(Kind::Text, 1, end_of_string);
        } else {
            let length = char_literal(reader.rest).unwrap_or(c.len_utf8());
            if length == c.len_utf8() {
                code.push(c);
            }
            if c == '\n' {
                reader.code(&mut code);
                reader.line += 1;
            }
            reader.rest = &reader.rest[length..];
        }
    }
    reader.code(&mut code);
    reader.pieces
}

struct Reader<'t> {
    rest: &'t str,
    line: usize,
    pieces: Vec<Piece>,
}

impl Reader<'_> {
    fn code(&mut self, code: &mut String) {
        if !code.trim().is_empty() {
            self.pieces.push(Piece { kind: Kind::Code, lines: vec![(self.line, code.clone())] });
        }
        code.clear();
    }

    fn line_comment(&mut self) {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let text = self.rest[..end].trim_start_matches(['/', '!']);
        push(&mut self.pieces, Kind::Comment, self.line, text.to_owned(), true);
        self.rest = &self.rest[end..];
    }

    /// The text between `start` bytes and the end that is found.
    fn literal(&mut self, kind: Kind, start: usize, end: impl Fn(&str) -> Option<(usize, usize)>) {
        let inside = &self.rest[start..];
        let (length, closing) = end(inside).unwrap_or((inside.len(), 0));
        let text = without_arguments(&without_escapes(&inside[..length]));
        let first = self.line;
        let lines: Vec<_> = text.split('\n').enumerate().map(|(at, line)| (first + at, line.to_owned())).collect();
        self.line += lines.len() - 1;
        self.pieces.push(Piece { kind, lines });
        self.rest = &inside[length + closing..];
    }
}

/// How many bytes begin a raw string, and what ends it.
fn raw_string(text: &str) -> Option<(usize, String)> {
    let prefix = ["r", "br"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let hashes = text[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let start = prefix.len() + hashes;
    text[start..].starts_with('"').then(|| (start + 1, format!("\"{}", "#".repeat(hashes))))
}

fn end_of_string(text: &str) -> Option<(usize, usize)> {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some((end, 1))
}

/// The length of a character literal in bytes; a lifetime is none.
fn char_literal(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('\'')?;
    let length = match inside.strip_prefix('\\') {
        Some(escape) => 2 + escape[1..].find('\'')?,
        None => inside.chars().next()?.len_utf8(),
    };
    inside[length..].starts_with('\'').then_some(length + 2)
}

/// Each escape is a space; the end of a line stays.
fn without_escapes(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(if chars.next() == Some('\n') { '\n' } else { ' ' }),
            c => out.push(c),
        }
    }
    out
}

/// Each `{name}` and `{name:?}` of a format is an `@`.
fn without_arguments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let inside = &rest[open + 1..];
        let name = inside.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        let form = if inside[name..].starts_with(':') { inside[name..].find('}').unwrap_or(0) } else { 0 };
        let end = name + form;
        out.push_str(&rest[..open]);
        if inside[end..].starts_with('}') && form < 12 {
            out.push('@');
            rest = &inside[end + 1..];
        } else {
            out.push('{');
            rest = inside;
        }
    }
    out + rest
}
