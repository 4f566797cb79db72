//! Creates an installation in an emulator, for tests of this crate, the Lambdas and the binary. The template creates
//! real installations.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, ProjectionType,
    ScalarAttributeType, StreamSpecification, StreamViewType, TimeToLiveSpecification,
};
use aws_sdk_sqs::types::QueueAttributeName;

use crate::Aws;
use crate::tables::{Projection, Table, tables};

/// Receives before SQS moves a message to the dead-letter queue, as in the template.
const RECEIVES_MAX: u32 = 5;

/// Creates all tables, the queues of these groups and of reports, and the topics. Without a signing key, orders are
/// sent unsigned.
///
/// # Errors
/// Returns the emulator's error.
#[doc(hidden)]
pub async fn install(aws: &Aws, groups: &[&str]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let dynamo = aws_sdk_dynamodb::Client::new(&aws.sdk_config);
    for table in tables(&aws.names) {
        create(&dynamo, &table).await?;
    }
    let sqs = aws_sdk_sqs::Client::new(&aws.sdk_config);
    let names = &aws.names;
    queue(&sqs, &names.reports(), &names.reports_dead()).await?;
    for group in groups {
        queue(&sqs, &names.orders(group), &names.orders_dead(group)).await?;
    }
    let sns = aws_sdk_sns::Client::new(&aws.sdk_config);
    for topic in [names.alerts_topic(), names.operations_topic()] {
        sns.create_topic().name(topic).send().await?;
    }
    aws.backend.store_unsigned(true).await?;
    Ok(())
}

async fn create(
    client: &aws_sdk_dynamodb::Client,
    table: &Table,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut attributes: Vec<&str> = [table.partition].into_iter().chain(table.sort).collect();
    let mut call = client.create_table().table_name(&table.name).billing_mode(BillingMode::PayPerRequest);
    call = call.set_key_schema(Some(schema(table.partition, table.sort)?));
    for index in &table.indexes {
        attributes.extend([index.partition, index.sort]);
        let kind = match index.projection {
            Projection::All => ProjectionType::All,
            Projection::KeysOnly => ProjectionType::KeysOnly,
        };
        let projection = aws_sdk_dynamodb::types::Projection::builder().projection_type(kind).build();
        let built = GlobalSecondaryIndex::builder()
            .index_name(index.name)
            .set_key_schema(Some(schema(index.partition, Some(index.sort))?))
            .projection(projection);
        call = call.global_secondary_indexes(built.build()?);
    }
    attributes.sort_unstable();
    attributes.dedup();
    for name in attributes {
        let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
        call = call.attribute_definitions(attribute.build()?);
    }
    if table.stream {
        let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::KeysOnly);
        call = call.stream_specification(stream.build()?);
    }
    call.send().await?;
    if let Some(attribute) = table.expires {
        let expires = TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute).build()?;
        client.update_time_to_live().table_name(&table.name).time_to_live_specification(expires).send().await?;
    }
    Ok(())
}

fn schema(partition: &str, sort: Option<&str>) -> Result<Vec<KeySchemaElement>, aws_sdk_dynamodb::error::BuildError> {
    let keys = [(Some(partition), KeyType::Hash), (sort, KeyType::Range)];
    let named = keys.into_iter().filter_map(|(name, kind)| Some((name?, kind)));
    named.map(|(name, kind)| KeySchemaElement::builder().attribute_name(name).key_type(kind).build()).collect()
}

async fn queue(
    client: &aws_sdk_sqs::Client,
    name: &str,
    dead: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let url = client.create_queue().queue_name(dead).send().await?.queue_url.unwrap_or_default();
    let asked =
        client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn).send().await?;
    let arn = asked.attributes.and_then(|mut all| all.remove(&QueueAttributeName::QueueArn)).unwrap_or_default();
    let policy = serde_json::json!({ "deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES_MAX }).to_string();
    client.create_queue().queue_name(name).attributes(QueueAttributeName::RedrivePolicy, policy).send().await?;
    Ok(())
}
