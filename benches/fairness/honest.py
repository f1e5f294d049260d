"""The honest clients of fairness.py, 20 addresses in one process: each asks at its pace for names of the cluster,
cached names, and names that the upstream answers, over UDP, and over persistent and new connections.

usage: honest.py SECONDS RATE CLIENTS PORT TRANSPORT PORT_OF_TRANSPORT NAMES

Prints, as a line of JSON, what was lost and how long answers took. A query is lost when no response arrives within five
seconds, which is how long a stub resolver waits; every name has an address, so that a response without one is an error.
As RFC 7766 asks of clients, a query on a persistent connection that the server closes is sent once more over a new one
and counted as cut."""

import asyncio, collections, json, logging, os, random, sys, time
import protocol

TIMEOUT = 5
SECONDS, RATE, CLIENTS, PORT, TRANSPORT, OWN_PORT, NAMES = sys.argv[1:8]
CLUSTER, CACHED = NAMES.split(","), [f"c{n}.cached.example" for n in range(20)]
# How often of twenty queries each way is taken.
PLAIN = [("udp", 13), ("tcp", 5), ("tcp, new", 2)]
ENCRYPTED = [("udp", 6), ("tcp", 2), (TRANSPORT, 10), (f"{TRANSPORT}, new", 2)]
WAYS = [way for way, share in (PLAIN if TRANSPORT == "tcp" else ENCRYPTED) for _ in range(share)]

# It warns of writes to a connection that the server has closed; the queries are counted.
logging.getLogger("asyncio").setLevel(logging.ERROR)
counts = collections.Counter()
lost, errors = collections.Counter(), collections.Counter()
times, lateness = [], []


class Client:
    """One address, with a persistent connection for each transport."""

    def __init__(self, number):
        self.source, self.open_by_transport = f"127.0.1.{number + 1}", {}
        self.dice = random.Random(number)
        self.number = self.dice.randrange(65536)  # Of the last message: no two in flight have the same.

    def name(self):
        throw = self.dice.random()
        if throw < 0.4:
            return self.dice.choice(CLUSTER)
        return self.dice.choice(CACHED) if throw < 0.65 else f"f{random.getrandbits(60):x}.fast.example"

    async def connection(self, transport):
        """The persistent connection; a new one where there is none or the server has closed it."""
        found = self.open_by_transport.get(transport)
        if found and not (found.done() and (found.exception() or found.result().closed)):
            return await asyncio.shield(found)
        opening = self.open_by_transport[transport] = asyncio.ensure_future(self.open(transport))
        return await asyncio.shield(opening)

    async def open(self, transport):
        return await protocol.connect(transport, self.source, int(PORT if transport == "tcp" else OWN_PORT))

    async def connect(self):
        """Opens the persistent connections, whose handshakes are not what is measured. Where one fails, a query opens
        it again."""
        for transport in {way for way in WAYS if way != "udp" and "," not in way}:
            try:
                await self.connection(transport)
            except OSError:
                pass

    async def exchange(self, way, message):
        if way == "udp":
            return await protocol.ask_udp(self.source, int(PORT), message)
        transport = way.split(",")[0]
        if way != transport:
            connection = await self.open(transport)
            try:
                return await connection.ask(message)
            finally:
                connection.close()
        try:
            return await (await self.connection(transport)).ask(message)
        except OSError:
            counts["cut"] += 1
            return await (await self.connection(transport)).ask(message)

    async def ask(self, way):
        self.number = (self.number + 1) % 65536
        message = protocol.query(self.name(), 0 if way.split(",")[0] in ("https", "quic", "https3") else self.number)
        counts["asked"] += 1
        start = time.monotonic()
        try:
            response = await asyncio.wait_for(self.exchange(way, message), TIMEOUT)
        except (OSError, EOFError, asyncio.TimeoutError):
            lost[way] += 1
            return
        code = response[3] & 15 if len(response) > 12 else None
        if code == 0 and response[6:8] != b"\0\0":
            times.append(time.monotonic() - start)
        else:
            errors[f"{ {2: 'SERVFAIL', 5: 'REFUSED'}.get(code, f'rcode {code}')} over {way}"] += 1

    async def run(self):
        pause, tasks, start = 1 / float(RATE), [], time.monotonic() + self.dice.random() / float(RATE)
        ways = self.dice.sample(WAYS, len(WAYS))
        for number in range(int(float(SECONDS) * float(RATE))):
            await asyncio.sleep(start + number * pause - time.monotonic())
            lateness.append(time.monotonic() - start - number * pause)
            tasks.append(asyncio.create_task(self.ask(ways[number % len(ways)])))
        await asyncio.gather(*tasks)
        for opening in self.open_by_transport.values():
            if opening.done() and not opening.exception():
                opening.result().close()
            opening.cancel()  # Where it is still on its way.


def give_up():
    """Shows what hangs."""
    for task in asyncio.all_tasks():
        task.print_stack()
    os._exit(1)


async def main():
    asyncio.get_running_loop().call_later(int(SECONDS) + 6 * TIMEOUT, give_up)
    clients = [Client(number) for number in range(int(CLIENTS))]
    # One after the other: the handshakes of all at once would take this process a while. They take at most TIMEOUT:
    # what hangs is left to the first query.
    try:
        async with asyncio.timeout(TIMEOUT):
            for client in clients:
                await client.connect()
    except TimeoutError:
        pass
    await asyncio.gather(*(client.run() for client in clients))


asyncio.run(main())
quantile = lambda values, part: sorted(values)[int(len(values) * part)] * 1e3 if values else 0
print(
    json.dumps(
        {
            "asked": counts["asked"],
            "lost": lost,
            "errors": errors,
            "cut": counts["cut"],
            "late": quantile(lateness, 0.99),
            "p50": quantile(times, 0.5),
            "p99": quantile(times, 0.99),
        }
    )
)
