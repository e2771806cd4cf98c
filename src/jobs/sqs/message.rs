//! What messages of the queue say: our own jobs, and notifications of S3 in each of the shapes in which they come.
//!
//! - S3 to SQS, <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>: `Records`, with
//!   keys that are form-encoded; and a test event when the notification is set up.
//! - S3 to SNS to SQS, <https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>: the same as a text in
//!   `Message`; bare with raw delivery.
//! - S3 to `EventBridge` to SQS, <https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>: `detail`, with keys as
//!   they are.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::jobs::queue::Kind;
use crate::{domain::PhotoId, storage};

/// What a message calls for. Each may come twice, late, or in another order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// A job that has a row.
    Job {
        /// The row's id.
        id: Uuid,
        /// What to do.
        kind: Kind,
        /// The photo or album.
        subject: Uuid,
    },
    /// Originals that are there; none for a notification of something else.
    Uploaded(Vec<PhotoId>),
}

/// Our own message.
#[derive(Serialize, Deserialize)]
struct Job {
    #[serde(rename = "darkroom_job")]
    kind: String,
    id: Uuid,
    subject: Uuid,
}

/// All shapes in one, told apart by what is there.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "Records")]
    records: Option<Vec<Record>>,
    /// Of SNS.
    #[serde(rename = "Message")]
    message: Option<String>,
    /// Of `EventBridge`.
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    source: Option<String>,
    detail: Option<Place>,
    /// Of the test.
    #[serde(rename = "Event")]
    event: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_name: String,
    s3: Place,
}

#[derive(Deserialize)]
struct Place {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// The text of a message for a job.
#[must_use]
pub fn write(id: Uuid, kind: Kind, subject: Uuid) -> String {
    let job = Job { kind: kind.as_str().to_owned(), id, subject };
    serde_json::to_string(&job).expect("a word and two ids are JSON")
}

/// Reads a message. Notifications of other buckets than ours call for nothing.
///
/// # Errors
/// Says what is wrong with one that nobody can act on.
pub fn read(body: &str, bucket: Option<&str>) -> Result<Carried, String> {
    if let Ok(job) = serde_json::from_str::<Job>(body) {
        let kind = Kind::parse(&job.kind).ok_or_else(|| format!("no job is a `{}`", job.kind))?;
        return Ok(Carried::Job { id: job.id, kind, subject: job.subject });
    }
    let shape: Shape = serde_json::from_str(body).map_err(|_| "neither a job nor a notification of S3".to_owned())?;
    let ours = |place: &Place| bucket == Some(place.bucket.name.as_str());
    if let Some(records) = shape.records {
        let created = records.into_iter().filter(|it| it.event_name.starts_with("ObjectCreated:") && ours(&it.s3));
        return Ok(Carried::Uploaded(created.filter_map(|it| photo(&form_decoded(&it.s3.object.key))).collect()));
    }
    if let Some(text) = shape.message {
        // One envelope: who wraps it again wants us to look for ever.
        return match serde_json::from_str::<Shape>(&text) {
            Ok(inner) if inner.message.is_none() => read(&text, bucket),
            _ => Err("a message of SNS that holds no notification of S3".to_owned()),
        };
    }
    match (shape.source.as_deref(), shape.detail_type.as_deref(), shape.detail) {
        (Some("aws.s3"), Some("Object Created"), Some(place)) => {
            Ok(Carried::Uploaded(photo(&place.object.key).into_iter().filter(|_| ours(&place)).collect()))
        }
        (Some("aws.s3"), ..) => Ok(Carried::Uploaded(Vec::new())),
        _ if shape.event.as_deref() == Some("s3:TestEvent") => Ok(Carried::Uploaded(Vec::new())),
        _ => Err("neither a job nor a notification of S3".to_owned()),
    }
}

/// The photo whose original a key is.
fn photo(key: &str) -> Option<PhotoId> {
    storage::photo_of_original(key)
}

fn form_decoded(key: &str) -> String {
    url::form_urlencoded::parse(format!("{key}=").as_bytes())
        .next()
        .map(|(key, _)| key.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "0192f0c1-2345-7678-9abc-def012345678";

    fn key() -> String {
        format!("originals/78/{ID}")
    }

    fn records(key: &str, bucket: &str, event: &str) -> String {
        json!({"Records": [{
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1", "eventName": event,
            "s3": {"bucket": {"name": bucket, "arn": format!("arn:aws:s3:::{bucket}")}, "object": {"key": key, "size": 7, "eTag": "e"}}
        }]})
        .to_string()
    }

    fn bridged(key: &str, kind: &str) -> String {
        json!({"version": "0", "detail-type": kind, "source": "aws.s3",
            "detail": {"version": "0", "bucket": {"name": "photos"}, "object": {"key": key, "size": 7}, "reason": "PutObject"}})
        .to_string()
    }

    #[test]
    fn each_shape_is_read() {
        let uploaded = Ok(Carried::Uploaded(vec![ID.parse().unwrap()]));
        let direct = records(&key(), "photos", "ObjectCreated:Put");
        let wrapped =
            json!({"Type": "Notification", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Message": direct}).to_string();
        for body in [&direct, &wrapped, &bridged(&key(), "Object Created")] {
            assert_eq!(read(body, Some("photos")), uploaded, "{body}");
            assert_eq!(read(body, Some("other")), Ok(Carried::Uploaded(vec![])), "{body}");
        }
        // S3 encodes keys as forms do.
        let encoded = records(&key().replace('/', "%2F"), "photos", "ObjectCreated:CompleteMultipartUpload");
        assert_eq!(read(&encoded, Some("photos")), uploaded);
        let (id, subject) = (Uuid::now_v7(), ID.parse().unwrap());
        let job = write(id, Kind::PurgePhoto, subject);
        assert_eq!(read(&job, None), Ok(Carried::Job { id, kind: Kind::PurgePhoto, subject }));
    }

    #[test]
    fn what_calls_for_nothing_is_no_mistake() {
        let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"}).to_string();
        for body in [
            test,
            records(&key(), "photos", "ObjectRemoved:Delete"),
            records("renditions/78/x/thumb.jpg", "photos", "ObjectCreated:Put"),
            records(&format!("originals/00/{ID}"), "photos", "ObjectCreated:Put"),
            bridged(&key(), "Object Deleted"),
        ] {
            assert_eq!(read(&body, Some("photos")), Ok(Carried::Uploaded(vec![])), "{body}");
        }
    }

    #[test]
    fn what_nobody_can_act_on_is_told() {
        let endless = json!({"Message": json!({"Message": "{}"}).to_string()}).to_string();
        let unknown = json!({"darkroom_job": "dance", "id": ID, "subject": ID}).to_string();
        for body in ["", "{}", "[]", "\"text\"", "{\"Records\": 3}", "{\"Message\": \"hello\"}", &endless, &unknown] {
            assert!(read(body, Some("photos")).is_err(), "{body}");
        }
    }
}
