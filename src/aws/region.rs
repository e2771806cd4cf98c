//! The region in AWS host names and ARNs.

/// The region in the host name of an RDS instance, an Aurora cluster or reader endpoint, or an RDS Proxy.
///
/// `db.abc123.eu-west-1.rds.amazonaws.com`, with `cluster-`, `cluster-ro-`, `cluster-custom-` or `proxy-` before the
/// third label from the region, and in China `db.abc123.rds.cn-north-1.amazonaws.com.cn`, or with `rds` and the region
/// swapped.
/// See "Finding the connection information for a DB instance" and "Amazon RDS endpoints" of the RDS user guide.
pub fn from_rds_host(host: &str) -> Option<String> {
    const SUFFIXES: [&str; 4] = [".amazonaws.com", ".amazonaws.com.cn", ".c2s.ic.gov", ".sc2s.sgov.gov"];
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let front = SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix))?;
    let mut labels = front.rsplit('.');
    let region = match (labels.next()?, labels.next()?) {
        ("rds", region) => region,
        (region, "rds") if region.starts_with("cn-") => region,
        _ => return None,
    };
    // The remaining labels name the database and the account.
    (is_region(region) && labels.filter(|label| !label.is_empty()).count() >= 2).then(|| region.to_owned())
}

/// The region in an ARN, `arn:aws:secretsmanager:eu-west-1:123456789012:secret:name`.
/// See "Amazon Resource Names" of the IAM user guide.
pub fn from_arn(arn: &str) -> Option<String> {
    let mut parts = arn.split(':');
    let region = (parts.next() == Some("arn")).then(|| parts.nth(2)).flatten()?;
    is_region(region).then(|| region.to_owned())
}

/// Words and a number, joined by dashes: `eu-west-1`, `us-gov-west-1`.
fn is_region(text: &str) -> bool {
    let Some((words, number)) = text.rsplit_once('-') else { return false };
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    words.contains('-') && words.split('-').all(word) && number.parse::<u8>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_region_in_rds_host() {
        for (host, region) in [
            ("photos.c9akciq32.eu-west-1.rds.amazonaws.com", Some("eu-west-1")),
            ("PHOTOS.C9AKCIQ32.EU-WEST-1.RDS.AMAZONAWS.COM.", Some("eu-west-1")),
            ("photos.cluster-c9akciq32.us-east-2.rds.amazonaws.com", Some("us-east-2")),
            ("photos.cluster-ro-c9akciq32.ap-southeast-3.rds.amazonaws.com", Some("ap-southeast-3")),
            ("some.cluster-custom-c9akciq32.eu-central-1.rds.amazonaws.com", Some("eu-central-1")),
            ("front.proxy-c9akciq32.eu-north-1.rds.amazonaws.com", Some("eu-north-1")),
            ("other.endpoint.proxy-c9akciq32.eu-north-1.rds.amazonaws.com", Some("eu-north-1")),
            ("photos.c9akciq32.us-gov-west-1.rds.amazonaws.com", Some("us-gov-west-1")),
            ("photos.c9akciq32.rds.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("photos.cluster-c9akciq32.cn-northwest-1.rds.amazonaws.com.cn", Some("cn-northwest-1")),
            ("photos.c9akciq32.us-iso-east-1.rds.c2s.ic.gov", Some("us-iso-east-1")),
            ("rds.eu-west-1.amazonaws.com", None),
            ("eu-west-1.rds.amazonaws.com", None),
            ("photos.c9akciq32.rds.eu-west-1.amazonaws.com", None),
            ("photos.c9akciq32.nowhere.rds.amazonaws.com", None),
            ("photos.c9akciq32.eu-west-1.rds.amazonaws.com.evil.example", None),
            ("db.internal", None),
            ("10.0.0.7", None),
            ("", None),
        ] {
            assert_eq!(from_rds_host(host).as_deref(), region, "{host}");
        }
    }

    #[test]
    fn finds_region_in_arn() {
        assert_eq!(from_arn("arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf").unwrap(), "eu-west-1");
        assert_eq!(from_arn("arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:db").unwrap(), "cn-north-1");
        for text in ["darkroom/db", "arn:aws:iam::123456789012:role/x", "arn:", "a:b:c:eu-west-1"] {
            assert_eq!(from_arn(text), None, "{text}");
        }
    }
}
