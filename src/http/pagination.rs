//! Lists: `?limit=&cursor=` in, `{"items", "next_cursor"}` out.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::error::{HttpError, Result};
use crate::storage::Signer;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The page size, 1 to 200, 50 by default.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
}

impl PageQuery {
    pub fn limit(&self) -> Result<u32> {
        match self.limit {
            None => Ok(DEFAULT_LIMIT),
            Some(limit) => u32::try_from(limit)
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| HttpError::field("limit", format!("must be 1 to {MAX_LIMIT}"))),
        }
    }

    /// The id after which the page starts. A cursor is valid for the list that it came from; `list` names it.
    pub fn after<T: From<Uuid>>(&self, signer: &Signer, list: &str) -> Result<Option<T>> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let decode = || {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
            let (id, tag) = bytes.split_first_chunk::<16>()?;
            (signer.tag(list, id) == *tag).then(|| T::from(Uuid::from_bytes(*id)))
        };
        decode().map(Some).ok_or_else(|| HttpError::field("cursor", "is not a next_cursor of this list"))
    }
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T: ToSchema> {
    pub items: Vec<T>,
    /// The `cursor` of the next page; null on the last one.
    pub next_cursor: Option<String>,
}

impl<T: ToSchema> Page<T> {
    /// A page of rows that were read with `limit + 1`, which shows whether there is a next page.
    pub fn new<R>(
        mut rows: Vec<R>,
        limit: u32,
        signer: &Signer,
        list: &str,
        id: impl Fn(&R) -> Uuid,
        show: impl FnMut(R) -> T,
    ) -> Self {
        let has_more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next_cursor = rows.last().filter(|_| has_more).map(|last| {
            let id = *id(last).as_bytes();
            URL_SAFE_NO_PAD.encode([&id[..], &signer.tag(list, &id)].concat())
        });
        Self { items: rows.into_iter().map(show).collect(), next_cursor }
    }
}
