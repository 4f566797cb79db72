//! List prices of AWS in us-east-1, without the free tier. Data only, each with its source.

/// The price of one unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Price {
    pub dollars: f64,
    pub unit: &'static str,
    /// AWS's page for it.
    pub source: &'static str,
}

const fn price(dollars: f64, unit: &'static str, source: &'static str) -> Price {
    Price { dollars, unit, source }
}

const DYNAMODB: &str = "aws.amazon.com/dynamodb/pricing/on-demand";
const LAMBDA: &str = "aws.amazon.com/lambda/pricing";

pub(crate) const WRITE_UNIT: Price = price(0.625e-6, "write request unit", DYNAMODB);
pub(crate) const READ_UNIT: Price = price(0.125e-6, "read request unit", DYNAMODB);
pub(crate) const STORED: Price = price(0.25, "GB and month", DYNAMODB);
pub(crate) const SQS_REQUEST: Price = price(0.40e-6, "request of 64 KiB, standard queue", "aws.amazon.com/sqs/pricing");
pub(crate) const LAMBDA_CALL: Price = price(0.20e-6, "call", LAMBDA);
pub(crate) const LAMBDA_TIME: Price = price(13.3334e-6, "GB-second, arm64", LAMBDA);
pub(crate) const SCHEDULER_CALL: Price = price(1.0e-6, "call", "aws.amazon.com/eventbridge/pricing");
pub(crate) const ALARM: Price = price(0.10, "alarm on one metric and month", "aws.amazon.com/cloudwatch/pricing");

pub(crate) const ALL: [Price; 8] =
    [WRITE_UNIT, READ_UNIT, STORED, SQS_REQUEST, LAMBDA_CALL, LAMBDA_TIME, SCHEDULER_CALL, ALARM];

/// Values that the calls of this project do not show: the time of Lambdas, and what AWS does by itself.
pub(crate) struct Assumed {
    /// Memory of scheduler and collector (lambdas/template.yaml).
    pub lambda_gb: f64,
    pub tick_seconds: f64,
    pub collect_seconds: f64,
    /// Messages per call of the collector: the batch size of the template's event source, which is full under load.
    pub reports_per_collect: f64,
    /// Polls of an idle event source: five pollers with waits of 20 s.
    pub idle_receives_per_minute: f64,
    /// Size of a run's record.
    pub run_bytes: f64,
    pub ticks_per_month: f64,
    pub prunes_per_month: f64,
}

pub(crate) const ASSUMED: Assumed = Assumed {
    lambda_gb: 0.25,
    tick_seconds: 0.3,
    collect_seconds: 0.06,
    reports_per_collect: 10.0,
    idle_receives_per_minute: 15.0,
    run_bytes: 1024.0,
    ticks_per_month: 43_800.0,
    prunes_per_month: 730.0,
};
