//! References that this machine can resolve by itself: `env:NAME` and `file:/path`. Those of AWS are resolved by whoever
//! wires the runner to AWS; here they are refused by name.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::options::Secrets;

/// A secret is a line or a key, not a data set. Ours; the kernel takes no more than 128 KiB for one variable.
const FILE_BYTES_MAX: u64 = 128 << 10;

pub struct LocalSecrets;

#[async_trait]
impl Secrets for LocalSecrets {
    async fn resolve(&self, env: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
        let mut resolved = BTreeMap::new();
        for (name, value) in env {
            resolved.insert(name.clone(), resolve_one(name, value).await?);
        }
        Ok(resolved)
    }
}

async fn resolve_one(name: &str, value: &str) -> Result<String, String> {
    match value.split_once(':') {
        Some(("env", source)) => std::env::var(source).map_err(|_| {
            format!("variable {name}: the runner's environment has no `{source}`; set it or change the job")
        }),
        Some(("file", path)) if path.starts_with('/') => read(path)
            .await
            .map_err(|says| format!("variable {name}: the file `{path}` cannot be read by the runner: {says}")),
        Some((kind @ ("ssm" | "secretsmanager"), _)) => {
            Err(format!("variable {name}: references of kind `{kind}:` need a runner that is connected to AWS"))
        }
        _ => Ok(value.to_owned()),
    }
}

async fn read(path: &str) -> Result<String, String> {
    let size = tokio::fs::metadata(path).await.map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("it has {size} bytes, more than {FILE_BYTES_MAX}"));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(|error| error.to_string())?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn references_become_values_and_plain_text_stays() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "s3cret\n").expect("write");
        let by_file = format!("file:{}", file.path().display());
        let check = async |value: &str, expected: Result<&str, &str>| {
            let env = BTreeMap::from([("V".to_owned(), value.to_owned())]);
            let resolved = LocalSecrets.resolve(&env).await;
            match (resolved, expected) {
                (Ok(env), Ok(expected)) => assert_eq!(env["V"], expected, "{value}"),
                (Err(says), Err(part)) => assert!(says.contains(part) && says.contains("variable V"), "{says}"),
                (resolved, _) => panic!("{value}: {resolved:?}"),
            }
        };
        check("plain", Ok("plain")).await;
        check("http://x:1", Ok("http://x:1")).await;
        check(&by_file, Ok("s3cret")).await;
        check("env:PATH", Ok(&std::env::var("PATH").expect("PATH"))).await;
        check("env:NO_SUCH_VARIABLE", Err("NO_SUCH_VARIABLE")).await;
        check("file:/no/such/file", Err("/no/such/file")).await;
        check("ssm:/db/password", Err("AWS")).await;
    }
}
