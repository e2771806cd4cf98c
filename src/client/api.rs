//! The calls of the HTTP contract that an upload needs, as one album's uploader makes them.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use anyhow::Context;
use futures_util::{Stream, StreamExt, TryStreamExt, future, stream};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio_util::{bytes::Bytes, io::ReaderStream};
use url::Url;
use uuid::Uuid;

use super::{
    failure::{Failure, answer, not_ours, passing, refusal, transport},
    screen::Sent,
    source::{self, Picture},
};
use crate::domain::PhotoState;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For a request with its answer, other than the bytes of a photo.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An upload of which nothing moves for so long is given up and tried again.
const STALL: Duration = Duration::from_mins(1);
/// How much of a file is in memory while it is sent.
const CHUNK: usize = 128 * 1024;

/// An album, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Album {
    title: String,
    role: String,
    closed: bool,
}

impl Album {
    /// Its title, if the caller may add photos to it.
    ///
    /// # Errors
    /// It is closed, or the invite is for viewing.
    pub fn takes_photos(self) -> Result<String, Failure> {
        if self.role == "view" {
            return Err(Failure::Fatal("this invite is for viewing only".into()));
        }
        if self.closed {
            return Err(Failure::Fatal("the album is closed".into()));
        }
        Ok(self.title)
    }
}

/// A photo, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct PhotoInfo {
    /// Its id.
    pub id: Uuid,
    /// Where it is on its way.
    pub state: PhotoState,
    reject_reason: Option<String>,
}

impl PhotoInfo {
    /// Why it was rejected.
    pub fn rejection(self) -> String {
        self.reject_reason.unwrap_or_else(|| "the server could not make a picture of it".into())
    }
}

/// A photo to declare.
#[derive(Debug, Serialize)]
pub struct NewPhoto<'a> {
    content_type: &'static str,
    bytes: u64,
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_name: Option<&'a str>,
}

impl<'a> NewPhoto<'a> {
    /// The declaration of this picture.
    pub fn new(picture: &Picture, guest_name: Option<&'a str>) -> Self {
        Self {
            content_type: picture.media_type.as_str(),
            bytes: picture.bytes,
            sha256: picture.sha256.to_string(),
            guest_name,
        }
    }
}

/// The answer to a declaration.
#[derive(Debug, Deserialize)]
pub struct Declared {
    /// The photo.
    pub photo: PhotoInfo,
    /// Where its bytes go; none when they are there.
    pub upload: Option<Upload>,
}

/// How to send the bytes. Its URL opens the upload, so there is no `Debug`.
#[derive(Deserialize)]
pub struct Upload {
    method: String,
    url: Url,
    headers: BTreeMap<String, String>,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upload(redacted)")
    }
}

/// The service, as one album's uploader calls it.
#[derive(Debug)]
pub struct Api {
    http: reqwest::Client,
    server: Url,
    token: SecretString,
    album: Uuid,
}

impl Api {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// The server's address is no http or https URL, or TLS can't be set up.
    pub fn new(server: &Url, token: SecretString, album: Uuid) -> anyhow::Result<Self> {
        anyhow::ensure!(
            matches!(server.scheme(), "http" | "https") && !server.cannot_be_a_base(),
            "the server's address must begin with http:// or https://"
        );
        let http = reqwest::Client::builder()
            .user_agent(concat!("darkroom-upload/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would turn a POST into a GET; the address is the user's to correct.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("the HTTP client")?;
        Ok(Self { http, server: server.clone(), token, album })
    }

    /// The album.
    ///
    /// # Errors
    /// Those of [`Failure`].
    pub async fn album(&self) -> Result<Album, Failure> {
        let request = self.request(Method::GET, &["albums", &self.album.to_string()])?;
        answer(self.call(request).await?).await
    }

    /// One photo.
    ///
    /// # Errors
    /// Those of [`Failure`]; a photo that is not there is refused.
    pub async fn photo(&self, id: Uuid) -> Result<PhotoInfo, Failure> {
        let response = self.call(self.request(Method::GET, &["photos", &id.to_string()])?).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Failure::Refused("was uploaded, and removed from the album since".into()));
        }
        answer(response).await
    }

