//! `Idempotency-Key`: the first answer again, byte for byte, for 24 hours.
//!
//! A key is reserved before the use case runs, and its answer is stored in the same transaction as the change. Errors
//! are not stored: after one nothing has changed, and the client may try again. Answers contain tokens and signed URLs,
//! so they are encrypted (AES-256-GCM) with a key that is derived from the service's secret and the client's
//! `Idempotency-Key`: the database alone decrypts nothing.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::IntoParams;

use super::{
    error::{HttpError, Result},
    extract::Json,
};
use crate::{
    app::App,
    db::{self, Done, Tx, idempotency as table},
    domain::Caller,
    services,
};

/// A first request without an answer after this time is considered dead, for example killed.
const LOCK_TIME: chrono::TimeDelta = chrono::TimeDelta::seconds(60);
const STILL_RUNNING: HttpError = HttpError::Busy("the first request with this Idempotency-Key is still running");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The header in the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyKey {
    /// The same key and body within 24 h give the first answer again.
    #[expect(dead_code, reason = "a description only")]
    #[param(rename = "Idempotency-Key")]
    key: Option<String>,
}

/// The answer to a POST: a status and a JSON body.
pub struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    pub fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self { status, body: serde_json::to_vec(body).expect("answers are JSON") }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.body).into_response()
    }
}

/// Runs a use case in a transaction, once for each caller and key.
pub async fn run<B, T, F>(
    app: &App,
    caller: &Caller,
    request: &Json<B>,
    mut use_case: impl FnMut(Tx) -> F,
    answer: impl Fn(T) -> Answer,
) -> Result<Response>
where
    F: Future<Output = services::Result<Done<T>>>,
{
    let Some(key) = &request.key else {
        return Ok(answer(app.db.transaction(use_case).await?).into_response());
    };
    let context = context(caller, key);
    let mut id = [0; 32];
    id.copy_from_slice(digest::digest(&digest::SHA256, &context).as_ref());
    let mut keys = app
        .storage
        .signer()
        .derive(&context)
        .map(|key| RandomizedNonceKey::new(&AES_256_GCM, &key).expect("the key has the algorithm's length"));
    let now = db::now();
    let owner = match table::reserve(&app.db, &id, &request.fingerprint, now, now + LOCK_TIME).await? {
        table::Reservation::Fresh(owner) => owner,
        table::Reservation::Answered(first, _) | table::Reservation::Running(first) if first != request.fingerprint => {
            return Err(HttpError::field("idempotency-key", "was used for another request"));
        }
        table::Reservation::Running(_) => return Err(STILL_RUNNING),
        table::Reservation::Answered(_, stored) => return replay(keys, &stored),
    };
    let sealing_key = keys.next().expect("there is at least one signing key");
    let outcome = app
        .db
        .transaction(|tx| {
            let (done, answer, key, id) = (use_case(tx), &answer, &sealing_key, &id);
            async move {
                let (mut tx, value) = done.await?.reopen();
                let answer = answer(value);
                let stored = table::Stored { status: answer.status.as_u16(), body: seal(key, &answer.body)? };
                if table::store(&mut tx, id, owner, &stored).await? { Ok(tx.done(answer)) } else { Err(STILL_RUNNING) }
            }
        })
        .await;
    if outcome.is_err() {
        // Best effort: the reservation expires.
        let released = match app.db.session().await {
            Ok(mut session) => table::release(&mut session, &id, owner).await,
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::warn!(%error, "cannot release an idempotency key; it stays reserved until it expires");
        }
    }
    Ok(outcome?.into_response())
}

fn context(caller: &Caller, key: &str) -> Vec<u8> {
    let owner = match caller {
        Caller::User(user) => format!("user\0{}", user.subject),
        Caller::Guest(guest) => format!("guest\0{}", guest.invite_id),
    };
    format!("{owner}\0{key}").into_bytes()
}

fn seal(key: &RandomizedNonceKey, body: &[u8]) -> Result<Vec<u8>> {
    let mut sealed = body.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::empty(), &mut sealed)
        .map_err(|_| anyhow::anyhow!("cannot encrypt an answer"))?;
    sealed.splice(0..0, nonce.as_ref().iter().copied());
    Ok(sealed)
}

fn replay(mut keys: impl Iterator<Item = RandomizedNonceKey>, stored: &table::Stored) -> Result<Response> {
    let broken = || anyhow::anyhow!("cannot decrypt a stored answer: was its key removed from storage.signing_keys?");
    let (nonce, sealed) = stored.body.split_first_chunk::<NONCE_LEN>().ok_or_else(broken)?;
    let open = |key: RandomizedNonceKey| {
        let mut sealed = sealed.to_vec();
        key.open_in_place(Nonce::from(nonce), Aad::empty(), &mut sealed).ok().map(|body| body.to_vec())
    };
    let body = keys.find_map(open).ok_or_else(broken)?;
    let status = StatusCode::from_u16(stored.status).map_err(|_| broken())?;
    let mut response = Answer { status, body }.into_response();
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}
