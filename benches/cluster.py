#!/usr/bin/env python3
"""Following a large cluster: this server beside CoreDNS, on the same real API server in the same run.

usage: benches/cluster.py [--bin FOLDERS] [--binary target/release/clusterdns] [--services 10000] [--endpoints 15]
                          [--cluster FOLDER] [--rounds 3] [--json FILE]

Fills an API server with Services (every fifth headless) and slices. Then it measures for each server: CPU and time until it
answers for the last Service; memory after that; the high water mark after the API server was killed and started again, which
makes every watch repeat its list; CPU of a slice event of 100 endpoints; the time from the last byte of an event to the first
new answer; and for this server, how much throughput 100 such events a second cost.

Needs etcd, kube-apiserver and coredns in --bin (`cargo test --test live` builds them into .testbed), dnsperf for the last
part, openssl. With --cluster the filled store stays for the next run."""
import argparse, glob, http.client, json, os, pathlib, queue, shutil, signal, socket, ssl, statistics, subprocess, sys, tempfile, threading, time

HERE = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
parser.add_argument("--bin", default=":".join(glob.glob(str(HERE.parent / ".testbed/*/"))))
parser.add_argument("--binary", default=str(HERE.parent / "target/release/clusterdns"))
parser.add_argument("--services", type=int, default=10_000)
parser.add_argument("--endpoints", type=int, default=15)
parser.add_argument("--cluster")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--json")
options = parser.parse_args()

NAMESPACES, BUSY, RATE = 50, 100, 100  # BUSY headless Services of 100 endpoints change, RATE times a second.
STILL = {"bench": "still"}  # The label of everything that never changes.
TOKEN = "bench"
LAST = f"svc-{options.services - 1}.ns{(options.services - 1) % NAMESPACES}.svc.cluster.local"
folder = pathlib.Path(options.cluster or tempfile.mkdtemp(prefix="clusterdns-cluster-"))
folder.mkdir(parents=True, exist_ok=True)
children = []


def tool(name):
    found = shutil.which(name, path=f"{options.bin}:{os.environ['PATH']}")
    return found or sys.exit(f"cluster: {name} is neither in --bin nor on PATH; cargo test --test live builds it")


def spawn(words, log):
    process = subprocess.Popen(words, stdout=open(folder / log, "w"), stderr=subprocess.STDOUT, start_new_session=True)
    children.append(process)
    return process


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(what, done, timeout=300.0):
    """Waits until `done` is true, and returns the seconds that took."""
    start = time.monotonic()
    while not done():
        if time.monotonic() - start > timeout:
            sys.exit(f"cluster: timeout waiting for {what}")
        time.sleep(0.002)
    return time.monotonic() - start


# ---- the control plane

ETCD, PEER, PORT = free_port(), free_port(), free_port()


def start_etcd():
    return spawn([tool("etcd"), "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync", "--quota-backend-bytes", str(8 << 30),
                  "--listen-client-urls", f"http://127.0.0.1:{ETCD}", "--advertise-client-urls", f"http://127.0.0.1:{ETCD}",
                  "--listen-peer-urls", f"http://127.0.0.1:{PEER}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{PEER}",
                  "--initial-cluster", f"default=http://127.0.0.1:{PEER}", "--force-new-cluster=" + str((folder / "etcd").exists()).lower()], "etcd.log")


