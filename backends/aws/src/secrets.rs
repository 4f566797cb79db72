//! Reads secrets from the Parameter Store of Systems Manager and from Secrets Manager, with the permissions of the
//! process: a runner just before it executes a job, and the scheduler for the key that signs orders.
//!
//! The two calls are built and signed here: building the two SDK crates would take longer than all other SDK crates.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_types::service_config::ServiceConfigKey;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::ca_store;
use domain::ports::{PortError, PortResult};
use domain::secret::{Reference, Secrets};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::fault::{CallName, Cause, code_error, error_chain};
use crate::options::Options;
use crate::retry::Attempted;

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// Timeout from the first byte sent to the last byte received. Chosen: both services answer within 100 ms, KMS
/// included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for finding credentials, which may try files, a process, STS and the instance's metadata service in turn.
/// Chosen, not measured.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads secrets by reference: `ssm:` and `secretsmanager:`. Finds region and credentials at the first read, so that a
/// process without secrets on AWS needs neither.
pub struct AwsSecrets {
    options: Options,
    connection: OnceCell<Connection>,
}

struct Connection {
    http: reqwest::Client,
    sdk: SdkConfig,
}

/// An AWS service that is called without an SDK.
struct Service {
    /// Name in signatures, endpoints and permissions.
    name: &'static str,
    /// Id in the configuration of endpoints.
    id: &'static str,
    target: &'static str,
}

/// Error code of PutParameter without Overwrite.
const PARAMETER_EXISTS: &str = "ParameterAlreadyExists";

const PARAMETER_STORE: Service = Service { name: "ssm", id: "SSM", target: "AmazonSSM" };
const KMS: Service = Service { name: "kms", id: "KMS", target: "TrentService" };
const SECRETS_MANAGER: Service = Service { name: "secretsmanager", id: "Secrets Manager", target: "secretsmanager" };

impl AwsSecrets {
    /// Calls nothing.
    pub fn new(options: Options) -> AwsSecrets {
        AwsSecrets { options, connection: OnceCell::new() }
    }

    async fn read_parameter(&self, name: &str) -> PortResult<String> {
        self.find_parameter(name).await?.ok_or_else(|| not_found(&format!("the parameter `{name}`")))
    }

    /// Reads a parameter; none if it does not exist.
    ///
    /// # Errors
    /// Returns the errors of [`Secrets::value`].
    pub async fn find_parameter(&self, name: &str) -> PortResult<Option<String>> {
        let place = format!("the parameter `{name}`");
        let asked = json!({ "Name": name, "WithDecryption": true });
        let Some(answer) = self.call(&PARAMETER_STORE, "GetParameter", &place, &asked).await? else { return Ok(None) };
        json_text(&answer, "/Parameter/Value").map(Some).ok_or_else(|| {
            PortError::Permanent(format!("SSM returned no value for {place}; check it in the AWS console"))
        })
    }

    /// Writes a parameter as a SecureString, encrypted with `key`, or with the key of AWS. Returns false, and writes
    /// nothing, if it exists and `overwrite` is false.
    ///
    /// # Errors
    /// Returns the error of the call, which never contains the value.
    pub(crate) async fn write_parameter(
        &self,
        name: &str,
        value: &str,
        overwrite: bool,
        key: Option<&str>,
    ) -> PortResult<bool> {
        let place = format!("the parameter `{name}`");
        let mut body = json!({ "Name": name, "Value": value, "Type": "SecureString", "Overwrite": overwrite });
        if let Some(key) = key {
            body["KeyId"] = json!(key);
        }
        match self.call(&PARAMETER_STORE, "PutParameter", &place, &body).await {
            Err(PortError::Permanent(message)) if !overwrite && message.contains(PARAMETER_EXISTS) => Ok(false),
            written => written.map(|_| true),
        }
    }

    /// Calls an action of KMS on a key.
    ///
    /// # Errors
    /// Returns the error of the call.
    pub(crate) async fn call_kms(&self, action: &str, key: &str, body: &Value) -> PortResult<Value> {
        let place = format!("the key {key}");
        self.call(&KMS, action, &place, body).await?.ok_or_else(|| not_found(&place))
    }

