//! Presigned URLs of S3: Signature Version 4 in the query, see
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>.
//!
//! Not made by the SDK's client, because one page of a list has hundreds of them, and because the signing time must be
//! chosen for URLs to stay the same for a while.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use chrono::{DateTime, Utc};
use url::Url;

/// Signs URLs of one bucket.
#[derive(Debug, Clone)]
pub(crate) struct Presigner {
    /// The bucket's URL, with a trailing `/`.
    pub base: Url,
    pub region: String,
    pub credentials: Credentials,
}

impl Presigner {
    /// The expiry of the credentials, and of every URL that they sign.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.credentials.expiry().map(DateTime::from)
    }

    /// Whether the credentials are temporary without a known expiry, as those in the variables of a Lambda function.
    pub fn has_unknown_expiry(&self) -> bool {
        self.credentials.session_token().is_some() && self.credentials.expiry().is_none()
    }

    /// A URL valid from `from` until `until` or the expiry of the credentials. Requests must send `headers` as given.
    pub fn sign(
        &self,
        method: &str,
        key_and_query: &str,
        headers: &[(&str, &str)],
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> String {
        let mut url = self.base.join(key_and_query).expect("keys are made of digits, letters, dashes and slashes");
        let until = self.expires_at().map_or(until, |end| until.min(end));
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some((until - from).to_std().unwrap_or_default().max(Duration::from_secs(1)));
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(SystemTime::from(from))
            .settings(settings)
            .build()
            .expect("all parameters are set")
            .into();
        let signed = {
            let request =
                SignableRequest::new(method, url.as_str(), headers.iter().copied(), SignableBody::UnsignedPayload);
            sign(request.expect("a valid URL and headers"), &params).expect("a signable request")
        };
        let (instructions, _) = signed.into_parts();
        for (name, value) in instructions.params() {
            url.query_pairs_mut().append_pair(name, value);
        }
        url.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of "Authenticating Requests: Using Query Parameters" of the S3 API reference.
    #[test]
    fn matches_documented_example() {
        let presigner = Presigner {
            base: "https://examplebucket.s3.amazonaws.com/".parse().unwrap(),
            region: "us-east-1".to_owned(),
            credentials: Credentials::new(
                "AKIAIOSFODNN7EXAMPLE",
                "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                None,
                None,
                "test",
            ),
        };
        let from: DateTime<Utc> = "2013-05-24T00:00:00Z".parse().unwrap();
        let url = presigner.sign("GET", "test.txt", &[], from, from + Duration::from_hours(24));
        assert!(
            url.ends_with("&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"),
            "{url}"
        );
        assert!(url.contains("X-Amz-Expires=86400&X-Amz-SignedHeaders=host"), "{url}");
    }

    #[test]
    fn url_expires_with_credentials() {
        let now: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let expiry = SystemTime::from(now + Duration::from_secs(90));
        let credentials = Credentials::new("AKID", "secret", Some("token+/=".to_owned()), Some(expiry), "test");
        let base = "https://bucket.s3.amazonaws.com/".parse().unwrap();
        let presigner = Presigner { base, region: "eu-west-1".to_owned(), credentials };
        let url = presigner.sign("GET", "x", &[], now, now + Duration::from_hours(2));
        assert!(url.contains("X-Amz-Expires=90&") && url.contains("X-Amz-Security-Token=token%2B%2F%3D"), "{url}");
    }
}
