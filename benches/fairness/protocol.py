"""Messages and connections of the clients in fairness.py, over every transport. A connection has `ask`, which returns
the response to a query or raises ConnectionError, and `close`. QUIC needs aioquic; everything else only Python."""

import asyncio, functools, secrets, socket, ssl, struct

try:
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import DataReceived
    from aioquic.quic import events
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection
except ImportError:
    QuicConnectionProtocol = object

SERVER = "127.0.0.1"
QUIC = QuicConnectionProtocol is not object
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def query(name, number=None):
    """A query for the name's IPv4 address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    number = secrets.randbelow(65536) if number is None else number
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def framed(message):
    return struct.pack("!H", len(message)) + message


def frame(kind, flags, stream, payload=b""):
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def request(stream, length, flags=END_HEADERS):
    """The headers of a POST to /dns-query. Indexes are those of HPACK's static table; the dynamic one stays empty."""
    media = b"application/dns-message"
    fields = {
        b"\x04": b"/dns-query",
        b"\x01": b"dns.example",
        b"\x0f\x10": media,
        b"\x0f\x04": media,
        b"\x0f\x0d": str(length).encode(),
    }
    block = b"\x83\x87" + b"".join(index + bytes([len(value)]) + value for index, value in fields.items())
    return frame(HEADERS, flags, stream, block)


@functools.cache
def tls_context(*protocols):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def client_hello():
    """The first bytes of a TLS connection, and no more."""
    out = ssl.MemoryBIO()
    try:
        tls_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="dns.example").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


