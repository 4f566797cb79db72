//! The Lambda `api`.

use lambda_http::Error;
use lambdas::api;
use lambdas::environment::{self, Environment};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    environment::init_log();
    let aws = Environment::from_process()?.connect().await?;
    lambda_http::run(api::router(aws)?).await
}
