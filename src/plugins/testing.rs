//! Functions for tests of plugins: they parse lines of a Corefile, and send queries through plugins.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{BlockZones, Context};
use crate::chain::{Answer, Block, Chain, Client, Exchange, Failure, Plugin, Router, State, Step, Transport};
use crate::corefile::{self, Diagnostics, Directive, MemoryFiles};
use crate::wire::{Class, NameBuf, Question, Rcode, Rdata, Type};

pub(super) use crate::files::testing::Folder;

/// Returns the name with this text.
pub(super) fn n(text: &str) -> NameBuf {
    NameBuf::from_text(text).expect("a name")
}

/// Parses these lines of a server block for `example.` and `example.org.`. Returns the configuration, if there is no
/// error, and the messages with their suggestions.
pub(super) fn read<C>(
    lines: &str, parse: impl Fn(&[&Directive], &mut Context<'_>) -> Option<C>,
) -> (Option<C>, Vec<String>) {
    read_in("example example.org", lines, parse)
}

/// Returns the same as [`read`] for a server block with these keys.
pub(super) fn read_in<C>(
    keys: &str, lines: &str, parse: impl Fn(&[&Directive], &mut Context<'_>) -> Option<C>,
) -> (Option<C>, Vec<String>) {
    let mut diagnostics = Diagnostics::new();
    let text = format!("{keys} {{\n{lines}\n}}\n");
    let files = MemoryFiles::default();
    let corefile = corefile::parse_text("Corefile", &text, &files, &super::known, &mut diagnostics);
    let block = corefile.blocks.first().expect("a block");
    let zones: Vec<String> = block.zones().map(str::to_owned).collect();
    let stanzas: Vec<&Directive> = block.directives.iter().collect();
    let (keys, block, root) = (&block.keys, &block.directives, None);
    let config = parse(
        &stanzas,
        &mut Context { keys, zones: BlockZones::new(&zones, block), block, root, diagnostics: &mut diagnostics },
    );
    let messages = diagnostics.iter().map(|diagnostic| {
        let suggestion = diagnostic.suggestion.as_deref().map(|word| format!(" ({word}?)")).unwrap_or_default();
        format!("{}{suggestion}", diagnostic.message)
    });
    assert_eq!(config.is_none(), diagnostics.has_errors(), "there is no configuration exactly if there is an error");
    (config, messages.collect())
}

/// Returns the configuration of lines without errors and warnings.
pub(super) fn config<C>(lines: &str, parse: impl Fn(&[&Directive], &mut Context<'_>) -> Option<C>) -> C {
    let (config, messages) = read(lines, parse);
    assert_eq!(messages, [""; 0]);
    config.expect("a configuration")
}

/// Returns a query with RD as a client sends it. `edns` is the UDP payload size of the OPT record, if there is one.
pub(super) fn packet(name: &str, qtype: Type, edns: Option<u16>) -> Vec<u8> {
    let mut packet = vec![0x04, 0xd2, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    packet.extend(n(name).as_wire());
    packet.extend(qtype.0.to_be_bytes());
    packet.extend(Class::IN.0.to_be_bytes());
    if let Some(size) = edns {
        packet.extend([0, 0, 41]);
        packet.extend(size.to_be_bytes());
        packet.extend([0; 6]);
    }
    packet
}

/// Returns a client that uses UDP.
pub(super) fn client(remote: &str) -> Client {
    let local = SocketAddr::from(([127, 0, 0, 53], 53));
    Client { remote: remote.parse().expect("an address"), local, transport: Transport::Udp }
}

/// Sends a query through these plugins, including their `sent` hooks. Returns the state with the reply.
pub(super) fn send(plugins: Vec<Arc<dyn Plugin>>, packet: &[u8], client: Client, now: Instant) -> State {
    send_through(Chain::new(plugins), packet, client, now)
}

/// Sends a query through a chain. Returns the state with the reply.
pub(super) fn send_through(chain: Chain, packet: &[u8], client: Client, now: Instant) -> State {
    send_noted(chain, packet, client, now, |_| {})
}

/// Sends a query through a chain. `note` adds to the state what the listener knows about the query.
pub(super) fn send_noted(
    chain: Chain, packet: &[u8], client: Client, now: Instant, note: impl FnOnce(&mut State),
) -> State {
    let block = Block { zones: vec![n(".")], chain };
    let router = Arc::new(Router::new(vec![block], false));
    let mut state = State::default();
    let mut out = [0; 4096];
    // No plugin of a test waits, so the state has the reply.
    let _ = router.answer_noted(packet, client, now, &mut state, &mut out, note);
    state
}

/// Sends a query through these plugins, which may wait. Returns the state with the reply.
pub(super) async fn send_and_wait(plugins: Vec<Arc<dyn Plugin>>, packet: &[u8], client: Client) -> State {
    let block = Block { zones: vec![n(".")], chain: Chain::new(plugins) };
    let router = Arc::new(Router::new(vec![block], false));
    let mut state = State::default();
    match router.answer(packet, client, Instant::now(), &mut state, &mut [0; 4096]) {
        Answer::Pending(pending) => pending.finish().await.expect("a reply").into_state(),
        Answer::Send(_) | Answer::Drop => state,
    }
}

/// Sends a query through these plugins. Returns the reply as text, see [`show`].
pub(super) fn ask(plugins: Vec<Arc<dyn Plugin>>, name: &str, qtype: Type) -> String {
    let state = send(plugins, &packet(name, qtype, None), client("127.0.0.1:53342"), Instant::now());
    show(&state, &Question::new(n(name).as_name(), qtype, Class::IN))
}

/// Returns the code of a reply, `aa` if it is authoritative, and the data of its records.
pub(super) fn show(state: &State, question: &Question) -> String {
    let mut text = format!("{}{}", state.reply.rcode, if state.reply.authoritative { " aa" } else { "" });
    for record in state.reply.records() {
        let data = match record.rdata {
            Rdata::A(bytes) => Ipv4Addr::from(bytes).to_string(),
            Rdata::Aaaa(bytes) => Ipv6Addr::from(bytes).to_string(),
            Rdata::Name(name) => state.reply.full_name(name, question.name()).to_string(),
            other => format!("{other:?}"),
        };
        text.push(' ');
        text.push_str(&data);
    }
    text
}

/// A plugin whose function fills the reply.
pub(super) struct Answers<F>(pub F);

impl<F: Fn(&mut Exchange<'_>) + Send + Sync> Plugin for Answers<F> {
    fn name(&self) -> &'static str {
        "answers"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        self.0(exchange);
        Step::Answered
    }
}

/// Returns a plugin that answers with this code, and with this failure, if there is one.
pub(super) fn code(rcode: Rcode, failure: Option<Failure>) -> Arc<dyn Plugin> {
    Arc::new(Answers(move |exchange: &mut Exchange<'_>| {
        exchange.reply().rcode = rcode;
        exchange.state.failure = failure.clone();
    }))
}

/// Calls `look` until its result is settled: the kernel reports only after a while that a file was closed.
pub(super) fn until_settled<T>(mut look: impl FnMut() -> T, is_settled: impl Fn(&T) -> bool) -> T {
    for _ in 0..2_000 {
        let seen = look();
        if is_settled(&seen) {
            return seen;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("the file is still being written after 10 s");
}
