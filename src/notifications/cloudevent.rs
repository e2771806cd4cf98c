//! An event as a `CloudEvents` 1.0 JSON document (<https://cloudevents.io/>).

use serde_json::json;

use crate::domain::{AlbumId, Event};

pub(crate) const MEDIA_TYPE: &str = "application/cloudevents+json";

pub(crate) struct CloudEvent {
    /// `ALBUM-SEQ`, the same for each delivery of the event.
    pub(crate) id: String,
    pub(crate) body: String,
}

impl CloudEvent {
    pub(crate) fn new(album_id: AlbumId, event: &Event) -> Self {
        let id = format!("{album_id}-{}", event.seq);
        let mut data =
            json!({ "album_id": album_id, "seq": event.seq, "kind": event.kind, "photo_id": event.photo_id });
        if let Some(edit_id) = event.edit_id {
            data["edit_id"] = json!(edit_id);
        }
        let body = json!({
            "specversion": "1.0",
            "id": id,
            "source": format!("/v1/albums/{album_id}"),
            "type": format!("darkroom.{}", event.kind.as_str()),
            "time": event.at,
            "datacontenttype": "application/json",
            "data": data,
        });
        Self { id, body: body.to_string() }
    }
}
