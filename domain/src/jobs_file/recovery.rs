//! Reads the rest of a jobs file in which some jobs have syntax errors: their lines are blanked, and their faults are
//! kept. Nothing here knows the keys of a job.

use std::borrow::Cow;

use crate::document::{Document, Section};
use crate::fault::{Fault, Faults};

/// Parses the file without the jobs that have syntax errors. The faults of those jobs are in the document.
///
/// # Errors
/// All faults found, when the rest of the file cannot be read either.
pub(super) fn parse_document(file: &str, bytes: &[u8]) -> Result<(Document, Section), Faults> {
    let (mut lines, mut faults) = decode_lines(file, bytes);
    if faults.is_empty()
        && let Ok(read) = Document::parse(file, &lines.join("\n"))
    {
        return Ok(read);
    }
    let mut heads: Vec<usize> = (0..lines.len()).filter(|index| *index == 0 || is_head(&lines[*index])).collect();
    heads.push(lines.len());
    for (start, end) in heads.iter().zip(&heads[1..]) {
        let job = &mut lines[*start..*end];
        let first = *start as u32;
        let is_wrongly_encoded = faults.iter().any(|fault| (first + 1..=*end as u32).contains(&fault.line));
        let syntax = Document::parse(file, &job.join("\n")).err();
        if syntax.is_some() || is_wrongly_encoded {
            job.iter_mut().for_each(String::clear);
        }
        let at_its_line = |fault: Fault| Fault { line: fault.line.min((end - start) as u32) + first, ..fault };
        faults.extend(syntax.into_iter().flat_map(|found| found.0).map(at_its_line));
    }
    match Document::parse(file, &lines.join("\n")) {
        Ok((document, root)) => {
            faults.into_iter().for_each(|fault| document.push(fault));
            Ok((document, root))
        }
        Err(found) => Err(Faults([faults, found.0].concat())),
    }
}

/// Whether the line starts a job.
fn is_head(line: &str) -> bool {
    let mut head = line.chars().filter(|c| !c.is_whitespace());
    "[[job]]".chars().all(|expected| head.next() == Some(expected))
}

/// The lines as text, and a fault for each line outside of comments that is not UTF-8.
fn decode_lines(file: &str, bytes: &[u8]) -> (Vec<String>, Vec<Fault>) {
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    for (index, bytes) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = String::from_utf8_lossy(bytes);
        if matches!(line, Cow::Owned(_)) && !line.trim_start().starts_with('#') {
            let message = "the line is not UTF-8; save the file as UTF-8";
            faults.push(Fault::new(file, index as u32 + 1, line.trim(), message));
        }
        lines.push(line.into_owned());
    }
    (lines, faults)
}
