#!/usr/bin/env python3
"""One hostile client address against 20 honest ones, each scenario beside CoreDNS: what honest clients lose, how
long they wait, and the server's memory.

usage: benches/fairness.py [--seconds 5] [--only SCENARIO] [--rate 20] [--binary target/release/clusterdns]
                           [--coredns FILE] [--control] [--plot] [--list]

For each server and scenario, the honest clients (127.0.1.1 to 127.0.1.20) ask alone first, then beside the hostile
client (127.0.0.2): names of the cluster, cached names, and external names, over UDP and over persistent and new TCP
connections; in a scenario about an encrypted transport, over persistent and new connections of that, too. CoreDNS
reads no manifests and has the names of the cluster from *hosts*.

Exits with 1 where this server loses an honest query, answers one with an error, does not answer /health or /ready,
or has more than 40 MB resident. The aim for the p99 beside the hostile client is twice the quiet one; it depends on
how busy the machine is and fails nothing. Needs cc, openssl and a release build; the scenarios over QUIC need
Python's aioquic (pip install aioquic) and are skipped without it. CoreDNS is that of the live tests
(tests/live/build); without one this server runs alone."""

import argparse, glob, html, json, os, pathlib, re, resource, shutil, signal, socket, subprocess, sys, tempfile
import threading, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
PARTS = HERE / "fairness"
sys.path.insert(0, str(PARTS))
sys.dont_write_bytecode = True
import protocol

CLIENTS, MEMORY, RATIO, DELAY, LATE, LEAD = 20, 40, 2, 2_000, 250, 1
CLUSTER = {
    "web.shop.svc.cluster.local": "10.96.10.20",
    "api.shop.svc.cluster.local": "10.96.10.30",
    "kubernetes.default.svc.cluster.local": "10.96.0.1",
    "kube-dns.kube-system.svc.cluster.local": "10.96.0.10",
}


class Scenario:
    """`hostile` are the words of load.c, or of hostile.py where the first has a hyphen; `transport` is what the honest
    clients use besides UDP; `soft` and `hard` are the server's descriptor limits, `concurrent` is *max_concurrent*."""

    def __init__(self, name, what, transport, hostile, soft=None, hard=None, concurrent=1000):
        self.name, self.what, self.transport, self.hostile = name, what, transport, hostile.split()
        self.concurrent = concurrent
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.descriptors = (soft or hard or most, hard or most)


HELLO = protocol.client_hello().hex()
# Asked once on each connection, so that it is idle and not unused: servers close those sooner.
ONCE = protocol.framed(protocol.query("web.shop.svc.cluster.local")).hex()
SCENARIOS = [
    Scenario("tcp-held-1024", "1,000 idle TCP connections, soft limit 1,024", "tcp", f"hold 1000 {ONCE}", 1024),
    Scenario("tcp-held-hard", "1,000 idle TCP connections, hard limit 1,024", "tcp", f"hold 1000 {ONCE}", hard=1024),
    Scenario("tcp-held", "1,000 idle TCP connections", "tcp", f"hold 1000 {ONCE}"),
    Scenario("tcp-loop-1024", "TCP connections in a loop, soft limit 1,024", "tcp", "loop 1000", 1024),
    Scenario("tcp-loop", "TCP connections in a loop", "tcp", "loop 1000"),
    Scenario("tls-idle", "1,000 idle TLS connections", "tls", "tls-idle 1000"),
    Scenario("tls-half", "1,000 half TLS handshakes", "tls", f"hold 1000 {HELLO}"),
    Scenario("tls-prefix", "1,000 TLS connections, a length prefix on each", "tls", "tls-prefix 1000"),
    Scenario("https-headers", "1,000 HTTP/2 connections, headers only", "https", "https-headers 1000"),
    Scenario("https-streams", "20 HTTP/2 connections, 250 unfinished requests each", "https", "https-streams 20 250"),
    Scenario("quic-connections", "400 QUIC connections, half a query each", "quic", "quic-connections 400"),
    Scenario("quic-streams", "20 QUIC connections, 250 half queries each", "quic", "quic-streams 20 250"),
    Scenario("https3-connections", "400 HTTP/3 connections, half a request each", "https3", "https3-connections 400"),
    Scenario("https3-streams", "20 HTTP/3 connections, 100 half requests each", "https3", "https3-streams 20 100"),
    Scenario("slow-udp", "4,000 distinct slow names a second, UDP", "tcp", "udp 4000 distinct"),
    Scenario("slow-tcp", "4,000 distinct slow names a second, 20 TCP connections", "tcp", "tcp 4000 20"),
    Scenario("slow-no-limit", "8,000 slow names a second, no max_concurrent", "tcp", "udp 8000 distinct", concurrent=0),
    Scenario("same-udp", "25,000 queries a second for one slow name", "tcp", "udp 25000 identical"),
    Scenario("same-no-limit", "25,000 for one name, no max_concurrent", "tcp", "udp 25000 identical", concurrent=0),
]

parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
parser.add_argument("--seconds", type=int, default=5, help="of each half of a scenario")
parser.add_argument(
    "--only", action="append", metavar="SCENARIO", help="a scenario, or the beginning of some; may be repeated"
)
parser.add_argument("--rate", type=float, default=20, help="queries a second of an honest client")
parser.add_argument("--binary", default=str(HERE.parent / "target/release/clusterdns"))
parser.add_argument("--coredns", default=next(iter(glob.glob(str(HERE.parent / ".testbed/coredns-*/coredns"))), None))
parser.add_argument("--control", action="store_true", help="ask also beside a hostile client of another server")
parser.add_argument("--plot", action="store_true", help="draw benches/fairness.svg")
parser.add_argument("--list", action="store_true", help="print the scenarios and exit")
options = parser.parse_args()
chosen = [one for one in SCENARIOS if not options.only or any(one.name.startswith(only) for only in options.only)]
if options.list:
    print("\n".join(f"{one.name:<20} {one.what}" for one in SCENARIOS))
    sys.exit()
if not chosen:
    sys.exit("fairness: no such scenario; --list prints them")
for program in ("cc", "openssl"):
    if not shutil.which(program):
        sys.exit(f"fairness: {program} is not installed")
folder = pathlib.Path(tempfile.mkdtemp(prefix="clusterdns-fairness-"))
processes = []


