#!/usr/bin/env python3
"""Start, reloads and stop of the server under load: whether anything is lost, leaked, or late.

usage: benches/lifecycle.py [start] [reload] [stop] [--binary target/release/clusterdns] [--coredns FILE] [--rounds 9]
                            [--reloads 1000] [--rate 5000] [--connections 200] [--kubeconfig FILE]

start   milliseconds from exec to the first answer for an external name, and from the last byte of the last list of the
        cluster to /ready; with --coredns the same for CoreDNS, in alternation
reload  SIGUSR1 repeatedly, with two valid Corefiles and an invalid one in turn: unanswered queries, threads, descriptors,
        memory, requests to the API server, and whether /ready was always 200
stop    SIGTERM with a lameduck of 5 s, also with an upstream that takes 300 ms for half of the queries

The load is --rate queries a second over UDP, and ten a second over each of --connections TCP connections, for names of the
sample cluster and of an upstream. A query is lost if it is neither answered nor refused by the kernel, or if its TCP connection
ends before the response. Needs a release build. With --kubeconfig the cluster is that of an API server instead of the manifests
in deploy/sample. Exits with 1 if something was lost, leaked, or unready."""
import argparse, http.server, json, multiprocessing, os, pathlib, queue, random, re, selectors, signal, socket, statistics, struct, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request

here = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
parser.add_argument("what", nargs="*", choices=("start", "reload", "stop", []), default=[])
parser.add_argument("--binary", default=str(here.parent / "target/release/clusterdns"))
parser.add_argument("--coredns")
parser.add_argument("--rounds", type=int, default=9)
parser.add_argument("--reloads", type=int, default=1_000)
parser.add_argument("--rate", type=int, default=5_000)
parser.add_argument("--connections", type=int, default=200)
parser.add_argument("--kubeconfig")
options = parser.parse_args()
wanted = options.what or ["start", "reload", "stop"]
folder = pathlib.Path(tempfile.mkdtemp(prefix="clusterdns-lifecycle-"))
CLUSTER = ["kubernetes.default.svc.cluster.local", "nothing.default.svc.cluster.local"]
failures = []


def free_port():
    """Returns a port that is free for UDP and TCP."""
    while True:
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(("127.0.0.1", tcp.getsockname()[1]))
            except OSError:
                continue
            return tcp.getsockname()[1]


def packet(number, name):
    return struct.pack(">H", number) + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".") if l) + b"\0\0\1\0\1"


# ---- an upstream

