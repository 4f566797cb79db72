//! What must hold of the words, seen from outside the crate.

mod any_text;
mod crontab;
mod jobs_file;
mod plan;
mod readers;
mod schedule;
mod schedule_model;
mod stored;
