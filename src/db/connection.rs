//! An open connection of a pool, and whether it can be used again.

use sqlx::MySqlConnection;
use tokio::time::Instant;

use super::error::{ConnectionHealth, connection_health};

/// An open connection.
pub(crate) struct Connection {
    pub(crate) inner: MySqlConnection,
    pub(crate) state: ConnectionState,
    pub(crate) opened_at: Instant,
    pub(crate) expires_at: Instant,
    /// When it last answered a statement, or was opened.
    pub(crate) used_at: Instant,
}

/// What the statements of a connection have shown of it.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// A statement is running.
    busy: bool,
    /// A statement was answered since the connection was acquired.
    answered: bool,
    health: ConnectionHealth,
}

impl ConnectionState {
    pub(crate) const fn new() -> Self {
        Self { busy: false, answered: false, health: ConnectionHealth::Usable }
    }

    /// The connection is acquired by the next user.
    pub(crate) fn acquired(&mut self) {
        self.answered = false;
    }

    pub(crate) fn statement_started(&mut self) {
        self.busy = true;
    }

    pub(crate) fn statement_ended(&mut self, error: Option<&sqlx::Error>) {
        self.busy = false;
        self.answered = true;
        if let Some(error) = error {
            self.health = connection_health(error);
        }
    }

    /// The server has not answered in time.
    pub(crate) fn statement_timed_out(&mut self) {
        self.health = ConnectionHealth::Lost;
    }

    /// Has the connection closed when it is returned, which says nothing about the server.
    pub(crate) fn mark_broken(&mut self) {
        self.busy = true;
    }

    /// A connection that is returned during a statement is lost: its answer would be taken for that of the next one.
    pub(crate) fn health(&self) -> ConnectionHealth {
        if self.was_interrupted() { ConnectionHealth::Lost } else { self.health }
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.health() == ConnectionHealth::Usable
    }

    pub(crate) fn was_answered(&self) -> bool {
        self.answered
    }

    /// Whether its user dropped it during a statement, as when a client disconnects.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.busy && self.health == ConnectionHealth::Usable
    }
}
