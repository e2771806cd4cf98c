//! Reads SQS messages: the service's own jobs, and S3 notifications in every form in which they arrive.
//!
//! - S3 to SQS: `Records` with form-encoded keys, and a test event when the notification is set up.
//!   <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>
//! - S3 to SNS to SQS: the same as text in `Message`, or unwrapped with raw delivery.
//!   <https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>
//! - S3 to `EventBridge` to SQS: `detail`, with keys that are not encoded.
//!   <https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{domain::PhotoId, jobs::registry, storage};

/// The content of a message. It may arrive twice, late or out of order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A row of the jobs table.
    Job { id: Uuid, kind: String, subject: Uuid },
    /// Originals that are in storage; none for a notification of anything else.
    Uploaded(Vec<PhotoId>),
}

#[derive(Serialize, Deserialize)]
struct JobMessage {
    #[serde(rename = "darkroom_job")]
    kind: String,
    id: Uuid,
    subject: Uuid,
}

/// Every form of notification; the fields that are present identify it.
#[derive(Deserialize)]
struct Notification {
    #[serde(rename = "Records")]
    records: Option<Vec<Record>>,
    /// SNS.
    #[serde(rename = "Message")]
    message: Option<String>,
    /// `EventBridge`.
    #[serde(rename = "detail-type")]
    detail_type: Option<String>,
    source: Option<String>,
    detail: Option<ObjectRef>,
    /// The test event.
    #[serde(rename = "Event")]
    event: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_name: String,
    s3: ObjectRef,
}

#[derive(Deserialize)]
struct ObjectRef {
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

/// The body of a job's message.
#[must_use]
pub fn write(id: Uuid, kind: &str, subject: Uuid) -> String {
    let job = JobMessage { kind: kind.to_owned(), id, subject };
    serde_json::to_string(&job).expect("a name and two ids are JSON")
}

/// Reads a message. A notification of a bucket other than `bucket` has no content. The error says what is wrong with a
/// message that can't be acted on.
pub fn read(body: &str, bucket: Option<&str>) -> Result<Content, String> {
    const UNKNOWN: &str = "neither a job nor an S3 notification";
    if let Ok(JobMessage { id, kind, subject }) = serde_json::from_str(body) {
        registry::find(&kind).ok_or_else(|| format!("unknown job `{kind}`"))?;
        return Ok(Content::Job { id, kind, subject });
    }
    let notification: Notification = serde_json::from_str(body).map_err(|_| UNKNOWN.to_owned())?;
    let is_ours = |object: &ObjectRef| bucket == Some(object.bucket.name.as_str());
    if let Some(records) = notification.records {
        let created = records.into_iter().filter(|it| it.event_name.starts_with("ObjectCreated:") && is_ours(&it.s3));
        let photos = created.filter_map(|it| storage::photo_of_original(&form_decoded(&it.s3.object.key)));
        return Ok(Content::Uploaded(photos.collect()));
    }
    if let Some(text) = notification.message {
        // Only one level of wrapping, which bounds the recursion.
        return match serde_json::from_str::<Notification>(&text) {
            Ok(inner) if inner.message.is_none() => read(&text, bucket),
            _ => Err("an SNS message without an S3 notification".to_owned()),
        };
    }
    match (notification.source.as_deref(), notification.detail_type.as_deref(), notification.detail) {
        (Some("aws.s3"), Some("Object Created"), Some(object)) => {
            let photo = storage::photo_of_original(&object.object.key).filter(|_| is_ours(&object));
            Ok(Content::Uploaded(photo.into_iter().collect()))
        }
        (Some("aws.s3"), ..) => Ok(Content::Uploaded(Vec::new())),
        _ if notification.event.as_deref() == Some("s3:TestEvent") => Ok(Content::Uploaded(Vec::new())),
        _ => Err(UNKNOWN.to_owned()),
    }
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
            "s3": {
                "bucket": {"name": bucket, "arn": format!("arn:aws:s3:::{bucket}")},
                "object": {"key": key, "size": 7, "eTag": "e"}
            }
        }]})
        .to_string()
    }

    fn from_event_bridge(key: &str, kind: &str) -> String {
        json!({"version": "0", "detail-type": kind, "source": "aws.s3",
        "detail": {
            "version": "0", "bucket": {"name": "photos"}, "object": {"key": key, "size": 7}, "reason": "PutObject"
        }})
        .to_string()
    }

    #[test]
    fn reads_every_form_of_notification() {
        let uploaded = Ok(Content::Uploaded(vec![ID.parse().unwrap()]));
        let direct = records(&key(), "photos", "ObjectCreated:Put");
        let wrapped =
            json!({"Type": "Notification", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Message": direct}).to_string();
        for body in [&direct, &wrapped, &from_event_bridge(&key(), "Object Created")] {
            assert_eq!(read(body, Some("photos")), uploaded, "{body}");
            assert_eq!(read(body, Some("other")), Ok(Content::Uploaded(vec![])), "{body}");
        }
        // S3 encodes keys as forms do.
        let encoded = records(&key().replace('/', "%2F"), "photos", "ObjectCreated:CompleteMultipartUpload");
        assert_eq!(read(&encoded, Some("photos")), uploaded);
    }

    #[test]
    fn reads_jobs_by_current_and_former_names() {
        let (id, subject) = (Uuid::now_v7(), ID.parse().unwrap());
        for kind in ["render_photo", "develop"] {
            let job = Content::Job { id, kind: kind.to_owned(), subject };
            assert_eq!(read(&write(id, kind, subject), None), Ok(job));
        }
    }

    #[test]
    fn accepts_notifications_of_other_things() {
        let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"}).to_string();
        for body in [
            test,
            records(&key(), "photos", "ObjectRemoved:Delete"),
            records("renditions/78/x/thumb.jpg", "photos", "ObjectCreated:Put"),
            records(&format!("originals/00/{ID}"), "photos", "ObjectCreated:Put"),
            from_event_bridge(&key(), "Object Deleted"),
        ] {
            assert_eq!(read(&body, Some("photos")), Ok(Content::Uploaded(vec![])), "{body}");
        }
    }

    #[test]
    fn rejects_unknown_messages() {
        let endless = json!({"Message": json!({"Message": "{}"}).to_string()}).to_string();
        let unknown = json!({"darkroom_job": "dance", "id": ID, "subject": ID}).to_string();
        for body in ["", "{}", "[]", "\"text\"", "{\"Records\": 3}", "{\"Message\": \"hello\"}", &endless, &unknown] {
            assert!(read(body, Some("photos")).is_err(), "{body}");
        }
    }
}
