//! `POST /v1/albums/{album_id}/photos`: a photo is declared, and its upload URL signed.

use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, TimeDelta, Utc};
use imaging::{MediaType, UnknownMediaType};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PhotoBody, links, original_links};
use crate::{
    app::{App, AppState},
    db::{self, Done, Tx},
    domain::{AlbumRole, Caller, Caption, DisplayName, Photo, PhotoId, PhotoState, Sha256, Uploader, Visibility},
    http::{
        auth::InAlbum,
        error::{FieldError, HttpError, Problem, Result},
        extract::Json,
        idempotency::{self, Answer},
    },
    storage::{OriginalUrls, RenditionUrls, Upload},
};

/// How often the same bytes declared at the same moment by others may get in the way.
const RACES: u32 = 4;

/// A photo to come.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPhoto {
    /// `image/jpeg`, `image/png`, `image/webp` or `image/gif`.
    content_type: String,
    /// The exact size.
    #[schema(minimum = 1)]
    bytes: i64,
    /// 64 hex digits; with it the same photo is never stored twice, and an upload that was cut can be resumed.
    sha256: Option<String>,
    /// 1 to 1000 characters.
    #[schema(min_length = 1, max_length = 1000)]
    caption: Option<String>,
    /// The guest's display name, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    guest_name: Option<String>,
}

/// A declared photo, and how to send its bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddedPhoto {
    photo: PhotoBody,
    /// Null when the bytes are there already.
    upload: Option<Upload>,
}

struct Declared {
    content_type: MediaType,
    bytes: u64,
    sha256: Option<Sha256>,
    caption: Option<String>,
    guest_name: Option<String>,
}

impl NewPhoto {
    fn check(&self, most_bytes: u64) -> Result<Declared> {
        let content_type = self.content_type.parse().map_err(|_: UnknownMediaType| {
            HttpError::UnsupportedMediaType(format!(
                "content_type must be image/jpeg, image/png, image/webp or image/gif{}",
                if is_heif(&self.content_type) { "; HEIC and AVIF are not supported yet, send JPEG" } else { "" }
            ))
        })?;
        let mut errors = Vec::new();
        let mut wrong = |field: &str, why: String| errors.push(FieldError::new(field, why));
        let bytes = u64::try_from(self.bytes).unwrap_or(0);
        if bytes == 0 {
            wrong("bytes", "must be at least 1".into());
        }
        let sha256 = self.sha256.as_deref().map(Sha256::from_hex);
        if sha256 == Some(None) {
            wrong("sha256", "must be 64 hex digits".into());
        }
        if let Some(Err(why)) = self.caption.as_deref().map(Caption::parse) {
            wrong("caption", why.to_string());
        }
        if let Some(Err(why)) = self.guest_name.as_deref().map(DisplayName::parse) {
            wrong("guest_name", why.to_string());
        }
        if !errors.is_empty() {
            return Err(HttpError::Unprocessable(errors));
        }
        if bytes > most_bytes {
            return Err(HttpError::TooLarge(most_bytes));
        }
        let (caption, guest_name) = (self.caption.clone(), self.guest_name.clone());
        Ok(Declared { content_type, bytes, sha256: sha256.flatten(), caption, guest_name })
    }
}

fn is_heif(content_type: &str) -> bool {
    let lower = content_type.to_ascii_lowercase();
    ["image/heic", "image/heif", "image/avif"].iter().any(|known| lower.starts_with(known))
}

