//! *geoip*: defines metadata about the place and the network of a client, from a MaxMind database (CoreDNS
//! `plugin/geoip`).
//!
//! The database is read as a whole when the Corefile is read; only another Corefile makes it read again. A record is
//! looked up when another plugin uses a label.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use maxminddb::Reader;
use serde::Deserialize;

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::{Arguments, Directive};
use crate::wire::Query;

/// The limit on the size of a database, in bytes. The largest ones on sale have about half of it.
const MAX_SIZE: u64 = 1 << 30;
/// The number of networks whose records are read when a database is opened, to find out whether it is corrupt.
const CHECKED_NETWORKS: usize = 50_000;
/// The code of the option that has the client's network (RFC 7871).
const CLIENT_SUBNET: u16 = 8;

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    database: Database,
    /// The address is that of the client's network in the query, if it has one.
    edns_subnet: bool,
}

/// A database in memory.
#[derive(Clone)]
struct Database {
    bytes: Arc<[u8]>,
    reader: Arc<Reader<Arc<[u8]>>>,
    schemas: Schemas,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("len", &self.bytes.len()).field("schemas", &self.schemas).finish()
    }
}

impl PartialEq for Database {
    fn eq(&self, other: &Database) -> bool {
        self.bytes == other.bytes
    }
}

/// What the records of a database are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schemas {
    city: bool,
    /// Autonomous systems.
    asn: bool,
}

impl Schemas {
    /// Returns the schemas of a type of database (geoip2-golang `getDBType`).
    fn of(database_type: &str) -> Option<Schemas> {
        match database_type {
            "DBIP-City-Lite"
            | "DBIP-Country-Lite"
            | "DBIP-Country"
            | "DBIP-Location (compat=City)"
            | "GeoLite2-City"
            | "GeoIP-City-Redacted-US"
            | "GeoIP2-City"
            | "GeoIP2-City-Africa"
            | "GeoIP2-City-Asia-Pacific"
            | "GeoIP2-City-Europe"
            | "GeoIP2-City-North-America"
            | "GeoIP2-City-South-America"
            | "GeoIP2-Precision-City"
            | "GeoLite2-Country"
            | "GeoIP2-Country"
            | "DBIP-ISP (compat=Enterprise)"
            | "DBIP-Location-ISP (compat=Enterprise)"
            | "GeoIP-Enterprise-Redacted-US"
            | "GeoIP2-Enterprise" => Some(Schemas { city: true, asn: false }),
            "DBIP-ASN-Lite (compat=GeoLite2-ASN)" | "GeoLite2-ASN" | "GeoIP2-ISP" | "GeoIP2-Precision-ISP" => {
                Some(Schemas { city: false, asn: true })
            }
            _ => None,
        }
    }
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
enum DatabaseError {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(#[from] std::io::Error),
    /// The file is none, or too large.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// The file is no database, or corrupt.
    #[error("{0}")]
    Invalid(#[from] maxminddb::MaxMindDbError),
    /// The database is of another type.
    #[error("database does not provide any supported schema (city, asn): its type is '{0}'")]
    OtherType(String),
}

/// A record with the schema of a city. A field that is missing is empty, as in CoreDNS.
#[derive(Default, Deserialize)]
struct CityRecord<'d> {
    #[serde(borrow, default)]
    city: Place<'d>,
    #[serde(borrow, default)]
    continent: Place<'d>,
    #[serde(borrow, default)]
    country: Place<'d>,
    #[serde(borrow, default)]
    location: Location<'d>,
    #[serde(borrow, default)]
    postal: Place<'d>,
    #[serde(borrow, default)]
    subdivisions: Vec<Place<'d>>,
}

/// A city, a country, a continent or another part of the earth.
#[derive(Default, Deserialize)]
struct Place<'d> {
    #[serde(borrow, default)]
    names: PlaceNames<'d>,
    #[serde(default)]
    code: &'d str,
    #[serde(default)]
    iso_code: &'d str,
    #[serde(default)]
    is_in_european_union: bool,
}

#[derive(Default, Deserialize)]
struct PlaceNames<'d> {
    #[serde(default)]
    en: &'d str,
}

#[derive(Default, Deserialize)]
struct Location<'d> {
    latitude: Option<f64>,
    longitude: Option<f64>,
    #[serde(default)]
    time_zone: &'d str,
}

