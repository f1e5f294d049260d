//! An object of each kind that marks a point in time: a watch delivers changes of a kind in order, so that a server
//! that knows the marker knows all earlier changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use clusterdns::wire::Type;
use serde_json::json;

use super::api::Api;
use super::ask::{Question, ask};
use super::corefiles::Corefile;
use super::objects::{Pod, labelled, namespace, service, slice};
use super::server::Server;
use super::wait::eventually;

/// A marker.
pub struct Marker {
    number: u8,
}

impl Marker {
    /// Creates a marker.
    pub fn set(api: &Api) -> Marker {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let marker = Marker { number };
        let name = marker.name();
        let labels = [("tier", "front")];
        let endpoints = json!([{"addresses": [marker.endpoint()]}]);
        // Visible to all Corefiles of the comparison, whatever they select.
        api.apply(&namespace(&name, &json!({"team": "store"})));
        api.apply(&labelled(slice("shop", &name, &name, "IPv4", &endpoints, &[]), &labels));
        api.apply(&labelled(service("shop", &name, &[], &json!({"clusterIP": "None"})), &labels));
        let with_ip = format!("{name}-ip");
        api.apply(&labelled(slice("shop", &with_ip, &with_ip, "IPv4", &endpoints, &[]), &labels));
        api.apply(&labelled(service("shop", &with_ip, &[("p", 80, "TCP")], &json!({})), &labels));
        let pod = Pod::new("shop", &name, "marker", &[&marker.pod()]);
        api.apply(&labelled(pod.object(), &labels));
        pod.report(api);
        marker
    }

    /// Waits until a server knows it.
    pub fn wait(&self, at: SocketAddr, server: &Server, corefile: &Corefile, deadline: Duration) {
        let name = self.name();
        let zone = corefile.zones;
        let mut wanted = vec![(format!("{name}-ip.shop.svc"), None)];
        if corefile.sees.slices {
            wanted.push((format!("{name}.shop.svc"), Some(self.endpoint())));
        }
        if corefile.sees.pods {
            wanted.push((format!("{}.shop.pod", self.pod().replace('.', "-")), Some(self.pod())));
        }
        for (name, address) in
            zone.iter().flat_map(|zone| wanted.iter().map(move |(name, a)| (format!("{name}.{zone}."), a)))
        {
            eventually(&format!("{name} is known"), deadline, || {
                let answer = ask(at, &Question::new(&name, Type::A)).ok_or("no response")?;
                let is_right = match address {
                    Some(address) => answer.brief() == format!("NOERROR {address}"),
                    None => answer.rcode == 0 && !answer.sections[0].is_empty(),
                };
                if is_right { Ok(()) } else { Err(format!("{}: {answer}\n{}", at, server.last_words())) }
            });
        }
        if corefile.sees.namespaces {
            eventually(&format!("the namespace {name} is known"), deadline, || {
                let answer =
                    ask(at, &Question::new(&format!("{name}.svc.{}.", zone[0]), Type::A)).ok_or("no response")?;
                if answer.rcode == 0 { Ok(()) } else { Err(format!("{answer}\n{}", server.last_words())) }
            });
        }
    }

    /// Removes it; its namespace disappears later.
    pub fn remove(self, api: &Api) {
        let name = self.name();
        let _ = api.delete("Namespace", "", &name);
        for kind in ["Service", "EndpointSlice", "Pod"] {
            for name in [&name, &format!("{name}-ip")] {
                let _ = api.delete(kind, "shop", name);
            }
        }
    }

    fn name(&self) -> String {
        format!("marker-{}", self.number)
    }

    fn endpoint(&self) -> String {
        IpAddr::from([198, 19, 0, self.number]).to_string()
    }

    fn pod(&self) -> String {
        IpAddr::from([10, 244, 250, self.number]).to_string()
    }
}
