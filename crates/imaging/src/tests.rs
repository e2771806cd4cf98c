//! Tests of the public functions, with the photos of `tests/fixtures` and with generated images.

mod colour;
mod edits;
mod formats;
mod helpers;
mod malformed;
mod sizes;
