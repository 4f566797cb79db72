//! Reads a TOML file and finds all its faults in one reading, each with its line.
//!
//! Jobs, sinks, rules and the configuration are read through [`Section`]. A reader takes each key that it knows out of
//! its section. [`Section::reject_unknown_keys`] reports the other keys, with the nearest known name.

mod name_reference;
mod ranges;
mod toml_value;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use toml::de::DeTable;

pub use name_reference::{NameReference, NamedKind};
use toml_value::{Entry, Lines, Value, entries_of};

use crate::fault::{Fault, Faults, Level, nearest_name};
use crate::units;

/// A file that is being read: its name and the faults found so far. Cheap to clone; clones share the faults.
#[derive(Clone)]
pub struct Document {
    file: Rc<str>,
    faults: Rc<RefCell<Vec<Fault>>>,
    /// Number of faults, without warnings. Readers compare it before and after every entry.
    refusals: Rc<Cell<usize>>,
    references: Rc<RefCell<Vec<NameReference>>>,
}

/// One table of the file. Taking a key marks it as known.
pub struct Section {
    document: Document,
    /// 1-based line of the table's head.
    line: u32,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
}

impl Document {
    /// Parses `text`; `file` appears in faults only.
    ///
    /// # Errors
    /// One fault with the syntax error, when the text is not TOML.
    pub fn parse(file: &str, text: &str) -> Result<(Document, Section), Faults> {
        let lines = Lines::of(text);
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(0, |span| lines.line(span.start));
            Faults(vec![Fault::new(file, line, "", format!("not TOML: {}", error.message()))])
        })?;
        let document = Document::empty(file);
        let entries = entries_of(table.into_inner(), &lines);
        Ok((document.clone(), Section { document, line: 1, entries, known: Vec::new() }))
    }

    /// A document without faults, for files that are not TOML.
    pub fn empty(file: &str) -> Document {
        Document { file: file.into(), faults: Rc::default(), refusals: Rc::default(), references: Rc::default() }
    }

    /// A section made of words, as in a directive of a crontab: `timeout=2h rules=default,python alert.after=2`. A
    /// dotted name is a key of a table, and commas separate the items of a list. The last one of equal names counts.
    pub fn section_of_words(&self, line: u32, words: Vec<(String, String)>) -> Section {
        let mut entries: Vec<Entry> = Vec::new();
        let mut tables: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for (name, word) in words {
            let (place, key) = match name.split_once('.') {
                Some((table, key)) => (tables.entry(table.to_owned()).or_default(), key.to_owned()),
                None => (&mut entries, name),
            };
            place.retain(|entry| entry.key != key);
            place.push(Entry { key, line, value: Value::Word(word) });
        }
        entries.extend(tables.into_iter().map(|(key, inner)| Entry { key, line, value: Value::Table(inner) }));
        Section { document: self.clone(), line, entries, known: Vec::new() }
    }

    /// The name of the file in faults.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Adds a fault or a warning.
    pub fn push(&self, fault: Fault) {
        self.refusals.set(self.refusals.get() + usize::from(fault.level == Level::Fault));
        self.faults.borrow_mut().push(fault);
    }

    /// All names found so far that other files define, in the order of the file.
    pub fn references(&self) -> Vec<NameReference> {
        self.references.borrow().clone()
    }

    /// The number of faults found so far, without warnings.
    pub fn fault_count(&self) -> usize {
        self.refusals.get()
    }

    /// All faults and warnings found so far, by line.
    pub fn faults(&self) -> Faults {
        let mut faults = self.faults.borrow().clone();
        faults.sort_by_key(|fault| fault.line);
        Faults(faults)
    }

    /// As [`Document::faults`], for the end of the reading: they are not copied.
    pub fn take_faults(&self) -> Faults {
        let mut faults = self.faults.take();
        faults.sort_by_key(|fault| fault.line);
        Faults(faults)
    }
}

impl Section {
    /// 1-based line of the table's head.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The file of the table.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The line of an unread key, else the line of the table.
    pub fn line_of(&self, key: &str) -> u32 {
        self.entries.iter().find(|entry| entry.key == key).map_or(self.line, |entry| entry.line)
    }