    /// Deletes a parameter; one that does not exist is no error.
    ///
    /// # Errors
    /// Returns the error of the call.
    pub(crate) async fn delete_parameter(&self, name: &str) -> PortResult<()> {
        let place = format!("the parameter `{name}`");
        self.call(&PARAMETER_STORE, "DeleteParameter", &place, &json!({ "Name": name })).await.map(drop)
    }

    async fn read_secret(&self, id: &str, key: Option<&str>) -> PortResult<String> {
        let place = format!("the secret `{id}`");
        let answer = self.call(&SECRETS_MANAGER, "GetSecretValue", &place, &json!({ "SecretId": id })).await?;
        let answer = answer.ok_or_else(|| not_found(&place))?;
        let text = json_text(&answer, "/SecretString").or_else(|| {
            let bytes = STANDARD.decode(json_text(&answer, "/SecretBinary")?).ok()?;
            String::from_utf8(bytes).ok()
        });
        let text = text.ok_or_else(|| PortError::Permanent(format!("{place} is not UTF-8 text; store it as text")))?;
        match key {
            None => Ok(text),
            Some(key) => key_value(&text, key).map_err(|message| PortError::Permanent(format!("{place} {message}"))),
        }
    }

    /// Calls an action; errors name `place`. Returns none if the parameter or secret does not exist.
    async fn call(&self, service: &Service, action: &str, place: &str, body: &Value) -> PortResult<Option<Value>> {
        let connection = self.connection.get_or_try_init(|| connect(&self.options)).await?;
        let call_name = CallName { service: service.name, action, place };
        let body = body.to_string();
        let attempt = || connection.attempt(service, call_name, body.clone());
        let called = self.options.retries.call(None, |failed: &FailedRead| failed.cause, attempt).await;
        match called.result {
            Ok(answer) => Ok(Some(answer)),
            Err(failed) if failed.cause == Cause::Absent && failed.is_refused() => Ok(None),
            Err(failed) => Err(failed.error),
        }
    }
}

/// The error of an attempt to read a parameter or secret.
struct FailedRead {
    cause: Cause,
    error: PortError,
    is_answered: bool,
}

impl FailedRead {
    fn unanswered(error: PortError) -> FailedRead {
        let cause = if matches!(error, PortError::Permanent(_)) { Cause::Invalid } else { Cause::Transient };
        FailedRead { cause, error, is_answered: false }
    }
}

impl Attempted for FailedRead {
    fn is_refused(&self) -> bool {
        self.is_answered
    }
}

#[async_trait]
impl Secrets for AwsSecrets {
    async fn value(&self, reference: &Reference) -> PortResult<String> {
        match reference {
            Reference::Parameter(name) => self.read_parameter(name).await,
            Reference::Secret { id, key } => self.read_secret(id, key.as_deref()).await,
            Reference::Variable(_) | Reference::File(_) => {
                Err(PortError::Permanent(format!("`{reference}` is read on the runner's machine, not from AWS")))
            }
        }
    }
}

async fn connect(options: &Options) -> PortResult<Connection> {
    let permanent = |message: String| PortError::Permanent(message);
    let sdk = options.sdk_config().await.map_err(|error| permanent(error.to_string()))?;
    let builder = || reqwest::Client::builder().timeout(REQUEST_TIMEOUT).redirect(reqwest::redirect::Policy::none());
    let is_plain = sdk.endpoint_url().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let http = if is_plain { builder().tls_certs_only([]).build() } else { builder().build() };
    let http = http.map_err(|error| match ca_store::is_missing(&error) {
        true => PortError::Retry(ca_store::MISSING.to_owned()),
        false => permanent(format!("cannot build an HTTP client: {}", error_chain(&error))),
    })?;
    Ok(Connection { http, sdk })
}

impl Connection {
    fn region(&self) -> &str {
        self.sdk.region().map_or("", |region| region.as_ref())
    }

