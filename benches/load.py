#!/usr/bin/env python3
"""CPU time of an answer over sockets, beside a UDP echo in the same run: shows what the server costs beyond the kernel.

usage: benches/load.py [--rounds 7] [--seconds 3] [--binary target/release/clusterdns] [--svg FILE]

A cluster of 10,000 Services is written as manifests. dnsperf (a package of Debian) requests its names: search lists that end in
NXDOMAIN, pairs of A and AAAA, SRV and PTR. Server and echo take turns; the figure is the median of the rounds' ratios. A control,
echo beside echo, shows whether the machine is quiet enough for a verdict (0.97 to 1.03)."""
import argparse, json, os, pathlib, random, re, shutil, socket, statistics, subprocess, sys, tempfile, time

here = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--seconds", type=int, default=3)
parser.add_argument("--binary", default=str(here.parent / "target/release/clusterdns"))
parser.add_argument("--svg")
options = parser.parse_args()
SERVICES, NAMESPACES, WORKERS = 10_000, 100, os.cpu_count()

if not shutil.which("dnsperf"):
    sys.exit("load: dnsperf is not installed (apt-get install dnsperf)")
folder = pathlib.Path(tempfile.mkdtemp(prefix="clusterdns-load-"))


def manifests():
    """Yields the objects of the cluster: every fifth Service is headless, with three named endpoints."""
    yield from ({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"ns{n}"}} for n in range(NAMESPACES))
    for s in range(SERVICES):
        where = {"name": f"svc-{s}", "namespace": f"ns{s % NAMESPACES}"}
        port = {"name": "http", "port": 80, "protocol": "TCP"}
        address = "None" if s % 5 == 0 else f"10.96.{s // 250}.{s % 250 + 1}"
        yield {"apiVersion": "v1", "kind": "Service", "metadata": where, "spec": {"clusterIP": address, "ports": [port]}}
        endpoints = [{"addresses": [f"172.16.{(s * 3 + e) // 256 % 256}.{(s * 3 + e) % 256}"], "hostname": f"h-{e}"} for e in range(3)]
        labels = {"kubernetes.io/service-name": where["name"]}
        yield {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {**where, "labels": labels},
               "addressType": "IPv4", "endpoints": endpoints, "ports": [port]}


def queries(count, seed):
    """Returns typical queries of Pods: 45 % names of Services, 45 % external names through the search list, 5 % SRV,
    5 % PTR."""
    dice = random.Random(seed)
    lines = []
    while len(lines) < count:
        s = (int(dice.paretovariate(0.6)) * 7919) % SERVICES
        name, throw = f"svc-{s}.ns{s % NAMESPACES}.svc.cluster.local", dice.random()
        if throw < 0.45:
            lines += [f"{name} A", f"{name} AAAA"]
        elif throw < 0.90:
            host, ns = f"host{dice.randrange(200)}.example.com", dice.randrange(NAMESPACES)
            search = (f".ns{ns}.svc.cluster.local", ".svc.cluster.local", ".cluster.local", "")
            lines += [f"{host}{suffix} {kind}" for suffix in search for kind in ("A", "AAAA")]
        elif throw < 0.95:
            lines.append(f"_http._tcp.{name} SRV")
        else:
            lines.append(f"{dice.randrange(256)}.{dice.randrange(40)}.16.172.in-addr.arpa PTR")
    return "\n".join(lines)


def free_port():
    """Returns a port that is free for UDP and TCP."""
    while True:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as tcp, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
            tcp.bind(("::", 0))
            try:
                udp.bind(("::", tcp.getsockname()[1]))
            except OSError:
                continue
            return tcp.getsockname()[1]


