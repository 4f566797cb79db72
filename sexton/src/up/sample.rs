//! The sample crontab and the default sinks of an `up` without configuration.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::failure::Failure;
use crate::state::StateDirectory;

const SAMPLE: &str = include_str!("sample.crontab");

/// Writes the sample crontab of this state directory, unless it exists: a changed one is kept.
///
/// # Errors
/// Fails if it cannot be written.
pub(crate) fn write_crontab(state: &StateDirectory) -> Result<PathBuf, Failure> {
    let path = state.sample_crontab();
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(SAMPLE.as_bytes()));
    match written {
        Ok(()) => Ok(path),
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => Ok(path),
        Err(why) => Err(Failure::failed(format!("cannot write {}: {why}", path.display()))),
    }
}

/// The default sinks file.
pub(crate) fn default_sinks(state: &StateDirectory) -> String {
    let path = state.logs_folder().join("{group}/{job}.log");
    // JSON strings are valid TOML strings.
    let quoted = serde_json::Value::from(path.display().to_string());
    format!("[sink.file]\ntype = \"file\"\npath = {quoted}\n")
}

#[cfg(test)]
mod tests {
    use domain::crontab::{Format, parse};

    use super::*;

    #[test]
    fn the_sample_has_no_fault_and_no_warning() {
        let (jobs, faults) = parse("sample.crontab", SAMPLE, Format::User);
        let names: Vec<String> = jobs.iter().map(|job| job.key().to_string()).collect();
        assert_eq!(faults.to_string(), "");
        assert_eq!(names, ["sample/good", "sample/failing", "sample/lying"]);
    }
}
