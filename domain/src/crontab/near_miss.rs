//! Recognises comments that were meant as a directive and are not read as one. A comment that only mentions Sexton is
//! none of them.

use crate::fault::nearest_name;
use crate::jobs_file::fields;

/// The message for a comment (without its `#`) that is a directive but for its beginning.
pub(super) fn of_comment(comment: &str) -> Option<String> {
    let text = comment.trim_start_matches(['#', ' ', '\t', '!', ';']);
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    let lower = head.to_ascii_lowercase().replace('_', "-");
    let meant = match nearest_name(&lower, ["sexton", "sexton-defaults"]) {
        // Two edits away are words like `section`.
        Some(near) if strsim::damerau_levenshtein(&lower, near) <= if lower.starts_with("sex") { 2 } else { 1 } => near,
        _ => return None,
    };
    let rest = rest.trim_start();
    let has_colon = rest.starts_with(':');
    let rest = rest.strip_prefix([':', '=', ';', ',', '.', '-']).unwrap_or(rest).trim_start();
    let sets_any = || rest.split_whitespace().next().is_some_and(|word| word.contains('='));
    (sets_field(rest) || has_colon && sets_any()).then(|| {
        format!(
            "sexton ignores this comment, although it looks like a directive; write `# {meant}: {}`",
            rest.trim_end()
        )
    })
}

/// The message for a directive behind a command, where it is a part of the command.
pub(super) fn of_command(command: &str) -> Option<String> {
    let at = command.match_indices('#').map(|(at, _)| at).find(|at| {
        let after = command[at + 1..].trim_start();
        let directive = after.strip_prefix("sexton-defaults:").or_else(|| after.strip_prefix("sexton:"));
        directive.is_some_and(|words| sets_field(words.trim_start()))
    })?;
    let directive = command[at..].trim_end();
    Some(format!(
        "a directive behind a command is a part of the command; write `{directive}` on the line above the entry"
    ))
}

/// Whether a text begins with `KEY=VALUE` for a key of a job.
fn sets_field(text: &str) -> bool {
    let Some((key, _)) = text.split_once('=') else { return false };
    let key = key.split_once('.').map_or(key, |(table, _)| table);
    fields::keys().contains(&key)
}
