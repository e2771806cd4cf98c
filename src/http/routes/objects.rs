//! Signed URLs: uploads in, renditions and originals out. Whoever has the URL may use it, until it expires.

use std::{
    collections::HashMap,
    io::ErrorKind,
    sync::{Mutex, MutexGuard, PoisonError},
};

use axum::{
    body::Body,
    extract::{OriginalUri, RawPathParams, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use imaging::MediaType;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tower_http::services::ServeFile;

use crate::http::{
    error::{HttpError, Problem, Result},
    extract::path_id,
};
use crate::{
    app::{App, AppState},
    db::{self, jobs::RENDER_PHOTO},
    domain::{EditId, PhotoId, PhotoState, Sha256},
    server::BodyTooSlow,
    storage::{self, CompletedUpload, Files, UrlError},
};

/// What an upload URL is bound to.
#[derive(Debug, Deserialize)]
struct Bound {
    bytes: u64,
    content_type: String,
    sha256: Option<String>,
}

/// Takes the bytes of a declared photo. Nothing is kept unless all of it fits the declaration.
#[utoipa::path(put, path = "/v1/uploads/{photo_id}", tag = "objects",
    params(("photo_id" = uuid::Uuid, Path), ("bytes" = u64, Query), ("content_type" = String, Query), ("sha256" = Option<String>, Query), ("expires" = i64, Query), ("signature" = String, Query)),
    request_body(content = String, content_type = "application/octet-stream", description = "The picture, with the declared content type."),
    responses((status = 200, description = "The photo is processed now."), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn upload(
    State(app): State<AppState>,
    uri: OriginalUri,
    params: RawPathParams,
    request: Request,
) -> Result<StatusCode> {
    verify(&app, "PUT", &uri)?;
    let files = files(&app)?;
    let id: PhotoId = path_id(&params, "photo_id")?;
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let bound = Bound::deserialize(serde_html_form::Deserializer::new(pairs))
        .map_err(|_| HttpError::Unauthorized("the signature does not match the URL"))?;
    check_headers(&request, &bound)?;
    let (_turn, newer) = app.receiving.begin(id);
    let received = tokio::select! {
        received = receive(&app, files, request.into_body(), &bound) => received?,
        () = newer.cancelled() => return Err(HttpError::Conflict("the same upload was begun anew")),
    };
    accept(&app, files, id, &bound, received).await?;
    Ok(StatusCode::OK)
}

/// The uploads under way. Of one photo there is one at a time: a client that begins anew has given the last one up, and one
/// signed URL does not fill the house.
#[derive(Debug, Default)]
pub struct Receiving(Mutex<HashMap<PhotoId, CancellationToken>>);

/// An upload under way, until this is dropped.
struct Turn<'a> {
    receiving: &'a Receiving,
    id: PhotoId,
    newer: CancellationToken,
}

impl Receiving {
    fn uploads(&self) -> MutexGuard<'_, HashMap<PhotoId, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins; the token is cancelled when somebody begins the same anew.
    fn begin(&self, id: PhotoId) -> (Turn<'_>, CancellationToken) {
        let newer = CancellationToken::new();
        if let Some(older) = self.uploads().insert(id, newer.clone()) {
            older.cancel();
        }
        (Turn { receiving: self, id, newer: newer.clone() }, newer)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Whoever began anew has the place now.
        if !self.newer.is_cancelled() {
            self.receiving.uploads().remove(&self.id);
        }
    }
}

fn check_headers(request: &Request, bound: &Bound) -> Result<()> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let declared = header(header::CONTENT_TYPE).and_then(|value| value.parse().ok()).map(MediaType::as_str);
    if declared != Some(bound.content_type.as_str()) {
        return Err(HttpError::UnsupportedMediaType(format!("send the declared content-type, {}", bound.content_type)));
    }
    if header(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(HttpError::UnsupportedMediaType("send the bytes without content-encoding".into()));
    }
    match header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > bound.bytes => Err(HttpError::TooLarge(bound.bytes)),
        Some(length) if length < bound.bytes => Err(shorter(bound)),
        _ => Ok(()),
    }
}

fn shorter(bound: &Bound) -> HttpError {
    HttpError::field("content-length", format!("must be the declared {} bytes", bound.bytes))
}

/// Streams the body to the disk; memory holds one buffer of it at a time.
async fn receive(app: &App, files: &Files, body: Body, bound: &Bound) -> Result<CompletedUpload> {
    let mut incoming = files.begin_upload().await.map_err(disk)?;
    let mut stream = body.into_data_stream();
    loop {
        let next = tokio::time::timeout(app.config.uploads.idle_timeout, stream.next()).await;
        let chunk = match next.map_err(|_| HttpError::BadRequest("the upload stalled".into()))? {
            None => break,
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) if BodyTooSlow::is_cause_of(&error) => return Err(HttpError::TooSlow),
            Some(Err(_)) => return Err(HttpError::BadRequest("the upload was cut off".into())),
        };
        if incoming.bytes() + chunk.len() as u64 > bound.bytes {
            return Err(HttpError::TooLarge(bound.bytes));
        }
        incoming.write(&chunk).await.map_err(disk)?;
    }
    if incoming.bytes() < bound.bytes {
        return Err(shorter(bound));
    }
    let received = incoming.finish().await.map_err(disk)?;
    match bound.sha256.as_deref().map(Sha256::from_hex) {
        Some(declared) if declared != Some(received.sha256) => {
            Err(HttpError::field("sha256", "is not that of the bytes that came"))
        }
        _ => Ok(received),
    }
}

