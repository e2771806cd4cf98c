//! Signed URLs: uploads, renditions and originals. The bearer of a URL may use it until it expires.

use std::{io, path::Path as FilePath};

use axum::{
    body::{Body, HttpBody},
    extract::{OriginalUri, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use imaging::MediaType;
use serde::Deserialize;
use tower_http::services::ServeFile;

use crate::{
    app::{App, AppState},
    db,
    domain::{EditId, PhotoId, Sha256},
    http::{
        error::{HttpError, Problem, Result},
        extract::Path,
    },
    server::BodyTooSlow,
    services::uploads::{self, storage_failed},
    storage::{self, CompletedUpload, Files, SignedUrl, UrlError},
};

/// What an upload URL is bound to.
#[derive(Debug, Deserialize)]
struct BoundUpload {
    bytes: u64,
    content_type: String,
    sha256: Option<String>,
}

/// Receives the bytes of a declared photo. Nothing is kept unless they fit the declaration.
#[utoipa::path(
    put, path = "/v1/uploads/{photo_id}", tag = "objects",
    params(
        ("photo_id" = Uuid, Path), ("bytes" = u64, Query), ("content_type" = String, Query),
        ("sha256" = Option<String>, Query), ("expires" = i64, Query), ("signature" = String, Query)
    ),
    request_body(
        content = String, content_type = "application/octet-stream",
        description = "The picture, with the declared content type."
    ),
    responses((status = 200, description = "The photo is being processed."), Problem)
)]
pub async fn upload(
    State(app): State<AppState>,
    uri: OriginalUri,
    Path(id): Path<PhotoId>,
    request: Request,
) -> Result<StatusCode> {
    verify(&app, "PUT", &uri)?;
    let files = files(&app)?;
    let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let bound = BoundUpload::deserialize(serde_html_form::Deserializer::new(query))
        .map_err(|_| HttpError::Unauthorized("the signature does not match the URL"))?;
    check_headers(&request, &bound)?;
    let guard = app.uploads_in_progress.begin(id);
    let received = tokio::select! {
        received = receive(&app, files, request.into_body(), &bound) => received?,
        () = guard.superseded() => return Err(HttpError::Conflict("the same upload was started again")),
    };
    uploads::accept(&app.db, files, id, bound.bytes, &bound.content_type, &received).await?;
    Ok(StatusCode::OK)
}

fn check_headers(request: &Request, bound: &BoundUpload) -> Result<()> {
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
        Some(length) if length < bound.bytes => Err(too_short(bound)),
        _ => Ok(()),
    }
}

fn too_short(bound: &BoundUpload) -> HttpError {
    HttpError::field("content-length", format_args!("must be the declared {} bytes", bound.bytes))
}

/// Streams the body to the disk, through one buffer.
async fn receive(app: &App, files: &Files, body: Body, bound: &BoundUpload) -> Result<CompletedUpload> {
    let mut incoming = files.begin_upload().await.map_err(storage_failed)?;
    let mut stream = body.into_data_stream();
    loop {
        let next = tokio::time::timeout(app.config.uploads.idle_timeout, stream.next()).await;
        let chunk = match next.map_err(|_| HttpError::BadRequest("the upload stalled".into()))? {
            None => break,
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) if BodyTooSlow::is_cause_of(&error) => return Err(HttpError::TooSlow),
            Some(Err(_)) => {
                return Err(HttpError::BadRequest("the connection closed before the end of the body".into()));
            }
        };
        if incoming.bytes() + chunk.len() as u64 > bound.bytes {
            return Err(HttpError::TooLarge(bound.bytes));
        }
        incoming.write(&chunk).await.map_err(storage_failed)?;
    }
    if incoming.bytes() < bound.bytes {
        return Err(too_short(bound));
    }
    let received = incoming.finish().await.map_err(storage_failed)?;
    match bound.sha256.as_deref().map(Sha256::from_hex) {
        Some(declared) if declared != Some(received.sha256) => {
            Err(HttpError::field("sha256", "does not match the received bytes"))
        }
        _ => Ok(received),
    }
}

