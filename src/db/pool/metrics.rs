//! What is measured of a pool, under our names and under those that operators know from HikariCP and Micrometer:
//! <https://github.com/brettwooldridge/HikariCP/wiki/MicroMeter-Metrics>.

use std::time::Duration;

use metrics::{Counter, Histogram};

use crate::telemetry::metrics as registry;

/// Numbers of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolState {
    /// Connections in use.
    pub active: usize,
    /// Connections that wait to be used.
    pub idle: usize,
    /// Callers who wait for one.
    pub pending: usize,
    /// The most connections.
    pub max: usize,
}

/// One measured time under two names.
#[derive(Clone)]
pub(crate) struct Timer([Histogram; 2]);

impl Timer {
    fn new(pool: &'static str, ours: &registry::Summary, theirs: &registry::Summary) -> Self {
        Self([ours.with(&[("pool", pool)]), theirs.with(&[("pool", pool)])])
    }

    pub(crate) fn record(&self, time: Duration) {
        self.0.iter().for_each(|name| name.record(time));
    }
}

/// The metrics of a pool that are not levels.
pub(crate) struct Meters {
    pub(crate) acquire: Timer,
    pub(crate) creation: Timer,
    pub(crate) usage: Timer,
    timeouts: [Counter; 2],
}

impl Meters {
    pub(crate) fn new(pool: &'static str) -> Self {
        Self {
            acquire: Timer::new(pool, &registry::POOL_ACQUIRE, &registry::HIKARI_ACQUIRE),
            creation: Timer::new(pool, &registry::POOL_CREATION, &registry::HIKARI_CREATION),
            usage: Timer::new(pool, &registry::POOL_USAGE, &registry::HIKARI_USAGE),
            timeouts: [
                registry::POOL_TIMEOUTS.with(&[("pool", pool)]),
                registry::HIKARI_TIMEOUTS.with(&[("pool", pool)]),
            ],
        }
    }

    pub(crate) fn timed_out(&self) {
        self.timeouts.iter().for_each(|name| name.increment(1));
    }
}

/// Sets the metrics that are levels.
#[expect(clippy::cast_precision_loss, reason = "counts of connections")]
pub(crate) fn levels(pool: &'static str, state: PoolState) {
    for (names, count) in [
        (&[&registry::POOL_ACTIVE, &registry::HIKARI_ACTIVE][..], state.active),
        (&[&registry::POOL_IDLE, &registry::HIKARI_IDLE], state.idle),
        (&[&registry::POOL_PENDING, &registry::HIKARI_PENDING], state.pending),
        (&[&registry::POOL_MAX, &registry::HIKARI_MAX], state.max),
        (&[&registry::HIKARI_ALL], state.active + state.idle),
    ] {
        for name in names {
            name.with(&[("pool", pool)]).set(count as f64);
        }
    }
}
