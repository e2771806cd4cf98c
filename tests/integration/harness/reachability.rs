//! Reachability in a `CloudFormation` network: routes, network ACLs and security groups as AWS applies them, for TCP
//! and UDP over IPv4. Unknown network resources are an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

use serde_json::Value;

use super::template_resources::{Resource, resolve_resources};

/// A layer of network rules. A layer that is left out allows everything, which shows what the others block alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    Routes,
    Acls,
    Groups,
}

pub const LAYERS: [Layer; 3] = [Layer::Routes, Layer::Acls, Layer::Groups];

/// An end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Any public address.
    Internet,
    /// An AWS service with a gateway endpoint: its name, and its prefix list.
    Aws(&'static str, &'static str),
    /// A network interface: the logical ids of its subnet and security group.
    Inside(String, String),
}

/// Named ends of connections, each with all its places.
pub type Places = Vec<(&'static str, Vec<Place>)>;

/// The reachable ports for each pair of source and destination; unreachable pairs are missing.
pub type Table = BTreeMap<(&'static str, &'static str), BTreeSet<String>>;

/// The packet that opens a connection.
#[derive(Debug, Clone, Copy)]
struct Packet {
    protocol: Protocol,
    from_port: u16,
    to_port: u16,
}

/// The name of the protocol in security groups and in network ACLs.
type Protocol = (&'static str, &'static str);
const PROTOCOLS: [Protocol; 2] = [("tcp", "6"), ("udp", "17")];

/// The known resource types, with those that do not affect reachability.
const KNOWN: [&str; 17] = [
    "EIP",
    "FlowLog",
    "InternetGateway",
    "NatGateway",
    "NetworkAcl",
    "NetworkAclEntry",
    "Route",
    "RouteTable",
    "SecurityGroup",
    "SecurityGroupEgress",
    "SecurityGroupIngress",
    "Subnet",
    "SubnetNetworkAclAssociation",
    "SubnetRouteTableAssociation",
    "VPC",
    "VPCEndpoint",
    "VPCGatewayAttachment",
];

/// The network of a template.
#[derive(Debug)]
pub struct Network {
    resources: Vec<Resource>,
}

impl Network {
    pub fn of(template: &Value, parameters: &[(&str, &str)]) -> Self {
        let resources = resolve_resources(template, parameters);
        for Resource { id, kind, .. } in &resources {
            let unknown = kind.strip_prefix("AWS::EC2::").filter(|kind| !KNOWN.contains(kind));
            assert!(unknown.is_none(), "{id}: {kind} may lead somewhere, and the model does not know it");
        }
        Self { resources }
    }

    /// The resources of an EC2 type.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Resource> {
        self.resources.iter().filter(move |resource| resource.kind.strip_prefix("AWS::EC2::") == Some(kind))
    }

    /// The resources of a type whose property refers to `id`.
    fn at<'a>(&'a self, kind: &'a str, property: &'a str, id: &'a str) -> impl Iterator<Item = &'a Resource> {
        self.all(kind).filter(move |resource| resource.properties[property].as_str() == Some(id))
    }

    fn get(&self, id: &str) -> &Resource {
        self.resources.iter().find(|resource| resource.id == id).unwrap_or_else(|| panic!("no {id}"))
    }

    /// The reachable ports through these layers, from any source port: an attacker can choose it.
    pub fn ports(&self, from: &Place, to: &Place, layers: &[Layer]) -> BTreeSet<String> {
        let intervals = self.intervals(0..=u16::MAX);
        let mut open = BTreeSet::new();
        for protocol in PROTOCOLS {
            let gets_there = |to_port| {
                let from_any = |interval: &RangeInclusive<u16>| {
                    self.passes(from, to, Packet { protocol, from_port: *interval.start(), to_port }, layers)
                };
                intervals.iter().any(from_any)
            };
            let reached = intervals.iter().filter(|interval| gets_there(*interval.start()));
            open.extend(merged(reached.cloned()).into_iter().map(|ports| format!("{} {ports}", protocol.0)));
        }
        open
    }

    /// Reachability through these layers: between some places of each pair, and between all places of each pair.
    pub fn table(&self, places: &Places, layers: &[Layer]) -> [Table; 2] {
        let (mut somewhere, mut everywhere) = (Table::new(), Table::new());
        for (asks, from) in places {
            for (asked, to) in places {
                let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (from, to)));
                let reached: Vec<_> = pairs.map(|(from, to)| self.ports(from, to, layers)).collect();
                let any = reached.iter().flatten().cloned().collect();
                let all = reached.into_iter().reduce(|one, other| &one & &other).unwrap_or_default();
                somewhere.insert((*asks, *asked), any);
                everywhere.insert((*asks, *asked), all);
            }
        }
        [somewhere, everywhere].map(|table| table.into_iter().filter(|(_, ports)| !ports.is_empty()).collect())
    }

    /// The source ports from which a TCP port is not reachable.
    pub fn in_vain(&self, from: &Place, to: &Place, to_port: u16, own: RangeInclusive<u16>) -> Vec<String> {
        let passes = |from_port| self.passes(from, to, Packet { protocol: PROTOCOLS[0], from_port, to_port }, &LAYERS);
        merged(self.intervals(own).into_iter().filter(|interval| !passes(*interval.start())))
    }

    /// Intervals of ports with equal rules.
    fn intervals(&self, within: RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
        let mut starts = BTreeSet::from([u32::from(*within.start())]);
        let mut note = |from: Option<u32>, to: Option<u32>| {
            starts.extend(from.into_iter().chain(to.map(|to| to + 1)));
        };
        for rule in
            self.all("SecurityGroup").flat_map(|group| ["Ingress", "Egress"].map(|way| inline(group, way))).flatten()
        {
            note(number(&rule, "FromPort"), number(&rule, "ToPort"));
        }
        for rule in self.all("SecurityGroupIngress").chain(self.all("SecurityGroupEgress")) {
            note(number(&rule.properties, "FromPort"), number(&rule.properties, "ToPort"));
        }
        for entry in self.all("NetworkAclEntry") {
            let ports = &entry.properties["PortRange"];
            note(number(ports, "From"), number(ports, "To"));
        }
        let starts: Vec<u16> = starts.into_iter().filter_map(|start| u16::try_from(start).ok()).collect();
        let inside: Vec<u16> = starts.into_iter().filter(|start| within.contains(start)).collect();
        let ends = inside.iter().skip(1).map(|next| next - 1).chain([*within.end()]);
        inside.iter().zip(ends).map(|(start, end)| *start..=end).collect()
    }

    /// Whether a connection can be opened, with its return traffic. Paths outside of the network are not modelled.
    fn passes(&self, from: &Place, to: &Place, packet: Packet, layers: &[Layer]) -> bool {
        if ![from, to].iter().any(|place| matches!(place, Place::Inside(..))) {
            return false;
        }
        if layers.contains(&Layer::Groups) && !self.groups_pass(from, to, packet) {
            return false;
        }
        let over = if layers.contains(&Layer::Routes) { self.route(from, to) } else { Some(Vec::new()) };
        over.is_some_and(|over| !layers.contains(&Layer::Acls) || self.acls_pass(from, &over, to, packet))
    }

    /// The subnets of NAT gateways on the route in both directions, if there is a route.
    fn route(&self, from: &Place, to: &Place) -> Option<Vec<String>> {
        match (from, to) {
            (Place::Inside(..), Place::Inside(..)) => Some(Vec::new()),
            (Place::Inside(subnet, _), Place::Aws(service, _)) if self.has_gateway(subnet, service) => Some(Vec::new()),
            (Place::Inside(subnet, _), _) => self.way_out(subnet),
            // NAT accepts no inbound connections, and return traffic needs a route with a public address.
            (_, Place::Inside(subnet, _)) => self.way_out(subnet).filter(Vec::is_empty),
            _ => None,
        }
    }

    fn has_gateway(&self, subnet: &str, service: &str) -> bool {
        let table = self.route_table(subnet);
        self.all("VPCEndpoint").any(|endpoint| {
            endpoint.text("VpcEndpointType").as_deref() == Some("Gateway")
                && endpoint.text("ServiceName").is_some_and(|name| name.ends_with(&format!(".{service}")))
                && endpoint.properties["RouteTableIds"].as_array().is_some_and(|tables| {
                    table.as_ref().is_some_and(|table| tables.iter().any(|id| id.as_str() == Some(table)))
                })
        })
    }

    /// `None` for the main route table, which has local routes only.
    fn route_table(&self, subnet: &str) -> Option<String> {
        self.at("SubnetRouteTableAssociation", "SubnetId", subnet).find_map(|one| one.text("RouteTableId"))
    }

    /// The NAT subnets through which a subnet reaches public addresses. An internet gateway also requires a public
    /// address, which is assumed.
    fn way_out(&self, subnet: &str) -> Option<Vec<String>> {
        let table = self.route_table(subnet)?;
        self.at("Route", "RouteTableId", &table).filter(|route| leads_out(route)).find_map(|route| {
            if let Some(nat) = route.text("NatGatewayId") {
                let of_nat = self.get(&nat).text("SubnetId").expect("a subnet");
                return self.way_out(&of_nat).filter(Vec::is_empty).map(|_| vec![of_nat]);
            }
            let gateway = route.text("GatewayId").unwrap_or_else(|| panic!("{}: an unknown way", route.id));
            assert_eq!(self.get(&gateway).kind, "AWS::EC2::InternetGateway", "{}: an unknown way", route.id);
            self.at("VPCGatewayAttachment", "InternetGatewayId", &gateway).next().map(|_| Vec::new())
        })
    }

    /// The ACLs of each subnet, outbound and inbound, in both directions. NAT uses another source port; the result
    /// holds for all source ports, so it holds for NAT's.
    fn acls_pass(&self, from: &Place, over: &[String], to: &Place, packet: Packet) -> bool {
        let inside = |place: &Place| match place {
            Place::Inside(subnet, _) => Some(subnet.clone()),
            _ => None,
        };
        let (start, end) = (inside(from), inside(to));
        if start.is_some() && start == end {
            return true;
        }
        let back = packet.from_port;
        let out = |subnet: &String| {
            self.acl_passes(subnet, true, to, packet.protocol, packet.to_port)
                && self.acl_passes(subnet, false, to, packet.protocol, back)
        };
        let into = |subnet: &String| {
            self.acl_passes(subnet, false, from, packet.protocol, packet.to_port)
                && self.acl_passes(subnet, true, from, packet.protocol, back)
        };
        start.iter().all(out) && over.iter().all(|nat| into(nat) && out(nat)) && end.iter().all(into)
    }

    /// The first matching rule decides; a subnet without an ACL has the default one, which allows everything.
    fn acl_passes(&self, subnet: &str, egress: bool, other: &Place, protocol: Protocol, port: u16) -> bool {
        let association = self.at("SubnetNetworkAclAssociation", "SubnetId", subnet).next();
        let Some(acl) = association.and_then(|one| one.text("NetworkAclId")) else { return true };
        let mut entries: Vec<&Resource> = self
            .at("NetworkAclEntry", "NetworkAclId", &acl)
            .filter(|entry| entry.properties.get("Egress").and_then(Value::as_bool).unwrap_or(false) == egress)
            .collect();
        entries.sort_by_key(|entry| number(&entry.properties, "RuleNumber").expect("a number"));
        let decides = entries.into_iter().find(|entry| {
            let allows = entry.text("RuleAction").as_deref() == Some("allow");
            let spoken = entry.text("Protocol").expect("a protocol");
            let ports = &entry.properties["PortRange"];
            let cidr = entry.text("CidrBlock").unwrap_or_else(|| panic!("{}: no addresses of IPv4", entry.id));
            (spoken == "-1" || spoken == protocol.1 && has_port(number(ports, "From"), number(ports, "To"), port))
                && self.is_in(other, &cidr, allows)
        });
        decides.is_some_and(|entry| entry.text("RuleAction").as_deref() == Some("allow"))
    }

    /// Security groups are stateful.
    fn groups_pass(&self, from: &Place, to: &Place, packet: Packet) -> bool {
        self.group_passes(from, "Egress", to, packet) && self.group_passes(to, "Ingress", from, packet)
    }

    fn group_passes(&self, of: &Place, way: &str, other: &Place, packet: Packet) -> bool {
        let Place::Inside(_, group) = of else { return true };
        let mut rules = inline(self.get(group), way);
        if rules.is_empty() && way == "Egress" {
            return true; // AWS adds a rule to everywhere then.
        }
        rules.extend(self.at(&format!("SecurityGroup{way}"), "GroupId", group).map(|rule| rule.properties.clone()));
        rules.iter().any(|rule| {
            let text = |name: &str| rule.get(name).and_then(Value::as_str);
            let spoken = text("IpProtocol").expect("a protocol");
            let who = if way == "Egress" { "Destination" } else { "Source" };
            let fits = match other {
                Place::Inside(_, group) if text(&format!("{who}SecurityGroupId")) == Some(group) => true,
                Place::Aws(_, list) if text(&format!("{who}PrefixListId")) == Some(list) => true,
                _ => text("CidrIp").is_some_and(|cidr| self.is_in(other, cidr, true)),
            };
            assert!(text("CidrIpv6").is_none(), "IPv6 is not known here: {rule}");
            let ports = spoken == "-1" || has_port(number(rule, "FromPort"), number(rule, "ToPort"), packet.to_port);
            fits && ports && (spoken == "-1" || spoken == packet.protocol.0 || spoken == packet.protocol.1)
        })
    }

    /// Whether a place has an address in `cidr`. For the internet, any address suffices for an allow rule, and a deny
    /// rule must cover all.
    fn is_in(&self, place: &Place, cidr: &str, any: bool) -> bool {
        match place {
            Place::Inside(subnet, _) => {
                let (start, bits) = network(&self.get(subnet).text("CidrBlock").expect("addresses"));
                let (other, other_bits) = network(cidr);
                let shared = bits.min(other_bits);
                masked(start, shared) == masked(other, shared) && (any || other_bits <= bits)
            }
            _ if any => !is_private(cidr),
            _ => network(cidr).1 == 0,
        }
    }
}