/// A record with the schema of an autonomous system.
#[derive(Default, Deserialize)]
struct SystemRecord<'d> {
    #[serde(default, deserialize_with = "any_number")]
    autonomous_system_number: u64,
    #[serde(default)]
    autonomous_system_organization: &'d str,
}

/// Reads a number of any size: not every database has the size of MaxMind's.
fn any_number<'d, D: serde::Deserializer<'d>>(from: D) -> Result<u64, D::Error> {
    struct AnyNumber;
    impl serde::de::Visitor<'_> for AnyNumber {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an unsigned number")
        }

        fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }
    }
    from.deserialize_any(AnyNumber)
}

/// Parses the directive, and reads the database.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = None;
    let mut edns_subnet = false;
    for (number, stanza) in stanzas.iter().enumerate() {
        let mut line = Arguments::of(stanza, context.diagnostics);
        match line.word("the path of a MaxMind database") {
            Some(path) if number > 0 => line.error(path, "configuring multiple databases is not supported"),
            Some(path) => match Database::read(&path.text) {
                Ok(database) => config = Some(database),
                Err(error) => {
                    let message = format!("failed to open database file '{}': {error}", path.text);
                    line.error_expected(path, message, "a database of the type City, Country, Enterprise, ISP or ASN");
                }
            },
            None => {}
        }
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "edns-subnet" => edns_subnet = true,
                _ => inner.unknown(["edns-subnet"]),
            }
            inner.finish();
        }
        line.finish();
    }
    let config = config.filter(|_| errors == context.diagnostics.has_errors());
    config.map(|database| Config { database, edns_subnet })
}

impl Database {
    /// Reads a file, and checks it.
    fn read(path: &str) -> Result<Database, DatabaseError> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(DatabaseError::Unsuitable("it is not a file"));
        }
        if metadata.len() > MAX_SIZE {
            return Err(DatabaseError::Unsuitable("it is larger than 1 GiB"));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.take(MAX_SIZE).read_to_end(&mut bytes)?;
        Database::of(bytes.into())
    }

    /// Checks the content of a file.
    fn of(bytes: Arc<[u8]>) -> Result<Database, DatabaseError> {
        let reader = Arc::new(Reader::from_source(bytes.clone())?);
        let database_type = &reader.metadata().database_type;
        let schemas = Schemas::of(database_type).ok_or_else(|| DatabaseError::OtherType(database_type.clone()))?;
        let database = Database { bytes, reader: reader.clone(), schemas };
        for found in reader.networks(Default::default())?.take(CHECKED_NETWORKS) {
            let found = found?;
            if schemas.city {
                found.decode::<CityRecord<'_>>()?;
            }
            if schemas.asn {
                found.decode::<SystemRecord<'_>>()?;
            }
        }
        Ok(database)
    }

    /// Returns the value of a label, which has no `geoip/`. Returns `None` if the database does not define it, and for
    /// an address that it cannot have.
    fn value(&self, label: &str, address: IpAddr) -> Option<String> {
        match label {
            "asn/number" | "asn/org" if self.schemas.asn => {
                let record: SystemRecord<'_> = self.reader.lookup(address).ok()?.decode().ok()?.unwrap_or_default();
                Some(match label {
                    "asn/number" => record.autonomous_system_number.to_string(),
                    _ => record.autonomous_system_organization.to_owned(),
                })
            }
            _ if self.schemas.city && is_label_of_city(label) => {
                let record: CityRecord<'_> = self.reader.lookup(address).ok()?.decode().ok()?.unwrap_or_default();
                Some(record.value(label).into_owned())
            }
            _ => None,
        }
    }
}

/// The labels of a city, without `geoip/`.
fn is_label_of_city(label: &str) -> bool {
    matches!(
        label,
        "city/name"
            | "country/code"
            | "country/name"
            | "country/is_in_european_union"
            | "continent/code"
            | "continent/name"
            | "subdivisions/code"
            | "latitude"
            | "longitude"
            | "timezone"
            | "postalcode"
    )
}

