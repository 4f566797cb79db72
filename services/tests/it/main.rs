//! The services together, over the real SQLite backend, through stepped time.

mod alerting;
mod clock;
mod commands;
mod concurrency;
mod delays;
mod downtime;
mod dying;
mod ends;
mod faulty;
mod firing;
mod group_digests;
mod isolation;
mod renaming;
mod returning;
mod slow_ticks;
mod world;
mod year;
mod zone_changes;
