//! The metrics of a pool, under Darkroom's names and under those of HikariCP and Micrometer:
//! <https://github.com/brettwooldridge/HikariCP/wiki/MicroMeter-Metrics>.

use std::time::Duration;

use metrics::{Counter, Histogram};

use crate::telemetry::metrics as registry;

/// The connections of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolState {
    /// Connections in use.
    pub active: usize,
    /// Idle connections.
    pub idle: usize,
    /// Callers that wait for a connection.
    pub pending: usize,
    /// The maximum number of connections.
    pub max: usize,
}

/// A histogram of times under two names.
#[derive(Clone)]
pub(crate) struct Timer([Histogram; 2]);

impl Timer {
    fn new(pool: &'static str, own: &registry::Summary, hikari: &registry::Summary) -> Self {
        Self([own.with(&[("pool", pool)]), hikari.with(&[("pool", pool)])])
    }

    pub(crate) fn record(&self, time: Duration) {
        self.0.iter().for_each(|histogram| histogram.record(time));
    }
}

/// The counters and histograms of a pool.
pub(crate) struct PoolMetrics {
    pub(crate) acquire: Timer,
    pub(crate) creation: Timer,
    pub(crate) usage: Timer,
    timeouts: [Counter; 2],
}

impl PoolMetrics {
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
        self.timeouts.iter().for_each(|counter| counter.increment(1));
    }
}

impl PoolState {
    /// Sets the gauges of a pool.
    #[expect(clippy::cast_precision_loss, reason = "counts of connections")]
    pub(crate) fn record_gauges(&self, pool: &'static str) {
        for (gauges, count) in [
            (&[&registry::POOL_ACTIVE, &registry::HIKARI_ACTIVE][..], self.active),
            (&[&registry::POOL_IDLE, &registry::HIKARI_IDLE], self.idle),
            (&[&registry::POOL_PENDING, &registry::HIKARI_PENDING], self.pending),
            (&[&registry::POOL_MAX, &registry::HIKARI_MAX], self.max),
            (&[&registry::HIKARI_ALL], self.active + self.idle),
        ] {
            for gauge in gauges {
                gauge.with(&[("pool", pool)]).set(count as f64);
            }
        }
    }
}
