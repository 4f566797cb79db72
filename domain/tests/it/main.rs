//! Tests of the crate's public interface.

mod any_text;
mod crontab;
mod entry_names;
mod jobs_file;
mod lint;
mod plan;
mod random_delays;
mod readers;
mod schedule;
mod schedule_model;
mod second_parser;
mod stored;
mod stored_progress;