fn disk(error: std::io::Error) -> HttpError {
    HttpError::Unavailable("the photo can't be stored right now", anyhow::Error::from(error).context("storage"))
}

/// The state change, the original's name and the job come to be together.
async fn accept(app: &App, files: &Files, id: PhotoId, bound: &Bound, received: CompletedUpload) -> Result<()> {
    let received = &received;
    app.db
        .transaction(|mut tx| async move {
            let photo = db::photos::lock(tx.session(), id).await?.ok_or(HttpError::NotFound)?;
            let same = photo.bytes == bound.bytes && photo.content_type == bound.content_type;
            if photo.state != PhotoState::AwaitingUpload || !same {
                return Err(HttpError::Conflict("this upload URL has been used, or the photo was declared anew"));
            }
            received.persist(files, id).await.map_err(disk)?;
            db::photos::set_uploaded(tx.session(), &photo, Some(&received.sha256)).await?;
            tx.enqueue(RENDER_PHOTO, id.as_uuid()).await?;
            Ok(tx.done(()))
        })
        .await
}

/// A rendition.
#[utoipa::path(get, path = "/v1/renditions/{photo_id}/{name}", tag = "objects",
    params(("photo_id" = uuid::Uuid, Path), ("name" = String, Path), ("expires" = i64, Query), ("signature" = String, Query)),
    responses((status = 200, description = "The picture.", content_type = "image/jpeg"), (status = 206, description = "The part that `Range` asks for."), (status = 304), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn rendition(
    State(app): State<AppState>,
    uri: OriginalUri,
    params: RawPathParams,
    request: Request,
) -> Result<Response> {
    let name: String = path_id(&params, "name")?;
    serve_rendition(&app, &uri, &params, &name, request).await
}

/// A rendition of an edit.
#[utoipa::path(get, path = "/v1/renditions/{photo_id}/{edit_id}/{name}", tag = "objects",
    params(("photo_id" = uuid::Uuid, Path), ("edit_id" = uuid::Uuid, Path), ("name" = String, Path), ("expires" = i64, Query), ("signature" = String, Query)),
    responses((status = 200, description = "The picture.", content_type = "image/jpeg"), (status = 206, description = "The part that `Range` asks for."), (status = 304), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn edit_rendition(
    State(app): State<AppState>,
    uri: OriginalUri,
    params: RawPathParams,
    request: Request,
) -> Result<Response> {
    let (edit, name): (EditId, String) = (path_id(&params, "edit_id")?, path_id(&params, "name")?);
    serve_rendition(&app, &uri, &params, &format!("{edit}/{name}"), request).await
}

async fn serve_rendition(
    app: &App,
    uri: &OriginalUri,
    params: &RawPathParams,
    name: &str,
    request: Request,
) -> Result<Response> {
    let signed = verify(app, "GET", uri)?;
    let id: PhotoId = path_id(params, "photo_id")?;
    // Immutable for as long as the URL opens it; longer would be of no use to anybody.
    let seconds = (signed.expires_at - db::now()).num_seconds();
    let cache = format!("public, max-age={seconds}, immutable");
    serve(&files(app)?.rendition_path(id, name), storage::media_type_of(name), &cache, request).await
}

/// An original.
#[utoipa::path(get, path = "/v1/originals/{photo_id}", tag = "objects",
    params(("photo_id" = uuid::Uuid, Path), ("content_type" = String, Query), ("expires" = i64, Query), ("signature" = String, Query)),
    responses((status = 200, description = "The bytes as uploaded.", content_type = "application/octet-stream"), (status = 206, description = "The part that `Range` asks for."), (status = 304), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn original(
    State(app): State<AppState>,
    uri: OriginalUri,
    params: RawPathParams,
    request: Request,
) -> Result<Response> {
    verify(&app, "GET", &uri)?;
    let id: PhotoId = path_id(&params, "photo_id")?;
    let mut pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mime = pairs.find(|(key, _)| key == "content_type").map(|(_, value)| value.into_owned()).unwrap_or_default();
    let mut response = serve(&files(&app)?.original_path(id), &mime, "private, no-store", request).await?;
    response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

/// The folder. Where photos are kept in S3, no URL leads here.
fn files(app: &App) -> Result<&Files> {
    app.storage.files().ok_or(HttpError::NotFound)
}

fn verify(app: &App, method: &str, uri: &OriginalUri) -> Result<crate::storage::SignedUrl> {
    let text = uri.path_and_query().map_or("", |text| text.as_str());
    app.storage.signer().verify(method, text, db::now()).map_err(|error| {
        HttpError::Unauthorized(match error {
            UrlError::InvalidSignature => "the signature does not match the URL",
            UrlError::Expired => "the URL has expired",
        })
    })
}

/// Answers ranges, HEAD and conditional requests too.
async fn serve(path: &std::path::Path, mime: &str, cache: &str, request: Request) -> Result<Response> {
    debug_assert!(request.method() == Method::GET || request.method() == Method::HEAD);
    let mime = mime.parse().map_err(|_| HttpError::NotFound)?;
    let served = storage::observe("serve", ServeFile::new_with_mime(path, &mime).try_call(request)).await;
    let response = served.map_err(|error| match error.kind() {
        // Deleted: its URLs outlive a photo.
        ErrorKind::NotFound => HttpError::NotFound,
        _ => disk(error),
    })?;
    let mut response = response.map(|body| Body::new(body.map_err(axum::Error::new))).into_response();
    storage::count_bytes("serve", axum::body::HttpBody::size_hint(response.body()).lower());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_str(cache).expect("a cache rule is ASCII"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}
