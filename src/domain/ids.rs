//! Ids: one type per thing, so that an album's id can't be passed for a photo's.
//!
//! All are `UUIDv7` (RFC 9562): sorting by id is sorting by creation time, which is what lists and their
//! cursors use.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, later than every id made before it in this process.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 16 bytes, for storage.
            #[must_use]
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// An album.
    AlbumId
);
id!(
    /// An edit of a photo; also the folder of its renditions beside the photo's.
    EditId
);
id!(
    /// An invite: the guest identity that its holder acts under.
    InviteId
);
id!(
    /// A photo; also the stem of its objects' keys in storage.
    PhotoId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ids_sort_later() {
        let ids: Vec<_> = (0..1000).map(|_| PhotoId::generate()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn text_form_round_trips() {
        let id = AlbumId::generate();
        assert_eq!(id.to_string().parse::<AlbumId>().unwrap(), id);
        assert!("album".parse::<AlbumId>().is_err());
    }
}
