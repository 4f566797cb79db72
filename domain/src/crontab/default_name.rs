//! The default name of an entry: its file, its program, and a short hash of file, user and command.
//!
//! The history of a job is stored under its name. So the name is a function of these three, and does not change when
//! the schedule or other lines are edited. Equal entries are numbered by the reader.

use sha2::{Digest, Sha256};

use super::line::Entry;
use super::program_name::program_name;
use super::{Options, Place};
use crate::jobs_file::fields::NAME_LENGTH_MAX;
use crate::jobs_file::{GROUP_DEFAULT, GROUP_RESERVED};

/// Characters of the hash.
const HASH_LENGTH: usize = 8;

/// Characters kept free for the hyphen before the hash, the hash, and the number of an equal entry (`-99999`).
const TAIL_LENGTH: usize = 1 + HASH_LENGTH + 6;

/// Characters of file, hyphen and program.
const STEM_LENGTH_MAX: usize = NAME_LENGTH_MAX - TAIL_LENGTH;

/// Characters of the program, so that at least 10 remain for the file. Chosen, not measured.
const PROGRAM_LENGTH_MAX: usize = STEM_LENGTH_MAX - 11;

/// The name of an entry whose file is in this place. `user`: the user column, or the user whose crontab it is.
pub(super) fn default_name(entry: &Entry<'_>, user: Option<&str>, place: Place, source: &str) -> String {
    let digest = Sha256::digest(format!("{source}\0{}\0{}", user.unwrap_or_default(), entry.text));
    let hash: String = digest[..HASH_LENGTH / 2].iter().map(|byte| format!("{byte:02x}")).collect();
    let program = program_name(&entry.command);
    let program = shortened(&program, PROGRAM_LENGTH_MAX);
    let file = match place {
        Place::Alone => file_name(source).map(|file| legal(file, "")).unwrap_or_default(),
        Place::Directory => String::new(),
    };
    let stem = match (file.as_str(), program) {
        ("", program) => program.to_owned(),
        (file, program) if begins_with_word(program, file) => program.to_owned(),
        (file, program) if begins_with_word(file, program) => shortened(file, STEM_LENGTH_MAX).to_owned(),
        (file, program) => format!("{}-{program}", shortened(file, STEM_LENGTH_MAX - 1 - program.len())),
    };
    format!("{stem}-{hash}")
}

/// The group of entries that name none.
pub(super) fn default_group(options: &Options<'_>, place: Place) -> String {
    match (options.group, place, file_name(options.source)) {
        (Some(group), _, _) => group.to_owned(),
        (None, Place::Directory, Some(file)) => match legal(file, "_") {
            group if group.is_empty() => GROUP_DEFAULT.to_owned(),
            // cron reads a file of this name, so its jobs must run.
            group if group == GROUP_RESERVED => format!("{group}_"),
            group => shortened(&group, NAME_LENGTH_MAX).to_owned(),
        },
        _ => GROUP_DEFAULT.to_owned(),
    }
}

/// The last part of a path; none for standard input.
fn file_name(source: &str) -> Option<&str> {
    if !source.starts_with('/') && source.contains(' ') {
        return None;
    }
    source.rsplit('/').find(|part| !part.is_empty())
}

/// `text` with its illegal characters replaced.
fn legal(text: &str, replacement: &str) -> String {
    let mut legal = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') {
            true => legal.push(c),
            false => legal.push_str(replacement),
        }
    }
    legal.trim_start_matches(['.', '-']).to_owned()
}

/// ASCII text, cut after this many characters.
fn shortened(text: &str, length: usize) -> &str {
    text.get(..length).unwrap_or(text)
}

fn begins_with_word(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '_']))
}