/// Declares a photo and signs the URL that its bytes are to be sent to. The same bytes again: 200 with the photo
/// that is there, and no upload unless its bytes have not come yet and the caller is its uploader.
#[utoipa::path(post, path = "/v1/albums/{album_id}/photos", tag = "photos", request_body = NewPhoto, security(("jwt" = []), ("invite" = [])),
    params(("album_id" = uuid::Uuid, Path), ("Idempotency-Key" = Option<String>, Header, description = "The same key and body within 24 h gives the first answer again.")),
    responses((status = 201, body = AddedPhoto), (status = 200, body = AddedPhoto), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn add(State(app): State<AppState>, here: InAlbum, request: Json<NewPhoto>) -> Result<Response> {
    if !here.access.may_add() {
        return Err(HttpError::Forbidden("this invite is for viewing only"));
    }
    let declared = request.body.check(app.config.uploads.max_bytes)?;
    let links = (links(&app).await?, original_links(&app).await?);
    idempotency::run(&app, &here.caller, &request, |tx| declare(&app, tx, &here, &declared, &links)).await
}

async fn declare(
    app: &App,
    mut tx: Tx,
    here: &InAlbum,
    declared: &Declared,
    (links, originals): &(RenditionUrls, OriginalUrls),
) -> Result<Done<Answer>> {
    // The share lock keeps a delete or a close from passing us half-way.
    let album = db::albums::lock_shared(tx.session(), here.album.id).await?.ok_or(HttpError::NotFound)?;
    let now = db::now();
    let ttl = TimeDelta::from_std(app.config.uploads.url_ttl).unwrap_or(TimeDelta::MAX);
    let expires_at = DateTime::from_timestamp((now + ttl).timestamp(), 0).unwrap_or(now);
    // An upload that has begun in time may go on for as long again.
    let upload_ends = expires_at + ttl;
    let answer = |status, photo: Photo, open: bool| {
        let upload = open.then(|| originals.upload(&photo, expires_at));
        Answer::new(status, &AddedPhoto { photo: PhotoBody::new(photo, links), upload })
    };
    let own = declared.sha256.map(|digest| digest.among(here.access.invite_id()));
    let mut dedup = if here.access.role() == AlbumRole::Drop { own } else { declared.sha256.map(|digest| digest.0) };
    for _ in 0..RACES {
        if let Some(key) = dedup
            && let Some(mut photo) = db::photos::find_duplicate(tx.session(), album.id, &key).await?
        {
            let (awaits, mine) = (photo.state == PhotoState::AwaitingUpload, here.access.is_uploader(&photo));
            if awaits && mine {
                if album.closed {
                    return Err(CLOSED);
                }
                photo.bytes = declared.bytes;
                declared.content_type.as_str().clone_into(&mut photo.content_type);
                db::photos::declare_again(tx.session(), &photo, upload_ends).await?;
                return Ok(tx.done(answer(StatusCode::OK, photo, true)));
            }
            if !awaits && here.access.sees(&photo) {
                return Ok(tx.done(answer(StatusCode::OK, photo, false)));
            }
            // Another guest's, which this one may not know of, or whose bytes may never come.
            dedup = own;
            if own != Some(key) {
                continue;
            }
        }
        if album.closed {
            return Err(CLOSED);
        }
        let photo = new_photo(here, declared, album.review, now);
        if db::photos::insert(tx.session(), &photo, dedup.as_ref(), upload_ends).await? {
            if let Some(invite_id) = photo.uploader.invite_id
                && !db::invites::take_photo(tx.session(), invite_id).await?
            {
                return Err(HttpError::Conflict("this invite has no photos left, or was revoked"));
            }
            return Ok(tx.done(answer(StatusCode::CREATED, photo, true)));
        }
    }
    Err(HttpError::Busy("the same photo is being added by others; try again"))
}

const CLOSED: HttpError = HttpError::Conflict("the album is closed");

fn new_photo(here: &InAlbum, declared: &Declared, review: bool, now: DateTime<Utc>) -> Photo {
    let host_name = match &here.caller {
        Caller::User(user) => user.name.as_deref().and_then(|name| DisplayName::parse(name).ok()),
        Caller::Guest(_) => None,
    };
    let invite_id = here.access.invite_id();
    let name =
        if invite_id.is_some() { declared.guest_name.clone() } else { host_name.map(|name| name.as_str().to_owned()) };
    Photo {
        id: PhotoId::generate(),
        album_id: here.album.id,
        state: PhotoState::AwaitingUpload,
        visibility: if review && invite_id.is_some() { Visibility::PendingReview } else { Visibility::Visible },
        uploader: Uploader { invite_id, name },
        caption: declared.caption.clone(),
        content_type: declared.content_type.as_str().to_owned(),
        bytes: declared.bytes,
        sha256: declared.sha256,
        width: None,
        height: None,
        taken_at: None,
        camera: None,
        placeholder: None,
        renditions: Vec::new(),
        reject_reason: None,
        version: 1,
        created_at: now,
        ready_at: None,
    }
}
