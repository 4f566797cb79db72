//! Golden files: JSON that is stored or sent, as `tests/golden/NAME.json` of the calling crate. Such a file changes
//! only together with the format: a renamed field keeps its stored name with `#[serde(rename = "...")]`.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Compares a sample with its golden file, and the file with what is written after it was read. `crate_folder` is
/// `env!("CARGO_MANIFEST_DIR")` of the caller.
///
/// # Panics
/// When they differ, or when there is no such file; the text that was written is in the message.
pub fn golden<T: Serialize + DeserializeOwned>(crate_folder: &str, name: &str, sample: &T) {
    let text = golden_written(crate_folder, name, sample);
    let read: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}.json: {error}"));
    assert_eq!(pretty(&read), text, "{name}.json, read and written");
}

/// The same for a type that is only written. Returns the text of the golden file.
///
/// # Panics
/// As [`golden`] does.
pub fn golden_written<T: Serialize>(crate_folder: &str, name: &str, sample: &T) -> String {
    let path = Path::new(crate_folder).join("tests/golden").join(format!("{name}.json"));
    let (expected, written) = (fs::read_to_string(&path).unwrap_or_default(), pretty(sample));
    assert_eq!(written, expected, "{}: the sample, as it is written, is not the golden file", path.display());
    expected
}

fn pretty<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("every stored type is JSON");
    text.push('\n');
    text
}
