//! Warnings about commands whose output, exit code or secrets are lost or shown by the way in which they are written.

use std::collections::BTreeMap;

use super::advice::Advice;
use super::{bash_syntax, exposed_password};
use crate::shell_text::{Pipeline, Token, pipelines, tokens, words};

/// All warnings about a command. `environment`: the assignments above its entry.
pub(super) fn of_command(command: &str, environment: &BTreeMap<String, String>) -> Vec<Advice> {
    let tokens = tokens(command);
    let pipelines = pipelines(&tokens);
    let mut found = Vec::new();
    found.extend(background(&pipelines));
    found.extend(hidden_output(&pipelines));
    if is_plain_shell(environment.get("SHELL").map(String::as_str)) {
        found.extend(bash_syntax::find(command, &tokens, environment).map(|construct| {
            let message = format!(
                "{construct} is syntax of bash, and this entry runs under /bin/sh, which is another shell on many \
                 systems; write SHELL=/bin/bash above the entry, or the form of sh"
            );
            Advice::new(construct, message)
        }));
    }
    found.extend(exposed_password::find(&tokens).map(|option| {
        let message =
            "a password on the command line is visible to every user of the machine, in the list of processes \
                       and in this file; read it from a file that only the job's user can read"
                .to_owned();
        Advice::new(option, message)
    }));
    found
}

/// Whether commands run under a shell that need not be bash.
fn is_plain_shell(shell: Option<&str>) -> bool {
    let name = shell.unwrap_or("sh").rsplit('/').next().unwrap_or_default();
    matches!(name, "sh" | "dash" | "ash" | "")
}

fn background(pipelines: &[Pipeline<'_>]) -> Option<Advice> {
    let mut last = pipelines.last()?.clone();
    let inner = match last.tokens.as_slice() {
        [Token::Operator("("), inner @ .., Token::Operator(")")] => crate::shell_text::pipelines(inner),
        [Token::Word("{"), inner @ .., Token::Word("}")] => crate::shell_text::pipelines(inner),
        _ => Vec::new(),
    };
    if let Some(inner) = inner.into_iter().next_back().filter(|_| last.end != "&") {
        last = inner;
    }
    (last.end == "&").then(|| {
        let message = "the & at the end lets the shell exit at once: the run ends there and not with the command, \
                       and timeout and overlap do not cover it; remove the &"
            .to_owned();
        Advice::new("&", message)
    })
}

/// Where a stream of a command goes.
#[derive(Clone, PartialEq, Eq)]
enum Destination {
    Sexton,
    Null,
    File,
}

/// A command whose output does not reach Sexton, or whose exit code is that of a program after a pipe.
fn hidden_output(pipelines: &[Pipeline<'_>]) -> Option<Advice> {
    pipelines.iter().enumerate().find_map(|(index, pipeline)| {
        let is_condition = matches!(pipeline.end, "&&" | "||");
        let ignored =
            pipelines.get(index + 1).is_some_and(|next| matches!(next.words().first(), Some(&("true" | ":"))));
        if is_condition && !(pipeline.end == "||" && ignored) {
            return None;
        }
        let commands = pipeline.commands();
        match commands.as_slice() {
            [only] => redirected(only),
            [between @ .., last] => piped(last).or_else(|| copied(between, last)),
            [] => None,
        }
    })
}

fn program_of<'t>(command: &[Token<'t>]) -> Option<&'t str> {
    words(command).first()?.rsplit('/').next()
}

fn piped(last: &[Token<'_>]) -> Option<Advice> {
    const COLLECTORS: [&str; 12] = [
        "tee",
        "logger",
        "mail",
        "mailx",
        "s-nail",
        "sendmail",
        "cat",
        "ts",
        "systemd-cat",
        "cronolog",
        "rotatelogs",
        "multilog",
    ];
    let program = program_of(last)?;
    COLLECTORS.contains(&program).then(|| {
        let message = format!(
            "the exit code is that of {program}, so a failure before the pipe goes unnoticed; remove the pipe, because \
             Sexton keeps and ships the output itself"
        );
        Advice::new(format!("| {program}"), message)
    })
}

/// A `tee` between the pipes.
fn copied(between: &[&[Token<'_>]], last: &[Token<'_>]) -> Option<Advice> {
    let after_first = between.get(1..).unwrap_or_default();
    after_first.iter().find(|command| program_of(command) == Some("tee"))?;
    let program = program_of(last)?;
    let message = format!(
        "the output goes to a file, and the exit code is that of {program}, so a failure before the pipe goes unnoticed; \
         remove tee, because Sexton keeps and ships the output itself"
    );
    Some(Advice::new("| tee", message))
}

fn redirected(command: &[Token<'_>]) -> Option<Advice> {
    let (mut out, mut err) = (Destination::Sexton, Destination::Sexton);
    let mut shown: Vec<&str> = Vec::new();
    for token in command_redirections(command) {
        let Token::Redirection { descriptor, operator, target, text } = *token else { continue };
        let destination = match target.trim_matches(['"', '\'']) {
            "/dev/null" => Destination::Null,
            "/dev/stdout" | "/dev/stderr" | "/dev/fd/1" | "/dev/fd/2" | "" => continue,
            _ => Destination::File,
        };
        match (operator, descriptor) {
            ("&>" | "&>>", _) => (out, err) = (destination.clone(), destination),
            (">&", None) if !target.bytes().all(|byte| byte.is_ascii_digit()) => {
                (out, err) = (destination.clone(), destination);
            }
            (">&", descriptor) => match (descriptor.unwrap_or(1), target) {
                (2, "1") => err = out.clone(),
                (1, "2") => out = err.clone(),
                _ => continue,
            },
            (">" | ">>" | ">|", Some(2)) => err = destination,
            (">" | ">>" | ">|", None | Some(1)) => out = destination,
            _ => continue,
        }
        shown.push(text);
    }
    let message = match (out, err) {
        (Destination::Null, Destination::Null) => {
            "the output is discarded, so no rule can find an error in it and no log has it; remove the redirection, \
             because Sexton keeps and ships the output"
        }
        (Destination::Null, Destination::Sexton) => {
            "the standard output is discarded, so no rule can find an error in it and no log has it; remove the \
             redirection, because Sexton keeps and ships the output"
        }
        (Destination::Sexton | Destination::File, Destination::Null) => {
            "the error messages are discarded, so no rule can find them and no log has them; remove the redirection"
        }
        (Destination::File | Destination::Null, Destination::File) => {
            "the output goes to a file, so Sexton neither judges nor ships it; remove the redirection, and read the \
             output with sexton logs or a sink"
        }
        _ => return None,
    };
    Some(Advice::new(shown.join(" "), message))
}

/// The redirections of the command itself: those after a compound command, not those inside of it.
fn command_redirections<'a, 't>(command: &'a [Token<'t>]) -> &'a [Token<'t>] {
    let compound = matches!(
        command.first(),
        Some(Token::Operator("(" | "((") | Token::Word("{" | "if" | "for" | "while" | "until" | "case" | "select"))
    );
    if !compound {
        return command;
    }
    let after = command.iter().rev().take_while(|token| matches!(token, Token::Redirection { .. })).count();
    &command[command.len() - after..]
}