def upstream(port, ready):
    """Answers every name with 192.0.2.1, and names that start with "slow" after 300 ms."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("127.0.0.1", port))
    ready.set()
    delayed = queue.Queue()

    def send_delayed():
        while True:
            due, data, client = delayed.get()
            time.sleep(max(0.0, due - time.monotonic()))
            sock.sendto(data, client)

    threading.Thread(target=send_delayed, daemon=True).start()
    while True:
        data, client = sock.recvfrom(4096)
        end = data.index(b"\0", 12) + 5
        answer = data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:end] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
        if data[13:17] == b"slow":
            delayed.put((time.monotonic() + 0.3, answer, client))
        else:
            sock.sendto(answer, client)


# ---- the load

def load_udp(port, rate, names, stop, results):
    """Sends queries at a rate from 16 sockets; reports how many were sent, answered, refused and lost."""
    selector, socks, pending = selectors.DefaultSelector(), [], []
    for at in range(16):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, at)
        socks.append(sock)
        pending.append(set())
    sent = answered = refused = 0
    begin, is_refused = time.monotonic(), False
    end = None
    while True:
        now = time.monotonic()
        if end is None and (stop.is_set() or is_refused):
            end = now + 3
        if end is not None and (now > end or not any(pending)):
            break
        due = int((now - begin) * rate) if end is None else sent
        while sent < due and not is_refused:
            at, number = sent % 16, sent // 16 & 0xFFFF
            try:
                socks[at].send(packet(number, names[sent // 7 % len(names)]))
                pending[at].add(number)
            except ConnectionRefusedError:
                is_refused = True
            sent += 1
        for key, _ in selector.select(0.001):
            try:
                while True:
                    data = key.fileobj.recv(4096)
                    number = data[0] << 8 | data[1]
                    if number in pending[key.data]:
                        pending[key.data].discard(number)
                        answered += 1
            except BlockingIOError:
                pass
            except ConnectionRefusedError:
                # At least one query of this socket was refused; no more are sent.
                is_refused = True
                refused += 1
    left = sum(map(len, pending))
    results.put(("UDP", sent, answered, min(left, refused), max(0, left - refused)))


def load_tcp(port, connections, names, stop, results):
    """Sends ten queries a second over each connection, until the server closes it."""
    selector = selectors.DefaultSelector()
    socks = {}
    for at in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        socks[sock] = [time.monotonic() + at / connections / 10, 0, b""]  # time of the next query, queries in flight, unparsed bytes
    sent = answered = lost = ended = resets = 0
    end = None
    while socks:
        now = time.monotonic()
        if end is None and stop.is_set():
            end = now + 3
        if end is not None and (now > end or not any(state[1] for state in socks.values())):
            break
        for key, _ in selector.select(0.001):
            sock, state = key.fileobj, socks.get(key.fileobj)
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                resets += 1
                data = b""
            state[2] += data
            while len(state[2]) >= 2 and len(state[2]) >= 2 + (length := state[2][0] << 8 | state[2][1]):
                state[2] = state[2][2 + length:]
                state[1] -= 1
                answered += 1
            if not data:
                lost += state[1]
                ended += 1
                selector.unregister(sock)
                socks.pop(sock).clear()
                sock.close()
        if end is None:
            for sock, state in socks.items():
                if state[0] <= now:
                    message = packet(sent & 0xFFFF, names[sent % len(names)])
                    try:
                        sock.send(struct.pack(">H", len(message)) + message)
                    except OSError:
                        continue  # The next read returns the end of the connection.
                    state[0], state[1], sent = state[0] + 0.1, state[1] + 1, sent + 1
    lost += sum(state[1] for state in socks.values())
    results.put(("TCP", sent, answered, 0, lost, ended, resets))


class Load:
    def __init__(self, port, names):
        self.stop, self.results = multiprocessing.Event(), multiprocessing.Queue()
        self.parts = [multiprocessing.Process(target=load_udp, args=(port, options.rate, names, self.stop, self.results), daemon=True),
                      multiprocessing.Process(target=load_tcp, args=(port, options.connections, names, self.stop, self.results), daemon=True)]
        for part in self.parts:
            part.start()

    def end(self, title):
        """Waits for the last responses; prints the result, and records losses."""
        self.stop.set()
        for kind, sent, answered, refused, lost, *rest in sorted([self.results.get(timeout=60) for _ in self.parts], reverse=True):
            more = f", {rest[0]} connections closed by the server, {rest[1]} reset" if rest else ""
            print(f"  {kind}: {sent:,} sent, {answered:,} answered, {refused} refused at the end, {lost} lost{more}", flush=True)
            if lost or (rest and rest[1]):
                failures.append(f"{title}: {kind}: {lost} lost" + (f", {rest[1]} resets" if rest else ""))


# ---- the server

def corefile(port, pages, outside, ttl=30, more=""):
    cluster = f"        kubeconfig {options.kubeconfig}\n" if options.kubeconfig else ""
    return f""".:{port} {{
    bind 127.0.0.1
    errors
    health 127.0.0.1:{pages[0]} {{
        lameduck 5s
    }}
    ready 127.0.0.1:{pages[1]}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
{cluster}        ttl {ttl}
    }}
    hosts {{
        192.0.2.7 host.example
        fallthrough
    }}
    prometheus 127.0.0.1:{pages[2]}
    forward . 127.0.0.1:{outside}
    cache 30
    loadbalance
    {more}
}}
"""


def start(path, binary=None):
    words = [binary or options.binary, "-conf", str(path)]
    if not options.kubeconfig and not binary:
        words += ["-manifests", str(here.parent / "deploy/sample")]
    log = open(folder / "log", "w")
    return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)


def page(port, path):
    """Returns status and text of a page; status 0 without a response."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def ask(port, name, timeout):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout)
        try:
            udp.connect(("127.0.0.1", port))
            udp.send(packet(1, name))
            return udp.recv(4096)[3] & 15
        except OSError:
            return None


def until(what, done, timeout=30.0):
    begin = time.monotonic()
    while not done():
        if time.monotonic() - begin > timeout:
            sys.exit(f"lifecycle: timeout waiting for {what}: {(folder / 'log').read_text()[-500:]}")
        time.sleep(0.001)


