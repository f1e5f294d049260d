"""The hostile client of fairness.py over encrypted transports, from 127.0.0.2. Plain UDP and TCP are load.c's.

usage: hostile.py KIND PORT SECONDS CONNECTIONS [STREAMS]

Keeps CONNECTIONS connections open, and opens those again that the server closes; prints what it did as a line of JSON
at the end or at SIGTERM."""

import asyncio, json, resource, select, signal, socket, struct, sys, threading, time
import protocol

SOURCE, THREADS = "127.0.0.2", 8
KIND, PORT, SECONDS, CONNECTIONS = sys.argv[1], *map(int, sys.argv[2:5])
STREAMS = int(sys.argv[5]) if len(sys.argv) > 5 else 1
BEGIN = time.monotonic()
stopped = threading.Event()
counts = {"opened": 0, "failures": 0, "open": 0}
lock = threading.Lock()
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


def at_end():
    return stopped.is_set() or time.monotonic() > BEGIN + SECONDS


def count(**by):
    with lock:
        for key, more in by.items():
            counts[key] += more


def payload():
    """What is sent after the handshake."""
    if KIND == "tls-idle":
        return protocol.framed(protocol.query("web.shop.svc.cluster.local"))
    if KIND == "tls-prefix":
        return struct.pack("!H", 64)
    start = protocol.PREFACE + protocol.frame(protocol.SETTINGS, 0, 0)
    half = protocol.query("half.slow.example")[:20] if KIND == "https-streams" else b""
    for stream in range(1, 2 * STREAMS, 2):
        start += protocol.request(stream, 64) + (protocol.frame(protocol.DATA, 0, stream, half) if half else b"")
    return start


def hold(number, bytes):
    """A thread's share of the connections."""
    context, held = protocol.tls_context(*(("h2",) if KIND.startswith("https") else ())), {}
    watched = select.poll()
    while not at_end():
        if len(held) < number:
            try:
                tcp = socket.create_connection((protocol.SERVER, PORT), 1, (SOURCE, 0))
                tls = context.wrap_socket(tcp, server_hostname="dns.example")
                tls.sendall(bytes)
                held[tls.fileno()] = tls
                watched.register(tls.fileno(), select.POLLRDHUP)
                count(opened=1, open=1)
            except OSError:
                count(failures=1)
                time.sleep(0.02)
        for descriptor, _ in watched.poll(0 if len(held) < number else 50):
            watched.unregister(descriptor)
            held.pop(descriptor).close()
            count(failures=1, open=-1)


def threads():
    bytes = payload()
    shares = [len(range(number, CONNECTIONS, THREADS)) for number in range(THREADS)]
    all = [threading.Thread(target=hold, args=(share, bytes)) for share in shares]
    for one in all:
        one.start()
    for one in all:
        one.join()


async def hold_quic(transport, handshakes):
    while not at_end():
        try:
            async with handshakes:
                one = await asyncio.wait_for(protocol.connect(transport, SOURCE, PORT), 2)
        except (OSError, asyncio.TimeoutError):
            count(failures=1)
            await asyncio.sleep(0.05)
            continue
        for _ in range(STREAMS):
            one.begin(protocol.query("half.slow.example", 0), finished=False)
        one.transmit()
        count(opened=1, open=1)
        while not one.closed and not at_end():
            await asyncio.sleep(0.2)
        if one.closed:
            count(failures=1, open=-1)
        one.abort()


async def quic():
    handshakes = asyncio.Semaphore(THREADS)
    await asyncio.gather(*(hold_quic(KIND.split("-")[0], handshakes) for _ in range(CONNECTIONS)))


signal.signal(signal.SIGTERM, lambda *_: stopped.set())
asyncio.run(quic()) if KIND.split("-")[0] in ("quic", "https3") else threads()
print(json.dumps({"seconds": time.monotonic() - BEGIN, **counts}))