async def ask_udp(source, port, message):
    """The response to a query from a new port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        udp.bind((source, 0))
        udp.connect((SERVER, port))
        udp.send(message)
        while (response := await asyncio.get_running_loop().sock_recv(udp, 4096))[:2] != message[:2]:
            pass
        return response


class Waiting(dict):
    """The queries of a connection without a response, by message ID or stream."""

    closed = False

    async def response(self, key):
        if self.closed:
            raise ConnectionError
        self[key] = asyncio.get_running_loop().create_future()
        try:
            return await self[key]
        finally:
            self.pop(key, None)

    def answer(self, key, message):
        if key in self and not self[key].done():
            self[key].set_result(message)

    def fail(self, keys):
        for future in [self[key] for key in keys if key in self]:
            if not future.done():
                future.set_exception(ConnectionError())

    def close(self):
        self.closed = True
        self.fail(list(self))


class Stream:
    """DNS over TCP and TLS (RFC 7766, RFC 7858)."""

    protocols = ()
    # The server wants no more queries on it.
    going = False

    def __init__(self, reader, writer):
        self.reader, self.writer, self.waiting = reader, writer, Waiting()
        self.begin()
        self.task = asyncio.create_task(self.run())

    @classmethod
    async def open(cls, source, port, tls):
        context = tls_context(*cls.protocols) if tls else None
        return cls(*await asyncio.open_connection(SERVER, port, local_addr=(source, 0), ssl=context))

    def begin(self):
        pass

    async def run(self):
        try:
            while True:
                await self.receive()
        except (OSError, asyncio.IncompleteReadError):
            self.waiting.close()
            self.writer.transport.abort()

    async def receive(self):
        (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        message = await self.reader.readexactly(length)
        self.waiting.answer(message[:2], message)

    async def ask(self, message):
        self.check_open()
        self.writer.write(framed(message))
        return await self.waiting.response(message[:2])

    @property
    def closed(self):
        return self.waiting.closed or self.going or self.writer.transport.is_closing()

    def check_open(self):
        if self.closed:
            raise ConnectionError

    def close(self):
        self.task.cancel()
        self.waiting.close()
        self.writer.transport.abort()


class Https(Stream):
    """DNS over HTTPS with HTTP/2 (RFC 8484)."""

    protocols = ("h2",)

    def begin(self):
        self.stream = -1
        self.writer.write(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 1 << 30)))

    async def receive(self):
        head = await self.reader.readexactly(9)
        kind, flags, stream = head[3], head[4], struct.unpack("!I", head[5:])[0]
        payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        if kind == DATA and payload:
            self.waiting.answer(stream, payload)
        elif kind == RESET or kind == HEADERS and flags & END_STREAM:
            self.waiting.fail([stream])
        elif kind == GOAWAY:
            # What it has begun is still answered.
            self.going, last = True, struct.unpack("!I", payload[:4])[0]
            self.waiting.fail([one for one in self.waiting if one > last])
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self.writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))

    async def ask(self, message):
        self.check_open()
        self.stream += 2
        self.writer.write(request(self.stream, len(message)) + frame(DATA, END_STREAM, self.stream, message))
        return await self.waiting.response(self.stream)


class Quic(QuicConnectionProtocol):
    """DNS over QUIC (RFC 9250)."""

    protocol = "doq"

    def __init__(self, *words, **named):
        super().__init__(*words, **named)
        self.waiting, self.received = Waiting(), {}

    @classmethod
    async def open(cls, source, port, _):
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=[cls.protocol], verify_mode=ssl.CERT_NONE, server_name="dns.example"
        )
        create = lambda: cls(QuicConnection(configuration=configuration))
        transport, one = await asyncio.get_running_loop().create_datagram_endpoint(create, local_addr=(source, 0))
        try:
            one.connect((SERVER, port))
            await one.wait_connected()
        except BaseException:
            transport.abort()
            raise
        return one

    def transmit(self):
        # Timers of aioquic outlive the socket.
        if not self._transport.is_closing():
            super().transmit()

    def quic_event_received(self, event):
        if isinstance(event, events.ConnectionTerminated):
            self.waiting.close()
        elif isinstance(event, (events.StreamReset, events.StopSendingReceived)):
            self.waiting.fail([event.stream_id])
        else:
            self.receive(event)

    def receive(self, event):
        if isinstance(event, events.StreamDataReceived):
            got = self.received[event.stream_id] = self.received.get(event.stream_id, b"") + event.data
            if event.end_stream:
                self.waiting.answer(event.stream_id, self.received.pop(event.stream_id)[2:] or got)

    def begin(self, message, finished=True):
        """Sends a query; returns its stream."""
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, framed(message) if finished else framed(message)[:20], finished)
        return stream

    async def ask(self, message):
        if self.waiting.closed:
            raise ConnectionError
        stream = self.begin(message)
        self.transmit()
        return await self.waiting.response(stream)

    @property
    def closed(self):
        return self.waiting.closed

    def close(self):
        self.waiting.close()
        super().close()
        self.abort()

    def abort(self):
        """Closes the socket; nothing is sent to the server."""
        self._transport.abort()


class Https3(Quic):
    """DNS over HTTP/3."""

    protocol = "h3"

    def __init__(self, *words, **named):
        super().__init__(*words, **named)
        self.http = H3Connection(self._quic)

    def receive(self, event):
        for found in self.http.handle_event(event):
            if isinstance(found, DataReceived):
                self.received[found.stream_id] = self.received.get(found.stream_id, b"") + found.data
            if getattr(found, "stream_ended", False):
                self.waiting.answer(found.stream_id, self.received.pop(found.stream_id, b""))

    def begin(self, message, finished=True):
        stream = self._quic.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "dns.example",
            ":path": "/dns-query",
            "content-type": "application/dns-message",
            "accept": "application/dns-message",
            "content-length": str(len(message)),
        }
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in headers.items()])
        self.http.send_data(stream, message if finished else message[:20], finished)
        return stream


TRANSPORTS = {"tcp": Stream, "tls": Stream, "https": Https, "quic": Quic, "https3": Https3}


async def connect(transport, source, port):
    """Opens a connection from an address."""
    return await TRANSPORTS[transport].open(source, port, transport != "tcp")
