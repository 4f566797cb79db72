//! The corpus of odd inputs: reading one never panics.

use sinks::config::SinksFile;
use testbed::try_inputs;

#[test]
fn any_text_is_a_sinks_file_with_faults_or_without() {
    try_inputs("sinks_file", |input| {
        let (sinks, faults) = SinksFile::parse("sinks.toml", &String::from_utf8_lossy(input));
        faults.to_string();
        for sink in sinks {
            sink.when.wants_job("db", "dump");
        }
    });
}
