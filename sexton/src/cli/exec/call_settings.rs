//! What a call of `exec` reads: its own configuration, and the sinks and rules of the `up` with the same state
//! directory. A file that is missing or faulty is reported; the command runs without it.

use std::path::{Path, PathBuf};

use runner::PolicyFile;
use serde::{Deserialize, Serialize};

use super::Arguments;
use crate::client::{AwsArguments, ServerArguments};
use crate::configuration::{Configuration, load_policy, read_text};
use crate::failure::{Failure, print_error_line};
use crate::machine;
use crate::state::StateDirectory;

/// The arguments that matter for a call's sender too; passed to it as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Named {
    config: Option<PathBuf>,
    state: Option<PathBuf>,
    sinks: Option<PathBuf>,
    rules: Vec<PathBuf>,
    server: Option<String>,
    aws: Option<String>,
}

/// The settings of one call.
pub(super) struct CallSettings {
    named: Named,
    pub(super) configuration: Configuration,
    /// The first choice of a state directory; an error when there is none.
    pub(super) state: Result<StateDirectory, String>,
}

/// Where the output goes, and which rules check it.
pub(super) struct Shipping {
    pub(super) sinks: Option<PathBuf>,
    pub(super) rules: Vec<PathBuf>,
    pub(super) aws: Option<aws::Options>,
}

impl CallSettings {
    /// Reads the configuration. Prints its faults and warnings.
    pub(super) fn load(arguments: &Arguments) -> CallSettings {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let server = &arguments.server;
        let named = Named {
            config: server.config.as_ref().map(absolute),
            state: server.state.clone(),
            sinks: arguments.sinks.as_ref().map(absolute),
            rules: arguments.rules.iter().map(absolute).collect(),
            server: server.server.clone(),
            aws: server.aws.aws.clone(),
        };
        CallSettings::new(named, print_error_line)
    }

    /// The same in the sender, for the state directory that the call uses. Prints nothing.
    pub(super) fn from_json(text: &str) -> CallSettings {
        CallSettings::new(serde_json::from_str(text).unwrap_or_default(), |_known| {})
    }

    /// For the sender. A path that is not UTF-8 is left out.
    pub(super) fn to_json(&self, state: &StateDirectory) -> String {
        let named = Named { state: Some(state.dir.clone()), ..self.named.clone() };
        serde_json::to_string(&named).unwrap_or_default()
    }

    fn new(named: Named, print: impl Fn(&str)) -> CallSettings {
        let configuration = match &named.config {
            Some(path) => read_configuration(path, print),
            None => Configuration::default(),
        };
        let state = named.state.as_deref().or(configuration.state.as_deref());
        let state = StateDirectory::find(state).map_err(|error| error.to_string());
        CallSettings { named, configuration, state }
    }

    /// The policy of this machine; none where it is faulty. Prints its faults.
    pub(super) fn policy(&self) -> Option<PolicyFile> {
        let path = self.configuration.runner.policy.as_ref()?;
        match load_policy(path) {
            Ok(policy) => Some(policy),
            Err(failure) => {
                failure.print();
                print_error_line(&format!("sexton: the command runs without the policy {}", path.display()));
                None
            }
        }
    }

    pub(super) fn runner_name(&self) -> String {
        self.configuration.runner.name.clone().unwrap_or_else(machine::host_name)
    }

    /// The server options of the call, without its state directory.
    pub(super) fn server(&self) -> ServerArguments {
        let Named { config, server, aws, .. } = self.named.clone();
        ServerArguments { aws: AwsArguments { aws }, server, config, state: None }
    }

    /// The own sinks and rules of the call, otherwise those of the `up` that has used the state directory.
    pub(super) fn shipping(&self, state: &StateDirectory) -> Shipping {
        let up = state.read_up_settings().unwrap_or_default();
        let own_sinks = self.named.sinks.clone().or_else(|| self.configuration.sinks.clone());
        let own_rules = [self.configuration.rules.clone(), self.named.rules.clone()].concat();
        let aws = self.configuration.aws.clone().or_else(|| {
            // The `up` itself reports faults of its file.
            let configuration = up.config.as_deref().map(|path| read_configuration(path, |_reported| {}));
            configuration.and_then(|configuration| configuration.aws)
        });
        Shipping { sinks: own_sinks.or(up.sinks), rules: if own_rules.is_empty() { up.rules } else { own_rules }, aws }
    }
}

/// Reads a configuration file; the defaults where it is missing or faulty.
fn read_configuration(path: &Path, print: impl Fn(&str)) -> Configuration {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let read = read_text(path)
        .and_then(|text| Configuration::read(&path.display().to_string(), &text, &folder).map_err(Failure::from));
    match read {
        Ok((configuration, warnings)) => {
            warnings.0.iter().for_each(|warning| print(&warning.to_string()));
            configuration
        }
        Err(failure) => {
            failure.messages().iter().for_each(|message| print(message));
            print(&format!("sexton: the command runs without the configuration {}", path.display()));
            Configuration::default()
        }
    }
}
