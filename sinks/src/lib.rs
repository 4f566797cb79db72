//! Where a job's lines go: one file per kind of sink, one delivery engine for all of them. The runner hands every sink a
//! [`feed::Feed`] per run; nothing here knows how a spool is kept, and nothing here starts or judges a run.

pub mod feed;
