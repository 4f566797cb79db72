//! The packs of a job: those that it names, or with `auto` those that fit its command, and each pack of the user that
//! names no programs. Also which packs judge its standard output, and why each pack was chosen.
//!
//! Reading a command is a guess that prefers too many packs: a pack for a program that does not run finds nothing.

use std::collections::{BTreeMap, BTreeSet};

use domain::glob;
use domain::job::Command;

use crate::pack::Pack;
use crate::packs::{BUILT_IN, Packs};
use crate::programs::{Flow, Program, Programs, base_name};
use crate::rule_set::RulesError;

/// The name in a job's `rules` for [`DEFAULT_PACK`] and the packs that fit the command.
pub const AUTO: &str = "auto";

/// The pack that `auto` always includes.
pub const DEFAULT_PACK: &str = "default";

/// The packs that `auto` includes for every shell command.
const SHELL_PACKS: [&str; 2] = ["shell", "coreutils"];

/// The packs of a job.
#[derive(Debug)]
pub struct ChosenPacks {
    /// The packs that exist, each once, in order.
    pub names: Vec<String>,
    /// Why each of them was chosen, as a clause like "runs python3".
    pub reasons: Vec<String>,
    /// An error for each name that no pack has, with the nearest known name.
    pub unknown: Vec<RulesError>,
    /// Packs that do not judge standard output, because it is data.
    data: BTreeSet<String>,
    /// What the packs were chosen by.
    pub(crate) interpreters: Interpreters,
    programs: Programs,
}

/// The programs of the `#!` lines of a command's files, by the path that the command names: `python3` of `/srv/load`.
pub type Interpreters = BTreeMap<String, String>;

impl ChosenPacks {
    /// Whether standard output of the job is data for this pack.
    pub fn is_data(&self, pack: &str) -> bool {
        self.data.contains(pack)
    }

    /// The words of the command, and the last parts of those that are paths.
    pub(crate) fn words(&self) -> Vec<&str> {
        let mut words = Vec::new();
        for program in self.programs.iter() {
            words.extend(std::iter::once(&program.path).chain(&program.arguments).map(String::as_str));
        }
        words.iter().flat_map(|word| [*word, base_name(word)]).collect()
    }
}

/// Chooses the packs for a job whose `rules` are `wanted`. A job runs with the packs that exist: a job without some of
/// its rules is better than no job.
pub fn choose_packs(packs: &Packs, wanted: &[String], command: &Command) -> ChosenPacks {
    choose_packs_with(packs, wanted, command, &Interpreters::new())
}

/// As [`choose_packs`], with what the runner read in the files of the command.
pub fn choose_packs_with(
    packs: &Packs,
    wanted: &[String],
    command: &Command,
    interpreters: &Interpreters,
) -> ChosenPacks {
    let choice =
        Choice { packs, programs: Programs::of(command), interpreters, by_shell: matches!(command, Command::Shell(_)) };
    let (mut names, mut reasons, mut unknown): (Vec<String>, Vec<String>, _) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |name: &str, reason: String| {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
            reasons.push(reason);
        }
    };
    for name in wanted {
        if name == AUTO {
            choice.suggested().into_iter().for_each(|(name, reason)| add(name, reason));
        } else {
            match packs.find(name) {
                Ok(_) => add(name, "named in `rules`".to_owned()),
                Err(error) => unknown.push(error),
            }
        }
    }
    let data = choice.packs_without_stdout(&names);
    let interpreters = interpreters.clone();
    ChosenPacks { names, reasons, unknown, data, interpreters, programs: choice.programs }
}

struct Choice<'p> {
    packs: &'p Packs,
    programs: Programs,
    interpreters: &'p Interpreters,
    /// The command is a text for a shell.
    by_shell: bool,
}

impl<'p> Choice<'p> {
    /// The packs of `auto`, each with its reason.
    fn suggested(&self) -> Vec<(&'p str, String)> {
        let chosen = self.packs.iter().filter_map(|pack| Some((pack.name.as_str(), self.reason(pack)?)));
        let mut chosen: Vec<(&str, String)> = chosen.collect();
        chosen.sort_by_key(|(name, _)| (*name != DEFAULT_PACK, *name));
        chosen
    }

    /// Why `auto` chooses the pack; none when it does not.
    fn reason(&self, pack: &Pack) -> Option<String> {
        let by_program = || {
            let (program, name) = self.programs_of(pack).next()?;
            let is_interpreter = self.interpreters.get(&program.path).is_some_and(|known| known == name);
            Some(match is_interpreter && program.name != name {
                true => format!("runs {name} (the `#!` line of {})", program.path),
                false => format!("runs {name}"),
            })
        };
        let always = || match pack.name.as_str() {
            DEFAULT_PACK => Some("for every job".to_owned()),
            name if self.by_shell && SHELL_PACKS.contains(&name) => Some("the command is for a shell".to_owned()),
            _ => None,
        };
        match &pack.suggest {
            Some(globs) if globs.is_empty() => None,
            Some(_) => by_program().or_else(always),
            None if pack.file != BUILT_IN => Some("your pack without `suggest`".to_owned()),
            None => always(),
        }
    }

    /// The programs that the pack is for, each with the name that fits.
    fn programs_of<'c>(&'c self, pack: &'c Pack) -> impl Iterator<Item = (&'c Program, &'c str)> {
        let fits = |name: &&str| pack.suggest.iter().flatten().any(|wild| glob::matches(wild, name));
        self.programs.iter().filter_map(move |program| {
            let interpreter = self.interpreters.get(&program.path).filter(|_| program.is_local);
            let script = program.script.as_deref();
            let names = std::iter::once(program.name.as_str()).chain(script).chain(interpreter.map(String::as_str));
            names.into_iter().find(fits).map(|name| (program, name))
        })
    }

    /// The packs that judge only standard error: those whose programs write data to standard output, and the general
    /// ones where nothing but data arrives there. Packs of the user judge all output, unless they name such programs.
    fn packs_without_stdout(&self, names: &[String]) -> BTreeSet<String> {
        let entries: Vec<_> = self.packs.iter().filter_map(|pack| pack.data_stdout.as_ref()).flatten().collect();
        let is_data = |program: &Program| entries.iter().any(|entry| entry.matches(program));
        let flow = self.programs.flow(&is_data);
        if flow.data.is_empty() {
            return BTreeSet::new();
        }
        let packs = names.iter().filter_map(|name| self.packs.get(name));
        packs.filter(|pack| !self.judges_stdout(pack, &flow)).map(|pack| pack.name.clone()).collect()
    }

    fn judges_stdout(&self, pack: &Pack, flow: &Flow) -> bool {
        let is_known = pack.file == BUILT_IN || Packs::is_built_in(&pack.name);
        if !is_known && pack.data_stdout.is_none() {
            return true;
        }
        let numbered: Vec<&Program> = self.programs.iter().collect();
        let is_among = |numbers: &[usize]| {
            let of_pack = |number: &usize| {
                let program = numbered.get(*number);
                program.is_some_and(|program| self.programs_of(pack).any(|(own, _)| std::ptr::eq(own, *program)))
            };
            numbers.iter().any(of_pack)
        };
        let is_general = pack.name == DEFAULT_PACK || SHELL_PACKS.contains(&pack.name.as_str());
        if is_among(&flow.text) || is_among(&flow.copiers) {
            return true;
        }
        !flow.text.is_empty() && (is_general || !is_among(&flow.data))
    }
}
