//! `[storage]`: where photos are kept.

use std::{fmt, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{aws::Aws, source::Source};

/// The smallest signing secret: 128 bits, as RFC 2104 advises for keys of HMAC at the least.
pub(crate) const LEAST_SECRET_CHARS: usize = 32;
/// S3 takes no presigned URL that lives for more than seven days, and ours live for up to two windows.
const LONGEST_WINDOW: Duration = Duration::from_hours(84);

/// What `storage.kind` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Files,
    S3,
}

/// `[storage]`: where photos are kept.
#[derive(Debug, Clone)]
pub struct Storage {
    /// The place of originals and renditions.
    pub place: Place,
    /// Secrets that sign URLs of files, and cursors: the first signs, all verify, so that one can be rotated. Who answers no
    /// client may have none.
    pub signing_keys: Vec<SecretString>,
    /// Rendition URLs live between one and two of these, and stay the same for one.
    pub url_window: Duration,
}

/// Where the bytes are.
#[derive(Debug, Clone)]
pub enum Place {
    /// A folder.
    Files(PathBuf),
    /// A bucket.
    S3(S3),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(folder) => write!(f, "the folder {}", folder.display()),
            Self::S3(s3) => write!(f, "the bucket {}", s3.bucket),
        }
    }
}

/// A bucket of S3.
#[derive(Debug, Clone)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// The KMS key that encrypts what is written; the bucket's own encryption when left out.
    pub kms_key: Option<String>,
    /// Whether the bucket's name goes into the path of URLs instead of the host name, as servers other than AWS want it.
    pub path_style: bool,
    /// The distribution that renditions are fetched through.
    pub cloudfront: Option<CloudFront>,
}

/// A distribution of CloudFront before the bucket.
#[derive(Debug, Clone)]
pub struct CloudFront {
    /// Its address.
    pub url: Url,
    /// The id of the public key, in a trusted key group, that `key` belongs to.
    pub key_id: String,
    /// The private key, PEM: RSA of 2048 bits or ECDSA on P-256.
    pub key: SecretString,
}

impl Storage {
    pub(crate) fn read(s: &mut Source, aws: &Aws) -> Self {
        let place = match s.get("storage.kind", Kind::Files) {
            Kind::Files => {
                let lasts = !s.in_lambda();
                s.check(lasts, "storage.kind", "must be \"s3\" in Lambda: a function's files are gone with it");
                Place::Files(s.require("storage.directory", PathBuf::new()))
            }
            Kind::S3 => {
                aws.needed(s, "storage.kind = \"s3\"");
                Place::S3(S3 {
                    bucket: s.require("storage.bucket", String::new()),
                    kms_key: s.optional("storage.kms_key"),
                    path_style: s.get("storage.path_style", false),
                    cloudfront: CloudFront::read(s),
                })
            }
        };
        let this = Self {
            place,
            signing_keys: s.secrets("storage.signing_keys"),
            url_window: s.duration("storage.url_window", "1h"),
        };
        let long = this.signing_keys.iter().all(|key| key.expose_secret().len() >= LEAST_SECRET_CHARS);
        s.check(
            long && !(this.signing_keys.is_empty() && s.answers_clients()),
            "storage.signing_keys",
            format!("must hold at least one secret, each of at least {LEAST_SECRET_CHARS} characters"),
        );
        s.check(
            (Duration::from_mins(1)..=LONGEST_WINDOW).contains(&this.url_window),
            "storage.url_window",
            "must be 1m to 84h",
        );
        this
    }
}

impl CloudFront {
    fn read(s: &mut Source) -> Option<Self> {
        let url: Url = s.optional("storage.cloudfront_url")?;
        s.check(url.scheme() == "https" && url.has_host(), "storage.cloudfront_url", "must be an https URL");
        let key_id = s.require("storage.cloudfront_key_id", String::new());
        let key = s.text("storage.cloudfront_key");
        s.check(
            key.is_some(),
            "storage.cloudfront_key",
            "must be given with storage.cloudfront_url: a private key, PEM",
        );
        Some(Self { url, key_id, key: key? })
    }
}
