//! Network reachability, computed from the templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{
    reachability::{LAYERS, Layer, Network, Place, Places, Table},
    template,
};

const NATS: [&str; 3] = ["none", "one", "each-zone"];

fn network(zones: &str, nat: &str) -> Network {
    with(&template::read("network"), zones, nat, "yes")
}

fn with(template: &Value, zones: &str, nat: &str, endpoints: &str) -> Network {
    let options = [("Zones", zones), ("Nat", nat), ("InterfaceEndpoints", endpoints)];
    let lists = [("S3PrefixList", "pl-53"), ("DynamoDbPrefixList", "pl-db")];
    Network::of(template, &[&options[..], &lists[..]].concat())
}

fn tier(network: &Network, name: &str) -> Vec<String> {
    network.all("Subnet").map(|subnet| subnet.id.clone()).filter(|id| id.starts_with(name)).collect()
}

/// All places in all zones.
fn everybody(network: &Network) -> Places {
    let inside = |tier_name: &str, group: &str| {
        let place = |subnet| Place::Inside(subnet, format!("{group}SecurityGroup"));
        tier(network, tier_name).into_iter().map(place).collect::<Vec<_>>()
    };
    let [internet, s3, dynamodb] = outside();
    vec![
        ("internet", vec![internet]),
        ("s3", vec![s3]),
        ("dynamodb", vec![dynamodb]),
        ("balancer", inside("Service", "Balancer")),
        ("service", inside("Service", "Service")),
        ("functions", inside("Service", "Function")),
        ("endpoints", inside("Service", "Endpoint")),
        ("database", inside("Database", "Database")),
    ]
}

fn table<const N: usize>(rows: [(&'static str, &'static str, &[&str]); N]) -> Table {
    let ports = |ports: &[&str]| ports.iter().map(|port| (*port).to_owned()).collect::<BTreeSet<_>>();
    rows.into_iter().map(|(from, to, reached)| ((from, to), ports(reached))).collect()
}

/// The intended reachability.
fn intended(nat: &str) -> Table {
    let mut intended = table([
        ("balancer", "service", &["tcp 8080"]),
        ("service", "database", &["tcp 3306"]),
        ("service", "endpoints", &["tcp 443"]),
        ("service", "s3", &["tcp 443"]),
        ("service", "dynamodb", &["tcp 443"]),
        ("functions", "database", &["tcp 3306"]),
        ("functions", "endpoints", &["tcp 443"]),
        ("functions", "s3", &["tcp 443"]),
        ("functions", "dynamodb", &["tcp 443"]),
    ]);
    if nat != "none" {
        intended.extend(table([("service", "internet", &["tcp 443"]), ("functions", "internet", &["tcp 443"])]));
    }
    intended
}

#[test]
fn network_allows_exactly_required_paths() {
    for zones in ["2", "3"] {
        for nat in NATS {
            let network = network(zones, nat);
            let everybody = everybody(&network);
            assert_eq!(tier(&network, "Database").len().to_string(), zones, "a database in each zone");
            let [somewhere, everywhere] = network.table(&everybody, &LAYERS);
            assert_eq!(somewhere, intended(nat), "{zones} zones, NAT {nat}");
            assert_eq!(everywhere, intended(nat), "in each zone of {zones}, NAT {nat}");
        }
    }
}

/// Without network ACLs, and with routes to everywhere.
#[test]
fn security_groups_alone_are_strict() {
    for nat in NATS {
        let network = network("2", nat);
        assert_eq!(network.table(&everybody(&network), &[Layer::Groups])[0], intended(nat), "NAT {nat}");
    }
}