    /// The configured endpoint of this service, or that of all services, or the default one (AWS general reference).
    fn endpoint(&self, service: &Service) -> String {
        let key = ServiceConfigKey::builder().service_id(service.id).env("AWS_ENDPOINT_URL").profile("endpoint_url");
        let specific = key.build().ok().and_then(|key| self.sdk.service_config()?.load_config(key));
        let configured = specific.or_else(|| self.sdk.endpoint_url().map(str::to_owned));
        let domain = if self.region().starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let endpoint = configured.unwrap_or_else(|| format!("https://{}.{}.{domain}", service.name, self.region()));
        endpoint.trim_end_matches('/').to_owned()
    }

    async fn attempt(&self, service: &Service, call_name: CallName<'_>, body: String) -> Result<Value, FailedRead> {
        let CallName { action, place, .. } = call_name;
        let no_answer = |message: String| {
            let text = format!("{} {action} on {place} got no answer: {message}", service.name);
            FailedRead::unanswered(PortError::Retry(text))
        };
        let target = format!("{}.{action}", service.target);
        let url = format!("{}/", self.endpoint(service));
        let mut request = self.http.post(&url).header("content-type", CONTENT_TYPE).header("x-amz-target", &target);
        let headers = self.sign_headers(service, &url, &target, body.as_bytes()).await;
        for (name, value) in headers.map_err(FailedRead::unanswered)? {
            request = request.header(name, value);
        }
        let answer = request.body(body).send().await.map_err(|error| no_answer(error_chain(&error)))?;
        let status = answer.status().as_u16();
        let kind = answer.headers().get("x-amzn-errortype").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let text = answer.bytes().await.map_err(|error| no_answer(error_chain(&error)))?;
        let answer: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
        if status == 200 {
            return Ok(answer);
        }
        let (code, message) = error_code(kind, &answer);
        let cause = if code == "ParameterNotFound" { Cause::Absent } else { Cause::of(status, &code) };
        Err(FailedRead { cause, error: code_error(call_name, status, &code, &message), is_answered: true })
    }

    async fn sign_headers(
        &self,
        service: &Service,
        url: &str,
        target: &str,
        body: &[u8],
    ) -> PortResult<Vec<(&'static str, String)>> {
        let none =
            || PortError::Permanent("no AWS credentials are configured; attach a role to the machine".to_owned());
        let provider = self.sdk.credentials_provider().ok_or_else(none)?;
        let found = tokio::time::timeout(CREDENTIALS_TIMEOUT, provider.provide_credentials()).await;
        let found = found.map_err(|_| PortError::Retry("finding AWS credentials took longer than 30s".to_owned()))?;
        let found = found.map_err(|error| PortError::Retry(format!("no AWS credentials: {}", error_chain(&error))))?;
        let unsigned =
            |message: String| PortError::Permanent(format!("a call to {} cannot be signed: {message}", service.name));
        let identity = found.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(self.region())
            .name(service.name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unsigned(error.to_string()))?
            .into();
        let headers = [("content-type", CONTENT_TYPE), ("x-amz-target", target)];
        let request = SignableRequest::new("POST", url, headers.into_iter(), SignableBody::Bytes(body));
        let request = request.map_err(|error| unsigned(error.to_string()))?;
        let signed = sign(request, &parameters).map_err(|error| unsigned(error.to_string()))?;
        let (headers, _) = signed.into_parts().0.into_parts();
        Ok(headers.into_iter().map(|header| (header.name(), header.value().to_owned())).collect())
    }
}

fn json_text(answer: &Value, place: &str) -> Option<String> {
    answer.pointer(place).and_then(Value::as_str).map(str::to_owned)
}

/// Returns the value of one key of a secret. An error continues a sentence that begins with the secret's name, and
/// never contains a value.
fn key_value(text: &str, key: &str) -> Result<String, String> {
    let members: HashMap<String, Value> = serde_json::from_str(text).map_err(|_| {
        format!("is not a JSON object, so it has no key `{key}`; remove `#{key}`, or store a JSON object")
    })?;
    match members.get(key) {
        Some(Value::String(value)) => Ok(value.clone()),
        Some(value) => Ok(value.to_string()),
        None => {
            let mut known: Vec<&str> = members.keys().map(String::as_str).collect();
            known.sort_unstable();
            Err(format!("has no key `{key}`; write one of {}", known.join(", ")))
        }
    }
}

