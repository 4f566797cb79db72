//! Reads the text of a shell command into its simple commands: which run after each other, which in a pipe, and where
//! their output goes. Expands nothing. Called by [`crate::programs`]. Reads any text, a faulty one as far as it can.

use std::iter::Peekable;
use std::str::Chars;

/// Nesting of groups, loops and substitutions. Chosen, not measured.
const NEST_MAX: usize = 32;

/// A part of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// One program with its arguments.
    Simple(Simple),
    /// Commands that run one after the other: a list, a group, a loop.
    List(Vec<Node>, Output),
    /// Commands of which each reads what the one before prints.
    Pipe(Vec<Node>),
}

/// One program with its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Simple {
    /// Without quotes, redirections and comments.
    pub(crate) words: Vec<String>,
    pub(crate) output: Output,
    /// The text of a here document.
    pub(crate) input: Option<String>,
    /// The commands in `$( )` and backquotes.
    pub(crate) substituted: Vec<Node>,
}

/// Where the output of a command goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// Standard output goes to a file or to standard error.
    pub(crate) is_elsewhere: bool,
    /// Standard error goes to standard output.
    pub(crate) is_merged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A word; whether any of it was quoted; its substitutions.
    Word(String, bool, Vec<Node>),
    /// `;`, a line feed or `&`.
    End,
    /// `;;`, `;&`
    CaseEnd,
    /// `&&` or `||`.
    Then,
    /// `|`; whether standard error goes into it, too.
    Pipe(bool),
    Open,
    Close,
    /// The number before it, the operator, and its target.
    Redirect(Option<u32>, String, String),
    /// The text of a here document.
    Input(String),
}

/// Reads the text of a command.
pub(crate) fn read(text: &str) -> Vec<Node> {
    read_nested(text, NEST_MAX)
}

fn read_nested(text: &str, depth: usize) -> Vec<Node> {
    let Some(depth) = depth.checked_sub(1) else { return Vec::new() };
    let tokens = Lexer { rest: text.chars().peekable(), tokens: Vec::new(), awaited: Vec::new(), depth }.run();
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), depth: NEST_MAX };
    let mut nodes = Vec::new();
    while parser.tokens.peek().is_some() {
        nodes.extend(parser.list(None));
        // What closes nothing is skipped.
        parser.tokens.next();
    }
    nodes
}

/// Splits text into tokens.
struct Lexer<'t> {
    rest: Peekable<Chars<'t>>,
    tokens: Vec<Token>,
    /// The here documents that begin on the next line: their delimiters, and whether tabs are removed.
    awaited: Vec<(String, bool)>,
    depth: usize,
}