    /// Whether the key is present and not yet read.
    pub fn has_unread(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// The keys that were asked for, whether present or not.
    pub fn known_keys(&self) -> &[&'static str] {
        &self.known
    }

    /// Reports a fault at `line`.
    pub fn fault(&self, line: u32, value: impl Into<String>, message: impl Into<String>) {
        self.document.push(Fault::new(&self.document.file, line, value, message));
    }

    fn take_key(&mut self, key: &'static str) -> Option<(u32, Value)> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        let entry = self.entries.remove(at);
        Some((entry.line, entry.value))
    }

    /// As [`Section::take_key`]; `read` converts a word to the type of the key.
    fn take_key_as(&mut self, key: &'static str, read: impl Fn(&str) -> Option<Value>) -> Option<(u32, Value)> {
        let (line, value) = self.take_key(key)?;
        let read = match &value {
            Value::Word(word) => read(word),
            _ => None,
        };
        Some((line, read.unwrap_or(value)))
    }

    fn type_fault(&self, line: u32, key: &str, value: &Value, wanted: &str) {
        self.fault(line, value.to_string(), format!("`{key}` is {}; write {wanted}", value.kind()));
    }

    /// For a value of the right type that is too small or too large.
    fn range_fault(&self, line: u32, key: &str, value: &Value, wanted: &str) {
        self.fault(line, value.to_string(), format!("`{key}` is out of range; write {wanted}"));
    }

    /// Takes a text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.text_at(key).map(|(_, text)| text)
    }

    /// Takes a text, with its line.
    pub fn text_at(&mut self, key: &'static str) -> Option<(u32, String)> {
        match self.take_key_as(key, |word| Some(Value::Text(word.to_owned())))? {
            (line, Value::Text(text)) => Some((line, text)),
            (line, value @ (Value::Integer(_) | Value::Number(_) | Value::Flag(_))) => {
                self.type_fault(line, key, &value, &format!("it in quotes: {key} = \"{value}\""));
                None
            }
            (line, value) => {
                self.type_fault(line, key, &value, "a text in quotes");
                None
            }
        }
    }

    /// As [`Section::text`]; a missing key is a fault.
    pub fn required_text(&mut self, key: &'static str) -> Option<String> {
        let missing = !self.entries.iter().any(|entry| entry.key == key);
        if missing {
            self.fault(self.line, "", format!("`{key}` is missing; write {key} = \"...\""));
        }
        self.text(key)
    }

    /// Takes a path; a relative one is relative to `folder`, the folder of the file that is read.
    pub fn path(&mut self, key: &'static str, folder: &Path) -> Option<PathBuf> {
        self.text(key).map(|text| folder.join(text))
    }