/// Returns code and text of an error: the code is in `__type` or a header, the text in `message` or `Message`.
fn error_code(kind: Option<String>, answer: &Value) -> (String, String) {
    let code = json_text(answer, "/__type").or(kind).unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default().split(':').next().unwrap_or_default().to_owned();
    let message = json_text(answer, "/message").or_else(|| json_text(answer, "/Message")).unwrap_or_default();
    (code, message)
}

fn not_found(place: &str) -> PortError {
    PortError::Permanent(format!("{place} does not exist in this account and region; create it, or correct the job"))
}

#[cfg(test)]
mod tests {
    use testbed::Ministack;

    use super::*;
    use crate::options::AccessKey;

    impl AwsSecrets {
        pub(crate) async fn put_parameter(&self, name: &str, value: &str) {
            let parameter = json!({ "Name": name, "Value": value, "Type": "SecureString" });
            self.call(&PARAMETER_STORE, "PutParameter", "a test", &parameter).await.expect("a parameter");
        }
    }

    fn secrets(endpoint: &str) -> AwsSecrets {
        AwsSecrets::new(Options {
            region: Some("eu-west-1".to_owned()),
            endpoint: Some(endpoint.to_owned()),
            access_key: Some(AccessKey { id: "200000000001".to_owned(), secret: "secret".to_owned() }),
            ..Options::default()
        })
    }

    #[tokio::test]
    async fn values_are_read_and_a_missing_one_is_a_permanent_error() {
        let Some(server) = Ministack::start() else { return };
        let secrets = secrets(&server.endpoint());
        secrets.put_parameter("/db/password", "by ssm").await;
        let whole = r#"{"user":"app","password":"by manager","port":5432}"#;
        let secret = json!({ "Name": "db", "SecretString": whole });
        let made =
            secrets.call(&SECRETS_MANAGER, "CreateSecret", "a test", &secret).await.expect("secret").expect("secret");
        let arn = made["ARN"].as_str().expect("ARN");
        let check = async |text: &str, expected: Result<&str, &str>| {
            let reference = Reference::parse(text).expect("a reference");
            match (secrets.value(&reference).await, expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{text}"),
                (Err(PortError::Permanent(message)), Err(part)) => {
                    assert!(message.contains(part) && !message.contains("by manager"), "{message}");
                }
                (read, expected) => panic!("{text}: {read:?}, not {expected:?}"),
            }
        };
        check("ssm:/db/password", Ok("by ssm")).await;
        check("secretsmanager:db", Ok(whole)).await;
        check("secretsmanager:db#password", Ok("by manager")).await;
        check(&format!("secretsmanager:{arn}#port"), Ok("5432")).await;
        check("ssm:/db/other", Err("the parameter `/db/other` does not exist")).await;
        check("secretsmanager:other", Err("the secret `other` does not exist")).await;
        check("secretsmanager:db#pasword", Err("has no key `pasword`; write one of password, port, user")).await;
        check("env:HOME", Err("not from AWS")).await;
    }

    #[tokio::test]
    async fn a_service_that_does_not_answer_is_an_error_to_retry() {
        let endpoint = format!("http://{}", testbed::free_port());
        let asked = secrets(&endpoint).value(&Reference::Parameter("/db/password".to_owned())).await;
        assert!(
            matches!(&asked, Err(PortError::Retry(message)) if message.contains("the parameter `/db/password`")),
            "{asked:?}"
        );
    }

    #[test]
    fn error_codes_are_read_from_body_and_header() {
        let check = |kind: Option<&str>, answer: Value, code: &str| {
            assert_eq!(error_code(kind.map(str::to_owned), &answer), (code.to_owned(), "m".to_owned()));
        };
        check(None, json!({ "__type": "ThrottlingException", "message": "m" }), "ThrottlingException");
        check(None, json!({ "__type": "com.amazon#AccessDeniedException", "Message": "m" }), "AccessDeniedException");
        check(Some("ParameterNotFound:http://x"), json!({ "message": "m" }), "ParameterNotFound");
    }
}
