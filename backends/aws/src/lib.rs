//! The ports over DynamoDB, SQS and SNS.
