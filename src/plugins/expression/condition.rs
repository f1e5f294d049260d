//! Conditions: expressions that decide something for every query.
//!
//! Comparisons of a query's properties with constants are prepared when the Corefile is read, so that they need neither
//! allocations nor texts; every other part of an expression is evaluated as it is.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Expression;
use super::environment::{QueryNumber, QueryScope, client_address, dnssec_ok, server_address};
use super::error::CompileError;
use super::run;
use super::tree::{Binary, ExprKind, ExprNode, Unary};
use super::value::ExprValue;
use crate::chain::Exchange;
use crate::wire::{Class, NameBuf, Type};

/// A condition about a query.
#[derive(Clone, Debug)]
pub struct QueryCondition {
    expression: Expression,
    /// The tests, which must all hold: those that `and` joins.
    tests: Box<[Test]>,
}

impl PartialEq for QueryCondition {
    fn eq(&self, other: &QueryCondition) -> bool {
        self.expression == other.expression
    }
}

/// A prepared expression.
#[derive(Clone, Debug)]
enum Test {
    All(Box<[Test]>),
    Any(Box<[Test]>),
    Not(Box<Test>),
    Constant(bool),
    /// The property is one of these.
    Type(Box<[Type]>),
    Class(Box<[Class]>),
    Name(Box<[NameBuf]>),
    Protocol(Box<[Box<str>]>),
    Client(Box<[IpAddr]>),
    /// The address is none of these.
    OtherClient(Box<[IpAddr]>),
    ClientPort(Box<[u16]>),
    Server(Box<[IpAddr]>),
    ServerPort(Box<[u16]>),
    ClientWithin(IpNet),
    ServerWithin(IpNet),
    DnssecOk,
    /// A comparison of a number with a constant.
    Number(QueryNumber, Binary, i64),
    /// Any other expression, whose value must be a boolean.
    Other(Box<ExprNode>),
}

impl QueryCondition {
    /// Compiles a condition about a query.
    pub fn compile(text: &str) -> Result<QueryCondition, CompileError> {
        Expression::compile(text, &QueryScope::names()).map(QueryCondition::of)
    }

    /// Prepares an expression whose names are those of [`QueryScope`].
    pub fn of(expression: Expression) -> QueryCondition {
        let tests = match Test::of(&expression.node) {
            Test::All(tests) => tests,
            test => [test].into(),
        };
        QueryCondition { tests, expression }
    }

    /// Whether the condition holds. An expression that fails, or whose value is not a boolean, does not.
    #[inline]
    pub fn holds(&self, exchange: &Exchange<'_>) -> bool {
        self.tests.iter().all(|test| test.result(exchange) == TestResult::True)
    }
}

impl Test {
    fn of(node: &ExprNode) -> Test {
        Test::prepared(node).unwrap_or_else(|| Test::Other(Box::new(node.clone())))
    }