    /// Declares a photo.
    ///
    /// # Errors
    /// Those of [`Failure`].
    pub async fn declare(&self, new: &NewPhoto<'_>, key: Uuid) -> Result<Declared, Failure> {
        let request = self.request(Method::POST, &["albums", &self.album.to_string(), "photos"])?;
        let response = self.call(request.header("idempotency-key", key.to_string()).json(new)).await?;
        let conflict = response.status() == StatusCode::CONFLICT;
        match answer(response).await {
            // Without a word about when to come back, either the album is closed or the invite is used up. The
            // latter still takes what is there already.
            Err(Failure::Refused(why)) if conflict => match self.album().await {
                Ok(album) if album.closed => Err(Failure::Fatal(why)),
                _ => Err(Failure::Refused(why)),
            },
            end => end,
        }
    }

    /// Sends the bytes of a declared photo.
    ///
    /// # Errors
    /// Those of [`Failure`]; after one that passes, the photo has to be declared again.
    pub async fn put(&self, upload: &Upload, path: &Path, bytes: u64, sent: &Sent) -> Result<(), Failure> {
        let file = tokio::fs::File::open(path).await.map_err(|error| Failure::Refused(source::unreadable(&error)))?;
        let method = upload.method.parse().map_err(|_| not_ours())?;
        let mut request = self.http.request(method, upload.url.clone());
        for (name, value) in &upload.headers {
            request = request.header(name, value);
        }
        // Known beforehand, or it would go in chunks, which object stores refuse.
        let request = request.header(header::CONTENT_LENGTH, bytes).body(reqwest::Body::wrap_stream(body(
            file,
            bytes,
            sent.clone(),
        )));
        let response = tokio::select! {
            response = request.send() => response.map_err(|error| match sent.broken() {
                Some(why) => Failure::Refused(why.to_owned()),
                None => transport(error),
            })?,
            () = stalled(sent) => return Err(passing("the upload stalled")),
        };
        let status = response.status();
        // S3 writes nothing over: an earlier try has come to its end, and its answer was lost on the way.
        if status == StatusCode::PRECONDITION_FAILED {
            return Ok(());
        }
        match refusal(response).await {
            None => Ok(()),
            // A URL that expired or was used, or a connection that was cut on the server's side.
            Some(Failure::Fatal(why) | Failure::Refused(why)) if matches!(status.as_u16(), 400 | 401 | 403 | 409) => {
                Err(passing(why))
            }
            Some(Failure::Fatal(why)) => Err(Failure::Refused(why)),
            Some(failure) => Err(failure),
        }
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, Failure> {
        let mut url = self.server.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.path_segments_mut().map_err(|()| not_ours())?.pop_if_empty().push("v1").extend(path);
        Ok(self.http.request(method, url).bearer_auth(self.token.expose_secret()).timeout(CALL_TIMEOUT))
    }

    async fn call(&self, request: RequestBuilder) -> Result<Response, Failure> {
        request.send().await.map_err(transport)
    }
}

/// The file as a stream of pieces, exactly as long as was declared.
fn body(file: tokio::fs::File, bytes: u64, sent: Sent) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (reader, end) = (sent.clone(), sent.clone());
    let pieces = ReaderStream::with_capacity(file.take(bytes), CHUNK)
        .inspect_ok(move |piece| sent.add(piece.len() as u64))
        .inspect_err(move |error| reader.break_off(source::unreadable(error)));
    let check = stream::once(future::lazy(move |_| {
        (end.bytes() < bytes).then(|| {
            end.break_off("it changed while it was sent".into());
            Err(io::ErrorKind::UnexpectedEof.into())
        })
    }));
    pieces.chain(check.filter_map(future::ready))
}

/// Ends when nothing has moved for a while.
async fn stalled(sent: &Sent) {
    let mut before = None;
    while before != Some(sent.bytes()) {
        before = Some(sent.bytes());
        tokio::time::sleep(STALL).await;
    }
}
