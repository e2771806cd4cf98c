//! `Idempotency-Key`: the first answer again, byte for byte, for 24 hours.
//!
//! A key is reserved before the work, and its answer is stored in the transaction of the work, so that the change
//! and the answer exist together or not at all. Only answers that changed something are kept; after an error
//! nothing has changed and the request may be sent again. Answers can hold tokens and signed URLs, so they are
//! stored sealed (AES-256-GCM) under a key that only the service's secret and the client's `Idempotency-Key`
//! together give: the database alone opens nothing.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::extract::Json;
use crate::http::error::{HttpError, Result};
use crate::{
    app::App,
    db::{self, Done, Tx, idempotency as table},
    domain::Caller,
};

/// A first request that has not answered after this is taken for dead, e.g. by a kill -9.
const LOCK: chrono::TimeDelta = chrono::TimeDelta::seconds(60);
const STILL_RUNNING: HttpError = HttpError::Busy("the first request with this Idempotency-Key still runs");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An answer of a POST.
pub struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    /// A status and a JSON body.
    pub fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self { status, body: serde_json::to_vec(body).expect("our answers are JSON") }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], self.body).into_response()
    }
}

/// Runs `work` in a transaction: once for each caller and key.
pub async fn run<T, F>(app: &App, caller: &Caller, request: &Json<T>, mut work: impl FnMut(Tx) -> F) -> Result<Response>
where
    F: Future<Output = Result<Done<Answer>>>,
{
    let Some(key) = &request.key else {
        return Ok(app.db.transaction(work).await?.into_response());
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
    let owner = match table::reserve(&app.db, &id, &request.fingerprint, now, now + LOCK).await? {
        table::Reservation::Fresh(owner) => owner,
        table::Reservation::Answered(first, _) | table::Reservation::Running(first) if first != request.fingerprint => {
            return Err(HttpError::field("idempotency-key", "was used for another request before"));
        }
        table::Reservation::Running(_) => return Err(STILL_RUNNING),
        table::Reservation::Answered(_, stored) => return replay(keys, &stored),
    };
    let seal = keys.next().expect("there is a secret to sign with");
    let outcome = app
        .db
        .transaction(|tx| {
            let (work, seal, id) = (work(tx), &seal, &id);
            async move {
                let (mut tx, answer) = work.await?.reopen();
                let stored = table::Stored { status: answer.status.as_u16(), body: close(seal, &answer.body)? };
                if table::store(&mut tx, id, owner, &stored).await? { Ok(tx.done(answer)) } else { Err(STILL_RUNNING) }
            }
        })
        .await;
    if outcome.is_err() {
        // Best effort: a reservation that stays ends by itself.
        let released = match app.db.session().await {
            Ok(mut session) => table::release(&mut session, &id, owner).await,
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::warn!(%error, "an idempotency key stays reserved until its time is over");
        }
    }
    Ok(outcome?.into_response())
}

fn context(caller: &Caller, key: &str) -> Vec<u8> {
    let who = match caller {
        Caller::User(user) => format!("user\0{}", user.subject),
        Caller::Guest(guest) => format!("guest\0{}", guest.invite_id),
    };
    format!("{who}\0{key}").into_bytes()
}

fn close(key: &RandomizedNonceKey, body: &[u8]) -> Result<Vec<u8>> {
    let mut sealed = body.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::empty(), &mut sealed)
        .map_err(|_| anyhow::anyhow!("an answer can't be sealed"))?;
    sealed.splice(0..0, nonce.as_ref().iter().copied());
    Ok(sealed)
}

fn replay(mut keys: impl Iterator<Item = RandomizedNonceKey>, stored: &table::Stored) -> Result<Response> {
    let broken = || anyhow::anyhow!("a stored answer can't be opened; has its key left storage.signing_keys?");
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
