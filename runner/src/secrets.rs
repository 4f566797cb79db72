//! Replaces the references in a job's environment by their values, and lists their variables for masking. Resolves
//! `env:` and `file:` on this machine; other references go to the configured [`Secrets`].

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use domain::ports::{PortError, PortResult};
use domain::secret::{Reference, Secrets};
use tokio::io::AsyncReadExt;

/// Largest secret file. The kernel accepts at most 128 KiB for one variable (execve(2), MAX_ARG_STRLEN).
const FILE_BYTES_MAX: u64 = 128 << 10;

/// A job's environment with values in place of references.
#[derive(Default)]
pub(crate) struct Resolved {
    pub env: BTreeMap<String, String>,
    /// The variables whose values must be masked.
    pub secret_names: Vec<String>,
}

/// Resolves every reference.
///
/// # Errors
/// Returns one sentence with the variable and the reference, never a value.
pub(crate) async fn resolve(secrets: &dyn Secrets, env: &BTreeMap<String, String>) -> PortResult<Resolved> {
    let mut resolved = Resolved::default();
    for (name, text) in env {
        let value = match Reference::parse(text) {
            None => text.clone(),
            Some(reference) => {
                resolved.secret_names.push(name.clone());
                secrets.value(&reference).await.map_err(|error| add_variable_name(name, error))?
            }
        };
        resolved.env.insert(name.clone(), value);
    }
    Ok(resolved)
}

fn add_variable_name(name: &str, error: PortError) -> PortError {
    match error {
        PortError::Retry(message) => PortError::Retry(format!("variable {name}: {message}")),
        PortError::Permanent(message) => PortError::Permanent(format!("variable {name}: {message}")),
    }
}

/// Resolves `env:NAME` and `file:/path`; passes other references to `remote`.
#[derive(Default)]
pub struct LocalSecrets {
    /// Resolves all other references. None without AWS.
    pub remote: Option<Arc<dyn Secrets>>,
}

#[async_trait]
impl Secrets for LocalSecrets {
    async fn value(&self, reference: &Reference) -> PortResult<String> {
        match (reference, &self.remote) {
            (Reference::Variable(name), _) => std::env::var(name).map_err(|_| {
                PortError::Permanent(format!(
                    "the runner's environment has no `{name}`; set it there, or change the job"
                ))
            }),
            (Reference::File(path), _) => read(path).await.map_err(|message| {
                PortError::Permanent(format!("the runner cannot read the file `{path}`: {message}"))
            }),
            (_, Some(remote)) => remote.value(reference).await,
            (_, None) => Err(PortError::Permanent(format!("`{reference}` needs a runner that is connected to AWS"))),
        }
    }
}

async fn read(path: &str) -> Result<String, String> {
    let message = |error: std::io::Error| error.to_string();
    if !tokio::fs::metadata(path).await.map_err(message)?.is_file() {
        return Err("not a file".to_owned());
    }
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await.map_err(message)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).await.map_err(message)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("more than {FILE_BYTES_MAX} bytes; is it the right file?"));
    }
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn references_become_values_and_plain_text_stays() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "s3cret\n").expect("write");
        let by_file = format!("file:{}", file.path().display());
        let check = async |text: &str, expected: Result<(&str, bool), &str>| {
            let env = BTreeMap::from([("V".to_owned(), text.to_owned())]);
            match (resolve(&LocalSecrets::default(), &env).await, expected) {
                (Ok(resolved), Ok((value, is_secret))) => {
                    assert_eq!(resolved.env["V"], value, "{text}");
                    assert_eq!(resolved.secret_names.len(), usize::from(is_secret), "{text}");
                }
                (Err(PortError::Permanent(message)), Err(part)) => {
                    assert!(message.contains(part) && message.contains("variable V"), "{message}");
                }
                (resolved, _) => panic!("{text}: {:?}", resolved.map(|resolved| resolved.env)),
            }
        };
        check("plain", Ok(("plain", false))).await;
        check("http://x:1", Ok(("http://x:1", false))).await;
        check(&by_file, Ok(("s3cret", true))).await;
        check("env:PATH", Ok((&std::env::var("PATH").expect("PATH"), true))).await;
        check("env:NO_SUCH_VARIABLE", Err("NO_SUCH_VARIABLE")).await;
        check("file:/no/such/file", Err("/no/such/file")).await;
        check("file:/dev/zero", Err("not a file")).await;
        check("ssm:/db/password", Err("AWS")).await;
    }
}
