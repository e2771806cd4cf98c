//! The area as its callers see it, on real photos (`tests/fixtures`) and on made ones.

mod bad;
mod colour;
mod make;
mod shape;
