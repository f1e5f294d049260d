//! The functions by which an expression reads a query (CoreDNS `plugin/pkg/expression`), for *template* and *view*.

use std::net::IpAddr;

use ipnet::IpNet;

use super::error::EvaluationError;
use super::scope::ExprScope;
use super::types::{ExprFunction, KnownNames, Simple};
use super::value::ExprValue;
use crate::chain::Exchange;
use crate::wire::{MAX_MESSAGE, MIN_UDP, header};

/// The functions.
pub static FUNCTIONS: &[ExprFunction] = &[
    function("incidr", &[Simple::Text, Simple::Text], Simple::Bool),
    function("metadata", &[Simple::Text], Simple::Text),
    function("type", &[], Simple::Text),
    function("name", &[], Simple::Text),
    function("class", &[], Simple::Text),
    function("proto", &[], Simple::Text),
    function("size", &[], Simple::Int),
    function("client_ip", &[], Simple::Text),
    function("port", &[], Simple::Text),
    function("id", &[], Simple::Int),
    function("opcode", &[], Simple::Int),
    function("do", &[], Simple::Bool),
    function("bufsize", &[], Simple::Int),
    function("server_ip", &[], Simple::Text),
    function("server_port", &[], Simple::Text),
];

const fn function(name: &'static str, parameters: &'static [Simple], result: Simple) -> ExprFunction {
    ExprFunction { name, parameters, result }
}

/// A query as the only source of values: there are no variables.
pub struct QueryScope<'q>(pub &'q Exchange<'q>);

impl QueryScope<'_> {
    /// Returns the names of this scope.
    pub fn names() -> KnownNames {
        KnownNames::of(FUNCTIONS)
    }
}

impl ExprScope for QueryScope<'_> {
    fn variable(&self, _: &str) -> ExprValue {
        ExprValue::Nil
    }

    fn call(&self, name: &str, arguments: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
        call(self.0, name, arguments)
    }
}

/// Calls a function of the table about a query.
pub fn call(exchange: &Exchange<'_>, name: &str, arguments: &[ExprValue]) -> Result<ExprValue, EvaluationError> {
    let question = exchange.question();
    let client = &exchange.client;
    Ok(match (name, arguments) {
        ("incidr", [ExprValue::Text(address), ExprValue::Text(network)]) => {
            ExprValue::Bool(is_within(address, network)?)
        }
        ("metadata", [ExprValue::Text(label)]) => ExprValue::text(exchange.metadata(label).unwrap_or_default()),
        ("type", []) => ExprValue::text(question.qtype.to_string()),
        ("name", []) => ExprValue::text(question.name().to_string()),
        ("class", []) => ExprValue::text(question.qclass.to_string()),
        ("proto", []) => ExprValue::text(client.transport.name()),
        ("client_ip", []) => ExprValue::text(client_address(exchange).to_string()),
        ("port", []) => ExprValue::text(client.remote.port().to_string()),
        ("do", []) => ExprValue::Bool(dnssec_ok(exchange)),
        ("server_ip", []) => ExprValue::text(server_address(exchange).to_string()),
        ("server_port", []) => ExprValue::text(client.local.port().to_string()),
        (name, []) if let Some(number) = QueryNumber::named(name) => ExprValue::Int(number.of(exchange)),
        _ => return EvaluationError::words(format!("cannot call {name}")),
    })
}

/// A number of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryNumber {
    Size,
    Id,
    Opcode,
    Bufsize,
}

impl QueryNumber {
    /// Returns the number that a function of this name returns.
    pub(super) fn named(name: &str) -> Option<QueryNumber> {
        Some(match name {
            "size" => QueryNumber::Size,
            "id" => QueryNumber::Id,
            "opcode" => QueryNumber::Opcode,
            "bufsize" => QueryNumber::Bufsize,
            _ => return None,
        })
    }

    /// Returns the number of a query.
    pub(super) fn of(self, exchange: &Exchange<'_>) -> i64 {
        let packet = exchange.query.packet();
        match self {
            QueryNumber::Size => packet.len() as i64,
            QueryNumber::Id => exchange.query.id().into(),
            QueryNumber::Opcode => header::opcode(packet).0.into(),
            // The largest size of the response (CoreDNS `Request.Size`).
            QueryNumber::Bufsize if exchange.client.transport.name() == "tcp" => MAX_MESSAGE as i64,
            QueryNumber::Bufsize => {
                let edns = exchange.query.edns.as_ref();
                edns.map_or(MIN_UDP, |edns| usize::from(edns.size).max(MIN_UDP)) as i64
            }
        }
    }
}

/// Returns the client's address.
pub(super) fn client_address(exchange: &Exchange<'_>) -> IpAddr {
    exchange.client.remote.ip().to_canonical()
}

/// Returns the address that the query was sent to.
pub(super) fn server_address(exchange: &Exchange<'_>) -> IpAddr {
    exchange.client.local.ip().to_canonical()
}

/// Whether the query has the DO bit.
pub(super) fn dnssec_ok(exchange: &Exchange<'_>) -> bool {
    exchange.query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok)
}

fn is_within(address: &str, network: &str) -> Result<bool, EvaluationError> {
    let Ok(address) = address.parse::<IpAddr>() else {
        return EvaluationError::words("first argument is not an IP address");
    };
    let Ok(network) = network.parse::<IpNet>() else {
        return EvaluationError::words(format!("invalid CIDR address: {network}"));
    };
    Ok(network.contains(&address.to_canonical()))
}
