//! Who reaches whom in a network of `CloudFormation`: routes, network ACLs and security groups, as AWS applies them.
//! Of TCP and UDP over IPv4; what it does not know of a network is an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

use serde_json::Value;

use super::template_resources::{Resource, made};

/// What a path has to pass. A wall that is left out lets everything through, which shows what the others hold alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    Routes,
    Acls,
    Groups,
}

/// All three.
pub const WALLS: [Wall; 3] = [Wall::Routes, Wall::Acls, Wall::Groups];

/// Somebody who asks, or is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Anybody with a public address.
    Internet,
    /// A service of AWS with public addresses and a gateway endpoint: its name, and the list of its addresses.
    Aws(&'static str, &'static str),
    /// An interface in the network: the logical ids of its subnet and of its security group.
    Inside(String, String),
}

/// Those who ask and are asked, each with all the places that it has.
pub type Places = Vec<(&'static str, Vec<Place>)>;

/// Who reaches whom, and which ports of theirs; who reaches nobody is not in it.
pub type Table = BTreeMap<(&'static str, &'static str), BTreeSet<String>>;

/// A packet that opens a connection, or the way that it goes.
#[derive(Debug, Clone, Copy)]
struct Packet {
    protocol: Protocol,
    from_port: u16,
    to_port: u16,
}

/// As security groups call it, and as network ACLs do.
type Protocol = (&'static str, &'static str);
const PROTOCOLS: [Protocol; 2] = [("tcp", "6"), ("udp", "17")];

/// The resources of a network that this knows, those that say nothing of who reaches whom among them.
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

/// A network, as a template makes it.
#[derive(Debug)]
pub struct Network {
    resources: Vec<Resource>,
}

impl Network {
    pub fn of(template: &Value, parameters: &[(&str, &str)]) -> Self {
        let resources = made(template, parameters);
        for Resource { id, kind, .. } in &resources {
            let unknown = kind.strip_prefix("AWS::EC2::").filter(|kind| !KNOWN.contains(kind));
            assert!(unknown.is_none(), "{id}: {kind} may lead somewhere, and the model does not know it");
        }
        Self { resources }
    }

    /// Those of a kind of EC2's.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Resource> {
        self.resources.iter().filter(move |resource| resource.kind.strip_prefix("AWS::EC2::") == Some(kind))
    }

    /// Those of a kind whose property names this one.
    fn at<'a>(&'a self, kind: &'a str, property: &'a str, id: &'a str) -> impl Iterator<Item = &'a Resource> {
        self.all(kind).filter(move |resource| resource.properties[property].as_str() == Some(id))
    }

    fn get(&self, id: &str) -> &Resource {
        self.resources.iter().find(|resource| resource.id == id).unwrap_or_else(|| panic!("no {id}"))
    }

    /// The ports to which somebody gets, through these walls, whatever port it comes from: who attacks chooses that.
    pub fn ports(&self, from: &Place, to: &Place, walls: &[Wall]) -> BTreeSet<String> {
        let intervals = self.intervals(0..=u16::MAX);
        let mut open = BTreeSet::new();
        for protocol in PROTOCOLS {
            let gets_there = |to_port| {
                let from_any = |interval: &RangeInclusive<u16>| {
                    self.passes(from, to, Packet { protocol, from_port: *interval.start(), to_port }, walls)
                };
                intervals.iter().any(from_any)
            };
            let reached = intervals.iter().filter(|interval| gets_there(*interval.start()));
            open.extend(merged(reached.cloned()).into_iter().map(|ports| format!("{} {ports}", protocol.0)));
        }
        open
    }

    /// Who reaches whom through these walls: from some place to some other at least, and from each place to each other.
    pub fn table(&self, places: &Places, walls: &[Wall]) -> [Table; 2] {
        let (mut somewhere, mut everywhere) = (Table::new(), Table::new());
        for (asks, from) in places {
            for (asked, to) in places {
                let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (from, to)));
                let reached: Vec<_> = pairs.map(|(from, to)| self.ports(from, to, walls)).collect();
                let any = reached.iter().flatten().cloned().collect();
                let all = reached.into_iter().reduce(|one, other| &one & &other).unwrap_or_default();
                somewhere.insert((*asks, *asked), any);
                everywhere.insert((*asks, *asked), all);
            }
        }
        [somewhere, everywhere].map(|table| table.into_iter().filter(|(_, ports)| !ports.is_empty()).collect())
    }

    /// From which of its own ports somebody asks a port over TCP in vain.
    pub fn in_vain(&self, from: &Place, to: &Place, to_port: u16, own: RangeInclusive<u16>) -> Vec<String> {
        let passes = |from_port| self.passes(from, to, Packet { protocol: PROTOCOLS[0], from_port, to_port }, &WALLS);
        merged(self.intervals(own).into_iter().filter(|interval| !passes(*interval.start())))
    }

    /// Ports between which no rule makes a difference.
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

    /// Whether a connection is opened, which takes an answer. What goes on outside is nothing to us.
    fn passes(&self, from: &Place, to: &Place, packet: Packet, walls: &[Wall]) -> bool {
        if ![from, to].iter().any(|place| matches!(place, Place::Inside(..))) {
            return false;
        }
        if walls.contains(&Wall::Groups) && !self.groups_pass(from, to, packet) {
            return false;
        }
        let over = if walls.contains(&Wall::Routes) { self.route(from, to) } else { Some(Vec::new()) };
        over.is_some_and(|over| !walls.contains(&Wall::Acls) || self.acls_pass(from, &over, to, packet))
    }

    /// The subnets of gateways on the way, if there is one, there and back.
    fn route(&self, from: &Place, to: &Place) -> Option<Vec<String>> {
        match (from, to) {
            (Place::Inside(..), Place::Inside(..)) => Some(Vec::new()),
            (Place::Inside(subnet, _), Place::Aws(service, _)) if self.has_gateway(subnet, service) => Some(Vec::new()),
            (Place::Inside(subnet, _), _) => self.way_out(subnet),
            // Nobody is asked through NAT, and who is to answer needs a way out by which it has an address.
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

    /// None for the network's own, which has local routes only.
    fn route_table(&self, subnet: &str) -> Option<String> {
        self.at("SubnetRouteTableAssociation", "SubnetId", subnet).find_map(|one| one.text("RouteTableId"))
    }

    /// The subnets of NAT through which a subnet reaches public addresses. Who has an internet gateway needs a public
    /// address as well; here everybody who may use one has one.
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

    /// Each subnet's, out of it and into it, there and back. NAT asks from a port of its own; here it is the asker's, and
    /// what holds for all of those holds for NAT's.
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

    /// The first rule that fits decides; a subnet without an ACL of its own has the network's, which lets all through.
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

    /// Groups know answers to what they let through.
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

    /// Whether a place has an address of these; of the many of the internet any will do for a rule that lets through, and
    /// only all for one that does not.
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

/// The rules that a group has in itself.
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

/// A rule without ports is about all of them.
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

/// Whether nobody on the internet has an address of these.
fn is_private(cidr: &str) -> bool {
    let (start, bits) = network(cidr);
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16"].iter().any(|range| {
        let (private, private_bits) = network(range);
        private_bits <= bits && masked(start, private_bits) == private
    })
}

/// Neighbours as one.
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
