//! Objects as JSON in, the model or the error's text out.

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::cluster::model::Protocol;

/// Reads an object as the API watch does.
fn read<'a, T: Deserialize<'a>>(value: &'a Value) -> T {
    T::deserialize(value).unwrap()
}

const ALL: Keep = Keep { pods: true, zones: true };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A Service `shop/web` with this spec.
fn service(spec: Value) -> Result<model::Service, String> {
    let value = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
    read::<Service>(&value).convert().map_err(|error| error.to_string())
}

/// A slice of `shop/web` with these further fields.
fn slice(fields: Value) -> Result<(Option<model::EndpointSlice>, Vec<String>), String> {
    let labels = json!({"kubernetes.io/service-name": "web"});
    let mut value = json!({"metadata": {"name": "web-x1", "namespace": "shop", "labels": labels}});
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let mut ignored = Vec::new();
    let slice = read::<EndpointSlice<'_>>(&value).convert(ALL, &mut ignored).map_err(|error| error.to_string())?;
    Ok((slice, ignored.iter().map(Invalid::to_string).collect()))
}

#[test]
fn a_service_is_what_its_type_and_cluster_ips_say() {
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
fn what_is_wrong_with_a_service_is_named() {
    for (spec, want) in [
        (json!({"clusterIPs": ["10.0.0.300"]}), r#"spec.clusterIPs[0]: "10.0.0.300" is not an IP address"#),
        (json!({"clusterIPs": ["10.0.0.1", "None"]}), r#"spec.clusterIPs[1]: "None" is not an IP address"#),
        (json!({"clusterIP": "010.0.0.1"}), r#"spec.clusterIP: "010.0.0.1" is not an IP address"#),
        (json!({"type": "ExternalName"}), "spec.externalName is missing"),
        (json!({"type": "ExternalName", "externalName": "."}), r#"spec.externalName: "." is not a DNS name"#),
        (json!({"type": "ExternalName", "externalName": "a..b"}), r#"spec.externalName: "a..b" is not a DNS name"#),
        (json!({"type": "ExternalName", "externalName": "a b"}), r#"spec.externalName: "a b" is not a DNS name"#),
        (json!({"ports": [{"port": 80}, {"name": "x"}]}), "spec.ports[1].port is missing"),
        (json!({"ports": [{"port": 0}]}), "spec.ports[0].port: 0 is not a port number (1 to 65535)"),
        (json!({"ports": [{"port": 65536}]}), "spec.ports[0].port: 65536 is not a port number (1 to 65535)"),
        (
            json!({"ports": [{"port": 1, "protocol": "ICMP"}]}),
            r#"spec.ports[0].protocol: "ICMP" is not a protocol (TCP, UDP or SCTP)"#,
        ),
    ] {
        assert_eq!(service(spec.clone()).unwrap_err(), want, "{spec}");
    }
    let port = service(json!({"ports": [{"port": 1, "name": "a.b"}]})).unwrap_err();
    assert!(port.starts_with(r#"spec.ports[0].name: "a.b" is not a DNS label"#), "{port}");
    for (metadata, want) in [
        (json!({"namespace": "a"}), "metadata.name is missing"),
        (json!({"name": "a"}), "metadata.namespace is missing"),
        (json!({"name": "A", "namespace": "a"}), r#"metadata.name: "A" is not a DNS label"#),
        (json!({"name": "a", "namespace": "a.b"}), r#"metadata.namespace: "a.b" is not a DNS label"#),
    ] {
        let error = read::<Service>(&json!({"metadata": metadata})).convert().unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn a_field_of_another_type_is_named() {
    let value = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}, {"port": "http"}]}});
    let error = check::<Service>(&value).unwrap_err().to_string();
    assert!(error.starts_with("spec.ports[1].port: invalid type: string \"http\""), "{error}");
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
    assert_eq!((&*slice.service, &slice.key), ("web", &Key::new("shop", "web-x1")));
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
fn slices_that_give_no_records_are_skipped() {
    assert!(slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]})).unwrap().0.is_none());
    let orphan = json!({"metadata": {"name": "a", "namespace": "b"}, "endpoints": [{"addresses": ["nonsense"]}]});
    assert_eq!(read::<EndpointSlice<'_>>(&orphan).convert(ALL, &mut Vec::new()), Ok(None));
    let empty = slice(json!({"endpoints": null, "ports": null})).unwrap().0.unwrap();
    assert!(empty.endpoints.is_empty() && empty.ports.is_empty());
}

#[test]
fn a_hostname_that_is_no_label_costs_only_the_hostname() {
    let (slice, ignored) = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"], "hostname": "a.b"}]})).unwrap();
    let slice = slice.unwrap();
    assert_eq!((slice.endpoints.len(), &slice.endpoints[0].hostname), (1, &None));
    assert!(ignored[0].starts_with(r#"endpoints[0].hostname: "a.b" is not a DNS label"#), "{ignored:?}");
}

#[test]
fn a_pod_name_counts_only_as_a_label() {
    for (name, want) in [("a.b".to_owned(), None), ("x".repeat(63), Some("x".repeat(63))), ("x".repeat(64), None)] {
        let (slice, ignored) =
            slice(json!({"endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"name": name}}]})).unwrap();
        assert_eq!(slice.unwrap().endpoints[0].pod.as_deref(), want.as_deref(), "{name}");
        assert!(ignored.is_empty());
    }
}

#[test]
fn what_is_wrong_with_a_slice_is_named() {
    let error =
        slice(json!({"endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.1", "x"]}]})).unwrap_err();
    assert_eq!(error, r#"endpoints[1].addresses[1]: "x" is not an IP address"#);
    let error = slice(json!({"ports": [{"port": 70000}]})).unwrap_err();
    assert_eq!(error, "ports[0].port: 70000 is not a port number (1 to 65535)");
}

#[test]
fn pods_are_listed_while_they_run() {
    let pod = |metadata: Value, status: Value| {
        let mut value = json!({"metadata": {"name": "web-0.x", "namespace": "shop", "labels": {"b": "2", "a": "1"}}, "status": status});
        value["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        read::<Pod>(&value)
    };
    let ips = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let running =
        pod(json!({}), json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": ips})).convert().unwrap().unwrap();
    assert_eq!(running.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!(running.labels, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    for phase in ["Succeeded", "Failed", "Unknown"] {
        assert_eq!(pod(json!({}), json!({"phase": phase, "podIPs": ips})).convert(), Ok(None), "{phase}");
    }
    assert_eq!(pod(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({"podIPs": ips})).convert(), Ok(None));
    assert_eq!(pod(json!({}), json!(null)).convert(), Ok(None));
    let mut single = pod(json!({}), json!({"podIP": "10.0.0.1"}));
    assert_eq!(single.convert(), Ok(None), "the API server fills podIPs; what has none has no address");
    single.fill_addresses();
    assert_eq!(single.convert().unwrap().unwrap().addresses, [ip("10.0.0.1")]);
    let error = pod(json!({}), json!({"podIPs": [{"ip": "x"}]})).convert().unwrap_err();
    assert_eq!(error.to_string(), r#"status.podIPs[0].ip: "x" is not an IP address"#);
}

#[test]
fn a_namespace_is_a_label() {
    let convert =
        |name: &str| read::<Namespace>(&json!({"metadata": {"name": name, "annotations": {"a": "b"}}})).convert();
    assert_eq!(convert("shop"), Ok(Key::new("", "shop")));
    assert!(convert("a.b").is_err() && convert("").is_err());
}
