//! Loads what `up`, `runner`, `exec` and `check` need: configuration, state directory, rule packs, sinks. Flags
//! override the file.

use std::path::{Path, PathBuf};

use domain::fault::{Faults, Level};
use rules::Packs;
use sinks::cloudwatch_logs::options::Access;
use sinks::config::{SinkConfig, SinkKind, SinksFile};

use crate::configuration::{Configuration, load_packs, read_text};
use crate::failure::{Failure, print_error_line};
use crate::state::StateDirectory;
use crate::up::sample;

/// Flags that override the configuration file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) config: Option<PathBuf>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) sinks: Option<PathBuf>,
    /// In addition to those of the configuration.
    pub(crate) rules: Vec<PathBuf>,
}

pub(crate) struct Setup {
    pub(crate) configuration: Configuration,
    pub(crate) state: StateDirectory,
    /// Files and directories of rule packs.
    pub(crate) rules: Vec<PathBuf>,
    pub(crate) packs: Packs,
    pub(crate) sinks: Vec<SinkConfig>,
    pub(crate) sinks_source: SinksSource,
}

/// The source of the sinks.
#[derive(Clone, Debug)]
pub(crate) struct SinksSource {
    /// The sinks file; without one, the default sink is used.
    pub(crate) file: Option<PathBuf>,
    /// `[aws]`: the defaults of sinks on AWS.
    aws: Option<aws::Options>,
}

impl Setup {
    /// # Errors
    /// Returns every fault of the first faulty file.
    pub(crate) fn load(overrides: Overrides) -> Result<Setup, Failure> {
        let configuration = Configuration::load(overrides.config.as_deref())?;
        let state = overrides.state.as_deref().or(configuration.state.as_deref());
        let state = StateDirectory::find(state).map_err(|error| Failure::usage(error.to_string()))?;
        let rules = [configuration.rules.clone(), overrides.rules].concat();
        let packs = load_packs(&rules)?;
        let file = overrides.sinks.or_else(|| configuration.sinks.clone());
        let sinks_source = SinksSource { file, aws: configuration.aws.clone() };
        let sinks = sinks_source.load(&state)?;
        Ok(Setup { configuration, state, rules, packs, sinks, sinks_source })
    }
}

impl SinksSource {
    /// The source that the configuration names.
    pub(crate) fn from_configuration(configuration: &Configuration) -> SinksSource {
        SinksSource { file: configuration.sinks.clone(), aws: configuration.aws.clone() }
    }

    /// Reads the sinks of the file; without a file, the default sink. Prints warnings.
    ///
    /// # Errors
    /// Returns every fault of the file.
    pub(crate) fn load(&self, state: &StateDirectory) -> Result<Vec<SinkConfig>, Failure> {
        match &self.file {
            Some(path) => self.load_file(path),
            None => parse_sinks("the default sink", &sample::default_sinks(state)),
        }
    }

    /// Reads the sinks of the file; without a file, none. Prints warnings.
    ///
    /// # Errors
    /// Returns every fault of the file.
    pub(crate) fn load_configured(&self) -> Result<Vec<SinkConfig>, Failure> {
        self.file.as_deref().map_or_else(|| Ok(Vec::new()), |path| self.load_file(path))
    }

    fn load_file(&self, path: &Path) -> Result<Vec<SinkConfig>, Failure> {
        let mut sinks = parse_sinks(&path.display().to_string(), &read_text(path)?)?;
        for sink in &mut sinks {
            if let (SinkKind::CloudwatchLogs(logs), Some(aws)) = (&mut sink.kind, &self.aws) {
                fill_from_aws(&mut logs.access, aws);
            }
        }
        Ok(sinks)
    }
}

/// Fills absent keys of a sink from `[aws]`, unless the sink names its own profile or role.
fn fill_from_aws(access: &mut Access, aws: &aws::Options) {
    if access.profile.is_some() || access.role_arn.is_some() {
        return;
    }
    access.profile.clone_from(&aws.profile);
    access.role_arn.clone_from(&aws.role_arn);
    access.external_id.clone_from(&aws.external_id);
    access.region = access.region.take().or_else(|| aws.region.clone());
    access.endpoint = access.endpoint.take().or_else(|| aws.endpoint.clone());
}

fn parse_sinks(name: &str, text: &str) -> Result<Vec<SinkConfig>, Failure> {
    let (sinks, faults) = SinksFile::parse(name, text);
    if faults.has_faults() {
        return Err(Faults(faults.0.into_iter().filter(|fault| fault.level == Level::Fault).collect()).into());
    }
    for warning in &faults.0 {
        print_error_line(&warning.to_string());
    }
    Ok(sinks)
}

/// One line about a sink, printed at the start.
pub(crate) fn sink_line(sink: &SinkConfig) -> String {
    let target = match &sink.kind {
        SinkKind::File(file) => file.path.text().to_owned(),
        SinkKind::Stdout(_) => "standard output".to_owned(),
        SinkKind::Syslog(syslog) => syslog.address.to_string(),
        SinkKind::Gelf(gelf) => gelf.address.to_string(),
        SinkKind::CloudwatchLogs(_) => "CloudWatch Logs".to_owned(),
    };
    format!("{target}  ({} sink `{}`)", sink.kind.name(), sink.name)
}
