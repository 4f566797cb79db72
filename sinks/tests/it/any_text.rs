//! The corpus of odd inputs: reading one never panics.

use sinks::config::SinksFile;
use testbed::try_inputs;

#[test]
fn no_text_makes_the_reader_of_sinks_files_panic() {
    try_inputs("sinks_file", |input| {
        let (sinks, faults) = SinksFile::parse("sinks.toml", &String::from_utf8_lossy(input));
        faults.to_string();
        for sink in sinks {
            sink.when.wants_job("db", "dump");
        }
    });
}
