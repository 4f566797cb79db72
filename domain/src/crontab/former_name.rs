//! The default name that builds up to 0.2.0 gave to an entry: program, and a short hash of schedule and command.
//!
//! Must never change: `apply` finds by it the job that such a build stored, and `H` in the schedule of an entry without
//! a name is derived from it.

use sha2::{Digest, Sha256};

use super::line::Entry;

/// Characters of the program in the name. With the hash and a count the name has at most 48 characters.
const PROGRAM_LENGTH_MAX: usize = 32;

pub(super) fn former_name(entry: &Entry<'_>) -> String {
    let digest = Sha256::digest(format!("{}\0{}", entry.schedule, entry.text));
    let hash: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{hash}", program(&entry.command))
}

/// The main program of a command: `cd DIR &&`, variables, and wrappers that run another program are skipped.
fn program(command: &str) -> String {
    const WRAPPERS: [&str; 12] =
        ["sudo", "exec", "nice", "ionice", "env", "time", "nohup", "setsid", "chronic", "command", "test", "["];
    let step = command.split(['&', ';', '|']).map(str::trim).find(|step| !step.is_empty() && !is_prelude(step));
    let mut words = step.unwrap_or(command).split_whitespace();
    let mut base = "";
    while let Some(word) = words.next() {
        match word {
            // Options of wrappers that take a word: `sudo -u postgres`, `nice -n 19`.
            "-u" | "-g" | "-n" | "-c" => drop(words.next()),
            _ if word.starts_with('-') || word.contains('=') || WRAPPERS.contains(&word) => {}
            _ => {
                base = word.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
                break;
            }
        }
    }
    let legal: String = base.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).collect();
    let legal = legal.trim_start_matches(['.', '-']);
    match legal.get(..PROGRAM_LENGTH_MAX).unwrap_or(legal) {
        "" => "job".to_owned(),
        program => program.to_owned(),
    }
}

/// Whether a step only prepares the main one.
fn is_prelude(step: &str) -> bool {
    const PRELUDES: [&str; 8] = ["cd", ".", "source", "export", "set", "umask", "test", "["];
    let first = step.split_whitespace().next().unwrap_or_default();
    PRELUDES.contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_older_build_is_found_again() {
        for (command, expected) in [
            ("/usr/local/bin/dump.sh --all", "dump.sh"),
            ("cd /srv/app && ./bin/report", "report"),
            ("LEVEL=9 PATH=/x nice -n 19 backup", "backup"),
            ("[ \"$(date +%u)\" = 5 ] && weekly", "weekly"),
            ("sudo -u root /opt/x/", "x"),
            ("$HOME/bin/thing", "thing"),
            ("(true)", "true"),
            ("...", "job"),
            ("ünïcode", "ncode"),
        ] {
            assert_eq!(program(command), expected, "{command}");
        }
    }
}
