//! Ids, one type per entity. All are `UUIDv7` (RFC 9562): sorted by id is sorted by creation time, which lists and
//! their cursors rely on.

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
            /// A new id, greater than every earlier one of this process.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

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
    /// An edit of a photo; also the folder of its renditions.
    EditId
);
id!(
    /// An invite, which is also the identity of its bearer.
    InviteId
);
id!(
    /// A photo; also part of the keys of its objects in storage.
    PhotoId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_creation_time() {
        let ids: Vec<_> = (0..1000).map(|_| PhotoId::generate()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn ids_round_trip_as_text() {
        let id = AlbumId::generate();
        assert_eq!(id.to_string().parse::<AlbumId>().unwrap(), id);
        assert!("album".parse::<AlbumId>().is_err());
    }
}
