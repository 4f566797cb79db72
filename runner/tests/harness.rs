//! The keeper and a killable runner as processes of their own, for the tests.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["keeper", path] => runner::keeper::main(Path::new(path)),
        _ => ExitCode::from(2),
    }
}
