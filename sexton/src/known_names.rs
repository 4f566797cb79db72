//! Checks the names that jobs refer to: rule packs and alert channels. Used by `lint`, `check`, `up` and its API.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use domain::document::{NameReference, NamedKind};
use domain::fault::{Fault, nearest_name};
use domain::job::{Job, JobKey};
use rules::{ChosenPacks, Packs, RuleSet, choose_packs};

use crate::configuration::load_packs;
use crate::local_runner::SharedPacks;

/// The rule packs and alert channels that exist.
pub(crate) struct KnownNames<'n> {
    pub(crate) packs: &'n Packs,
    /// `None`: unknown, so channels are not checked.
    pub(crate) channels: Option<&'n [String]>,
}

impl KnownNames<'_> {
    /// One sentence for each unknown name of a job.
    pub(crate) fn unknown_of(&self, job: &Job) -> Vec<String> {
        if names_nothing(job) {
            return Vec::new();
        }
        let chosen = choose_packs(self.packs, &job.rules, &job.command);
        self.unknown_names(job, &chosen)
    }

    /// As [`KnownNames::unknown_of`], and whether the packs of the job fit into one rule set.
    pub(crate) fn problems_of(&self, job: &Job) -> Vec<String> {
        // Built-in packs fit. Most jobs of a large crontab have no others.
        if names_nothing(job) && self.packs.iter().all(|pack| pack.file == rules::packs::BUILT_IN) {
            return Vec::new();
        }
        let chosen = choose_packs(self.packs, &job.rules, &job.command);
        let mut problems = self.unknown_names(job, &chosen);
        problems.extend(RuleSet::compile(self.packs, &chosen.names).err().map(|error| error.to_string()));
        problems
    }

    /// The problems of all jobs.
    pub(crate) fn problems_of_all(&self, jobs: impl IntoIterator<Item = Job>) -> Vec<(JobKey, String)> {
        let problems_of = |job: Job| self.problems_of(&job).into_iter().map(move |problem| (job.key(), problem));
        jobs.into_iter().flat_map(problems_of).collect()
    }

    fn unknown_names(&self, job: &Job, chosen: &ChosenPacks) -> Vec<String> {
        let packs = chosen.unknown.iter().map(ToString::to_string);
        packs.chain(job.alert.channels.iter().filter_map(|name| self.unknown_channel(name))).collect()
    }

    /// The fault of a name in a file; none when it exists.
    pub(crate) fn fault(&self, file: &str, reference: &NameReference) -> Option<Fault> {
        let NameReference { kind, line, name } = reference;
        let message = match kind {
            NamedKind::RulePack if name == rules::pack_choice::AUTO => return None,
            NamedKind::RulePack => self.packs.find(name).err()?.to_string(),
            NamedKind::AlertChannel => self.unknown_channel(name)?,
        };
        let key = match kind {
            NamedKind::RulePack => "rules",
            NamedKind::AlertChannel => "alert.channels",
        };
        Some(Fault::new(file, *line, key, message))
    }

    fn unknown_channel(&self, name: &String) -> Option<String> {
        let channels = self.channels?;
        if channels.contains(name) {
            return None;
        }
        let hint = match nearest_name(name, channels.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if channels.is_empty() => "no channel is configured; write a table [channel.NAME]".to_owned(),
            None => format!("configured are {}", channels.join(", ")),
        };
        Some(format!("no alert channel `{name}`; {hint}"))
    }
}

/// Whether the job has the default packs and channels.
fn names_nothing(job: &Job) -> bool {
    job.alert.channels.is_empty() && job.rules.iter().all(|name| name == rules::pack_choice::AUTO)
}

/// A check of jobs for the API of `up`, with the packs in use at the time of each call.
pub(crate) fn check_of_api(packs: SharedPacks, channels: Vec<String>) -> console::JobCheck {
    Arc::new(move |job| {
        let packs = packs.current();
        KnownNames { packs: &packs, channels: Some(&channels) }.unknown_of(job)
    })
}

/// The rule packs of a job and their reasons, for the API: with the packs in use at the time of each call.
pub(crate) fn choice_of_api(packs: impl Fn() -> Arc<Packs> + Send + Sync + 'static) -> console::PackChoice {
    Arc::new(move |job| {
        let chosen = choose_packs(&packs(), &job.rules, &job.command);
        let reasons = chosen.names.into_iter().zip(chosen.reasons);
        reasons.map(|(pack, reason)| console::PackReason { pack, reason }).collect()
    })
}

/// A check of the rule packs of jobs for an installation on AWS: the built-in ones and those of these files. Alert
/// channels are topics, which need calls.
pub(crate) fn check_on_aws(rules: Vec<PathBuf>) -> console::JobCheck {
    let packs: OnceLock<Result<Packs, String>> = OnceLock::new();
    Arc::new(move |job| {
        if names_nothing(job) {
            return Vec::new();
        }
        match packs.get_or_init(|| load_packs(&rules).map_err(|failure| failure.messages().join("; "))) {
            Ok(packs) => {
                let unknown = KnownNames { packs, channels: None }.unknown_of(job).into_iter();
                let hint = "packs of your own are known with `rules` in the file of --config";
                unknown.map(|problem| format!("{problem}; {hint}")).collect()
            }
            Err(fault) => vec![fault.clone()],
        }
    })
}

/// One line for each pack that replaces a built-in one.
pub(crate) fn replaced_packs(packs: &Packs) -> Vec<String> {
    let line = |pack: &Arc<rules::Pack>| {
        format!("{}: note: the pack `{}` of this file replaces the built-in pack of that name", pack.file, pack.name)
    };
    packs.replacing_built_in().map(line).collect()
}
