//! `check --group` on AWS: tries each parameter and secret that the group's jobs name, and reports those that the role
//! of its runners may not read, before and after an update of the group's stack. Prints no value.

use std::collections::{BTreeMap, BTreeSet};

use aws::{Aws, AwsSecrets, SecretPaths, is_denied};
use domain::job::Job;
use domain::ports::{PortError, PortResult};
use domain::secret::{Reference, Secrets};
use keeper::directory::RunDirectory;
use keeper::records::Accepted;

use crate::cli::check::Findings;
use crate::cli::runs_on_disk::run_folders;
use crate::failure::Failure;
use crate::state::StateDirectory;

/// Jobs read by one call of the store. Chosen, not measured.
const PAGE_JOBS_MAX: usize = 1000;

/// Each reference with the names of the jobs that have it.
type References = BTreeMap<Reference, BTreeSet<String>>;

/// What is known about the rights of a group's runners.
struct Group<'g> {
    name: &'g str,
    /// Of the stack; none for a stack of an older release.
    granted: Option<SecretPaths>,
    /// Without `MoreSecrets`.
    own: SecretPaths,
    own_path: String,
    /// Value of `MoreSecrets` that covers all references.
    more: String,
    /// Whether the calls are made with the rights of a runner, not with those of an operator.
    as_runner: bool,
}

pub(crate) async fn check_references(
    options: &aws::Options,
    aws: &Aws,
    state: &StateDirectory,
    group: &str,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let (references, as_runner) = match references_of_group(options, aws, state, group).await {
        Ok(found) => found,
        Err(error) => return findings.print("jobs", &aws.names.jobs(), Err(error.to_string())),
    };
    let granted = match aws.secret_paths(group).await {
        Ok(granted) => granted,
        Err(error) => return findings.print("queue", &aws.names.orders(group), Err(error.to_string())),
    };
    let secrets = AwsSecrets::new(options.clone());
    if as_runner {
        let parameter = aws.names.signing_key_parameter();
        if let Ok(Some(_)) = secrets.find_parameter(&parameter).await {
            let fault = "the role of a runner can read the key that signs orders; deploy group.yaml of this release";
            findings.print("parameter", &parameter, Err(fault.to_owned()))?;
        }
    }
    let own = SecretPaths::of_group(&aws.names, group);
    let more = granted.as_ref().unwrap_or(&own).more_for(references.keys());
    let own_path = aws.names.group_secrets(group);
    let group = Group { name: group, granted, own, own_path, more, as_runner };
    for (reference, jobs) in &references {
        let jobs: Vec<&str> = jobs.iter().map(String::as_str).collect();
        let name = format!("{reference} of {}", jobs.join(", "));
        let read = secrets.value(reference).await.map(drop);
        findings.print("reference", &name, group.judge(reference, read))?;
    }
    if references.is_empty() && as_runner {
        let note = "no reference was tried: these credentials may not list jobs, and no job of the group with one has \
                    run on this machine; run this with the ClientPolicy of the installation";
        findings.print("reference", group.name, Ok(note.to_owned()))?;
    }
    Ok(())
}

impl Group<'_> {
    fn judge(&self, reference: &Reference, read: PortResult<()>) -> Result<String, String> {
        let Group { name, own_path, more, .. } = self;
        if !self.granted.as_ref().unwrap_or(&self.own).cover(reference) {
            let remedy = match more.as_str() {
                "" => format!("store it below {own_path}"),
                more => format!("store it below {own_path}, or deploy the group's stack with MoreSecrets={more}"),
            };
            return Err(match (&self.granted, read) {
                (None, Ok(())) => format!("readable now, but not after the update of the group's stack; {remedy}"),
                _ => format!("the runners of group {name} may not read it; {remedy}"),
            });
        }
        match read {
            Ok(()) => Ok("readable".to_owned()),
            Err(error) if is_denied(&error) && !self.as_runner => Ok(match self.granted {
                Some(_) => format!("the runners of group {name} may read it; these credentials may not, so not tried"),
                None => "readable after the update of the group's stack; these credentials may not read it".to_owned(),
            }),
            Err(error) if is_denied(&error) && self.granted.is_none() => {
                Err(format!("readable only after the update of the group's stack: {error}"))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Returns the references of the group's jobs, and whether `options` have the rights of a runner, which may not list
/// jobs. Then the jobs are listed without the role that `options` assume, or read from the runs on this machine.
async fn references_of_group(
    options: &aws::Options,
    aws: &Aws,
    state: &StateDirectory,
    group: &str,
) -> PortResult<(References, bool)> {
    match list_references(aws, group).await {
        Err(error) if is_denied(&error) => {}
        listed => return listed.map(|references| (references, false)),
    }
    if options.role_arn.is_some() {
        let without_role = aws::Options { role_arn: None, external_id: None, ..options.clone() };
        let user = aws::connect(&without_role).await.map_err(|error| PortError::Permanent(error.to_string()))?;
        if let Ok(references) = list_references(&user, group).await {
            return Ok((references, true));
        }
    }
    let mut references = References::new();
    for folder in run_folders(&state.runner_folder()) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let accepted = Accepted::read(&RunDirectory::open(entry.path()));
            if let Ok(Some(accepted)) = accepted
                && accepted.order.job.group == group
            {
                add_references(&mut references, &accepted.order.job);
            }
        }
    }
    Ok((references, true))
}

async fn list_references(aws: &Aws, group: &str) -> PortResult<References> {
    let (mut references, mut after) = (References::new(), None);
    loop {
        let page = aws.ports.jobs.list(Some(group), after.as_ref(), PAGE_JOBS_MAX).await?;
        for job in page.records.iter().filter_map(|stored| stored.job.as_ref().ok()) {
            add_references(&mut references, job);
        }
        after = page.next;
        if after.is_none() {
            return Ok(references);
        }
    }
}

fn add_references(references: &mut References, job: &Job) {
    for reference in job.env.values().filter_map(|value| Reference::parse(value)) {
        if matches!(reference, Reference::Parameter(_) | Reference::Secret { .. }) {
            references.entry(reference).or_default().insert(job.key().to_string());
        }
    }
}
