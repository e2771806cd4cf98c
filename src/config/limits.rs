//! `[limits]`: what one process takes on. A reload (SIGHUP) puts changed ones in force.

use std::{num::NonZeroU32, time::Duration};

use super::source::Source;

/// What one process takes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// Longest time for the head of a request, from its first byte on.
    pub head_timeout: Duration,
    /// Most bytes of the head of a request.
    pub head_bytes: usize,
    /// Fewest bytes of a body in a second, over the time that the service waits for them; 0: any.
    pub body_rate: u64,
    /// Requests at a time, at most: how many it really is is measured. Neither health checks, waits for events nor
    /// uploads count.
    pub requests: usize,
    /// Uploads at a time.
    pub uploads: usize,
    /// The longest standing wait, for a database connection or a processor, that is not yet an overload.
    pub queueing_target: Duration,
    /// Requests of one user.
    pub user: Option<Rate>,
    /// Requests by one invite, which all of its guests share.
    pub invite: Option<Rate>,
    /// Requests from one client address.
    pub address: Option<Rate>,
}

/// So many requests a second on average, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// A second.
    pub per_second: NonZeroU32,
    /// At once, by one who was quiet before.
    pub burst: NonZeroU32,
}

impl Rate {
    fn read(s: &mut Source, whose: &str, per_second: u32, burst: u32) -> Option<Self> {
        let per_second = s.get(&format!("limits.{whose}_per_second"), per_second);
        let burst = s.get(&format!("limits.{whose}_burst"), burst);
        s.check(burst > 0, &format!("limits.{whose}_burst"), "must be at least 1");
        Some(Self { per_second: NonZeroU32::new(per_second)?, burst: NonZeroU32::new(burst)? })
    }
}

impl Limits {
    pub(crate) fn read(s: &mut Source) -> Self {
        let this = Self {
            connections: s.get("limits.connections", 10_000),
            // Longer than the 350 s after which a Network Load Balancer forgets a connection: who closes first makes the
            // other's next request fail.
            idle_timeout: s.duration("limits.idle_timeout", "400s"),
            head_timeout: s.duration("limits.head_timeout", "10s"),
            head_bytes: s.get("limits.head_bytes", 32_768),
            body_rate: s.get("limits.body_rate", 1024),
            requests: s.get("limits.requests", 512),
            uploads: s.get("limits.uploads", 256),
            queueing_target: s.duration("limits.queueing_target", "20ms"),
            user: Rate::read(s, "user", 50, 200),
            invite: Rate::read(s, "invite", 500, 2000),
            address: Rate::read(s, "address", 0, 1),
        };
        for (key, number) in [
            ("limits.connections", this.connections),
            ("limits.requests", this.requests),
            ("limits.uploads", this.uploads),
        ] {
            s.check(number >= 1, key, "must be at least 1");
        }
        // hyper asks for this much.
        s.check(this.head_bytes >= 8192, "limits.head_bytes", "must be at least 8192");
        for (key, time) in [
            ("limits.idle_timeout", this.idle_timeout),
            ("limits.head_timeout", this.head_timeout),
            ("limits.queueing_target", this.queueing_target),
        ] {
            s.check(!time.is_zero(), key, "must be more than 0");
        }
        this
    }
}
