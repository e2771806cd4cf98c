//! `deploy/deploy` as its user runs it.
