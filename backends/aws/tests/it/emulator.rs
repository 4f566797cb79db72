//! Creates an installation for each test, each in a separate account.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws::{AccessKey, Aws, Options, OrderSigning};
use aws_sdk_sqs::types::QueueAttributeName;
use testbed::Ministack;

/// A fresh, empty installation in its own account.
pub(crate) struct Installation {
    pub aws: Aws,
    pub options: Options,
    /// Keeps the server running.
    server: Arc<Ministack>,
}

impl Installation {
    /// Returns none if ministack is not installed.
    pub(crate) async fn start(groups: &[&str]) -> Option<Installation> {
        let server = server()?;
        let options = options(&server.endpoint());
        let aws = aws::connect(&options).await.unwrap();
        aws::install(&aws, groups).await.unwrap();
        Some(Installation { aws, options, server })
    }

    /// Address of the server.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Connects as another process of the same installation.
    pub(crate) async fn connect_again(&self) -> Aws {
        aws::connect_with_signing(&self.options, OrderSigning::default()).await.unwrap()
    }
}

/// Subscribes a queue to the alerts topic. Returns the ARN of the topic and the URL of the queue.
pub(crate) async fn subscribe_queue(aws: &Aws) -> (String, String) {
    let (sns, sqs) = (aws_sdk_sns::Client::new(&aws.sdk_config), aws_sdk_sqs::Client::new(&aws.sdk_config));
    let topic = sns.create_topic().name(aws.names.alerts_topic()).send().await.unwrap().topic_arn.unwrap();
    let queue = sqs.create_queue().queue_name("subscriber").send().await.unwrap().queue_url.unwrap();
    let arn = sqs.get_queue_attributes().queue_url(&queue).attribute_names(QueueAttributeName::QueueArn);
    let arn = arn.send().await.unwrap().attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap();
    sns.subscribe().topic_arn(&topic).protocol("sqs").endpoint(arn).send().await.unwrap();
    (topic, queue)
}

/// Options for a new account.
pub(crate) fn options(endpoint: &str) -> Options {
    static ACCOUNTS: AtomicU64 = AtomicU64::new(1);
    let account = 100_000_000_000 + ACCOUNTS.fetch_add(1, Ordering::Relaxed);
    Options {
        region: Some("eu-west-1".to_owned()),
        endpoint: Some(endpoint.to_owned()),
        access_key: Some(AccessKey { id: account.to_string(), secret: "secret".to_owned() }),
        // An emulator on a busy machine is slow.
        call_timeout: Duration::from_secs(60),
        ..Options::default()
    }
}

/// Concurrent tests of a process share one server.
fn server() -> Option<Arc<Ministack>> {
    static SERVER: Mutex<Weak<Ministack>> = Mutex::new(Weak::new());
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = server.upgrade() {
        return Some(running);
    }
    let started = Arc::new(Ministack::start()?);
    *server = Arc::downgrade(&started);
    Some(started)
}
