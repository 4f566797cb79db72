//! Profiles without keys: those of IAM Identity Center (SSO) and of `aws login`. The tests write the files of the AWS
//! CLI as it writes them; a listener answers for the portal of Identity Center.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::cloudwatch::deliver;
use crate::cloudwatch_access::{FILES, sink};
use crate::memory::Run;
use crate::strict_logs::{Plan, StrictLogs};

/// SHA-1 of `house`, the name of the session.
const SSO_CACHE: &str = ".aws/sso/cache/5be93480bd8b743454a93dca084849202af43af5.json";
/// SHA-256 of the ARN of the session.
const LOGIN_CACHE: &str = ".aws/login/cache/a1abaa720f53d98a18ca92dbb4863eca9d1f3f9ddacc78048d233e7faa396a09.json";

async fn signer_of(profile: &str) -> String {
    let logs = StrictLogs::start(|_, _, _| Plan::Serve).await;
    let run = Run::new(1);
    run.print_numbers(0..3);
    run.finish();
    let access = format!("region = \"us-east-1\"\nendpoint = \"http://{}\"\nprofile = \"{profile}\"\n", logs.address);
    deliver(&sink(&access), &[&run]).await.shutdown().await;
    assert!(run.is_delivered());
    logs.state().signers.last().cloned().expect("a signed call")
}

/// Answers each request for the credentials of a role.
async fn portal() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {}
            let request = String::from_utf8_lossy(&request).to_lowercase();
            let is_asked = request.starts_with("get /federation/credentials?")
                && request.contains("role_name=logs")
                && request.contains("x-amz-sso_bearer_token: the-token");
            let expiration = (Timestamp::now() + SignedDuration::from_hours(1)).as_millisecond();
            let credentials = json!({ "roleCredentials": {
                "accessKeyId": "ASIASSO", "secretAccessKey": "s", "sessionToken": "t", "expiration": expiration
            } });
            let (status, text) = if is_asked { (200, credentials.to_string()) } else { (403, "{}".to_owned()) };
            let length = text.len();
            let head =
                format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(format!("{head}{text}").as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_identity_center_signs_with_the_credentials_of_its_role() {
    let portal = portal().await;
    let expires = Timestamp::now() + SignedDuration::from_hours(1);
    let token = json!({ "accessToken": "the-token", "expiresAt": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() });
    FILES.write(SSO_CACHE, &token.to_string());
    FILES.add(
        &format!(
            "[profile house]\nsso_session = house\nsso_account_id = 123456789012\nsso_role_name = Logs\nservices = \
             house\n[sso-session house]\nsso_region = us-east-1\nsso_start_url = https://house.awsapps.com/start\n\
             [services house]\nsso =\n  endpoint_url = http://{portal}\n"
        ),
        "",
    );
    assert_eq!(signer_of("house").await, "ASIASSO");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_aws_login_signs_with_the_credentials_of_its_session() {
    let expires = Timestamp::now() + SignedDuration::from_hours(1);
    let token = json!({
        "accessToken": {
            "accessKeyId": "ASIALOGIN", "secretAccessKey": "s", "sessionToken": "t", "accountId": "123456789012",
            "expiresAt": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
        },
        "tokenType": "aws_sigv4", "refreshToken": "r", "idToken": "i",
        "clientId": "arn:aws:signin:::devtools/same-device", "dpopKey": "not used before the session expires"
    });
    FILES.write(LOGIN_CACHE, &token.to_string());
    FILES.add("[profile login]\nlogin_session = arn:aws:iam::123456789012:user/ops\nregion = us-east-1\n", "");
    assert_eq!(signer_of("login").await, "ASIALOGIN");
}