def start(words, autogroup=-19, **named):
    # A session of its own, for which the kernel keeps a share of the CPU (sched_autogroup).
    named |= {"cwd": folder, "stdin": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen([str(word) for word in words], **named)
    processes.append(process)
    try:
        # By default, before other programs of this machine.
        pathlib.Path(f"/proc/{process.pid}/autogroup").write_text(str(autogroup))
    except OSError:
        pass
    return process


def prefer():
    """Raises the priority of a process that measures, where we may: it should wait for the server, not for a CPU."""
    try:
        os.nice(-10)
    except PermissionError:
        pass


def yield_cpu():
    """Gives a hostile client the CPU time that no other program uses. It has a machine of its own in a cluster: the
    time of its own program should not be what honest clients wait for, only that of the server and of the kernel."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()
    processes.remove(process)


def free_ports(count):
    """Free ports, UDP and TCP."""
    found = []
    while len(found) < count:
        tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp.bind(("127.0.0.1", 0))
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            continue
        found.append((tcp, udp))
    ports = [tcp.getsockname()[1] for tcp, _ in found]
    for tcp, udp in found:
        tcp.close(), udp.close()
    return ports


def wait_for(port, name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(0.3)
        for _ in range(60):
            try:
                udp.sendto(protocol.query(name), ("127.0.0.1", port))
                if udp.recv(4096)[3] & 15 == 0:
                    return
            except OSError:
                pass
            time.sleep(0.1)
    log = (folder / "log").read_text()[-2000:] if (folder / "log").exists() else ""
    sys.exit(f"fairness: nothing answers {name} on port {port}\n{log}")


class Pages(threading.Thread):
    """Asks for /health and /ready twice a second, with a timeout of five seconds."""

    def __init__(self, health, ready):
        super().__init__(daemon=True)
        self.urls = [f"http://127.0.0.1:{health}/health", f"http://127.0.0.1:{ready}/ready"]
        self.asked = self.answered = 0
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.5):
            for url in self.urls:
                self.asked += 1
                try:
                    self.answered += urllib.request.urlopen(url, timeout=5).status == 200
                except OSError:
                    pass


class Server:
    """A server under test, with the listeners of a scenario. `suffix` is that of its files."""

    def __init__(self, name, binary, scenario, suffix=""):
        ours = name == "clusterdns"
        self.port, self.own_port, health, ready = free_ports(4)
        hosts = "".join(f"        {address} {host}\n" for host, address in CLUSTER.items())
        cluster = "kubernetes cluster.local" if ours else f"hosts {{\n{hosts}        fallthrough\n    }}"
        forward = f"forward . 127.0.0.1:{upstream_port}"
        if scenario.concurrent:
            forward += f" {{\n        max_concurrent {scenario.concurrent}\n    }}"

        def block(key, *own):
            return (
                f"{key} {{\n"
                + "".join(f"    {line}\n" for line in ("bind 127.0.0.1", *own, cluster, "cache 30", forward))
                + "}\n"
            )

        corefile = block(f".:{self.port}", f"health 127.0.0.1:{health}", f"ready 127.0.0.1:{ready}")
        if scenario.transport != "tcp":
            corefile += block(f"{scenario.transport}://.:{self.own_port}", f"tls {folder}/tls.crt {folder}/tls.key")
        (folder / f"Corefile{suffix}").write_text(corefile)
        words = [binary, "-quiet", "-conf", folder / f"Corefile{suffix}"] + (
            ["-manifests", HERE.parent / "deploy/sample"] if ours else []
        )
        self.process = start(
            words,
            stdout=(folder / f"log{suffix}").open("w"),
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, scenario.descriptors),
        )
        wait_for(self.port, "web.shop.svc.cluster.local")
        for number in range(20):
            wait_for(self.port, f"c{number}.cached.example")
        self.pages = Pages(health, ready)

    def most_memory(self):
        """The most that was resident, in MB; nothing where the process has ended."""
        found = re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found[1]) / 1024 if found else None

    def dropped(self):
        """Datagrams that the kernel dropped because the server's receive buffers were full."""
        rows = [line.split() for line in pathlib.Path("/proc/net/udp").read_text().splitlines()[1:]]
        return sum(int(row[-1]) for row in rows if int(row[1].split(":")[1], 16) in (self.port, self.own_port))


def honest(server, scenario):
    # aioquic is slow: at the whole rate the clients would wait for each other.
    rate = options.rate / (2 if scenario.transport in ("quic", "https3") else 1)
    words = [
        sys.executable,
        "-B",
        PARTS / "honest.py",
        options.seconds,
        rate,
        CLIENTS,
        server.port,
        scenario.transport,
        server.own_port,
        ",".join(CLUSTER),
    ]
    process = start(words, stdout=subprocess.PIPE, preexec_fn=prefer)
    printed = process.communicate(timeout=options.seconds + 40)[0]
    stop(process)
    return json.loads(printed)


def hostile(server, scenario):
    kind, *rest = scenario.hostile
    port = server.own_port if scenario.transport != "tcp" else server.port
    seconds = LEAD + options.seconds + 60  # It is stopped before, when the last honest query is done.
    program = [sys.executable, "-B", PARTS / "hostile.py"] if "-" in kind else [folder / "load"]
    words = [*program, kind, port, seconds, *rest]
    # Where it has a rate it must attain it; otherwise it gets the CPU time that the others leave.
    if kind in ("udp", "tcp"):
        return start(words, stdout=subprocess.PIPE, preexec_fn=prefer)
    return start(words, autogroup=19, stdout=subprocess.PIPE, preexec_fn=yield_cpu)


def what_it_did(scenario, did):
    """What the hostile client attained, in words, and whether that is what the scenario promises."""
    kind, number = scenario.hostile[0], int(scenario.hostile[1])
    if kind in ("udp", "tcp"):
        rate = (did["sent"] + (did["failures"] if kind == "tcp" else 0)) / did["seconds"]
        return f"{did['sent'] / did['seconds']:,.0f} sent/s", rate >= 0.9 * number
    rate = did["opened"] / did["seconds"]
    if kind == "loop":
        return f"{rate:,.0f} opened/s", True
    # Where fewer are open than it wants, the server has closed or refused them.
    return f"{did['open']:,} open, {rate:,.0f} opened/s", did["open"] >= 0.9 * number or did["failures"] > 0


def control(server, name, binary, scenario):
    """Honest clients beside a hostile client of another server: what they wait for the CPU, and not for the server."""
    other = Server(name, binary, scenario, ".other")
    attack = hostile(other, scenario)
    time.sleep(LEAD)
    found = honest(server, scenario)
    stop(attack), stop(other.process)
    return found


def run(name, binary, scenario):
    server = Server(name, binary, scenario)
    quiet = honest(server, scenario)
    beside = control(server, name, binary, scenario) if options.control else None
    server.pages.start()
    try:
        attack = hostile(server, scenario)
        time.sleep(LEAD)
        busy = honest(server, scenario)
        attack.send_signal(signal.SIGTERM)
        did = json.loads(attack.communicate(timeout=30)[0])
    finally:
        server.pages.done.set()
    stop(attack)
    server.pages.join()
    ended = server.process.poll()
    row = {
        "server": name,
        "scenario": scenario.name,
        "quiet": quiet,
        "control": beside,
        "busy": busy,
        "dropped": server.dropped(),
        "memory": server.most_memory(),
        "pages": (server.pages.answered, server.pages.asked),
    }
    row["did"], row["attained"] = what_it_did(scenario, did)
    stop(server.process)
    if ended is not None:
        sys.exit(
            f"fairness: {name} has ended in {scenario.name} with {ended}:\n" + (folder / "log").read_text()[-2000:]
        )
    row["failures"] = [
        what
        for what, wrong in (
            ("lost", busy["lost"]),
            ("errors", busy["errors"]),
            ("memory", row["memory"] > MEMORY),
            ("pages", server.pages.answered < server.pages.asked),
            ("quiet", quiet["lost"] or quiet["errors"]),
        )
        if wrong
    ]
    return row


def ratio(row):
    return row["busy"]["p99"] / row["quiet"]["p99"] if row["quiet"]["p99"] else 0


COLUMNS = {
    "scenario": -19,
    "server": -10,
    "asked": 5,
    "lost": 4,
    "errors": 6,
    "cut": 4,
    "p50 ms": 14,
    "p99 ms": 16,
    "ratio": 5,
    "MB": 5,
    "pages": 6,
    "hostile client": -28,
    "verdict": -1,
}


def columns(*cells):
    return " ".join(
        cell.ljust(-width) if width < 0 else cell.rjust(width) for cell, width in zip(cells, COLUMNS.values())
    )


def line(row):
    """A row of the table, and below it what explains it."""
    quiet, busy = row["quiet"], row["busy"]
    pair = lambda key: f"{quiet[key]:.1f} > {busy[key]:.1f}"
    verdict = ", ".join(row["failures"]) or ("ok" if ratio(row) <= RATIO else "ok, slow")
    text = columns(
        row["scenario"],
        row["server"],
        str(busy["asked"]),
        str(sum(busy["lost"].values())),
        str(sum(busy["errors"].values())),
        str(busy["cut"]),
        pair("p50"),
        pair("p99"),
        f"{ratio(row):.1f}",
        f"{row['memory']:.1f}",
        "{}/{}".format(*row["pages"]),
        row["did"],
        verdict,
    )
    below = []
    if row["control"]:
        below.append(f"beside a hostile client of another server: p99 {row['control']['p99']:.1f} ms")
    busy_machine, late = "the machine is too busy for a verdict", max(quiet["late"], busy["late"])
    for what, found in (("", busy), (" in quiet", quiet)):
        for key in ("lost", "errors"):
            if found[key]:
                below.append(
                    f"{key}{what}: " + "; ".join(f"{way} {count}" for way, count in sorted(found[key].items()))
                )
    if row["dropped"]:
        below.append(f"the kernel dropped {row['dropped']:,} datagrams at a full receive buffer of the server")
    if not row["attained"]:
        below.append(f"the hostile client did not reach its rate: {busy_machine}")
    if late > LATE:
        below.append(f"honest clients asked {late:.0f} ms late: {busy_machine}")
    return "\n".join([text] + [f"{'':<20}{one}" for one in below])


def plot(rows):
    """Draws the part of honest queries without a usable answer: a bar for each server and scenario."""
    left, width, step, y = 350, 380, 16, 54
    colours = {"clusterdns": "#4878a8", "CoreDNS": "#c8a060"}
    svg = ['<rect width="100%" height="100%" fill="white"/>']
    title = (
        "Honest queries without an answer, or with an error, beside one hostile client; p99 (× the quiet one); memory"
    )
    svg.append(f'<text x="10" y="18" font-size="14">{title}</text>')
    for x, (server, colour) in zip((10, 130), colours.items()):
        svg.append(
            f'<rect x="{x}" y="28" width="12" height="12" fill="{colour}"/><text x="{x + 18}" y="38">{server}</text>'
        )
    for scenario in chosen:
        found = [row for row in rows if row["scenario"] == scenario.name]
        if found:
            svg.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{html.escape(scenario.what)}</text>')
        for row in found:
            busy, colour = row["busy"], colours[row["server"]]
            part = (sum(busy["lost"].values()) + sum(busy["errors"].values())) / busy["asked"]
            bar = max(part * width, 1)
            words = f"{part:.1%}, {busy['p99']:.0f} ms ({ratio(row):.1f} ×), {row['memory']:.0f} MB"
            svg.append(f'<rect x="{left}" y="{y + 2}" width="{bar:.1f}" height="{step - 4}" fill="{colour}"/>')
            svg.append(f'<text x="{left + bar + 5:.1f}" y="{y + 12}" fill="#333">{words}</text>')
            y += step
        y += 6 * bool(found)
    size = f'width="{left + width + 200}" height="{y + 6}" font-family="sans-serif" font-size="11"'
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *svg, "</svg>"]
    (HERE / "fairness.svg").write_text("\n".join(svg) + "\n")