/// A rendition.
#[utoipa::path(
    get, path = "/v1/renditions/{photo_id}/{name}", tag = "objects",
    params(
        ("photo_id" = Uuid, Path), ("name" = String, Path), ("expires" = i64, Query), ("signature" = String, Query)
    ),
    responses(
        (status = 200, description = "The picture.", content_type = "image/jpeg"),
        (status = 206, description = "The part that `Range` names."), (status = 304), Problem
    )
)]
pub async fn rendition(
    State(app): State<AppState>,
    uri: OriginalUri,
    Path(path): Path<RenditionPath>,
    request: Request,
) -> Result<Response> {
    serve_rendition(&app, &uri, &path, request).await
}

/// A rendition of an edit.
#[utoipa::path(
    get, path = "/v1/renditions/{photo_id}/{edit_id}/{name}", tag = "objects",
    params(
        ("photo_id" = Uuid, Path), ("edit_id" = Uuid, Path), ("name" = String, Path), ("expires" = i64, Query),
        ("signature" = String, Query)
    ),
    responses(
        (status = 200, description = "The picture.", content_type = "image/jpeg"),
        (status = 206, description = "The part that `Range` names."), (status = 304), Problem
    )
)]
pub async fn edit_rendition(
    State(app): State<AppState>,
    uri: OriginalUri,
    Path(path): Path<RenditionPath>,
    request: Request,
) -> Result<Response> {
    serve_rendition(&app, &uri, &path, request).await
}

/// A rendition in the path.
#[derive(Debug, Deserialize)]
pub struct RenditionPath {
    photo_id: PhotoId,
    edit_id: Option<EditId>,
    name: String,
}

async fn serve_rendition(app: &App, uri: &OriginalUri, path: &RenditionPath, request: Request) -> Result<Response> {
    let signed = verify(app, "GET", uri)?;
    let name = match path.edit_id {
        Some(edit_id) => format!("{edit_id}/{}", path.name),
        None => path.name.clone(),
    };
    // Renditions are immutable, but a cached one is of no use once its URL has expired.
    let max_age = (signed.expires_at - db::now()).num_seconds();
    let cache = format!("public, max-age={max_age}, immutable");
    let file = files(app)?.rendition_path(path.photo_id, &name);
    serve(&file, storage::media_type_of(&name), &cache, request).await
}

/// An original.
#[utoipa::path(
    get, path = "/v1/originals/{photo_id}", tag = "objects",
    params(
        ("photo_id" = Uuid, Path), ("content_type" = String, Query), ("expires" = i64, Query),
        ("signature" = String, Query)
    ),
    responses(
        (status = 200, description = "The bytes as uploaded.", content_type = "application/octet-stream"),
        (status = 206, description = "The part that `Range` names."), (status = 304), Problem
    )
)]
pub async fn original(
    State(app): State<AppState>,
    uri: OriginalUri,
    Path(id): Path<PhotoId>,
    request: Request,
) -> Result<Response> {
    verify(&app, "GET", &uri)?;
    let mut query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mime = query.find(|(key, _)| key == "content_type").map(|(_, value)| value.into_owned()).unwrap_or_default();
    let mut response = serve(&files(&app)?.original_path(id), &mime, "private, no-store", request).await?;
    response.headers_mut().insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

/// The folder of photos. With S3 no URL leads to this service.
fn files(app: &App) -> Result<&Files> {
    app.storage.files().ok_or(HttpError::NotFound)
}

fn verify(app: &App, method: &str, uri: &OriginalUri) -> Result<SignedUrl> {
    let path_and_query = uri.path_and_query().map_or("", |text| text.as_str());
    app.storage.signer().verify(method, path_and_query, db::now()).map_err(|error| {
        HttpError::Unauthorized(match error {
            UrlError::InvalidSignature => "the signature does not match the URL",
            UrlError::Expired => "the URL has expired",
        })
    })
}

/// Serves a file, with ranges, HEAD and conditional requests.
async fn serve(path: &FilePath, mime: &str, cache: &str, request: Request) -> Result<Response> {
    let mime = mime.parse().map_err(|_| HttpError::NotFound)?;
    let served = storage::observe("serve", ServeFile::new_with_mime(path, &mime).try_call(request)).await;
    let response = served.map_err(|error| match error.kind() {
        // The URLs of a deleted photo outlive it.
        io::ErrorKind::NotFound => HttpError::NotFound,
        _ => storage_failed(error).into(),
    })?;
    let mut response = response.map(|body| Body::new(body.map_err(axum::Error::new))).into_response();
    storage::count_bytes("serve", response.body().size_hint().lower());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_str(cache).expect("a cache rule is ASCII"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}
