//! Structs that are read from result rows.

/// Declares a struct and implements `sqlx::FromRow` for it: each field is read from the column of its name, and the
/// field after `flatten` by the `FromRow` of its own type.
///
/// Used instead of `#[derive(FromRow)]`: the macros of sqlx compile sqlx, tokio and rustls a second time for the
/// compiler, which takes some 25 s of CPU time in a first build.
macro_rules! from_row {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty,)*
        }
        $(flatten $flat:ident: $flat_type:ty)?
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)*
            $($flat: $flat_type,)?
        }

        impl<'r> ::sqlx::FromRow<'r, ::sqlx::mysql::MySqlRow> for $name {
            fn from_row(row: &'r ::sqlx::mysql::MySqlRow) -> ::sqlx::Result<Self> {
                use ::sqlx::Row as _;
                Ok(Self {
                    $($field: row.try_get(stringify!($field))?,)*
                    $($flat: <$flat_type as ::sqlx::FromRow<_>>::from_row(row)?,)?
                })
            }
        }
    };
}
