//! Tests of the binary: output, exit codes, and the behaviour of a running `up`.

mod aws;
mod background;
mod campaign;
mod clients;
mod commands;
mod configuration_docs;
mod crontab_sources;
mod disk;
mod docs;
mod driver;
mod evidence;
mod faults;
mod few_open_files;
mod mail;
mod minimal_machine;
mod other_users;
mod output;
mod readme;
mod running;
mod secrets;
mod sinks;
mod troubleshooting;
mod upgrade;
mod watching;
mod zone_rules;
mod zones;
