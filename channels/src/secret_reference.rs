//! Secrets in the configuration: the value itself, or a reference (`env:NAME`, `file:/path`) that is resolved when the
//! file is read.

use std::path::Path;

use domain::document::Section;
use domain::system_error::plain_text;

/// Longest secret file. Chosen: keys and passwords are below 10 KiB, so a longer file is the wrong one.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Reads a key and resolves its reference. A reference that cannot be resolved is a fault.
pub(crate) fn read_secret(section: &mut Section, key: &'static str) -> Option<String> {
    let (line, text) = section.text_at(key)?;
    resolve_reference(&text).map_err(|message| section.fault(line, text, format!("`{key}`: {message}"))).ok()
}

/// Returns the value of a reference, or the text itself.
///
/// # Errors
/// Returns one message, without the secret.
pub(crate) fn resolve_reference(text: &str) -> Result<String, String> {
    if let Some(name) = text.strip_prefix("env:") {
        return std::env::var(name)
            .map_err(|_| format!("the variable {name} is not set; set it or use another reference"));
    }
    if let Some(path) = text.strip_prefix("file:") {
        let read = std::fs::read_to_string(Path::new(path))
            .map_err(|why| format!("{path} cannot be read: {}", plain_text(&why)))?;
        if read.len() > SECRET_BYTES_MAX {
            return Err(format!("{path} is longer than {SECRET_BYTES_MAX} bytes; is it the right file?"));
        }
        return Ok(read.trim_end_matches(['\r', '\n']).to_owned());
    }
    if text.starts_with("ssm:") || text.starts_with("secretsmanager:") {
        return Err("channels do not read secrets from AWS; write env:NAME or file:/path".to_owned());
    }
    Ok(text.to_owned())
}
