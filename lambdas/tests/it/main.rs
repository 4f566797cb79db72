//! Tests of the Lambdas and templates, deployed in the emulator ministack.

mod alert_topics;
mod calls;
mod encryption;
mod group_rights;
mod installation;
mod key_changes;
mod roles;
mod sexton;
mod signed;
mod stack_update;
mod template;
mod whole;
