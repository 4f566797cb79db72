//! The backend against the suite, against what people do to a file, and how fast it is.

mod file;
mod suite;
mod throughput;
