pub mod document;
pub mod fault;
pub mod units;
