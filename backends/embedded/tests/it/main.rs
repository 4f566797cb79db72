//! Tests of the SQLite backend: the suite of all backends, files edited by hand, migration, throughput.

mod copies;
mod file;
mod ledger;
mod migration;
mod suite;
mod throughput;
