//! Tests of the Lambdas and templates, deployed in the emulator ministack.

mod calls;
mod group_rights;
mod installation;
mod roles;
mod sexton;
mod signed;
mod template;
mod whole;