    /// Takes `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.take_key_as(key, |word| word.parse().ok().map(Value::Flag))? {
            (_, Value::Flag(flag)) => Some(flag),
            (line, value) => {
                self.type_fault(line, key, &value, "true or false");
                None
            }
        }
    }

    /// Takes a whole number; one out of `range` is a fault.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        match self.take_key_as(key, |word| word.parse().ok().map(Value::Integer))? {
            (_, Value::Integer(number)) if range.contains(&number) => Some(number),
            (line, value @ Value::Integer(_)) => {
                self.range_fault(line, key, &value, &wanted);
                None
            }
            (line, value) => {
                self.type_fault(line, key, &value, &wanted);
                None
            }
        }
    }

    /// Takes a number, whole or not; one out of `range` is a fault.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        match self.take_key_as(key, |word| word.parse().ok().map(Value::Number))? {
            (_, Value::Number(number)) if range.contains(&number) => Some(number),
            (_, Value::Integer(number)) if range.contains(&(number as f64)) => Some(number as f64),
            (line, value @ (Value::Number(_) | Value::Integer(_))) => {
                self.range_fault(line, key, &value, &wanted);
                None
            }
            (line, value) => {
                self.type_fault(line, key, &value, &wanted);
                None
            }
        }
    }

    /// Takes a duration: `90s`, `10m`, `6h`, `2d`.
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let (line, text) = self.text_at(key)?;
        units::parse_duration(&text).map_err(|message| self.fault(line, text, format!("`{key}` is {message}"))).ok()
    }

    /// Takes bytes: `65536` or `64KiB`.
    pub fn size(&mut self, key: &'static str) -> Option<u64> {
        match self.take_key_as(key, |word| Some(Value::Text(word.to_owned())))? {
            (_, Value::Integer(bytes)) if bytes >= 0 => Some(bytes as u64),
            (line, Value::Text(text)) => {
                units::parse_size(&text).map_err(|message| self.fault(line, text, format!("`{key}` is {message}"))).ok()
            }
            (line, value) => {
                self.type_fault(line, key, &value, "bytes or a size like \"64KiB\"");
                None
            }
        }
    }

    /// Takes one of these words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        self.choice_by_meaning(key, words, |_| None)
    }

    /// As [`Section::choice`]. `meaning` returns what to write instead of a word, also of a number, that other programs
    /// use.
    pub fn choice_by_meaning<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
        meaning: impl Fn(&str) -> Option<String>,
    ) -> Option<T> {
        let (line, value) = self.take_key_as(key, |word| Some(Value::Text(word.to_owned())))?;
        let text = value.to_string();
        if let Value::Text(text) = &value
            && let Some((_, found)) = words.iter().find(|(word, _)| word == text)
        {
            return Some(*found);
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let same = all.iter().find(|word| word.eq_ignore_ascii_case(&text)).copied();
        let message = match (meaning(&text), same.or_else(|| nearest_name(&text, all.iter().copied()))) {
            (Some(meaning), _) => format!("not a `{key}`; {meaning}"),
            (None, Some(near)) => format!("not a `{key}`; write one of {}; did you mean `{near}`?", all.join(", ")),
            (None, None) => format!("not a `{key}`; write one of {}", all.join(", ")),
        };
        self.fault(line, text, message);
        None
    }

    /// As [`Section::texts`], for names that other files define.
    pub fn references(&mut self, key: &'static str, kind: NamedKind) -> Option<Vec<String>> {
        let line = self.line_of(key);
        let names = self.texts(key)?;
        let reference = |name: &String| NameReference { kind, line, name: name.clone() };
        self.document.references.borrow_mut().extend(names.iter().map(reference));
        Some(names)
    }

    /// Takes a list of texts.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.list(key, "a list of texts, like [\"a\", \"b\"]", |value| match value {
            Value::Text(text) | Value::Word(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// Takes a list of whole numbers; each one out of `range` is a fault.
    pub fn integers(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<Vec<i64>> {
        let wanted = format!("a list of whole numbers from {} to {}", range.start(), range.end());
        self.list(key, &wanted, |value| match value {
            Value::Integer(number) if range.contains(number) => Some(*number),
            Value::Word(word) => word.parse().ok().filter(|number| range.contains(number)),
            _ => None,
        })
    }

    fn list<T>(&mut self, key: &'static str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        let line_of_words = self.line;
        let listed = self.take_key_as(key, |words| {
            let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
            Some(Value::List(words.map(|word| (line_of_words, Value::Word(word.to_owned()))).collect()))
        })?;
        match listed {
            (_, Value::List(items)) => {
                let mut list = Vec::with_capacity(items.len());
                for (line, item) in &items {
                    match read(item) {
                        Some(read) => list.push(read),
                        None if wanted.contains("number") && item.is_whole_number() => {
                            self.range_fault(*line, key, item, wanted);
                        }
                        None => self.type_fault(*line, key, item, wanted),
                    }
                }
                Some(list)
            }
            (line, value) => {
                self.type_fault(line, key, &value, wanted);
                None
            }
        }
    }

    /// Takes a table of texts with free names, like `env`. Numbers and flags become the text in the file.
    pub fn map(&mut self, key: &'static str) -> Option<BTreeMap<String, String>> {
        match self.take_key(key)? {
            (_, Value::Table(entries)) => {
                let mut map = BTreeMap::new();
                for entry in entries {
                    match entry.value {
                        Value::List(_) | Value::Table(_) => {
                            self.type_fault(entry.line, &entry.key, &entry.value, "a text in quotes")
                        }
                        value => drop(map.insert(entry.key, value.to_string())),
                    }
                }
                Some(map)
            }
            (line, value) => {
                self.type_fault(line, key, &value, "a table, like { NAME = \"value\" }");
                None
            }
        }
    }

    /// Takes a table with known keys, like `tls = { ... }` or `[tls]`.
    pub fn section(&mut self, key: &'static str) -> Option<Section> {
        match self.take_key(key)? {
            (line, Value::Table(entries)) => Some(self.child(line, entries)),
            (line, value) => {
                self.type_fault(line, key, &value, "a table");
                None
            }
        }
    }

    /// Takes an array of tables, like `[[job]]`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section> {
        match self.take_key(key) {
            Some((_, Value::List(items))) => {
                let mut sections = Vec::with_capacity(items.len());
                for (line, item) in items {
                    match item {
                        Value::Table(entries) => sections.push(self.child(line, entries)),
                        value => self.type_fault(line, key, &value, &format!("[[{key}]]")),
                    }
                }
                sections
            }
            Some((line, value)) => {
                self.type_fault(line, key, &value, &format!("[[{key}]]"));
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Takes tables with free names, like `[sink.graylog]`, in the order of the file.
    pub fn named_sections(&mut self, key: &'static str) -> Vec<(String, Section)> {
        match self.take_key(key) {
            Some((_, Value::Table(entries))) => {
                let mut sections = Vec::with_capacity(entries.len());
                for entry in entries {
                    match entry.value {
                        Value::Table(inner) => sections.push((entry.key, self.child(entry.line, inner))),
                        // The head of the table lacks its name.
                        Value::Text(_) | Value::Integer(_) | Value::Flag(_) if !entry.key.contains(' ') => self.fault(
                            entry.line,
                            entry.key.as_str(),
                            format!("a key outside of a table [{key}.NAME]; write that line above it"),
                        ),
                        value => self.type_fault(entry.line, &entry.key, &value, &format!("[{key}.{}]", entry.key)),
                    }
                }
                sections.sort_by_key(|(_, section)| section.line);
                sections
            }
            Some((line, value)) => {
                self.type_fault(line, key, &value, &format!("[{key}.NAME]"));
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn child(&self, line: u32, entries: Vec<Entry>) -> Section {
        Section { document: self.document.clone(), line, entries, known: Vec::new() }
    }

    /// Reports every key that was not taken.
    pub fn reject_unknown_keys(self) {
        self.reject_unknown_keys_by_meaning(|_| None);
    }

    /// As [`Section::reject_unknown_keys`]. `meaning` returns what to write instead of a key of other programs.
    pub fn reject_unknown_keys_by_meaning(self, meaning: impl Fn(&str) -> Option<String>) {
        for entry in &self.entries {
            let message = match (meaning(&entry.key), nearest_name(&entry.key, self.known.iter().copied())) {
                (Some(meaning), _) => format!("unknown key; {meaning}"),
                (None, Some(name)) => format!("unknown key; did you mean `{name}`?"),
                (None, None) => format!("unknown key; known here are {}", self.known.join(", ")),
            };
            self.fault(entry.line, entry.key.as_str(), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_file_is_found_in_one_reading_with_its_line() {
        let text = "[[job]]\nname = 5\nschedul = \"* * * * *\"\ntimeout = \"soon\"\n[[job]]\nname = \"b\"\nmode = \"forbit\"\n";
        let (document, mut root) = Document::parse("jobs.toml", text).expect("TOML");
        for mut job in root.sections("job") {
            job.required_text("name");
            job.text("schedule");
            job.duration("timeout");
            job.choice("mode", &[("forbid", 1), ("allow", 2)]);
            job.reject_unknown_keys();
        }
        root.reject_unknown_keys();
        let faults: Vec<String> = document.faults().0.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "jobs.toml:2: `5`: `name` is a whole number; write it in quotes: name = \"5\"",
                "jobs.toml:3: `schedul`: unknown key; did you mean `schedule`?",
                "jobs.toml:4: `soon`: `timeout` is not a duration; write a number with a unit, like 90s, 10m, 6h or 2d",
                "jobs.toml:7: `forbit`: not a `mode`; write one of forbid, allow; did you mean `forbid`?",
            ]
        );
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let faults = Document::parse("x.toml", "a = 1\nb = = 2\n").err().expect("refused");
        assert_eq!(faults.0[0].line, 2);
    }
}