def state(process, pages):
    """Returns threads, descriptors, resident memory in MB, and requests to the API server, which are lists and watches."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    text = page(pages[2], "metrics")[1]
    requests = sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("coredns_kubernetes_rest_client_requests_total{"))
    return (int(re.search(r"Threads:\s+(\d+)", status)[1]), len(os.listdir(f"/proc/{process.pid}/fd")),
            int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, int(requests))


def bench_stop(outside):
    for title, names in (("cluster, hosts and forwarded names", CLUSTER + ["host.example", "cached.example"]),
                         ("half of them from an upstream that takes 300 ms", CLUSTER + [f"slow{n}.example" for n in range(997)])):
        if len(names) > 10:
            names = [name for pair in zip(names[2:], CLUSTER * 500) for name in pair]
        port, pages = free_port(), [free_port() for _ in range(3)]
        path = folder / "Corefile"
        path.write_text(corefile(port, pages, outside))
        process = start(path)
        until("an answer", lambda: ask(port, CLUSTER[0], 0.2) == 0)
        print(f"stop, {title}", flush=True)
        load = Load(port, names)
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        time.sleep(0.3)
        ready, health = page(pages[1], "ready")[0], page(pages[0], "health")[0]
        # Clients continue until the last moment, and some beyond it.
        status = process.wait(30)
        took = time.monotonic() - begin
        load.end(f"stop, {title}")
        print(f"  exit status {status} after {took:.1f} s; during lameduck /ready {ready}, /health {health}", flush=True)
        if (status, ready, health) != (0, 503, 200):
            failures.append(f"stop: exit status {status}, /ready {ready}, /health {health}")


def bench_reload(outside):
    port, pages = free_port(), [free_port() for _ in range(3)]
    path = folder / "Corefile"
    texts = [corefile(port, pages, outside), corefile(port, pages, outside, ttl=20, more="nsid\n    minimal"), corefile(port, pages, outside, more="cahce 30")]
    path.write_text(texts[0])
    process = start(path)
    until("an answer", lambda: ask(port, CLUSTER[0], 0.2) == 0)
    until("/ready", lambda: page(pages[1], "ready")[0] == 200)
    print(f"reload, {options.reloads:,} times", flush=True)
    load = Load(port, CLUSTER + ["host.example", "cached.example"])
    readiness, over = [], threading.Event()

    def watch():
        while not over.wait(0.02):
            readiness.append(page(pages[1], "ready")[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    log, first = folder / "log", None
    begin = time.monotonic()
    for round in range(1, options.reloads + 1):
        path.write_text(texts[round % 3])
        before = log.stat().st_size
        process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            logged = log.read_bytes()[before:]
            if b"Reloading complete" in logged or b"reload failed" in logged:
                break
            time.sleep(0.002)
        else:
            sys.exit(f"lifecycle: timeout of reload {round}")
        if round in (30, options.reloads) or round % 250 == 0:
            first = first or state(process, pages)
            threads, files, memory, requests = state(process, pages)
            print(f"  {round:5}: {threads} threads, {files} descriptors, {memory:.1f} MB, {requests} requests to the API server", flush=True)
    last = state(process, pages)
    over.set()
    watcher.join()
    load.end("reload")
    failed = sum(float(line.rsplit(" ", 1)[1]) for line in page(pages[2], "metrics")[1].splitlines() if line.startswith("coredns_reload_failed_total"))
    bad = sum(1 for round in range(1, options.reloads + 1) if round % 3 == 2)
    took = time.monotonic() - begin
    print(f"  {options.reloads / took:.0f} a second; failed {failed:.0f} of {bad} invalid ones; /ready requested {len(readiness):,} times, {sum(1 for code in readiness if code != 200)} not 200", flush=True)
    if failed != bad:
        failures.append(f"reload: {failed} failed of {bad} invalid ones")
    if any(code != 200 for code in readiness):
        failures.append("reload: /ready was not 200")
    # The load opens and closes connections; memory settles.
    if last[0] > first[0] or last[1] > first[1] + 4 or last[2] > first[2] * 1.2 + 2 or last[3] != first[3]:
        failures.append(f"reload: resources leaked: {first} became {last}")
    process.terminate()
    process.wait(30)


class Api(http.server.BaseHTTPRequestHandler):
    """An API server of an empty cluster, which sends its last list when `api.go` is set."""
    protocol_version = "HTTP/1.1"
    KINDS = {"/api/v1/services": ("v1", "Service"), "/api/v1/namespaces": ("v1", "Namespace"),
             "/apis/discovery.k8s.io/v1/endpointslices": ("discovery.k8s.io/v1", "EndpointSlice")}

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path not in self.KINDS or "sendInitialEvents" in query:
            # Lists are not streamed here, and no other resource is required.
            return self.respond(404 if path not in self.KINDS else 422, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422})
        version, kind = self.KINDS[path]
        if "watch=" in query:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self.server.over.wait()
        if kind == "EndpointSlice":
            self.server.requested.set()
            self.server.go.wait()
        self.respond(200, {"kind": kind + "List", "apiVersion": version, "metadata": {"resourceVersion": "7"}, "items": []})
        if kind == "EndpointSlice":
            self.server.sent_at = self.server.sent_at or time.monotonic()

    def respond(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def start_api():
    api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    api.daemon_threads, api.block_on_close = True, False
    api.requested, api.go, api.over, api.sent_at = threading.Event(), threading.Event(), threading.Event(), None
    threading.Thread(target=api.serve_forever, args=(0.01,), daemon=True).start()
    return api


def first_answer(name, binary, outside):
    """Returns the milliseconds from exec to the first answer for an external name."""
    port, pages = free_port(), [free_port() for _ in range(3)]
    path = folder / "Corefile"
    text = corefile(port, pages, outside)
    if binary and not options.kubeconfig:
        text = re.sub(r"    kubernetes .*?\n    }\n", "", text, flags=re.S)
    path.write_text(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(0.001)
        udp.connect(("127.0.0.1", port))
        begin = time.monotonic()
        process = start(path, binary)
        answered = None
        while answered is None:
            if time.monotonic() - begin > 30:
                sys.exit(f"lifecycle: {name} does not answer: {(folder / 'log').read_text()[-500:]}")
            try:
                udp.send(packet(1, "first.example"))
                if udp.recv(4096)[3] & 15 == 0:
                    answered = time.monotonic() - begin
            except OSError:
                time.sleep(0.0005)
    process.kill()
    process.wait()
    return answered * 1000


def ready_after_sync(name, binary, outside):
    """Returns the milliseconds from the last list to /ready."""
    api = start_api()
    port, pages = free_port(), [free_port() for _ in range(3)]
    path = folder / "Corefile"
    text = corefile(port, pages, outside).replace("cluster.local in-addr.arpa ip6.arpa {", f"cluster.local {{\n        endpoint http://127.0.0.1:{api.server_port}")
    path.write_text("\n".join(line for line in text.splitlines() if "kubeconfig" not in line))
    log = open(folder / "log", "w")
    process = subprocess.Popen([binary or options.binary, "-conf", str(path)], stdout=log, stderr=subprocess.STDOUT)
    if not api.requested.wait(30):
        sys.exit(f"lifecycle: {name} requests no list: {(folder / 'log').read_text()[-500:]}")
    time.sleep(0.3 + 0.1 * random.random())
    if page(pages[1], "ready")[0] == 200:
        sys.exit(f"lifecycle: {name} is ready before its sync")
    api.go.set()
    until("/ready", lambda: page(pages[1], "ready")[0] == 200)
    took = time.monotonic() - api.sent_at
    process.kill()
    process.wait()
    api.over.set()
    api.shutdown()
    api.server_close()
    return took * 1000


def bench_start(outside):
    print(f"start, {options.rounds} rounds", flush=True)
    binaries = {"clusterdns": None, **({"CoreDNS": options.coredns} if options.coredns else {})}
    times = {name: ([], []) for name in binaries}
    for _ in range(options.rounds):
        for name, binary in binaries.items():
            times[name][0].append(first_answer(name, binary, outside))
            times[name][1].append(ready_after_sync(name, binary, outside))
    for name, (answered, ready) in times.items():
        print(f"  {name:10} first answer for an external name {statistics.median(answered):.1f} ms after exec (at most {max(answered):.1f}), "
              f"/ready 200 {statistics.median(ready):.1f} ms after the last list (at most {max(ready):.1f})", flush=True)


outside, is_up = free_port(), multiprocessing.Event()
multiprocessing.Process(target=upstream, args=(outside, is_up), daemon=True).start()
is_up.wait(5)
for what in wanted:
    {"start": bench_start, "reload": bench_reload, "stop": bench_stop}[what](outside)
print("nothing lost, nothing leaked" if not failures else "FAILED: " + "; ".join(failures))
sys.exit(bool(failures))
