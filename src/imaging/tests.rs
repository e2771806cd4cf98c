//! The area as its callers see it, on real photos (`tests/fixtures`) and on made ones.

mod bad;
mod colour;
mod edits;
mod kinds;
mod make;
mod shape;