def start_api():
    api = spawn([tool("kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{ETCD}", "--service-account-issuer=https://kubernetes.default.svc",
                 f"--service-account-key-file={folder}/sa.pub", f"--service-account-signing-key-file={folder}/sa.key",
                 "--service-cluster-ip-range=10.96.0.0/15", "--authorization-mode=RBAC", f"--token-auth-file={folder}/tokens.csv",
                 f"--cert-dir={folder}/certs", f"--secure-port={PORT}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
                 "--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000", "--endpoint-reconciler-type=none", "--profiling=false"], "apiserver.log")
    until("the API server", lambda: call("GET", "/readyz")[0] == 200, 120)
    return api


trust = ssl._create_unverified_context()
local = threading.local()


def call(verb, path, body=None):
    """Sends a request to the API server; returns status and body. Each thread reuses its connection."""
    for fresh in (False, True):
        if fresh or not getattr(local, "connection", None):
            local.connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=trust, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            local.connection.request(verb, path, body and json.dumps(body), headers)
            answer = local.connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            pass
        except http.client.HTTPException:
            pass
    local.connection = None
    return 0, b""


SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"


def service(name, ns, headless):
    labels = {} if ns == "bench" else STILL
    spec = {"ports": [{"name": "http", "port": 80}, {"name": "metrics", "port": 9090}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": ns, "labels": labels}, "spec": {**spec, **({"clusterIP": "None"} if headless else {})}}


def slice_of(name, ns, first, count, hostname=None):
    address = lambda n: f"172.{16 + (n >> 16) % 16}.{n >> 8 & 255}.{n & 255}"
    endpoints = [{"addresses": [address(first + n)], "conditions": {"ready": True}, "nodeName": f"node-{n % 50}",
                  "targetRef": {"kind": "Pod", "namespace": ns, "name": f"{name}-{n}"}, **({"hostname": hostname(n)} if hostname else {})} for n in range(count)]
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": name, "namespace": ns, "labels": {"kubernetes.io/service-name": name, **({} if ns == "bench" else STILL)}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "metrics", "port": 9090, "protocol": "TCP"}]}


def busy(n, mark):
    """Returns slice `n` of those that change. The host name of its first endpoint identifies the change."""
    return slice_of(f"busy-{n}", "bench", 900_000 + 100 * n, 100, lambda at: f"mark-{mark}" if at == 0 else f"host-{at}")


def fill():
    """Creates all objects, with 16 threads."""
    jobs, refused = queue.Queue(2000), []

    def work():
        while job := jobs.get():
            status, body = call("POST", *job)
            if status not in (201, 409):
                refused.append((job[0], status, body[:200]))

    threads = [threading.Thread(target=work) for _ in range(16)]
    [thread.start() for thread in threads]
    for ns in [f"ns{n}" for n in range(NAMESPACES)] + ["bench"]:
        call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}})
    for s in range(options.services):
        name, ns, headless = f"svc-{s}", f"ns{s % NAMESPACES}", s % 5 == 0
        jobs.put((f"/api/v1/namespaces/{ns}/services", service(name, ns, headless)))
        jobs.put((SLICES.format(ns), slice_of(name, ns, s * options.endpoints, options.endpoints, (lambda n: f"host-{n}") if headless else None)))
        if s % 500 == 0:
            print(f"\rfilling the cluster: {s} of {options.services} Services", end="", file=sys.stderr, flush=True)
    for n in range(BUSY):
        jobs.put(("/api/v1/namespaces/bench/services", service(f"busy-{n}", "bench", True)))
        jobs.put((SLICES.format("bench"), busy(n, 0)))
    [jobs.put(None) for _ in threads]
    [thread.join() for thread in threads]
    print("\r\033[K", end="", file=sys.stderr)
    if refused:
        sys.exit(f"cluster: {len(refused)} objects were refused, such as {refused[0]}")
    (folder / "filled").write_text(f"{options.services} {options.endpoints}")


# ---- the servers

def kubeconfig():
    path = folder / "kubeconfig"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{PORT}", "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}))
    return path