def cpu(pid):
    """Returns user and system seconds of a process."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return [int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:13]]


def measure(pid, port):
    """Returns the CPU microseconds of an answer: the total, and the user part."""
    before = cpu(pid)
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(folder / "queries"), "-l", str(options.seconds), "-c", "16", "-q", "200", "-T", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    user, system = [(b - a) * 1e6 for a, b in zip(before, cpu(pid))]
    done, lost = (int(re.search(rf"Queries {what}:\s+(\d+)", printed)[1]) for what in ("completed", "lost"))
    return {"all": (user + system) / done, "user": user / done, "lost": lost, "qps": done / options.seconds}


def wait_for(port):
    """Waits until a datagram to the port is answered."""
    packet = bytes.fromhex("000001000001000000000000076b756265726e65746573000001" + "0001")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(0.5)
        for _ in range(120):
            udp.sendto(packet, ("127.0.0.1", port))
            try:
                return udp.recv(4096)
            except OSError:
                time.sleep(0.25)
    sys.exit(f"load: nothing answers on port {port}")


(folder / "cluster.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests())}))
(folder / "queries").write_text(queries(100_000, 1) + "\n")
(folder / "Corefile").write_text("cluster.local in-addr.arpa ip6.arpa {\n    errors\n    kubernetes {\n        pods insecure\n        ttl 30\n    }\n    loadbalance\n}\n")
subprocess.run(["cc", "-O2", "-pthread", "-o", folder / "echo", here / "echo.c"], check=True)
subjects = {}
try:
    for name, command in (
        ("clusterdns", [options.binary, "-quiet", "-conf", folder / "Corefile", "-manifests", folder / "cluster.json", "-dns.port", "{port}"]),
        ("echo", [folder / "echo", "{port}", str(WORKERS)]),
        ("echo again", [folder / "echo", "{port}", str(WORKERS)]),
    ):
        port = free_port()
        words = [str(word).format(port=port) for word in command]
        subjects[name] = (subprocess.Popen(words, stdout=subprocess.DEVNULL), port)
        wait_for(port)
    results = {name: [] for name in subjects}
    for number in range(options.rounds):
        for name, (process, port) in subjects.items():
            results[name].append(measure(process.pid, port))
        print(f"round {number + 1} of {options.rounds}: " + ", ".join(f"{name} {found[-1]['all']:.2f}" for name, found in results.items()) + " µs")
finally:
    for process, _ in subjects.values():
        process.kill()
    shutil.rmtree(folder)

print(f"\n{'subject':<12} {'CPU µs':>7} {'user':>6} {'qps':>8} {'lost':>5} {'ratio to the echo: median (least, most)':>42}")
for name, found in results.items():
    ratios = sorted(mine["all"] / echo["all"] for mine, echo in zip(found, results["echo"]))
    middle = lambda key: statistics.median(one[key] for one in found)
    print(f"{name:<12} {middle('all'):>7.2f} {middle('user'):>6.2f} {middle('qps'):>8.0f} {sum(one['lost'] for one in found):>5} "
          f"{statistics.median(ratios):>24.3f} ({ratios[0]:.3f}, {ratios[-1]:.3f})")
control = statistics.median(mine["all"] / echo["all"] for mine, echo in zip(results["echo again"], results["echo"]))
if not 0.97 <= control <= 1.03:
    print(f"no verdict: echo beside echo gives {control:.3f}, so the machine is too busy")
if options.svg:
    bars, most = [], max(one["all"] for found in results.values() for one in found)
    for row, (name, found) in enumerate(results.items()):
        value = statistics.median(one["all"] for one in found)
        user = statistics.median(one["user"] for one in found)
        y, scale = 40 + row * 34, 420 / most
        bars.append(f'<text x="110" y="{y + 16}" text-anchor="end">{name}</text><rect x="120" y="{y}" width="{value * scale:.0f}" height="22" fill="#9db8d2"/>'
                    f'<rect x="120" y="{y}" width="{user * scale:.0f}" height="22" fill="#1f5a92"/><text x="{126 + value * scale:.0f}" y="{y + 16}">{value:.1f} µs</text>')
    pathlib.Path(options.svg).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{60 + 34 * len(results)}" font-family="sans-serif" font-size="13">'
        f'<text x="10" y="22">CPU microseconds of an answer over UDP on loopback (dark: user)</text>{"".join(bars)}</svg>\n')
sys.exit(0)
