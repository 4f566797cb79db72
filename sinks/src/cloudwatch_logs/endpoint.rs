//! The endpoint of a region by the rules of the AWS SDKs. Called by `client`; asks no server.

/// A set of regions with its own domains.
struct Partition {
    /// How its regions begin.
    prefix: &'static str,
    dns_suffix: &'static str,
    dual_stack_dns_suffix: &'static str,
}

/// The partitions of the SDKs (aws-sdk-cloudwatchlogs 1.162.0, `endpoint_lib.rs`). All have FIPS and dual-stack
/// endpoints. The last one is that of every other region.
const PARTITIONS: [Partition; 8] = [
    Partition { prefix: "cn-", dns_suffix: "amazonaws.com.cn", dual_stack_dns_suffix: "api.amazonwebservices.com.cn" },
    Partition { prefix: "eusc-de-", dns_suffix: "amazonaws.eu", dual_stack_dns_suffix: "api.amazonwebservices.eu" },
    Partition { prefix: "us-iso-", dns_suffix: "c2s.ic.gov", dual_stack_dns_suffix: "api.aws.ic.gov" },
    Partition { prefix: "us-isob-", dns_suffix: "sc2s.sgov.gov", dual_stack_dns_suffix: "api.aws.scloud" },
    Partition { prefix: "eu-isoe-", dns_suffix: "cloud.adc-e.uk", dual_stack_dns_suffix: "api.cloud-aws.adc-e.uk" },
    Partition { prefix: "us-isof-", dns_suffix: "csp.hci.ic.gov", dual_stack_dns_suffix: "api.aws.hci.ic.gov" },
    Partition { prefix: "us-gov-", dns_suffix: "amazonaws.com", dual_stack_dns_suffix: "api.aws" },
    Partition { prefix: "", dns_suffix: "amazonaws.com", dual_stack_dns_suffix: "api.aws" },
];

/// In these regions, the ordinary endpoint is the FIPS endpoint (aws-sdk-cloudwatchlogs 1.162.0, endpoint rules).
const FIPS_IS_ORDINARY: [&str; 2] = ["us-gov-east-1", "us-gov-west-1"];

/// The URL of CloudWatch Logs in a region.
pub(super) fn regional_endpoint(region: &str, use_fips: bool, use_dual_stack: bool) -> String {
    let known = PARTITIONS.iter().find(|partition| region.starts_with(partition.prefix));
    let suffix = known.map_or("amazonaws.com", |partition| match use_dual_stack {
        true => partition.dual_stack_dns_suffix,
        false => partition.dns_suffix,
    });
    let is_ordinary = !use_fips || (!use_dual_stack && FIPS_IS_ORDINARY.contains(&region));
    let service = if is_ordinary { "logs" } else { "logs-fips" };
    format!("https://{service}.{region}.{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the resolver of aws-sdk-cloudwatchlogs 1.162.0 returned them: region, FIPS, dual-stack, endpoint.
    const RESOLVED: &str = include_str!("endpoints_of_the_sdk.txt");

    #[test]
    fn every_endpoint_is_that_of_the_sdk() {
        let mut count = 0;
        for line in RESOLVED.lines().filter(|line| !line.starts_with('#')) {
            let [region, fips, dual_stack, endpoint] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            assert_eq!(regional_endpoint(region, fips == "fips", dual_stack == "dual-stack"), endpoint, "{line}");
            count += 1;
        }
        assert!(count > 150, "{count}");
    }
}
