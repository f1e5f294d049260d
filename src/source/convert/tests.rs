//! Conversions of objects: JSON in, the model or the text of an error out.

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::cluster::model::Protocol;

/// Deserializes an object as the API watch does.
fn read<'a, T: Deserialize<'a>>(value: &'a Value) -> T {
    T::deserialize(value).unwrap()
}

const ALL: EndpointFields = EndpointFields { pods: true, zones: true };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Returns the texts of ignored values.
fn texts(ignored: &Ignored) -> Vec<String> {
    ignored.first().iter().map(Invalid::to_string).collect()
}

/// Converts a Service `shop/web` with this spec, and returns the ignored values.
fn read_service(spec: Value) -> Result<(model::Service, Vec<String>), String> {
    let value = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
    let mut ignored = Ignored::default();
    let service = read::<ApiService>(&value).convert(&mut ignored).map_err(|error| error.to_string())?;
    Ok((service, texts(&ignored)))
}

/// Converts a Service `shop/web` with this spec without invalid values.
fn service(spec: Value) -> Result<model::Service, String> {
    let (service, ignored) = read_service(spec)?;
    assert_eq!(ignored, [""; 0]);
    Ok(service)
}

/// Converts a slice of `shop/web` with these further fields, and returns the ignored values.
fn slice(fields: Value) -> Result<(Option<model::EndpointSlice>, Vec<String>), String> {
    let labels = json!({"kubernetes.io/service-name": "web"});
    let mut value = json!({"metadata": {"name": "web-x1", "namespace": "shop", "labels": labels}});
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let mut ignored = Ignored::default();
    let slice = read::<ApiEndpointSlice<'_>>(&value).convert(ALL, &mut ignored).map_err(|error| error.to_string())?;
    Ok((slice, texts(&ignored)))
}

#[test]
fn the_kind_of_a_service_follows_from_its_type_and_cluster_ips() {
    for (spec, want) in [
        (json!({"clusterIP": "10.0.0.1"}), ServiceKind::ClusterIp(vec![ip("10.0.0.1")])),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
            ServiceKind::ClusterIp(vec![ip("10.0.0.1"), ip("fd00::1")]),
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": null, "type": null, "ports": null}),
            ServiceKind::ClusterIp(vec![ip("10.0.0.1")]),
        ),
        (json!({"clusterIPs": ["::ffff:10.0.0.1"]}), ServiceKind::ClusterIp(vec![ip("10.0.0.1")])),
        (json!({"type": "NodePort"}), ServiceKind::ClusterIp(vec![])),
        (json!(null), ServiceKind::ClusterIp(vec![])),
        (json!({"clusterIP": "None"}), ServiceKind::Headless),
        (json!({"clusterIPs": ["None"]}), ServiceKind::Headless),
        (
            json!({"type": "ExternalName", "externalName": "Pay.Example.com."}),
            ServiceKind::ExternalName("pay.example.com".into()),
        ),
        (
            json!({"type": "ExternalName", "externalName": "a", "clusterIP": "None"}),
            ServiceKind::ExternalName("a".into()),
        ),
        (json!({"type": "ExternalName", "externalName": "192.0.2.1"}), ServiceKind::ExternalName("192.0.2.1".into())),
        (
            json!({"type": "ExternalName", "externalName": "2001:db8::1"}),
            ServiceKind::ExternalName("2001:db8::1".into()),
        ),
        (
            json!({"type": "ExternalName", "externalName": "_dmarc.a_b.example"}),
            ServiceKind::ExternalName("_dmarc.a_b.example".into()),
        ),
    ] {
        assert_eq!(service(spec.clone()).unwrap().kind, want, "{spec}");
    }
}