/// With security groups that allow everything, and routes to everywhere.
#[test]
fn network_acls_block_internet() {
    for nat in NATS {
        let network = network("2", nat);
        let [service, another] = [0, 1].map(|zone| place(&network, "service", zone));
        let database = place(&network, "database", 1);
        let tiers = vec![
            ("internet", vec![Place::Internet]),
            ("service", vec![service]),
            ("another service", vec![another]),
            ("database", vec![database]),
        ];
        let [open, _] = network.table(&tiers, &[Layer::Acls]);
        let between = open.into_iter().filter(|((from, to), _)| from != to).collect::<Table>();
        let in_tier: &[&str] = &["tcp 443", "tcp 1024-65535"];
        // Traffic from port 443, like responses of S3, reaches high ports, but not the listening one.
        let strangers: &[&str] = &["tcp 1024-8079", "tcp 8081-65535"];
        // Return traffic.
        let answers: &[&str] = &["tcp 1024-65535"];
        let intended = table([
            ("internet", "service", strangers),
            ("internet", "another service", strangers),
            ("service", "internet", &["tcp 443"]),
            ("another service", "internet", &["tcp 443"]),
            ("service", "another service", in_tier),
            ("another service", "service", in_tier),
            ("service", "database", &["tcp 3306"]),
            ("another service", "database", &["tcp 3306"]),
            ("database", "service", answers),
            ("database", "another service", answers),
        ]);
        assert_eq!(between, intended, "NAT {nat}");
    }
}

/// With security groups that allow everything, and without network ACLs.
#[test]
fn routes_allow_egress_by_nat_only() {
    for nat in NATS {
        let network = network("3", nat);
        let gateways = network.all("InternetGateway").count();
        assert_eq!(gateways, usize::from(nat != "none"), "without NAT nothing leads out that could be used by mistake");
        for zone in 0..3 {
            let [service, database] = ["service", "database"].map(|who| place(&network, who, zone));
            let leads = |from: &Place, to: &Place| !network.ports(from, to, &[Layer::Routes]).is_empty();
            assert_eq!(leads(&service, &Place::Internet), nat != "none");
            assert!(!leads(&Place::Internet, &service) && !leads(&Place::Internet, &database));
            for outside in outside() {
                assert!(!leads(&database, &outside), "{outside:?}");
            }
        }
    }
}

/// Network ACLs are stateless, so return traffic needs rules. Instances use the ephemeral ports of Linux, all others
/// any unreserved port.
#[test]
fn return_traffic_is_allowed() {
    for nat in NATS {
        let network = network("3", nat);
        for ((from, to), ports) in intended(nat) {
            let port = ports.first().and_then(|port| port.strip_prefix("tcp ")).expect("TCP").parse().expect("a port");
            let own = if from == "service" { 32768..=60999 } else { 1024..=u16::MAX };
            let lost: &[&str] = match (from, to) {
                // The cost of protecting this port: one of 64,512 source ports fails.
                ("functions", "s3" | "dynamodb" | "internet") => &["8080"],
                _ => &[],
            };
            for (zone, other) in [(0, 0), (0, 1), (2, 1)] {
                let [from, to] = [(from, zone), (to, other)].map(|(who, zone)| place(&network, who, zone));
                assert_eq!(network.in_vain(&from, &to, port, own.clone()), lost, "{from:?} asks {to:?}, NAT {nat}");
            }
        }
    }
}

#[test]
fn reaches_aws_by_endpoint_in_each_zone() {
    let services = ["autoscaling", "logs", "monitoring", "rds", "secretsmanager", "sns", "sqs", "ssm"];
    let services = services.into_iter().chain(["ssmmessages", "states", "sts"]).map(ToOwned::to_owned);
    let services = services.collect::<BTreeSet<String>>();
    for (zones, nat, endpoints) in [("2", "none", "yes"), ("3", "one", "yes"), ("2", "one", "no")] {
        let network = with(&template::read("network"), zones, nat, endpoints);
        let mut found = BTreeSet::new();
        for endpoint in network.all("VPCEndpoint").filter(|one| one.properties["VpcEndpointType"] == "Interface") {
            found.insert(endpoint.text("ServiceName").unwrap().rsplit_once('.').unwrap().1.to_owned());
            assert_eq!(endpoint.properties["SubnetIds"], json!(tier(&network, "Service")), "{}", endpoint.id);
            assert_eq!(endpoint.properties["SecurityGroupIds"], json!(["EndpointSecurityGroup"]), "{}", endpoint.id);
            assert_eq!(endpoint.properties["PrivateDnsEnabled"], true, "{}", endpoint.id);
        }
        assert_eq!(found, if endpoints == "yes" { services.clone() } else { BTreeSet::new() });
    }
}

