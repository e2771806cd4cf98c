//! `[limits]`: what one process takes on. A reload (SIGHUP) puts changed ones in force.

use std::{num::NonZeroU32, time::Duration};

use super::source::Source;

/// What one process takes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub max_connections: usize,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// Longest time for the head of a request, from its first byte on.
    pub header_timeout: Duration,
    /// Most bytes of the head of a request.
    pub max_header_bytes: usize,
    /// Fewest bytes of a body in a second, over the time that the service waits for them; 0: any.
    pub min_body_bytes_per_second: u64,
    /// Requests at a time, at most: how many it really is is measured. Neither health checks, waits for events nor
    /// uploads count.
    pub max_concurrent_requests: usize,
    /// Uploads at a time.
    pub max_concurrent_uploads: usize,
    /// The longest standing wait, for a database connection or a processor, that is not yet an overload.
    pub target_queue_delay: Duration,
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
            max_connections: s.get("limits.max_connections", 10_000),
            // Longer than the 350 s after which a Network Load Balancer forgets a connection: who closes first makes the
            // other's next request fail.
            idle_timeout: s.duration("limits.idle_timeout", "400s"),
            header_timeout: s.duration("limits.header_timeout", "10s"),
            max_header_bytes: s.get("limits.max_header_bytes", 32_768),
            min_body_bytes_per_second: s.get("limits.min_body_bytes_per_second", 1024),
            max_concurrent_requests: s.get("limits.max_concurrent_requests", 512),
            max_concurrent_uploads: s.get("limits.max_concurrent_uploads", 256),
            target_queue_delay: s.duration("limits.target_queue_delay", "20ms"),
            user: Rate::read(s, "user", 50, 200),
            invite: Rate::read(s, "invite", 500, 2000),
            address: Rate::read(s, "address", 0, 1),
        };
        for (key, number) in [
            ("limits.max_connections", this.max_connections),
            ("limits.max_concurrent_requests", this.max_concurrent_requests),
            ("limits.max_concurrent_uploads", this.max_concurrent_uploads),
        ] {
            s.check(number >= 1, key, "must be at least 1");
        }
        // hyper asks for this much.
        s.check(this.max_header_bytes >= 8192, "limits.max_header_bytes", "must be at least 8192");
        for (key, time) in [
            ("limits.idle_timeout", this.idle_timeout),
            ("limits.header_timeout", this.header_timeout),
            ("limits.target_queue_delay", this.target_queue_delay),
        ] {
            s.check(!time.is_zero(), key, "must be more than 0");
        }
        this
    }
}