class Server:
    """A server under test."""

    def __init__(self, name, words, properties=""):
        self.name, self.port = name, free_port()
        conf = folder / f"{name}.corefile"
        conf.write_text(f".:{self.port} {{\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        kubeconfig {kubeconfig()}\n        startup_timeout 60s\n        {properties}\n    }}\n}}\n")
        self.start = time.monotonic()
        self.process = spawn([*words, "-conf", str(conf)], f"{name}.log")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", self.port))
        self.socket.settimeout(0.05)

    def ask(self, name):
        """Returns the code for an A query; None without a response."""
        question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\1\0\1"
        number = os.urandom(2)
        try:
            self.socket.send(number + b"\1\0\0\1\0\0\0\0\0\0" + question)
            while (answer := self.socket.recv(4096))[:2] != number:
                pass
            return answer[3] & 15
        except OSError:
            return None

    def cpu(self):
        """Returns the CPU seconds of all threads."""
        tasks = glob.glob(f"/proc/{self.process.pid}/task/*/schedstat")
        return sum(int(pathlib.Path(path).read_text().split()[0]) for path in tasks) / 1e9

    def memory(self):
        """Returns resident memory and its high water mark in megabytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        value = lambda key: int(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) / 1000
        return value("VmRSS"), value("VmHWM")

    def stop(self):
        self.process.kill()
        self.process.wait()


def watch_slices(seen, stop):
    """Records when a watch of our own receives the last byte of each change of a busy slice."""
    connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=trust, timeout=60)
    version = json.loads(call("GET", SLICES.format("bench") + "?limit=1")[1])["metadata"]["resourceVersion"]
    connection.request("GET", SLICES.format("bench") + f"?watch=1&resourceVersion={version}", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    while not stop.is_set():
        line = answer.readline()
        if not line:
            return
        at = time.monotonic()
        found = line.find(b'"hostname":"mark-')
        if found >= 0:
            seen.put((line[found + 17:line.find(b'"', found + 17)].decode(), at))


def change(count, rate, first):
    """Changes busy slices, `rate` a second; returns `count`."""
    start = time.monotonic()
    for n in range(count):
        time.sleep(max(0, start + n / rate - time.monotonic()))
        at = n % BUSY
        status, body = call("PUT", SLICES.format("bench") + f"/busy-{at}", busy(at, first + n))
        if status != 200:
            sys.exit(f"cluster: a slice was refused: {status} {body[:200]}")
    return count


def latency(server, events, first):
    """Returns the milliseconds from the last byte of an event, as seen by a watch of our own, to the first new answer."""
    seen, stop, times = queue.Queue(), threading.Event(), []
    watcher = threading.Thread(target=watch_slices, args=(seen, stop), daemon=True)
    watcher.start()
    time.sleep(0.5)
    for n in range(events):
        mark = first + n
        writer = threading.Thread(target=lambda: call("PUT", SLICES.format("bench") + f"/busy-{n % BUSY}", busy(n % BUSY, mark)))
        writer.start()
        while True:
            found, at = seen.get(timeout=30)
            if found == str(mark):
                break
        until("the new answer", lambda: server.ask(f"mark-{mark}.busy-{n % BUSY}.bench.svc.cluster.local") == 0, 30)
        times.append((time.monotonic() - at) * 1000)
        writer.join()
    stop.set()
    return sorted(times)


def dnsperf(server, seconds):
    data = folder / "queries"
    data.write_text("\n".join(f"svc-{(n * 7919) % options.services}.ns{(n * 7919) % options.services % NAMESPACES}.svc.cluster.local A" for n in range(5000)))
    out = subprocess.run(["dnsperf", "-s", "127.0.0.1", "-p", str(server.port), "-d", str(data), "-l", str(seconds), "-c", "16", "-q", "200", "-T", "1"], capture_output=True, text=True).stdout
    return float(next(line for line in out.splitlines() if "Queries per second" in line).split()[-1])


def measure(name, words):
    """Starts a server and measures its first sync; returns the server and its figures."""
    server = Server(name, words)
    figures = {}
    until("an answer", lambda: server.ask(LAST) == 0, 120)
    figures["first answer, s"], figures["CPU of the first sync, s"] = time.monotonic() - server.start, server.cpu()
    time.sleep(5)
    figures["memory after it, MB"], figures["high water of it, MB"] = server.memory()
    return server, figures


def report(figures):
    names = list(figures)
    rows = [key for key in figures[names[0]]]
    width = max(map(len, rows)) + 2
    print(" " * width + "".join(f"{name:>14}" for name in names))
    for row in rows:
        print(f"{row:<{width}}" + "".join(f"{figures[name].get(row, float('nan')):>14.3f}" if row in figures[name] else " " * 13 + "-" for name in names))


def main():
    if not (folder / "sa.key").exists():
        subprocess.run(["openssl", "genrsa", "-out", str(folder / "sa.key"), "2048"], check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", str(folder / "sa.key"), "-pubout", "-out", str(folder / "sa.pub")], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    start_etcd()
    time.sleep(2)
    api = start_api()
    if not (folder / "filled").exists():
        fill()
    subjects = {"clusterdns": [options.binary], "CoreDNS": [tool("coredns")]}
    servers, figures = {}, {}
    for name, words in subjects.items():
        servers[name], figures[name] = measure(name, words)
    for name, server in servers.items():
        before, events = server.cpu(), change(1000, RATE, 10_000)
        figures[name]["CPU of a slice event, µs"] = (server.cpu() - before) / events * 1e6
    for n, (name, server) in enumerate(servers.items()):
        times = latency(server, 300, 20_000 + 1_000 * n)
        figures[name]["event to answer, median, ms"] = statistics.median(times)
        figures[name]["event to answer, p99, ms"] = times[int(len(times) * 0.99)]
    # The API server's history is lost, so that every watch repeats its list.
    api.kill()
    api.wait()
    time.sleep(1)
    start_api()
    for n, (name, server) in enumerate(servers.items()):
        status, body = call("POST", "/api/v1/namespaces/bench/services", service(f"after-{n}-{os.getpid()}", "bench", False))
        figures[name]["synced after an outage, s"] = until("the sync", lambda: server.ask(f"after-{n}-{os.getpid()}.bench.svc.cluster.local") == 0)
    time.sleep(10)
    for name, server in servers.items():
        resident, high = server.memory()
        figures[name]["memory after a relist, MB"], figures[name]["high water of it all, MB"] = resident, high
        figures[name]["high water / memory after the sync"] = high / figures[name]["memory after it, MB"]
    servers["CoreDNS"].stop()
    if shutil.which("dnsperf"):
        # Both servers have all requested names, and the same events are written while either is queried; one of them follows
        # the events.
        still = Server("still", [options.binary], "labels bench=still")
        until("an answer", lambda: still.ask(LAST) == 0, 120)
        ratios, costs = [], []
        for round_ in range(options.rounds):
            writer = threading.Thread(target=change, args=(RATE * 12, RATE, 40_000 + 2_000 * round_))
            writer.start()
            pair = [still, servers["clusterdns"]]
            rates, cpus = {}, {}
            for server in pair if round_ % 2 else reversed(pair):
                before = server.cpu()
                rates[server.name] = dnsperf(server, 5)
                cpus[server.name] = (server.cpu() - before) / (rates[server.name] * 5) * 1e6
            ratios.append(rates["clusterdns"] / rates["still"])
            costs.append((cpus["still"], cpus["clusterdns"]))
            writer.join()
        # The rate depends on what the API server, the writer and dnsperf leave of the same cores; the CPU time of an answer,
        # events included, is the server's own.
        figures["clusterdns"]["throughput while following / not"] = statistics.median(ratios)
        figures["clusterdns"]["CPU of an answer, not following, µs"] = statistics.median(still for still, _ in costs)
        figures["clusterdns"]["CPU of an answer and its share of events, µs"] = statistics.median(follows for _, follows in costs)
        figures["clusterdns"]["answers for the same CPU while following / not"] = statistics.median(still / follows for still, follows in costs)
    report(figures)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1))


try:
    main()
finally:
    for child in reversed(children):
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except OSError:
            pass
    if not options.cluster:
        shutil.rmtree(folder, ignore_errors=True)