impl<'d> CityRecord<'d> {
    /// Returns the value of a label of [`is_label_of_city`].
    fn value(&self, label: &str) -> Cow<'d, str> {
        let number = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default().into();
        match label {
            "city/name" => self.city.names.en.into(),
            "country/code" => self.country.iso_code.into(),
            "country/name" => self.country.names.en.into(),
            "country/is_in_european_union" => self.country.is_in_european_union.to_string().into(),
            "continent/code" => self.continent.code.into(),
            "continent/name" => self.continent.names.en.into(),
            "subdivisions/code" => {
                self.subdivisions.iter().map(|place| place.iso_code).collect::<Vec<_>>().join(",").into()
            }
            "latitude" => number(self.location.latitude),
            "longitude" => number(self.location.longitude),
            "timezone" => self.location.time_zone.into(),
            _ => self.postal.code.into(),
        }
    }
}

/// Returns the address of the client's network in a query, if the query has one and it is valid.
fn subnet_address(query: &Query<'_>) -> Option<IpAddr> {
    let option = query.edns.as_ref()?.option(CLIENT_SUBNET)?;
    let ([f0, f1, bits, _], address) = option.split_first_chunk::<4>()?;
    let bits = usize::from(*bits);
    if address.len() > bits.div_ceil(8) {
        return None;
    }
    let mut bytes = [0; 16];
    bytes.get_mut(..address.len())?.copy_from_slice(address);
    match u16::from_be_bytes([*f0, *f1]) {
        1 if bits <= 32 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        2 if bits <= 128 => Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()),
        _ => None,
    }
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.plugin(GeoIp { config: self.clone() });
        Ok(())
    }
}

/// The plugin.
pub struct GeoIp {
    config: Config,
}

