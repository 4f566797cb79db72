//! Loads what `up`, `runner`, `exec` and `check` need: configuration, state directory, rule packs, sinks. Flags
//! override the file.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use domain::fault::{Fault, Level};
use rules::Packs;
use sinks::cloudwatch_logs::options::Access;
use sinks::config::{SinkConfig, SinkKind, SinksFile};

use crate::configuration::{Configuration, load_packs, read_text};
use crate::failure::{Failure, print_error_line};
use crate::state::{StateDirectory, UpSettings};
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
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) configuration: Configuration,
    pub(crate) state: StateDirectory,
    /// Files and directories of rule packs.
    pub(crate) rules: Vec<PathBuf>,
    pub(crate) packs: Packs,
    pub(crate) sinks: Vec<SinkConfig>,
    /// False when a faulty file leaves sinks out.
    pub(crate) has_all_sinks: bool,
    /// The sinks of the last good version of the file, before this start.
    pub(crate) known_sinks: BTreeSet<String>,
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
    /// Reads everything, for a command that refuses faulty files.
    ///
    /// # Errors
    /// Returns every fault of the first faulty file.
    pub(crate) fn load(overrides: Overrides) -> Result<Setup, Failure> {
        let mut setup = Setup::open(overrides)?;
        setup.packs = load_packs(&setup.rules)?;
        setup.sinks = setup.sinks_source.load(&setup.state)?;
        Ok(setup)
    }

    /// What a call of `exec` with this state directory uses.
    pub(crate) fn for_exec(&self) -> UpSettings {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        UpSettings {
            config: self.config_file.as_ref().map(absolute),
            sinks: self.sinks_source.file.as_ref().map(absolute),
            rules: self.rules.iter().map(absolute).collect(),
        }
    }

    /// Reads only the configuration: [`Reloader`](crate::reload::Reloader) reads sinks and rules.
    ///
    /// # Errors
    /// Returns every fault of the configuration.
    pub(crate) fn open(overrides: Overrides) -> Result<Setup, Failure> {
        let configuration = Configuration::load(overrides.config.as_deref())?;
        let state = overrides.state.as_deref().or(configuration.state.as_deref());
        let state = StateDirectory::find(state).map_err(|error| Failure::usage(error.to_string()))?;
        let rules = [configuration.rules.clone(), overrides.rules].concat();
        let file = overrides.sinks.or_else(|| configuration.sinks.clone());
        let sinks_source = SinksSource { file, aws: configuration.aws.clone() };
        let config_file = overrides.config;
        Ok(Setup {
            config_file,
            configuration,
            state,
            rules,
            packs: Packs::builtin(),
            sinks: Vec::new(),
            has_all_sinks: true,
            known_sinks: BTreeSet::new(),
            sinks_source,
        })
    }
}

impl SinksSource {
    /// The source of a call of `exec`.
    pub(crate) fn new(file: Option<PathBuf>, aws: Option<aws::Options>) -> SinksSource {
        SinksSource { file, aws }
    }

    /// Distinguishes the file from others. A legal file name.
    pub(crate) fn key(&self) -> String {
        let Some(file) = &self.file else { return "default".to_owned() };
        let path = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        // FNV-1a, 64 bits.
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        format!("{:016x}", path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, step))
    }

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
            None => {
                let (sinks, faults) = parse_sinks("the default sink", &sample::default_sinks(state));
                if faults.is_empty() { Ok(sinks) } else { Err(Failure::Usage(faults)) }
            }
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
        let (sinks, faults) = self.parse(path, &read_text(path)?);
        if faults.is_empty() { Ok(sinks) } else { Err(Failure::Usage(faults)) }
    }

    /// The sinks without a fault, and all faults of the file. Prints warnings.
    pub(crate) fn parse(&self, path: &Path, text: &str) -> (Vec<SinkConfig>, Vec<String>) {
        let shown = path.display().to_string();
        let (mut sinks, faults) = parse_sinks(&shown, text);
        for sink in &mut sinks {
            if let (SinkKind::CloudwatchLogs(logs), Some(aws)) = (&mut sink.kind, &self.aws) {
                fill_from_aws(&mut logs.access, aws);
            }
        }
        if sinks.is_empty() && faults.is_empty() {
            print_error_line(&format!(
                "{shown}: warning: the file defines no sink, so output is only kept in the state directory; write a \
                 table like [sink.NAME]"
            ));
        }
        (sinks, faults)
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

fn parse_sinks(name: &str, text: &str) -> (Vec<SinkConfig>, Vec<String>) {
    let (sinks, faults) = SinksFile::parse(name, text);
    let (faults, warnings): (Vec<Fault>, Vec<Fault>) =
        faults.0.into_iter().partition(|fault| fault.level == Level::Fault);
    if faults.is_empty() {
        warnings.iter().for_each(|warning| print_error_line(&warning.to_string()));
    }
    (sinks, faults.iter().map(ToString::to_string).collect())
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