impl Lexer<'_> {
    fn run(mut self) -> Vec<Token> {
        while let Some(c) = self.rest.peek().copied() {
            match c {
                ' ' | '\t' | '\r' => {
                    self.rest.next();
                }
                '\n' => {
                    self.rest.next();
                    self.tokens.push(Token::End);
                    self.here_documents();
                }
                '#' => while self.rest.next_if(|c| *c != '\n').is_some() {},
                ';' => {
                    self.rest.next();
                    let is_case = self.rest.next_if(|c| matches!(c, ';' | '&')).is_some();
                    self.tokens.push(if is_case { Token::CaseEnd } else { Token::End });
                }
                '&' | '|' => self.operator(c),
                '(' => self.push_next(Token::Open),
                ')' => self.push_next(Token::Close),
                '<' | '>' => self.redirect(None),
                _ => self.word_or_number(),
            }
        }
        self.tokens
    }

    fn push_next(&mut self, token: Token) {
        self.rest.next();
        self.tokens.push(token);
    }

    fn operator(&mut self, c: char) {
        self.rest.next();
        let token = match (c, self.rest.peek()) {
            ('&', Some('&')) | ('|', Some('|')) => {
                self.rest.next();
                Token::Then
            }
            ('&', Some('>')) => {
                self.rest.next();
                self.rest.next_if_eq(&'>');
                let target = self.target();
                Token::Redirect(Some(1), "&>".to_owned(), target)
            }
            ('|', Some('&')) => {
                self.rest.next();
                Token::Pipe(true)
            }
            ('|', _) => Token::Pipe(false),
            _ => Token::End,
        };
        self.tokens.push(token);
    }

    fn word_or_number(&mut self) {
        let (word, is_quoted, substituted) = self.word();
        let is_number = !is_quoted && !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
        match self.rest.peek() {
            Some('<' | '>') if is_number => self.redirect(word.parse().ok()),
            _ => self.tokens.push(Token::Word(word, is_quoted, substituted)),
        }
    }

    fn redirect(&mut self, number: Option<u32>) {
        let mut operator = String::new();
        while operator.len() < 3
            && let Some(c) = self.rest.next_if(|c| matches!(c, '<' | '>' | '&' | '|' | '-'))
        {
            operator.push(c);
        }
        // A process substitution runs a command, whose output goes to a file of its own.
        if matches!(operator.as_str(), "<" | ">") && self.rest.peek() == Some(&'(') {
            self.rest.next();
            let substituted = self.substituted(')');
            self.tokens.push(Token::Word("/dev/fd/63".to_owned(), true, substituted));
            return;
        }
        let target = self.target();
        if matches!(operator.as_str(), "<<" | "<<-") {
            self.awaited.push((target, operator == "<<-"));
        } else {
            self.tokens.push(Token::Redirect(number, operator, target));
        }
    }

    fn target(&mut self) -> String {
        while self.rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
        self.word().0
    }

    /// Reads a word up to a blank or an operator.
    fn word(&mut self) -> (String, bool, Vec<Node>) {
        let (mut word, mut is_quoted, mut nodes) = (String::new(), false, Vec::new());
        while let Some(c) = self.rest.peek().copied() {
            match c {
                ' ' | '\t' | '\r' | '\n' | ';' | '|' | '&' | '(' | ')' | '<' | '>' => break,
                '\'' => {
                    self.rest.next();
                    is_quoted = true;
                    word.extend(self.rest.by_ref().take_while(|c| *c != '\''));
                }
                '"' => {
                    self.rest.next();
                    is_quoted = true;
                    self.double_quoted(&mut word, &mut nodes);
                }
                '\\' => {
                    self.rest.next();
                    word.extend(self.rest.next().filter(|c| *c != '\n'));
                }
                '$' | '`' => self.expansion(&mut word, &mut nodes),
                _ => word.extend(self.rest.next()),
            }
        }
        (word, is_quoted, nodes)
    }

    fn double_quoted(&mut self, word: &mut String, nodes: &mut Vec<Node>) {
        while let Some(c) = self.rest.peek().copied() {
            match c {
                '"' => {
                    self.rest.next();
                    return;
                }
                '\\' => {
                    self.rest.next();
                    word.extend(self.rest.next().filter(|c| *c != '\n'));
                }
                '$' | '`' => self.expansion(word, nodes),
                _ => word.extend(self.rest.next()),
            }
        }
    }

    /// `$( )`, backquotes, `$(( ))`, `${ }`, or a plain `$`.
    fn expansion(&mut self, word: &mut String, nodes: &mut Vec<Node>) {
        match (self.rest.next(), self.rest.peek()) {
            (Some('`'), _) => {
                word.push_str("$()");
                nodes.extend(self.substituted('`'));
            }
            (_, Some('(')) => {
                self.rest.next();
                word.push_str("$()");
                nodes.extend(self.substituted(')'));
            }
            (_, Some('{')) => {
                word.push('$');
                for c in self.rest.by_ref() {
                    word.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
            _ => word.push('$'),
        }
    }

    /// The commands up to the character that closes the substitution.
    fn substituted(&mut self, close: char) -> Vec<Node> {
        let (mut text, mut open, mut quote) = (String::new(), 0, None);
        while let Some(c) = self.rest.next() {
            match (quote, c) {
                (_, '\\') => {
                    text.push(c);
                    text.extend(self.rest.next());
                    continue;
                }
                (Some(quoting), _) if c == quoting => quote = None,
                (Some(_), _) => {}
                (None, _) if c == close && open == 0 => break,
                (None, '\'' | '"') => quote = Some(c),
                (None, '(') => open += 1,
                (None, ')') => open -= 1,
                (None, _) => {}
            }
            text.push(c);
        }
        // `$((1 + 2))` has no command.
        if text.starts_with('(') && text.ends_with(')') {
            return Vec::new();
        }
        read_nested(&text, self.depth)
    }

    /// Reads the here documents that the last line announced.
    fn here_documents(&mut self) {
        for (delimiter, has_tabs) in std::mem::take(&mut self.awaited) {
            let mut text = String::new();
            while self.rest.peek().is_some() {
                let line: String = self.rest.by_ref().take_while(|c| *c != '\n').collect();
                let line = if has_tabs { line.trim_start_matches('\t') } else { &line };
                if line == delimiter {
                    break;
                }
                text.push_str(line);
                text.push('\n');
            }
            // Of the command before the line's end.
            let place = self.tokens.len().saturating_sub(1);
            self.tokens.insert(place, Token::Input(text));
        }
    }
}

/// Builds the commands from tokens.
struct Parser {
    tokens: Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
}

impl Parser {
    /// Commands up to a word or bracket that closes them; that one is left.
    fn list(&mut self, close: Option<&str>) -> Vec<Node> {
        let mut nodes = Vec::new();
        loop {
            match self.tokens.peek() {
                None | Some(Token::Close) => return nodes,
                Some(Token::End | Token::Then | Token::Pipe(_) | Token::Input(_)) => {
                    self.tokens.next();
                }
                Some(Token::CaseEnd) => {
                    self.tokens.next();
                    self.skip_case_pattern();
                }
                Some(Token::Word(word, false, _)) if Some(word.as_str()) == close => return nodes,
                Some(Token::Word(word, false, _)) if is_connective(word) => {
                    self.tokens.next();
                }
                Some(_) => nodes.extend(self.pipe()),
            }
        }
    }

    fn pipe(&mut self) -> Option<Node> {
        let mut stages: Vec<Node> = Vec::new();
        loop {
            let mut stage = self.command()?;
            let Some(Token::Pipe(with_errors)) = self.tokens.peek() else {
                stages.push(stage);
                break;
            };
            if *with_errors && let Some(output) = stage.output_mut() {
                output.is_merged = true;
            }
            stages.push(stage);
            self.tokens.next();
            while matches!(self.tokens.peek(), Some(Token::End)) {
                self.tokens.next();
            }
            if self.tokens.peek().is_none() {
                break;
            }
        }
        if stages.len() > 1 { Some(Node::Pipe(stages)) } else { stages.pop() }
    }

    /// One command with its redirections.
    fn command(&mut self) -> Option<Node> {
        let nodes = match self.tokens.peek()? {
            Token::Open => {
                self.tokens.next();
                self.group(None)
            }
            Token::Word(word, false, _) => match word.as_str() {
                "{" => self.keyword_group("}"),
                "if" => self.keyword_group("fi"),
                "while" | "until" => self.keyword_group("done"),
                "for" | "select" => {
                    let values = self.loop_values();
                    [values, self.group(Some("done"))].concat()
                }
                "case" => {
                    self.skip_case_pattern();
                    self.group(Some("esac"))
                }
                _ => return Some(Node::Simple(self.simple())),
            },
            _ => return Some(Node::Simple(self.simple())),
        };
        let mut output = Output::default();
        while let Some(Token::Redirect(..) | Token::Input(_)) = self.tokens.peek() {
            if let Some(Token::Redirect(number, operator, target)) = self.tokens.next() {
                output.redirect(number, &operator, &target);
            }
        }
        Some(Node::List(nodes, output))
    }

    fn keyword_group(&mut self, close: &str) -> Vec<Node> {
        self.tokens.next();
        self.group(Some(close))
    }

    /// The commands of a group, and what closes it.
    fn group(&mut self, close: Option<&str>) -> Vec<Node> {
        let Some(depth) = self.depth.checked_sub(1) else {
            // Deeper than any real command: the rest is not read.
            self.tokens.by_ref().for_each(drop);
            return Vec::new();
        };
        self.depth = depth;
        let mut nodes = self.list(close);
        while close.is_some() && matches!(self.tokens.peek(), Some(Token::Close)) {
            self.tokens.next();
            nodes.extend(self.list(close));
        }
        self.tokens.next();
        self.depth += 1;
        nodes
    }

    /// The commands that compute the values of a loop: `for x in $(...)`.
    fn loop_values(&mut self) -> Vec<Node> {
        let mut values = Simple::default();
        while let Some(token) = self.tokens.next_if(|token| !matches!(token, Token::End)) {
            if let Token::Word(_, _, substituted) = token {
                values.substituted.extend(substituted);
            }
        }
        vec![Node::Simple(values)]
    }

    /// Skips `case WORD in PATTERN)` or `PATTERN)`, but not `esac`.
    fn skip_case_pattern(&mut self) {
        let is_esac = |token: &Token| matches!(token, Token::Word(word, false, _) if word == "esac");
        while self.tokens.next_if(|token| !is_esac(token) && *token != Token::Close).is_some() {}
        self.tokens.next_if_eq(&Token::Close);
    }

    fn simple(&mut self) -> Simple {
        let mut simple = Simple::default();
        let is_test = |simple: &Simple| {
            simple.words.first().is_some_and(|word| word == "[[") && simple.words.last().is_none_or(|word| word != "]]")
        };
        loop {
            match self.tokens.peek() {
                Some(Token::Word(..)) => {
                    if let Some(Token::Word(word, _, substituted)) = self.tokens.next() {
                        simple.words.push(word);
                        simple.substituted.extend(substituted);
                    }
                }
                Some(Token::Redirect(..)) => {
                    if let Some(Token::Redirect(number, operator, target)) = self.tokens.next() {
                        simple.output.redirect(number, &operator, &target);
                    }
                }
                Some(Token::Input(_)) => {
                    if let Some(Token::Input(text)) = self.tokens.next() {
                        simple.input.get_or_insert_default().push_str(&text);
                    }
                }
                // `[[ a && (b || c) ]]` is one command.
                Some(Token::Then | Token::Open | Token::Close | Token::Pipe(_)) if is_test(&simple) => {
                    self.tokens.next();
                }
                // `name() { ...; }` defines what the text calls later.
                Some(Token::Open) if simple.words.len() <= 2 => {
                    self.tokens.next();
                    self.tokens.next_if_eq(&Token::Close);
                    simple.words.clear();
                    return simple;
                }
                _ => return simple,
            }
        }
    }
}

/// Words between the commands of a compound command.
fn is_connective(word: &str) -> bool {
    matches!(word, "then" | "else" | "elif" | "do" | "!" | "}" | "fi" | "done" | "esac")
}

impl Node {
    fn output_mut(&mut self) -> Option<&mut Output> {
        match self {
            Node::Simple(simple) => Some(&mut simple.output),
            Node::List(_, output) => Some(output),
            Node::Pipe(_) => None,
        }
    }
}

impl Output {
    fn redirect(&mut self, number: Option<u32>, operator: &str, target: &str) {
        match (operator, number.unwrap_or(1), target) {
            // `&>file`: both go to the file.
            ("&>", _, _) => *self = Output { is_elsewhere: true, is_merged: false },
            (">&", 2, "1") => self.is_merged = !self.is_elsewhere,
            (">&", 1, "1") => {}
            (operator, 1, _) if operator.starts_with('>') => self.is_elsewhere = true,
            (operator, 2, _) if operator.starts_with('>') => self.is_merged = false,
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "command_syntax_tests.rs"]
mod tests;
