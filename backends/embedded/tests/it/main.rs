//! The backend against the suite, against what people do to a file, a file of an older version, and how fast it is.

mod file;
mod migration;
mod suite;
mod throughput;
