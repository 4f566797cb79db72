//! The vocabulary of the whole system and its pure rules: jobs, schedules, runs, reports, alerts, and the ports that
//! backends implement. Every other crate uses it.
//!
//! | item | purpose |
//! |---|---|
//! | [`schedule::Schedule`], [`plan::plan`] | the firings of one schedule; of many jobs in a window |
//! | [`crontab::read`], [`jobs_file::parse`], [`job_files::read`] | jobs from files, with all their faults |
//! | [`job_list::JobList`] | the jobs of a file, in little memory |
//! | [`zones::zone_named`], [`zones::HostZone`] | time zones by name; the zone of the host |
//! | [`document::Section`], [`fault::Faults`] | reads TOML and reports all faults of a file in one reading |
//! | [`job::Job`], [`order::Order`], [`event::Event`], [`run::Run`] | what is stored and sent; JSON |
//! | [`run::Run::apply`] | the state machine of a run |
//! | [`alert::decide`] | when a job's runs raise an alert |
//! | [`line::Block`], [`line::parse`] | the records of a spool |
//! | [`ports::Ports`] | the stores and queues that a backend implements |
//! | [`guard::Guards`] | the tests before `&&` in a command, and which of them was false |
//! | [`restored::RestoredLedger`] | what a ledger lacks that was restored from a copy |
//! | [`secret::Reference`], [`disk_space::DiskSpace`], [`units`], [`glob`] | small values and their texts |
//! | [`ca_store`] | the error on a machine without CA certificates |
//!
//! The next firings of a schedule:
//!
//! ```
//! use domain::schedule::{Context, Schedule};
//!
//! let anchor = "2026-01-01T00:00:00Z".parse()?;
//! let context = Context { zone: "Europe/Paris", seed: "db/nightly-dump", anchor };
//! let schedule = Schedule::parse("30 2 * * *", &context)?;
//! let next: Vec<String> = schedule.firings(anchor).take(2).map(|firing| firing.at.to_string()).collect();
//! assert_eq!(next, ["2026-01-01T01:30:00Z", "2026-01-02T01:30:00Z"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It never does I/O, reads no clock and starts no task: time, randomness and the text of files are arguments.
//!
//! # Glossary
//!
//! One word for each concept, in code, texts and documentation. *Stored* names the spelling in data, where it differs.
//!
//! | word | meaning |
//! |---|---|
//! | job, group | what to run and when; the unit that runners serve, with one queue each |
//! | nominal time | the instant that the schedule names; stored as `nominal` |
//! | firing | one nominal time of one job's schedule |
//! | run | the execution of one firing, or of one manual start; ends in exactly one outcome |
//! | attempt | one start of a run's command; a retry is the next attempt |
//! | tick | one periodic pass of the scheduler |
//! | due entry, due index | "job J fires at T"; the table of due entries that a tick reads |
//! | order | message that asks a runner for one attempt |
//! | claim | conditional write by which one runner takes an attempt |
//! | lease | time for which a message or a claim is hidden from others (SQS: visibility timeout) |
//! | heartbeat | periodic "alive" record of a runner; stored as `beat` |
//! | report, event | what a runner sends about an attempt; its kinds are events |
//! | outcome, reason | how a run ended; one sentence why |
//! | missed, skipped, lost | was not started in time; was not started on purpose; started, and its end is unknown |
//! | catch-up | policy for firings that were missed while the scheduler was down or maintenance was on |
//! | overlap | two runs of one job at once; `concurrency` decides |
//! | held run | waits for another run or for the end of maintenance; has no order yet |
//! | pause, maintenance window | one job, or a group or all: no new firings |
//! | timeout, kill grace | limit of a run; time between TERM and KILL |
//! | stop sequence | TERM, kill grace, KILL, until no process is left |
//! | leaked process | a process that the job left behind |
//! | runner, keeper | takes orders and ships output; the process that owns one attempt |
//! | run directory, outbox | the files of one attempt; reports on disk that are not sent yet |
//! | spool, segment | an attempt's output on disk; one file of it |
//! | block, record | whole records that are read together; one line, or a part of one |
//! | seq | the number of a record, from 1, without gaps, over both streams |
//! | gap | the record that replaces dropped lines |
//! | cursor, position | the stored and the current place of a reader |
//! | sink, receiver | configured destination of records; the server behind it |
//! | batch, frame | records sent together; one record on a wire |
//! | accepted, confirmed | the receiver (on TCP: its kernel) has it; the cursor may pass it |
//! | lag | lines, bytes and seconds that are not accepted yet |
//! | refused record | the receiver will never accept it; skipped and listed |
//! | dropped line | lost by a limit; counted, and marked by a gap |
//! | retry, backoff | the same call again; the growing delay before it |
//! | quarantine | where an unreadable stored record or file is kept |
//! | rule, pack, match, verdict | pattern; file of rules; a line that matched (`RuleHit`); the result of judging |
//! | transition, alert, channel | a job started failing or recovered; the message about it; where it is sent |
//! | system job | `sexton/disk`, `sexton/sink.NAME`: alerts about Sexton itself |
//! | conflict | a conditional write lost to another writer |
//! | fault, warning | a defect in a file or an argument; legal, but surprising |
//! | reference, secret, mask | `ssm:/x`; its value, which exists on the runner only; `***` |
//! | retention, prune | what is kept and for how long; deleting the rest |
//! | bracket records | `run.started`, `run.finished`, `run.output_ended` |
//! | installation, prefix | one set of AWS resources; the start of their names |
//! | ledger | scheduled runs = sum of outcomes + open runs |

#![warn(missing_docs)]

pub mod alert;
pub mod ca_store;
pub mod connection_error;
pub mod crontab;
pub mod disk_space;
pub mod document;
pub mod event;
pub mod fault;
pub mod glob;
pub mod guard;
pub mod job;
pub mod job_files;
pub mod job_list;
pub mod jobs_file;
pub mod ledger;
pub mod line;
pub mod local_time;
pub mod mailto;
pub mod order;
pub mod plan;
pub mod ports;
pub mod restored;
pub mod run;
pub mod schedule;
pub mod secret;
pub mod shell_text;
pub mod system_error;
pub mod units;
pub mod zones;
