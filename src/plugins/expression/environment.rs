//! What an expression may ask of a query (CoreDNS `plugin/pkg/expression`): one table for *template* and *view*.

use std::net::IpAddr;

use ipnet::IpNet;

use super::check::{Function, Simple};
use super::value::Value;
use crate::chain::Exchange;
use crate::wire::encode::MIN_UDP;
use crate::wire::{MAX_MESSAGE, header};

/// The functions.
pub static FUNCTIONS: &[Function] = &[
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

const fn function(name: &'static str, parameters: &'static [Simple], result: Simple) -> Function {
    Function { name, parameters, result }
}

/// Calls a function of the table about a query.
pub fn call(exchange: &Exchange<'_>, name: &str, arguments: &[Value]) -> Result<Value, String> {
    let question = exchange.question();
    let client = &exchange.client;
    let edns = exchange.query.edns.as_ref();
    Ok(match (name, arguments) {
        ("incidr", [Value::Text(address), Value::Text(network)]) => Value::Bool(is_within(address, network)?),
        ("metadata", [Value::Text(label)]) => Value::text(exchange.metadata(label).unwrap_or_default()),
        ("type", []) => Value::text(question.qtype.to_string()),
        ("name", []) => Value::text(question.name().to_string()),
        ("class", []) => Value::text(question.qclass.to_string()),
        ("proto", []) => Value::text(client.transport.name()),
        ("size", []) => Value::Int(exchange.query.packet().len() as i64),
        ("client_ip", []) => Value::text(client.remote.ip().to_canonical().to_string()),
        ("port", []) => Value::text(client.remote.port().to_string()),
        ("id", []) => Value::Int(exchange.query.id().into()),
        ("opcode", []) => Value::Int(header::opcode(exchange.query.packet()).0.into()),
        ("do", []) => Value::Bool(edns.is_some_and(|edns| edns.dnssec_ok)),
        // The size that an answer may have (CoreDNS `Request.Size`).
        ("bufsize", []) if client.transport.name() == "tcp" => Value::Int(MAX_MESSAGE as i64),
        ("bufsize", []) => Value::Int(edns.map_or(MIN_UDP, |edns| usize::from(edns.size).max(MIN_UDP)) as i64),
        ("server_ip", []) => Value::text(client.local.ip().to_canonical().to_string()),
        ("server_port", []) => Value::text(client.local.port().to_string()),
        _ => return Err(format!("cannot call {name}")),
    })
}

fn is_within(address: &str, network: &str) -> Result<bool, String> {
    let address: IpAddr = address.parse().map_err(|_| "first argument is not an IP address".to_owned())?;
    let network: IpNet = network.parse().map_err(|_| format!("invalid CIDR address: {network}"))?;
    Ok(network.contains(&address.to_canonical()))
}
