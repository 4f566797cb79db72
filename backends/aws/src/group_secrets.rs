//! Which parameters and secrets the runners of a group may read. The group's stack stores it as a tag of its queue, so
//! that `sexton check` knows it with the permissions of an operator or of a runner. Decides nothing itself: IAM does.

use domain::ports::PortError;
use domain::secret::Reference;

use crate::fault::{CallName, call_error, is_denied};
use crate::{Aws, Names};

/// Tag of an orders queue with the paths that `group.yaml` grants, separated by spaces.
pub const SECRETS_TAG: &str = "sexton-secrets";

/// The paths below which the runners of a group read parameters and secrets. Each begins and ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretPaths(Vec<String>);

impl SecretPaths {
    /// Reads the value of [`SECRETS_TAG`].
    pub fn parse(tag: &str) -> SecretPaths {
        SecretPaths(tag.split_whitespace().map(str::to_owned).collect())
    }

    /// What a stack without `MoreSecrets` grants.
    pub fn of_group(names: &Names, group: &str) -> SecretPaths {
        SecretPaths(vec![names.group_secrets(group)])
    }

    /// Whether a reference is below one of the paths. True for a reference that is not on AWS.
    pub fn cover(&self, reference: &Reference) -> bool {
        let Some(name) = name_on_aws(reference) else { return true };
        self.0.iter().any(|path| name.starts_with(path.as_str()))
    }

    /// The value of `MoreSecrets` with which all these references are covered, besides those that have no path.
    pub fn more_for<'r>(&self, references: impl IntoIterator<Item = &'r Reference>) -> String {
        let uncovered = references.into_iter().filter(|reference| !self.cover(reference)).filter_map(path_of);
        let mut paths: Vec<String> = self.0.iter().skip(1).cloned().chain(uncovered).collect();
        paths.sort();
        paths.dedup();
        paths.join(",")
    }
}

/// Returns the name of a parameter or secret with a slash at its start; none for a reference that is not on AWS.
fn name_on_aws(reference: &Reference) -> Option<String> {
    match reference {
        // An ARN ends with `:parameter/NAME`, without the slash at the start of the name.
        Reference::Parameter(name) => Some(match name.split_once(":parameter/") {
            Some((_, name)) => format!("/{name}"),
            None => name.clone(),
        }),
        Reference::Secret { id, .. } => {
            let name = id.split_once(":secret:").map_or(id.as_str(), |(_, name)| name);
            Some(format!("/{name}"))
        }
        Reference::Variable(_) | Reference::File(_) => None,
    }
}

/// Returns the path of a reference, as `MoreSecrets` takes it; none for a name without a path.
fn path_of(reference: &Reference) -> Option<String> {
    let name = name_on_aws(reference)?;
    let (path, _) = name.rsplit_once('/')?;
    let is_legal = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    let parts = path.strip_prefix('/')?;
    parts.split('/').all(is_legal).then(|| format!("{path}/"))
}

impl Aws {
    /// Returns the paths that the stack of a group grants; none for a stack of an older release, which stored none and
    /// whose runners may not read the tags.
    ///
    /// # Errors
    /// Returns the port's error, also for a group without a queue.
    pub async fn secret_paths(&self, group: &str) -> Result<Option<SecretPaths>, PortError> {
        let sqs = aws_sdk_sqs::Client::new(&self.sdk_config);
        let queue = self.names.orders(group);
        let place = format!("the queue {queue}");
        let call_name = |action| CallName { service: "SQS", action, place: &place };
        let found = sqs.get_queue_url().queue_name(&queue).send().await;
        let url = found.map_err(|error| call_error(call_name("GetQueueUrl"), &error))?.queue_url.unwrap_or_default();
        let tags = sqs.list_queue_tags().queue_url(url).send().await;
        match tags.map_err(|error| call_error(call_name("ListQueueTags"), &error)) {
            Ok(tags) => Ok(tags.tags.and_then(|mut tags| tags.remove(SECRETS_TAG)).map(|tag| SecretPaths::parse(&tag))),
            Err(error) if is_denied(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::parse(text).expect("a reference")
    }

    #[test]
    fn references_are_covered_by_the_path_of_their_group_and_by_the_paths_of_more_secrets() {
        let paths = SecretPaths::parse("/sexton/groups/db/ /shared/");
        for (text, covered) in [
            ("ssm:/sexton/groups/db/password", true),
            ("ssm:/sexton/groups/db/deep/er", true),
            ("ssm:/sexton/groups/dbx/password", false),
            ("ssm:/sexton/groups/web/password", false),
            ("ssm:/sexton/order-signing-key", false),
            ("ssm:/shared/token", true),
            ("ssm:/sharedx/token", false),
            ("ssm:shared/token", false),
            ("ssm:/db/password", false),
            ("ssm:arn:aws:ssm:eu-west-1:111111111111:parameter/shared/token", true),
            ("ssm:arn:aws:ssm:eu-west-1:111111111111:parameter/db/token", false),
            ("secretsmanager:sexton/groups/db/password#user", true),
            ("secretsmanager:shared/token", true),
            ("secretsmanager:/shared/token", false),
            ("secretsmanager:db/password", false),
            ("secretsmanager:arn:aws:secretsmanager:eu-west-1:111111111111:secret:shared/token-a1b2c3", true),
            ("secretsmanager:arn:aws:secretsmanager:eu-west-1:111111111111:secret:db/token-a1b2c3#key", false),
            ("file:/etc/password", true),
            ("env:PASSWORD", true),
        ] {
            assert_eq!(paths.cover(&reference(text)), covered, "{text}");
        }
    }

    #[test]
    fn the_value_of_more_secrets_keeps_its_paths_and_adds_the_missing_ones() {
        let paths = SecretPaths::parse("/sexton/groups/db/ /shared/");
        let all = ["ssm:/db/a", "ssm:/db/b", "secretsmanager:old/db/c#key", "ssm:plain", "ssm:/shared/x", "ssm:/top"];
        let all: Vec<Reference> = all.into_iter().map(reference).collect();
        assert_eq!(paths.more_for(&all), "/db/,/old/db/,/shared/");
        let own = SecretPaths::of_group(&Names::new("x"), "db");
        assert_eq!(own.more_for(&[reference("ssm:/x/groups/db/a")]), "");
    }
}