impl Plugin for GeoIp {
    fn name(&self) -> &'static str {
        "geoip"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn metadata(&self, exchange: &Exchange<'_>, label: &str) -> Option<String> {
        let label = label.strip_prefix("geoip/")?;
        let subnet = self.config.edns_subnet.then(|| subnet_address(exchange.received)).flatten();
        let address = subnet.unwrap_or_else(|| exchange.client.remote.ip().to_canonical());
        self.config.database.value(label, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{Folder, read};

    fn bytes(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/data/geoip/{name}.mmdb", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("a database")
    }

    fn value(database: &str, label: &str, address: &str) -> Option<String> {
        let database = Database::of(bytes(database).into()).expect("a database");
        database.value(label, address.parse().expect("an address"))
    }

    #[test]
    fn every_label_has_the_value_of_the_record() {
        for (label, value_of_city) in [
            ("city/name", "Exampleton"),
            ("country/code", "EX"),
            ("country/name", "Exampleland"),
            ("country/is_in_european_union", "true"),
            ("continent/code", "EU"),
            ("continent/name", "Europe"),
            ("subdivisions/code", "ONE,TWO"),
            ("latitude", "51.7521"),
            ("longitude", "-0.5"),
            ("timezone", "Europe/Example"),
            ("postalcode", "EX1"),
        ] {
            assert!(is_label_of_city(label));
            for address in ["192.0.2.77", "2001:db8:1::7"] {
                assert_eq!(value("city", label, address).as_deref(), Some(value_of_city), "{label}");
            }
            let otherwise = if label == "country/is_in_european_union" { "false" } else { "" };
            assert_eq!(value("city", label, "203.0.113.1").as_deref(), Some(otherwise), "{label}");
            assert_eq!(value("asn", label, "192.0.2.77"), None, "{label}");
        }
        assert_eq!(value("city", "latitude", "198.51.100.200").as_deref(), Some("0"));
        assert_eq!(value("city", "longitude", "198.51.100.200").as_deref(), Some("100"));
        for database in ["asn", "isp"] {
            assert_eq!(value(database, "asn/number", "192.0.2.1").as_deref(), Some("64500"));
            assert_eq!(value(database, "asn/org", "192.0.2.1").as_deref(), Some("Example Network"));
            assert_eq!(value(database, "asn/number", "198.51.100.1").as_deref(), Some("4200000000"));
            assert_eq!(value(database, "asn/org", "198.51.100.1").as_deref(), Some(""));
            assert_eq!(value(database, "asn/number", "203.0.113.1").as_deref(), Some("0"));
        }
        assert_eq!(value("asn", "asn/number", "127.0.0.1").as_deref(), Some("64501"), "a number of 16 bits");
        assert_eq!(value("asn", "asn/number", "2001:db8::1"), None, "it has IPv4 addresses only");
        assert_eq!(value("isp", "asn/number", "2001:db8::1").as_deref(), Some("0"));
        assert_eq!(value("city", "asn/number", "192.0.2.1"), None);
        assert_eq!(value("city", "city/other", "192.0.2.1"), None);
    }

    #[test]
    fn errors_say_what_is_wrong_with_the_file() {
        let folder = Folder::new("geoip");
        let path = |name: &str| format!("{}/{name}", folder.path().display());
        std::fs::write(path("empty"), "").expect("written");
        std::fs::write(path("cut"), &bytes("city")[..2_000]).expect("written");
        for name in ["city", "other", "wrong-record"] {
            std::fs::write(path(name), bytes(name)).expect("written");
        }
        let messages = |line: &str| read(line, parse).1;
        assert_eq!(messages(&format!("geoip {}", path("city"))), [""; 0]);
        assert_eq!(messages(&format!("geoip {} {{\n edns-subnet\n}}", path("city"))), [""; 0]);
        for (name, reason) in [
            ("none", "No such file or directory"),
            (".", "it is not a file"),
            ("empty", ""),
            ("cut", ""),
            ("other", "database does not provide any supported schema (city, asn): its type is 'Other-Database'"),
            ("wrong-record", ""),
        ] {
            let messages = messages(&format!("geoip {}", path(name)));
            let [message] = &messages[..] else { panic!("{name}: {messages:?}") };
            assert!(message.starts_with(&format!("failed to open database file '{}': ", path(name))), "{message}");
            assert!(message.contains(reason), "{message}");
        }
        let city = path("city");
        for (line, message) in [
            ("geoip".to_owned(), "Wrong argument count or unexpected line ending after 'geoip'"),
            (format!("geoip {city} x"), "Wrong argument count or unexpected line ending after 'x'"),
            (format!("geoip {city}\ngeoip {city}"), "configuring multiple databases is not supported"),
            (format!("geoip {city} {{\n edns_subnet\n}}"), "unknown property 'edns_subnet' (edns-subnet?)"),
        ] {
            assert_eq!(messages(&line), [message], "{line}");
        }
    }

    #[test]
    fn a_corrupt_database_is_an_error_or_has_no_values() {
        let all = ["192.0.2.1", "198.51.100.200", "2001:db8:1::1", "127.0.0.1", "0.0.0.0", "::", "255.255.255.255"];
        let (mut opened, mut refused) = (0, 0);
        for name in ["city", "asn"] {
            let right = bytes(name);
            for at in 0..right.len() {
                for change in [0xff_u8, 0x01, 0x80] {
                    let mut wrong = right.clone();
                    wrong[at] ^= change;
                    match Database::of(wrong.into()) {
                        Ok(database) => {
                            opened += 1;
                            for address in all {
                                let address = address.parse().expect("an address");
                                let _ = (database.value("city/name", address), database.value("asn/org", address));
                            }
                        }
                        Err(_) => refused += 1,
                    }
                }
            }
            for len in 0..right.len() {
                assert!(Database::of(right[..len].into()).is_err(), "{name} of {len} bytes");
            }
        }
        assert!(opened > 1_000 && refused > 1_000, "{opened} {refused}");
    }

    #[test]
    fn the_network_of_a_client_is_read_from_the_query() {
        let address = |option: &[u8]| {
            let mut packet = crate::plugins::testing::packet("a.example.", crate::wire::Type::A, Some(1232));
            let at = packet.len() - 2;
            packet.truncate(at);
            packet.extend(((option.len() + 4) as u16).to_be_bytes());
            packet.extend([0, 8, 0, option.len() as u8]);
            packet.extend(option);
            subnet_address(&Query::parse(&packet).expect("a query")).map(|address| address.to_string())
        };
        assert_eq!(address(&[0, 1, 24, 0, 192, 0, 2]).as_deref(), Some("192.0.2.0"));
        assert_eq!(address(&[0, 1, 32, 0, 192, 0, 2, 9]).as_deref(), Some("192.0.2.9"));
        assert_eq!(address(&[0, 2, 32, 0, 0x20, 1, 0xd, 0xb8]).as_deref(), Some("2001:db8::"));
        assert_eq!(address(&[0, 1, 0, 0]).as_deref(), Some("0.0.0.0"));
        for wrong in [&[][..], &[0, 1, 24], &[0, 3, 24, 0, 1, 2, 3], &[0, 1, 33, 0, 1, 2, 3, 4, 5], &[0, 1, 8, 0, 1, 2]]
        {
            assert_eq!(address(wrong), None, "{wrong:?}");
        }
    }
}