    /// Prepares an expression, if it is one of the common forms.
    fn prepared(node: &ExprNode) -> Option<Test> {
        Some(match &node.kind {
            ExprKind::Constant(ExprValue::Bool(value)) => Test::Constant(*value),
            ExprKind::Unary(Unary::Not, inner) => Test::of(inner).negated(),
            ExprKind::Binary(Binary::And, left, right) => {
                let parts = [left, right].map(|part| match Test::of(part) {
                    Test::All(tests) => tests.into_vec(),
                    test => vec![test],
                });
                Test::All(parts.concat().into())
            }
            ExprKind::Binary(Binary::Or, left, right) => Test::Any([Test::of(left), Test::of(right)].into()),
            ExprKind::Binary(Binary::Equal, left, right) => Test::equal(left, right)?,
            ExprKind::Binary(Binary::NotEqual, left, right) => Test::equal(left, right)?.negated(),
            ExprKind::Binary(Binary::In, left, right) => {
                let ExprKind::Array(items) = &right.kind else { return None };
                let texts: Option<Vec<&str>> = items.iter().map(text).collect();
                Test::one_of(property(left)?, &texts?)?
            }
            ExprKind::Binary(binary, left, right) if binary.is_comparison() => {
                Test::Number(QueryNumber::named(property(left)?)?, *binary, number(right)?)
            }
            ExprKind::Call(callee, arguments) => match (function(callee)?, &arguments[..]) {
                ("do", []) => Test::DnssecOk,
                ("incidr", [address, network]) => {
                    // Without a network, each evaluation fails.
                    let network: IpNet = text(network)?.parse().ok()?;
                    match property(address)? {
                        "client_ip" => Test::ClientWithin(network),
                        "server_ip" => Test::ServerWithin(network),
                        _ => return None,
                    }
                }
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Returns the opposite test.
    fn negated(self) -> Test {
        match self {
            Test::Client(addresses) => Test::OtherClient(addresses),
            test => Test::Not(Box::new(test)),
        }
    }

    /// Prepares the comparison of a property with a constant.
    fn equal(left: &ExprNode, right: &ExprNode) -> Option<Test> {
        let (property, constant) = match property(left) {
            Some(property) => (property, right),
            None => (self::property(right)?, left),
        };
        match QueryNumber::named(property) {
            Some(of) => Some(Test::Number(of, Binary::Equal, number(constant)?)),
            None => Test::one_of(property, &[text(constant)?]),
        }
    }

    /// Prepares the comparison of a property with texts. A text that the property never has is left out.
    fn one_of(property: &str, texts: &[&str]) -> Option<Test> {
        Some(match property {
            "type" => Test::Type(values(texts, Type::from_mnemonic)),
            "class" => Test::Class(values(texts, Class::from_mnemonic)),
            "name" => Test::Name(values(texts, |text| NameBuf::from_text(text).ok().map(|name| name.to_lower()))),
            "proto" => Test::Protocol(texts.iter().map(|text| (*text).into()).collect()),
            "client_ip" => Test::Client(values(texts, |text| text.parse().ok())),
            "server_ip" => Test::Server(values(texts, |text| text.parse().ok())),
            "port" => Test::ClientPort(values(texts, |text| text.parse().ok())),
            "server_port" => Test::ServerPort(values(texts, |text| text.parse().ok())),
            _ => return None,
        })
    }

    /// Tests the query. The most common tests need no call.
    #[inline(always)]
    fn result(&self, exchange: &Exchange<'_>) -> TestResult {
        TestResult::of(match self {
            Test::Type(types) => types.contains(&exchange.question().qtype),
            Test::Client(addresses) => is_client_among(addresses, exchange),
            Test::OtherClient(addresses) => !is_client_among(addresses, exchange),
            _ => return self.other_result(exchange),
        })
    }

    #[inline(never)]
    fn other_result(&self, exchange: &Exchange<'_>) -> TestResult {
        let (question, client) = (exchange.question(), &exchange.client);
        let holds = match self {
            Test::All(tests) => {
                for test in tests {
                    match test.result(exchange) {
                        TestResult::True => {}
                        other => return other,
                    }
                }
                true
            }
            Test::Any(tests) => {
                for test in tests {
                    match test.result(exchange) {
                        TestResult::False => {}
                        other => return other,
                    }
                }
                false
            }
            Test::Not(test) => return test.result(exchange).negated(),
            Test::Constant(value) => *value,
            Test::Type(types) => types.contains(&question.qtype),
            Test::Class(classes) => classes.contains(&question.qclass),
            Test::Name(names) => names.iter().any(|name| name.as_name().eq_ignore_case(question.name())),
            Test::Protocol(names) => names.iter().any(|name| **name == *client.transport.name()),
            Test::Client(addresses) => is_client_among(addresses, exchange),
            Test::OtherClient(addresses) => !is_client_among(addresses, exchange),
            Test::ClientPort(ports) => ports.contains(&client.remote.port()),
            Test::Server(addresses) => addresses.contains(&server_address(exchange)),
            Test::ServerPort(ports) => ports.contains(&client.local.port()),
            Test::ClientWithin(network) => network.contains(&client_address(exchange)),
            Test::ServerWithin(network) => network.contains(&server_address(exchange)),
            Test::DnssecOk => dnssec_ok(exchange),
            Test::Number(of, binary, constant) => {
                let order = of.of(exchange).cmp(constant);
                match binary {
                    Binary::Less => order.is_lt(),
                    Binary::More => order.is_gt(),
                    Binary::LessOrEqual => order.is_le(),
                    Binary::MoreOrEqual => order.is_ge(),
                    _ => order.is_eq(),
                }
            }
            Test::Other(node) => return evaluated(node, exchange),
        };
        TestResult::of(holds)
    }
}

/// Returns whether the client's address is one of these.
#[inline(always)]
fn is_client_among(addresses: &[IpAddr], exchange: &Exchange<'_>) -> bool {
    match exchange.client.remote {
        SocketAddr::V4(client) => addresses.iter().any(|address| *address == IpAddr::V4(*client.ip())),
        SocketAddr::V6(_) => is_v6_client_among(addresses, exchange),
    }
}

/// Apart from the common case, where the compiler would otherwise prepare this address for every condition.
#[cold]
#[inline(never)]
fn is_v6_client_among(addresses: &[IpAddr], exchange: &Exchange<'_>) -> bool {
    addresses.contains(&client_address(exchange))
}

/// The value of a condition. A byte, so that it is returned in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TestResult {
    False,
    True,
    /// The evaluation has failed, or the value is not a boolean.
    Failed,
}

impl TestResult {
    fn of(value: bool) -> TestResult {
        if value { TestResult::True } else { TestResult::False }
    }

    fn negated(self) -> TestResult {
        match self {
            TestResult::False => TestResult::True,
            TestResult::True => TestResult::False,
            TestResult::Failed => TestResult::Failed,
        }
    }
}

/// Evaluates an expression that is not prepared.
#[inline(never)]
fn evaluated(node: &ExprNode, exchange: &Exchange<'_>) -> TestResult {
    match run::run(node, &QueryScope(exchange)) {
        Ok(ExprValue::Bool(value)) => TestResult::of(value),
        Ok(_) | Err(_) => TestResult::Failed,
    }
}

/// Returns the values of texts that are the texts of these values.
fn values<T: Display>(texts: &[&str], parse: impl Fn(&str) -> Option<T>) -> Box<[T]> {
    texts.iter().filter_map(|text| parse(text).filter(|value| value.to_string() == **text)).collect()
}

/// Returns the name of a function that is called without arguments.
fn property(node: &ExprNode) -> Option<&str> {
    match &node.kind {
        ExprKind::Call(callee, arguments) if arguments.is_empty() => function(callee),
        _ => None,
    }
}

fn function(callee: &ExprNode) -> Option<&str> {
    if let ExprKind::Name(name) = &callee.kind { Some(name) } else { None }
}

fn text(node: &ExprNode) -> Option<&str> {
    if let ExprKind::Constant(ExprValue::Text(text)) = &node.kind { Some(text) } else { None }
}

fn number(node: &ExprNode) -> Option<i64> {
    if let ExprKind::Constant(ExprValue::Int(number)) = node.kind { Some(number) } else { None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::chain::{Client, Exchange, Transport};
    use crate::plugins::testing::{Answers, client, packet, send};
    use crate::wire;

    /// Conditions that are prepared as a whole.
    const PREPARED: &[&str] = &[
        "type() == 'A'",
        "'A' == type()",
        "type() != 'TXT'",
        "type() in ['AAAA', 'TYPE65280', 'none']",
        "type() not in ['A', 'MX']",
        "type() == 'TYPE1' or type() == 'a'",
        "class() == 'IN' && not (class() in ['CH'])",
        "name() == 'www.example.'",
        "name() == 'www.example' or name() == 'WWW.example.'",
        "name() in ['a.', 'a\\\\.b.example.']",
        "proto() == 'udp'",
        "proto() in ['tcp', 'tls']",
        "client_ip() == '10.0.0.1'",
        "client_ip() in ['10.0.0.2', '010.0.0.1', '::ffff:10.0.0.1', 'fd00::1', 'FD00::1']",
        "server_ip() == '127.0.0.53'",
        "port() == '4242' and port() != '04242'",
        "server_port() == '53'",
        "incidr(client_ip(), '10.0.0.0/8')",
        "incidr(client_ip(), '10.0.0.77/24')",
        "incidr(client_ip(), 'fd00::/8')",
        "incidr(server_ip(), '127.0.0.0/8')",
        "do()",
        "!do() or false",
        "bufsize() > 1232",
        "bufsize() == 65535",
        "size() <= 40",
        "20 == size() or size() > 33",
        "id() >= 1234 and id() != 7",
        "opcode() == 0 and true",
        "30 != size()",
    ];
    /// Conditions of which parts or all are evaluated.
    const EVALUATED: &[&str] = &[
        "type() == upper('a') and client_ip() == '10.0.0.1'",
        "incidr(name(), '10.0.0.0/8') or true",
        "incidr(client_ip(), 'none') or true",
        "not incidr(client_ip(), 'none')",
        "30 < size() < 40",
        "fromJSON('1')",
        "do() == true",
        "metadata('no/label') == ''",
        "(type() == 'A' ? proto() : 'x') == 'udp'",
        "len(map(1..4000, # + 1)) > 0",
        "1",
        "nil",
    ];

    fn is_prepared(test: &Test) -> bool {
        match test {
            Test::All(tests) | Test::Any(tests) => tests.iter().all(is_prepared),
            Test::Not(test) => is_prepared(test),
            Test::Other(_) => false,
            _ => true,
        }
    }

    #[test]
    fn a_prepared_condition_holds_exactly_if_the_expression_is_true() {
        let (mut held, mut checked) = ([0; 2], 0);
        for (text, prepared) in
            PREPARED.iter().map(|text| (*text, true)).chain(EVALUATED.iter().map(|text| (*text, false)))
        {
            let condition = QueryCondition::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(condition.tests.iter().all(is_prepared), prepared, "{text}");
            for (name, qtype, edns) in [
                ("www.example.", wire::Type::A, None),
                ("WWW.Example.", wire::Type::TXT, Some(4_096)),
                ("a\\.b.example.", wire::Type(65_280), Some(512)),
            ] {
                for (remote, transport) in [
                    ("10.0.0.1:4242", Transport::Udp),
                    ("[::ffff:10.0.0.1]:1", Transport::Https),
                    ("[fd00::1]:65535", Transport::Quic),
                ] {
                    let client = Client { transport, ..client(remote) };
                    let count = Arc::new(AtomicUsize::new(0));
                    let (seen, condition, text) = (count.clone(), condition.clone(), text.to_owned());
                    let plugin = Answers(move |exchange: &mut Exchange<'_>| {
                        let value = condition.expression.run(&QueryScope(exchange));
                        let is_true = value == Ok(ExprValue::Bool(true));
                        assert_eq!(condition.holds(exchange), is_true, "{text}: {value:?}");
                        seen.store(1 + usize::from(is_true), Ordering::Relaxed);
                    });
                    send(vec![Arc::new(plugin)], &packet(name, qtype, edns), client, Instant::now());
                    held[count.load(Ordering::Relaxed) - 1] += 1;
                    checked += 1;
                }
            }
        }
        assert!(checked == 9 * (PREPARED.len() + EVALUATED.len()) && held.iter().all(|count| *count > 100), "{held:?}");
    }
}
