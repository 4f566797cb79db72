//! Tests pass on any day: no test writes a date down, unless each clock that it meets is an argument.
//!
//! A date in a test that meets the real clock works until something expires, months later. What counts as a date:
//! `2026-11-23` in any longer form, `date(2026, ...)`, the start of a run id, and a number of the size of today's
//! time in seconds, milliseconds, microseconds or nanoseconds since 1970.

use super::{Source, none, sources};

/// Files, and folders ending in `/`, whose tests may write dates, each with the reason why no clock can spoil them.
const CLOCK_IS_AN_ARGUMENT: &[(&str, &str)] = &[
    ("backends/aws/src/buckets.rs", "only texts and arguments"),
    ("backends/aws/src/due.rs", "only `Shards`, which takes the time"),
    ("backends/aws/src/notifier/content.rs", "only the text of a message"),
    ("backends/aws/src/runs.rs", "only the conversion of a run to an item and back"),
    ("backends/aws/src/signature.rs", "`open` takes the time"),
    ("backends/aws/tests/it/alerts.rs", "the notifier takes its clock; SNS sends at once"),
    ("benchmarks/src/log_events.rs", "`check` takes the time"),
    ("console/tests/it/", "server.rs gives the console and its store one fixed clock"),
    ("domain/", "PURE: reads no clock"),
    ("keeper/src/directory.rs", "only names of folders"),
    ("keeper/src/encoder.rs", "`set_time` takes the time"),
    ("keeper/src/output.rs", "only the bytes of a spool"),
    ("keeper/src/records.rs", "only the conversion of an order to JSON and back"),
    ("lambdas/tests/it/roles.rs", "parts of keys, of which IAM compares the start"),
    ("rules/", "PURE: reads no clock"),
    ("runner/src/excerpt.rs", "only the bytes of a block"),
    ("services/tests/it/", "world.rs gives the services and their store one clock, which the tests set"),
    ("channels/src/", "only the texts of an alert; a mail server and a receiver return them"),
    ("sexton/src/on_aws/cloudwatch_output.rs", "only the text of events"),
    ("sexton/src/folded_lines.rs", "only the width of a text"),
    ("sexton/src/instant_arguments.rs", "`parse_instant` and `parse_end` take the time"),
    (
        "sexton/tests/it/bad_arguments.rs",
        "an end that has passed, a span without runs, the id of a run that never existed",
    ),
    ("sexton/tests/it/commands.rs", "`next` and `plan` take the time as `--from` and `--to`"),
    ("sexton/tests/it/running.rs", "the id of a run that never existed, looked up by its whole id"),
    ("sexton/tests/it/zone_rules.rs", "`next` and `plan` take the time as `--from` and `--to`"),
    ("sexton/tests/it/upgrade.rs", "the state of the first release: retention is set to 100 years, no sink gets it"),
    ("sinks/src/clock_history_tests.rs", "the history takes its clocks, which the tests set"),
    ("sinks/src/cloudwatch_logs/batch_tests.rs", "only the bytes of a batch"),
    ("sinks/src/cloudwatch_logs/log_event_tests.rs", "only the bytes of an event"),
    ("sinks/src/delivery/model_tests.rs", "the engine takes its clock, which is fixed"),
    ("sinks/src/encode.rs", "only the form of a stamp"),
    ("sinks/src/gelf_tests.rs", "only the bytes of a frame"),
    ("sinks/src/json.rs", "only the bytes of a record"),
    ("sinks/src/lines.rs", "only the bytes of a record"),
    ("sinks/src/record.rs", "sample records, which only the tests of this list use"),
    ("sinks/src/stamp.rs", "only conversions of a stamp"),
    ("sinks/src/syslog_tests.rs", "only the bytes of a frame"),
    ("sinks/src/template.rs", "only the text of a path"),
    ("testbed/tests/it/syslog.rs", "rsyslog and syslog-ng return the time that a message carries"),
];

/// What reads the real clock. None of it is in the tests of a file of the list.
const REAL_CLOCKS: [&str; 4] = ["Timestamp::now", "Zoned::now", "SystemTime::now", "clock_gettime"];

#[test]
fn no_test_that_meets_the_real_clock_writes_a_date_down() {
    let sources = sources();
    let but_examples = sources.iter().filter(|source| source.path != "testbed/tests/it/tidy/dates.rs");
    none(but_examples.flat_map(date_faults));
}

#[test]
fn every_entry_of_the_list_is_needed() {
    let sources = sources();
    let dated: Vec<&str> = sources
        .iter()
        .filter(|source| test_lines(source).any(|(_, line)| has_date(line)))
        .map(|source| source.path.as_str())
        .collect();
    let unneeded = CLOCK_IS_AN_ARGUMENT.iter().filter(|(entry, _)| !dated.iter().any(|path| covers(entry, path)));
    none(unneeded.map(|(entry, _)| format!("{entry} is in CLOCK_IS_AN_ARGUMENT, and its tests write no date down")));
}

