//! The binary: subcommands, configuration, and the only place that chooses adapters.
//!
//! Decodes arguments, calls a library, prints the result. The runner executes the hidden subcommand `keeper` once per
//! attempt. A keeper is blocking and single-threaded, so no runtime is started before the subcommand is known.

mod bus_fault;
mod cli;
mod client;
mod closed_streams;
mod configuration;
mod crontab_directory;
mod crontab_kind;
mod failure;
mod file_states;
mod file_watch;
mod folded_lines;
mod group_runner;
mod host_zone;
mod instant_arguments;
mod jobs_source;
mod kept_files;
mod known_names;
mod listen;
mod local_runner;
mod log;
mod machine;
mod mailer;
mod on_aws;
mod own_process;
mod ownership;
mod print;
mod process_one;
mod reload;
mod repeated;
mod sd_notify;
mod setup;
mod shared_names;
mod signals;
mod source_list;
mod source_path;
mod state;
mod store_alert;
mod system_format;
mod terminal;
mod text_files;
mod text_table;
mod tzdata;
mod up;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Only the runner starts a keeper. It is checked first, because it is started for every attempt.
    let mut words = std::env::args_os().skip(1);
    if let (Some(word), Some(directory)) = (words.next(), words.next())
        && word == "keeper"
    {
        return match directory == keeper::fork_server::ARGUMENT {
            true => keeper::fork_server::serve(keeper::main),
            false => keeper::main(Path::new(&directory)),
        };
    }
    own_process::drop_empty_variables();
    own_process::set_up();
    print_panics_in_one_line();
    let mut words = std::env::args_os().skip(1);
    if let (Some(word), Some(directory), Some(settings)) = (words.next(), words.next(), words.next())
        && word == cli::exec::SENDER_WORD
    {
        tzdata::choose();
        return cli::exec::sender_main(Path::new(&directory), &settings.to_string_lossy());
    }
    tzdata::choose();
    match cli::run(cli::parse_arguments()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(failure.print()),
    }
}

/// Prints a panic on one line with its location, without the advice meant for developers.
fn print_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no reason given").replace('\n', " ");
        let place = panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
        failure::print_error_line(&format!(
            "sexton: internal error{place}: {message}; this is a defect of sexton, please report it"
        ));
    }));
}