rows, skipped, unfinished = [], [], []
try:
    subprocess.run(["cc", "-O2", "-o", folder / "load", PARTS / "load.c"], check=True)
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=dns.example",
            "-addext",
            "subjectAltName=DNS:dns.example",
            "-keyout",
            folder / "tls.key",
            "-out",
            folder / "tls.crt",
        ],
        check=True,
        capture_output=True,
    )
    (upstream_port,) = free_ports(1)
    upstream = start([folder / "load", "upstream", upstream_port, DELAY], preexec_fn=prefer)
    wait_for(upstream_port, "x.example")
    servers = {"clusterdns": options.binary, **({"CoreDNS": options.coredns} if options.coredns else {})}
    print(columns(*COLUMNS), flush=True)
    for scenario in chosen:
        if scenario.transport in ("quic", "https3") and not protocol.QUIC:
            skipped.append(scenario.name)
            print(f"{scenario.name:<19} skipped: Python's aioquic is not installed (pip install aioquic)", flush=True)
            continue
        for name, binary in servers.items():
            try:
                rows.append(run(name, binary, scenario))
                print(line(rows[-1]), flush=True)
            except (subprocess.TimeoutExpired, json.JSONDecodeError):
                unfinished.append(f"{scenario.name} ({name})")
                print(f"{scenario.name:<19} {name:<10} no verdict: the clients have not finished", flush=True)
            for process in set(processes) - {upstream}:
                stop(process)
finally:
    for process in list(processes):
        stop(process)
    shutil.rmtree(folder)

if not options.coredns:
    print("CoreDNS is not there to compare with: tests/live/build builds it, --coredns names it")
if options.plot:
    plot(rows)
failed = [
    f"{row['scenario']} ({', '.join(row['failures'])})"
    for row in rows
    if row["server"] == "clusterdns" and row["failures"]
]
for what, names in (("failed", failed), ("skipped", skipped), ("no verdict", unfinished)):
    if names:
        print(f"{what}: {'; '.join(names)}")
if not failed + unfinished:
    print("every limit holds")
sys.exit(bool(failed + unfinished))
