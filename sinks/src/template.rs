//! A name with placeholders: `/var/log/sexton/{group}/{job}.log`. The value of a placeholder can never leave its
//! directory.

use jiff::{Timestamp, tz::TimeZone};

use crate::feed::RunHeader;

/// Every known placeholder.
pub(crate) const PLACEHOLDERS: [&str; 6] = ["group", "job", "run_id", "host", "date", "attempt"];

/// A longer value is cut: file systems allow names of 255 bytes (`NAME_MAX`), and two placeholders may be in one name.
const PLACEHOLDER_BYTES_MAX: usize = 120;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Placeholder(&'static str),
}

impl Template {
    /// Parses the text.
    ///
    /// # Errors
    /// One lower-case sentence: the fault, then what to write.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            pieces.push(Piece::Literal(rest[..open].to_owned()));
            let close = rest[open..].find('}').ok_or("a { without }; close it")? + open;
            let name = &rest[open + 1..close];
            let placeholder = PLACEHOLDERS.iter().find(|placeholder| **placeholder == name).ok_or_else(|| {
                let known = PLACEHOLDERS.map(|placeholder| format!("{{{placeholder}}}")).join(" ");
                match domain::fault::nearest_name(name, PLACEHOLDERS) {
                    Some(near) => format!("`{{{name}}}` is not known; did you mean {{{near}}}?"),
                    None => format!("`{{{name}}}` is not known; known are {known}"),
                }
            })?;
            pieces.push(Piece::Placeholder(placeholder));
            rest = &rest[close + 1..];
        }
        if rest.contains('}') {
            return Err("a } without {; remove it".to_owned());
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        Ok(Template { pieces, text: text.to_owned() })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the name depends on the run.
    pub fn has_placeholders(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Placeholder(_)))
    }

    /// The name for a run. `date` is the day of the run's nominal time in UTC, so all lines of a run go to one file.
    pub fn fill(&self, header: &RunHeader) -> String {
        let mut filled = String::with_capacity(self.text.len() + 64);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => filled.push_str(text),
                Piece::Placeholder("group") => filled.push_str(&path_component(&header.group)),
                Piece::Placeholder("job") => filled.push_str(&path_component(&header.job)),
                Piece::Placeholder("run_id") => filled.push_str(&path_component(header.run_id.as_str())),
                Piece::Placeholder("host") => filled.push_str(&path_component(&header.host)),
                Piece::Placeholder("date") => filled.push_str(&date(header.nominal)),
                Piece::Placeholder(_) => filled.push_str(&header.attempt.to_string()),
            }
        }
        filled
    }
}

fn date(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string()
}

/// Makes a name one path component: `/`, NUL, control characters and leading dots become `_`.
fn path_component(name: &str) -> String {
    let mut safe: String = name.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    if safe.len() > PLACEHOLDER_BYTES_MAX {
        let mut end = PLACEHOLDER_BYTES_MAX;
        while !safe.is_char_boundary(end) {
            end -= 1;
        }
        safe.truncate(end);
    }
    let dots = safe.len() - safe.trim_start_matches('.').len();
    safe.replace_range(..dots, &"_".repeat(dots));
    if safe.is_empty() {
        safe.push('_');
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_records::header;

    #[test]
    fn placeholders_are_filled() {
        let template = Template::parse("/log/{group}/{job}/{date}/{run_id}.{attempt}.{host}.log").expect("template");
        assert_eq!(
            template.fill(&header()),
            "/log/db/nightly-dump/2026-11-23/20261123T075000Z-3f9a1c0e7b2d.1.host1.log"
        );
    }

    #[test]
    fn no_name_escapes_its_directory() {
        let template = Template::parse("/log/{group}/{job}.log").expect("template");
        for (group, job, path) in [
            ("..", "../../etc/passwd", "/log/__/___.._etc_passwd.log"),
            (".", "a/b", "/log/_/a_b.log"),
            ("", "nul\0new\nline", "/log/_/nul_new_line.log"),
        ] {
            let filled = template.fill(&RunHeader { group: group.into(), job: job.into(), ..header() });
            assert_eq!(filled, path);
        }
        let long = template.fill(&RunHeader { job: "\u{e9}".repeat(400), ..header() });
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn a_fault_names_the_remedy() {
        for (text, message) in [
            ("/log/{jobb}", "`{jobb}` is not known; did you mean {job}?"),
            ("/log/{job", "a { without }; close it"),
            ("/log/job}", "a } without {; remove it"),
        ] {
            assert_eq!(Template::parse(text), Err(message.to_owned()));
        }
    }
}
