//! The part of `[http]` that says what stands in front of the main listener, and so whom it believes about its clients.

use std::fmt;

use ipnet::IpNet;
use serde::Deserialize;

use super::source::Source;

/// What stands in front.
#[derive(Debug, Clone, Default)]
pub struct Front {
    /// Whose PROXY headers are read.
    pub proxy: Proxy,
    /// VPC endpoints that connections may come through; any when empty.
    pub vpc_endpoints: Vec<String>,
    /// Proxies in front that add to that header.
    pub trusted_hops: usize,
    /// The header in which they say for whom they speak.
    pub forwarded: Forwarded,
}

/// A header that proxies add clients to. One that they don't write is the client's own word, so only one is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Forwarded {
    /// Most load balancers, and API Gateway's REST APIs.
    #[default]
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// RFC 7239; API Gateway's HTTP APIs.
    #[serde(rename = "forwarded")]
    Forwarded,
}

/// Whose PROXY headers (version 2) are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Proxy {
    /// None: connections begin with a request.
    #[default]
    Off,
    /// Everybody's: each connection begins with a header.
    Required,
    /// Those of peers in these networks, which have to send one; of others connections begin with a request.
    From(Vec<IpNet>),
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Given {
    Word(Word),
    Networks(Vec<IpNet>),
}

/// As an operator finds it in `/info`.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => word.fmt(f),
            Self::Networks(networks) => networks.fmt(f),
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Off,
    Required,
}

impl Front {
    pub(crate) fn read(s: &mut Source) -> Self {
        let proxy = match s.get("http.proxy_protocol", Given::Word(Word::Off)) {
            Given::Word(Word::Off) => Proxy::Off,
            Given::Word(Word::Required) => Proxy::Required,
            Given::Networks(networks) => Proxy::From(networks),
        };
        s.check(
            !matches!(&proxy, Proxy::From(networks) if networks.is_empty()),
            "http.proxy_protocol",
            "must be \"off\", \"required\", or networks such as [\"10.0.0.0/16\"]",
        );
        let vpc_endpoints: Vec<String> = s.get("http.proxy_vpc_endpoints", Vec::new());
        s.check(
            vpc_endpoints.is_empty() || proxy != Proxy::Off,
            "http.proxy_vpc_endpoints",
            "needs http.proxy_protocol: its headers name the endpoints",
        );
        let forwarded = s.get("http.forwarded_header", Forwarded::default());
        Self { proxy, vpc_endpoints, trusted_hops: s.get("http.trusted_hops", 0), forwarded }
    }
}