#[test]
fn the_rule_of_dates_finds_faults() {
    let faults = |path: &str, text: &str| date_faults(&Source { path: path.to_owned(), text: text.to_owned() }).len();
    for date in [
        "Timestamp::from_second(1795420200)",
        "Timestamp::from_second(1_795_420_200 + hour)",
        "let ms = 1_795_420_200_000;",
        "\"2026-11-23T07:50:00Z\".parse()",
        "(\"--from\", \"2026-11-23\")",
        "at(2026-11-23T07:50:00)",
        "RunId(\"20261123T075000Z-3f9a1c0e7b2d\".into())",
        "civil::date(2026, 11, 23)",
    ] {
        assert_eq!(faults("runner/tests/it/x.rs", date), 1, "{date}");
        assert_eq!(faults("runner/src/x_tests.rs", date), 1, "{date}");
        assert_eq!(faults("backends/contract/src/x.rs", date), 1, "{date}");
        assert_eq!(faults("runner/src/x.rs", date), 0, "not a test: {date}");
        assert_eq!(faults("runner/src/x.rs", &format!("#[cfg(test)]\nmod tests {{\n    {date}\n}}\n")), 1, "{date}");
        assert_eq!(faults("runner/src/x.rs", &format!("#[cfg(test)]\nmod tests;\n\n{date}\n")), 0, "{date}");
        assert_eq!(faults("services/tests/it/x.rs", date), 0, "{date}");
    }
    for other in [
        "\"Version\": \"2012-10-17\"",
        "1_000_000_000",
        "17954202001",
        "0x1795420200",
        "6_364_136_223_846_793_005",
        "let at = Timestamp::now();",
    ] {
        assert_eq!(faults("runner/tests/it/x.rs", other), 0, "{other}");
    }
    assert_eq!(faults("services/tests/it/x.rs", "let now = Timestamp::now();"), 1);
}

fn date_faults(source: &Source) -> Vec<String> {
    let listed = CLOCK_IS_AN_ARGUMENT.iter().find(|(entry, _)| covers(entry, &source.path));
    let place = |number: usize| format!("{}:{number}", source.path);
    let faults = test_lines(source).filter_map(|(number, line)| match listed {
        None if has_date(line) => Some(format!(
            "{} writes a date down: use an instant relative to now, or give the test its clock and add the file to \
             CLOCK_IS_AN_ARGUMENT",
            place(number)
        )),
        Some((entry, _)) => REAL_CLOCKS
            .iter()
            .find(|clock| line.contains(*clock))
            .map(|clock| format!("{} reads {clock}, and {entry} is in CLOCK_IS_AN_ARGUMENT", place(number))),
        None => None,
    });
    faults.collect()
}

fn covers(entry: &str, path: &str) -> bool {
    path == entry || entry.ends_with('/') && path.starts_with(entry)
}

/// The lines of tests, with their numbers: all of a file of tests, and what is in a `#[cfg(test)]` module of another.
fn test_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let path = &source.path;
    let whole = path.contains("/tests/")
        || path.ends_with("_tests.rs")
        || path.contains("_tests/")
        || path.starts_with("backends/contract/")
        || path.starts_with("testbed/");
    let (mut marked, mut inside) = (false, false);
    source.text.lines().enumerate().filter_map(move |(index, line)| {
        if line == "#[cfg(test)]" {
            marked = true;
        } else if marked && !line.starts_with("#[") {
            marked = false;
            inside = line.ends_with('{');
        } else if line == "}" {
            inside = false;
        }
        (whole || inside).then_some((index + 1, line))
    })
}

fn has_date(line: &str) -> bool {
    let starts = line.bytes().enumerate().filter(|(_, byte)| b"12d".contains(byte)).map(|(at, _)| at);
    starts.into_iter().any(|at| {
        let before = line[..at].chars().next_back();
        let rest = &line[at..];
        let is_first_digit = !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        is_first_digit && is_epoch_number(rest) || is_date_text(rest) || is_compact_date(rest) || is_civil(rest)
    })
}

/// A whole number of 10, 13, 16 or 19 digits that begins with 15 to 19: 2017 to 2033 in a unit of time.
fn is_epoch_number(text: &str) -> bool {
    let number: String =
        text.chars().take_while(|c| c.is_ascii_digit() || *c == '_').filter(char::is_ascii_digit).collect();
    matches!(number.len(), 10 | 13 | 16 | 19) && ("15"..="19").contains(&&number[..2])
}

/// `2026-11-23`
fn is_date_text(text: &str) -> bool {
    has_form(text, "dddd-dd-dd") && ("2020".."2100").contains(&&text[..4])
}

/// `20261123T`, as run ids begin.
fn is_compact_date(text: &str) -> bool {
    has_form(text, "ddddddddT") && ("2020".."2100").contains(&&text[..4])
}

/// `date(2026,` and `datetime(2026,`
fn is_civil(text: &str) -> bool {
    let year = text.strip_prefix("date(").or_else(|| text.strip_prefix("datetime("));
    year.is_some_and(|year| has_form(year, "dddd,") && ("2020".."2100").contains(&&year[..4]))
}

/// Whether the text begins in this form, where `d` is any digit.
fn has_form(text: &str, form: &str) -> bool {
    text.len() >= form.len()
        && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
            b'd' => byte.is_ascii_digit(),
            form => byte == form,
        })
}