/// The inline rules of a group.
fn inline(group: &Resource, way: &str) -> Vec<Value> {
    group.properties[format!("SecurityGroup{way}")].as_array().cloned().unwrap_or_default()
}

fn leads_out(route: &Resource) -> bool {
    let to = route.text("DestinationCidrBlock").unwrap_or_else(|| panic!("{}: no addresses of IPv4", route.id));
    !is_private(&to)
}

fn number(of: &Value, name: &str) -> Option<u32> {
    match of.get(name)? {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
    }
}

/// A rule without ports applies to all.
fn has_port(from: Option<u32>, to: Option<u32>, port: u16) -> bool {
    (from.unwrap_or(0)..=to.unwrap_or(u32::from(u16::MAX))).contains(&u32::from(port))
}

fn network(cidr: &str) -> (u32, u32) {
    let (address, bits) = cidr.split_once('/').unwrap_or_else(|| panic!("{cidr} is no network"));
    let bits = bits.parse().expect("a number of bits");
    (masked(address.parse::<Ipv4Addr>().expect("an address").into(), bits), bits)
}

fn masked(address: u32, bits: u32) -> u32 {
    address & u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

/// Whether all addresses are private.
fn is_private(cidr: &str) -> bool {
    let (start, bits) = network(cidr);
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16"].iter().any(|range| {
        let (private, private_bits) = network(range);
        private_bits <= bits && masked(start, private_bits) == private
    })
}

/// Merges adjacent intervals.
fn merged(intervals: impl Iterator<Item = RangeInclusive<u16>>) -> Vec<String> {
    let mut out: Vec<RangeInclusive<u16>> = Vec::new();
    for next in intervals {
        match out.last_mut() {
            Some(last) if u32::from(*last.end()) + 1 == u32::from(*next.start()) => *last = *last.start()..=*next.end(),
            _ => out.push(next),
        }
    }
    let name = |ports: &RangeInclusive<u16>| match (*ports.start(), *ports.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    };
    out.iter().map(name).collect()
}