#[test]
fn service_ports_keep_their_order_and_default_to_tcp() {
    let ports = json!([{"port": 80}, {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": "x"}, {"name": null, "protocol": "SCTP", "port": 65535}]);
    let port = |name: &str, protocol, number| model::Port { name: name.into(), protocol, number: Some(number) };
    assert_eq!(
        service(json!({"ports": ports})).unwrap().ports,
        [port("", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53), port("", Protocol::Sctp, 65535)]
    );
}

#[test]
fn a_service_is_served_without_its_invalid_values() {
    let v4 = || ServiceKind::ClusterIp(vec![ip("10.0.0.1")]);
    let none = || ServiceKind::ClusterIp(vec![]);
    for (spec, kind, ports, report) in [
        (
            json!({"clusterIPs": ["10.0.0.300"]}),
            none(),
            &[][..],
            r#"spec.clusterIPs[0]: "10.0.0.300" is not an IP address"#,
        ),
        (json!({"clusterIPs": ["x", "10.0.0.1"]}), v4(), &[], r#"spec.clusterIPs[0]: "x" is not an IP address"#),
        (
            json!({"clusterIPs": ["x"], "clusterIP": "10.0.0.1"}),
            v4(),
            &[],
            r#"spec.clusterIPs[0]: "x" is not an IP address"#,
        ),
        (json!({"clusterIPs": ["10.0.0.1", "None"]}), v4(), &[], r#"spec.clusterIPs[1]: "None" is not an IP address"#),
        (
            json!({"clusterIPs": ["10.0.0.1"], "clusterIP": "fe80::1%eth0"}),
            v4(),
            &[],
            r#"spec.clusterIP: "fe80::1%eth0" is not an IP address"#,
        ),
        (
            json!({"clusterIPs": {"a": []}, "clusterIP": "10.0.0.1"}),
            v4(),
            &[],
            "spec.clusterIPs: expected a list, found a map",
        ),
        (
            json!({"clusterIPs": [7], "clusterIP": "None"}),
            ServiceKind::Headless,
            &[],
            "spec.clusterIPs[0]: expected a string, found a number",
        ),
        (json!({"clusterIP": "10.0.0.1/24"}), none(), &[], r#"spec.clusterIP: "10.0.0.1/24" is not an IP address"#),
        (json!({"clusterIP": ["10.0.0.1"]}), none(), &[], "spec.clusterIP: expected a string, found a list"),
        (
            json!({"clusterIP": "10.0.0.1", "type": "Cluster"}),
            v4(),
            &[],
            r#"spec.type: "Cluster" is not one of ExternalName, ClusterIP, NodePort, LoadBalancer"#,
        ),
        (
            json!({"clusterIP": "10.0.0.1", "type": true}),
            v4(),
            &[],
            "spec.type: expected a string, found true or false",
        ),
        (json!("x"), none(), &[], "spec: expected a map, found a string"),
        (json!({"ports": [{"port": 80}, {"name": "x"}]}), none(), &[80], "spec.ports[1].port is missing"),
        (json!({"ports": [{"port": 80}, null]}), none(), &[80], ""),
        (json!({"ports": [[], {"port": 80}]}), none(), &[80], "spec.ports[0]: expected a map, found a list"),
        (json!({"ports": {"port": 80}}), none(), &[], "spec.ports: expected a list, found a map"),
        (
            json!({"ports": [{"port": 1, "protocol": "ICMP"}]}),
            none(),
            &[1],
            r#"spec.ports[0].protocol: "ICMP" is not a protocol (TCP, UDP or SCTP)"#,
        ),
        (
            json!({"ports": [{"port": 1, "protocol": 6}]}),
            none(),
            &[1],
            "spec.ports[0].protocol: expected a string, found a number",
        ),
        (
            json!({"ports": [{"port": 1, "name": "a.b"}]}),
            none(),
            &[1],
            r#"spec.ports[0].name: "a.b" is not a DNS label (at most 63 lower-case letters, digits and '-', a letter or digit first and last)"#,
        ),
    ] {
        let (service, ignored) = read_service(spec.clone()).unwrap();
        let numbers: Vec<u16> = service.ports.iter().filter_map(|port| port.number).collect();
        assert_eq!((service.kind, &*numbers, ignored.join("\n")), (kind, ports, report.to_owned()), "{spec}");
    }
    // A port without a number is ignored, and the error in its number is reported.
    for (number, report) in [
        (json!(0), "spec.ports[0].port: 0 is not a port number (1 to 65535)"),
        (json!(65536), "spec.ports[0].port: 65536 is not a port number (1 to 65535)"),
        (json!(80.5), "spec.ports[0].port: expected a whole number, found a number"),
        (json!("80"), "spec.ports[0].port: expected a whole number, found a string"),
    ] {
        let (service, ignored) = read_service(json!({"ports": [{"port": number}, {"port": 80}]})).unwrap();
        assert_eq!(service.ports.len(), 1);
        assert_eq!(ignored, [report]);
    }
}

#[test]
fn n01_a_cluster_address_with_leading_zeros_is_decimal() {
    let kind = service(json!({"clusterIP": "10.96.011.012", "clusterIPs": ["10.96.011.012"]})).unwrap().kind;
    assert_eq!(kind, ServiceKind::ClusterIp(vec![ip("10.96.11.12")]));
}

#[test]
fn a_service_without_identity_or_target_is_invalid() {
    for (spec, want) in [
        (json!({"type": "ExternalName"}), "spec.externalName is missing"),
        (json!({"type": "ExternalName", "externalName": "."}), r#"spec.externalName: "." is not a DNS name"#),
        (json!({"type": "ExternalName", "externalName": "a..b"}), r#"spec.externalName: "a..b" is not a DNS name"#),
        (json!({"type": "ExternalName", "externalName": "a b"}), r#"spec.externalName: "a b" is not a DNS name"#),
        (json!({"type": "ExternalName", "externalName": 1}), "spec.externalName: expected a string, found a number"),
    ] {
        assert_eq!(service(spec.clone()).unwrap_err(), want, "{spec}");
    }
    for (metadata, want) in [
        (json!({"namespace": "a"}), "metadata.name is missing"),
        (json!({"name": "a"}), "metadata.namespace is missing"),
        (json!({"name": 5, "namespace": "a"}), "metadata.name: expected a string, found a number"),
        (json!({"name": "a", "namespace": 5}), "metadata.namespace: expected a string, found a number"),
        (json!({"name": "A", "namespace": "a"}), r#"metadata.name: "A" is not a DNS label"#),
        (json!({"name": "a", "namespace": "a.b"}), r#"metadata.namespace: "a.b" is not a DNS label"#),
        (json!(["a"]), "metadata.name is missing"),
    ] {
        let read = read::<ApiService>(&json!({"metadata": metadata})).convert(&mut Ignored::default());
        let error = read.unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn a_slice_has_the_ready_endpoints_only() {
    let endpoints = json!([
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": null, "serving": false}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["10.0.0.4", "10.0.0.5"], "conditions": {"ready": true, "terminating": true}, "hostname": "Db-0",
         "targetRef": {"kind": "Pod", "name": "db-0"}, "zone": "Zone-A.eu"},
    ]);
    let (slice, ignored) = slice(json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{}, {"name": "", "port": null}, {"name": "x", "port": 9}]})).unwrap();
    let slice = slice.unwrap();
    assert_eq!((&*slice.service, &slice.key), ("web", &ObjectKey::new("shop", "web-x1")));
    let plain =
        |text| model::Endpoint { addresses: [ip(text)].into_iter().collect(), hostname: None, pod: None, zone: None };
    let last = model::Endpoint {
        addresses: vec![ip("10.0.0.4"), ip("10.0.0.5")].into(),
        hostname: Some("db-0".into()),
        pod: Some("db-0".into()),
        zone: Some("zone-a.eu".into()),
    };
    assert_eq!(slice.endpoints, [plain("10.0.0.1"), plain("10.0.0.2"), last]);
    let numbers: Vec<_> = slice.ports.iter().map(|port| port.number).collect();
    assert_eq!(numbers, [None, None, Some(9)]);
    assert!(ignored.is_empty());
}

#[test]
fn slices_without_records_are_skipped() {
    assert!(slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]})).unwrap().0.is_none());
    let orphan = json!({"metadata": {"name": "a", "namespace": "b"}, "endpoints": [{"addresses": ["invalid"]}]});
    assert_eq!(read::<ApiEndpointSlice<'_>>(&orphan).convert(ALL, &mut Ignored::default()), Ok(None));
    let empty = slice(json!({"endpoints": null, "ports": null})).unwrap().0.unwrap();
    assert!(empty.endpoints.is_empty() && empty.ports.is_empty());
}

#[test]
fn a_hostname_that_is_not_a_label_is_ignored() {
    let (slice, ignored) = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"], "hostname": "a.b"}]})).unwrap();
    let slice = slice.unwrap();
    assert_eq!((slice.endpoints.len(), &slice.endpoints[0].hostname), (1, &None));
    assert!(ignored[0].starts_with(r#"endpoints[0].hostname: "a.b" is not a DNS label"#), "{ignored:?}");
}

#[test]
fn a_pod_name_that_is_not_a_label_is_ignored() {
    for (name, want) in [("a.b".to_owned(), None), ("x".repeat(63), Some("x".repeat(63))), ("x".repeat(64), None)] {
        let (slice, ignored) =
            slice(json!({"endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"name": name}}]})).unwrap();
        assert_eq!(slice.unwrap().endpoints[0].pod.as_deref(), want.as_deref(), "{name}");
        assert!(ignored.is_empty());
    }
}

#[test]
fn a_slice_is_served_without_its_invalid_values() {
    for (fields, want, report) in [
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2", "x"]}]}),
            "[10.0.0.1] [10.0.0.2]",
            r#"endpoints[1].addresses[1]: "x" is not an IP address"#,
        ),
        (json!({"endpoints": [{"addresses": ["010.000.00.1"]}]}), "[10.0.0.1]", ""),
        (
            json!({"endpoints": [{"addresses": "10.0.0.1"}]}),
            "[]",
            "endpoints[0].addresses: expected a list, found a string",
        ),
        (
            json!({"endpoints": ["10.0.0.1", {"addresses": ["10.0.0.2", 3]}]}),
            "[10.0.0.2]",
            "endpoints[0]: expected a map, found a string\nendpoints[1].addresses[1]: expected a string, found a number",
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": "no"}}]}),
            "[10.0.0.1]",
            "endpoints[0].conditions.ready: expected true or false, found a string",
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": [], "zone": 1}]}),
            "[10.0.0.1]",
            "endpoints[0].conditions: expected a map, found a list\nendpoints[0].zone: expected a string, found a number",
        ),
        (
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "targetRef": "p"}]}),
            "[10.0.0.1]",
            "endpoints[0].targetRef: expected a map, found a string",
        ),
        (
            json!({"addressType": "IPv5", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
            "[10.0.0.1]",
            r#"addressType: "IPv5" is not one of FQDN, IPv4, IPv6"#,
        ),
        (
            json!({"ports": [{"name": "a", "port": 70000}]}),
            "a:-/tcp",
            "ports[0].port: 70000 is not a port number (1 to 65535)",
        ),
        (
            json!({"ports": [{"name": "a", "port": 0}, {"name": "b", "port": 80}]}),
            "a:-/tcp b:80/tcp",
            "ports[0].port: 0 is not a port number (1 to 65535)",
        ),
        (
            json!({"ports": [{"name": "a", "protocol": "ICMP", "port": 1}]}),
            "a:1/tcp",
            r#"ports[0].protocol: "ICMP" is not a protocol (TCP, UDP or SCTP)"#,
        ),
        (json!({"ports": [5, {"port": 80}]}), ":80/tcp", "ports[0]: expected a map, found a number"),
    ] {
        let (slice, ignored) = slice(fields.clone()).unwrap();
        let slice = slice.unwrap();
        let endpoints = slice.endpoints.iter().map(|endpoint| format!("{:?}", endpoint.addresses));
        let ports = slice.ports.iter().map(|port| {
            let number = port.number.map_or("-".to_owned(), |number| number.to_string());
            format!("{}:{number}/{}", port.name, port.protocol.label())
        });
        let have = endpoints.chain(ports).collect::<Vec<_>>().join(" ");
        assert_eq!((&*have, &*ignored.join("\n")), (want, report), "{fields}");
    }
}

#[test]
fn a_slice_whose_label_is_not_a_service_name_has_no_service() {
    for label in [json!("A b"), json!(5), json!(null), json!(["web"])] {
        let labels = json!({"kubernetes.io/service-name": label});
        let value = json!({"metadata": {"name": "a", "namespace": "b", "labels": labels}});
        let mut ignored = Ignored::default();
        assert_eq!(read::<ApiEndpointSlice<'_>>(&value).convert(ALL, &mut ignored), Ok(None));
        assert_eq!(ignored.count(), usize::from(!label.is_null()), "{label}");
    }
}

#[test]
fn pods_have_records_while_they_run() {
    let pod = |metadata: Value, status: Value| {
        let mut value = json!({"metadata": {"name": "web-0.x", "namespace": "shop", "labels": {"b": "2", "a": "1"}}, "status": status});
        value["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        read::<ApiPod>(&value)
    };
    let ips = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let running = pod(json!({}), json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": ips}))
        .convert(&mut Ignored::default())
        .unwrap()
        .unwrap();
    assert_eq!(running.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!(running.labels, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    for phase in ["Succeeded", "Failed", "Unknown"] {
        assert_eq!(
            pod(json!({}), json!({"phase": phase, "podIPs": ips})).convert(&mut Ignored::default()),
            Ok(None),
            "{phase}"
        );
    }
    assert_eq!(
        pod(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({"podIPs": ips}))
            .convert(&mut Ignored::default()),
        Ok(None)
    );
    assert_eq!(pod(json!({}), json!(null)).convert(&mut Ignored::default()), Ok(None));
    let mut single = pod(json!({}), json!({"podIP": "10.0.0.1"}));
    assert_eq!(
        single.convert(&mut Ignored::default()),
        Ok(None),
        "the API server fills podIPs; a Pod without podIPs has no address"
    );
    single.fill_addresses();
    assert_eq!(single.convert(&mut Ignored::default()).unwrap().unwrap().addresses, [ip("10.0.0.1")]);
    let mut ignored = Ignored::default();
    let odd = json!({"phase": 1, "podIPs": [{"ip": "x"}, "10.0.0.3", {"ip": "010.0.0.02"}]});
    let odd = pod(json!({"deletionTimestamp": "soon"}), odd).convert(&mut ignored).unwrap().unwrap();
    assert_eq!(odd.addresses, [ip("10.0.0.2")]);
    assert_eq!(
        texts(&ignored),
        [
            "metadata.deletionTimestamp: expected a time (RFC 3339), found a string",
            "status.phase: expected a string, found a number",
            "status.podIPs[1]: expected a map, found a string",
            r#"status.podIPs[0].ip: "x" is not an IP address"#,
        ]
    );
    let mut single = pod(json!({}), json!({"podIPs": [{"ip": "x"}], "podIP": "10.0.0.1"}));
    single.fill_addresses();
    assert_eq!(single.addresses(&mut Ignored::default()), [ip("10.0.0.1")]);
}

#[test]
fn the_name_of_a_namespace_is_a_label() {
    let convert = |name: &str| {
        read::<ApiNamespace>(&json!({"metadata": {"name": name, "annotations": {"a": "b"}}}))
            .convert(&mut Ignored::default())
    };
    assert_eq!(convert("shop"), Ok(ObjectKey::new("", "shop")));
    assert!(convert("a.b").is_err() && convert("").is_err());
}