/// A mutation of the template: its name, the change, and the layers and paths that it opens.
type Hole = (&'static str, fn(&mut Value), &'static [Layer], (&'static str, &'static str), &'static str);

#[test]
fn detects_opening_in_each_layer() {
    let holes: [Hole; 9] = [
        ("the database's group lets all in", open_the_group, &[Layer::Groups], ("internet", "database"), "tcp 3306"),
        ("its network ACL lets all in", open_the_acl, &[Layer::Acls], ("internet", "database"), "tcp 3306"),
        ("its routes lead out", open_the_routes, &[Layer::Routes], ("internet", "database"), "tcp 0-65535"),
        (
            "all three",
            |resources| [open_the_group, open_the_acl, open_the_routes].iter().for_each(|open| open(resources)),
            &LAYERS,
            ("internet", "database"),
            "tcp 3306",
        ),
        (
            "its group has no outbound rule, so AWS makes one",
            |resources| {
                remove(resources, "DatabaseSecurityGroup", "SecurityGroupEgress");
            },
            &[Layer::Groups],
            ("database", "internet"),
            "udp 0-65535",
        ),
        (
            "its subnets have a gateway to S3",
            |resources| {
                let tables = &mut resources["S3Endpoint"]["Properties"]["RouteTableIds"];
                tables.as_array_mut().unwrap().push(json!({ "Ref": "DatabaseRoutes" }));
            },
            &[Layer::Routes],
            ("database", "s3"),
            "tcp 0-65535",
        ),
        (
            "a subnet of it has no network ACL of its own",
            |resources| {
                resources.as_object_mut().unwrap().remove("DatabaseSubnetBAcl").unwrap();
            },
            &[Layer::Acls],
            ("internet", "database"),
            "udp 0-65535",
        ),
        (
            "strangers get to the service's port",
            |resources| {
                resources.as_object_mut().unwrap().remove("ServiceInNoStrangers").unwrap();
            },
            &[Layer::Acls],
            ("internet", "service"),
            "tcp 1024-65535",
        ),
        (
            "instances are reached from within the network",
            |resources| {
                let rule = json!({ "IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "10.42.0.0/16" });
                resources["ServiceSecurityGroup"]["Properties"]["SecurityGroupIngress"] = json!([rule]);
                let rule = json!({ "IpProtocol": "-1", "CidrIp": "10.42.64.0/18" });
                let rules = &mut resources["FunctionSecurityGroup"]["Properties"]["SecurityGroupEgress"];
                rules.as_array_mut().unwrap().push(rule);
            },
            &[Layer::Groups],
            ("functions", "service"),
            "tcp 22",
        ),
    ];
    let whole = template::read("network");
    for (what, open, layers, pair, ports) in holes {
        let mut opened = whole.clone();
        open(&mut opened["Resources"]);
        for (template, expected) in [(&whole, false), (&opened, true)] {
            let network = with(template, "2", "one", "yes");
            let everybody = everybody(&network);
            let places = everybody.into_iter().filter(|(who, _)| *who == pair.0 || *who == pair.1).collect();
            let [found, _] = network.table(&places, layers);
            let is_there = found.get(&pair).is_some_and(|found| found.contains(ports));
            assert_eq!(is_there, expected, "{what}: {found:?}");
        }
    }
}

#[test]
fn one_open_layer_exposes_no_database() {
    for open in [open_the_group, open_the_acl, open_the_routes] {
        let mut template = template::read("network");
        open(&mut template["Resources"]);
        let network = with(&template, "2", "one", "yes");
        for zone in [0, 1] {
            assert_eq!(network.ports(&Place::Internet, &place(&network, "database", zone), &LAYERS), BTreeSet::new());
        }
    }
}

#[test]
fn detects_missing_rule() {
    for rule in ["DatabaseOutAnswers", "ServiceInAnswers", "ServiceOutQueries", "QueriesOfService", "DatabaseInQueries"]
    {
        let mut template = template::read("network");
        template["Resources"].as_object_mut().unwrap().remove(rule).unwrap();
        let network = with(&template, "2", "none", "yes");
        let [service, database] = ["service", "database"].map(|who| place(&network, who, 0));
        assert_eq!(network.in_vain(&service, &database, 3306, 32768..=60999), ["32768-60999"], "{rule}");
    }
}

#[test]
#[should_panic(expected = "the model does not know it")]
fn network_uses_only_modelled_resources() {
    let mut template = template::read("network");
    let peering = json!({ "Type": "AWS::EC2::VPCPeeringConnection", "Properties": { "VpcId": { "Ref": "Vpc" } } });
    template["Resources"]["Peering"] = peering;
    with(&template, "2", "none", "yes");
}

/// Otherwise the computed result would be incomplete.
#[test]
fn other_stacks_open_no_path() {
    let folder = template::path("network");
    let files = std::fs::read_dir(folder.parent().unwrap()).unwrap().map(|file| file.unwrap().path());
    let stacks = files.filter(|file| file.extension().is_some_and(|kind| kind == "yaml"));
    for stack in stacks.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()) {
        let template = template::read(&stack);
        let kinds = template["Resources"].as_object().unwrap().values().map(|one| one["Type"].as_str().unwrap());
        let of_networks = ["SecurityGroup", "NetworkAcl", "Route", "Subnet", "VPC", "InternetGateway", "EIP"];
        let is_of_network = |kind: &str| of_networks.iter().any(|part| kind.starts_with(&format!("AWS::EC2::{part}")));
        let made = kinds.filter(|kind| is_of_network(kind)).collect::<Vec<_>>();
        assert_eq!(made.is_empty(), stack != "network", "{stack}: {made:?}");
        assert_eq!(public(&template), Vec::<String>::new(), "{stack}");
    }
    let opened = json!({ "A": [{ "PubliclyAccessible": true }], "B": { "Scheme": "internet-facing" } });
    assert_eq!(public(&opened).len(), 2);
}

/// Properties that assign a public address.
fn public(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(public).collect(),
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| {
                let address = ["PubliclyAccessible", "AssociatePublicIpAddress", "MapPublicIpOnLaunch"];
                let is_public = match name.as_str() {
                    "Scheme" => value != "internal",
                    name => address.contains(&name) && value != false,
                };
                if is_public { vec![format!("{name}: {value}")] } else { public(value) }
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The place in a zone; external ones have only one.
fn place(network: &Network, who: &str, zone: usize) -> Place {
    let everybody = everybody(network);
    let (_, places) = everybody.iter().find(|(name, _)| *name == who).unwrap_or_else(|| panic!("{who} is nobody"));
    places[zone.min(places.len() - 1)].clone()
}

fn outside() -> [Place; 3] {
    [Place::Internet, Place::Aws("s3", "pl-53"), Place::Aws("dynamodb", "pl-db")]
}

fn remove(resources: &mut Value, id: &str, property: &str) {
    resources[id]["Properties"].as_object_mut().unwrap().remove(property).unwrap();
}

fn open_the_group(resources: &mut Value) {
    let rule = json!({ "IpProtocol": "tcp", "FromPort": 3306, "ToPort": 3306, "CidrIp": "0.0.0.0/0" });
    resources["DatabaseSecurityGroup"]["Properties"]["SecurityGroupIngress"] = json!([rule]);
}

fn open_the_acl(resources: &mut Value) {
    for (id, egress, from, to) in [("OpenIn", false, 3306, 3306), ("OpenOut", true, 1024, 65535)] {
        let rule = json!({
            "NetworkAclId": { "Ref": "DatabaseAcl" }, "Egress": egress, "RuleNumber": 50, "RuleAction": "allow",
            "Protocol": 6, "PortRange": { "From": from, "To": to }, "CidrBlock": "0.0.0.0/0",
        });
        resources[id] = json!({ "Type": "AWS::EC2::NetworkAclEntry", "Properties": rule });
    }
}

fn open_the_routes(resources: &mut Value) {
    let route = json!({
        "RouteTableId": { "Ref": "DatabaseRoutes" }, "DestinationCidrBlock": "0.0.0.0/0",
        "GatewayId": { "Ref": "InternetGateway" },
    });
    resources["OpenRoute"] = json!({ "Type": "AWS::EC2::Route", "Properties": route });
}
