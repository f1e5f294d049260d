#!/usr/bin/env python3
"""A slow upstream with too many queries: cluster names, memory, and shed queries.

usage: benches/overload.py [--seconds 60] [--rate 20000] [--delay 2000] [--binary target/release/clusterdns]

dnsdist delays every response of Knot by two seconds. dnsperf requests 20,000 new names a second, and 1,000 names of a cluster, on
loopback. Another upstream is not slow. Prints resident memory every five seconds, the latency of cluster names, shed queries as
seen by the client and by the metrics, and how soon everything is normal again. Needs Debian's knot, dnsdist and dnsperf, and a
release build."""
import argparse, os, pathlib, random, re, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.request

here = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=int, default=60)
parser.add_argument("--rate", type=int, default=20_000)
parser.add_argument("--delay", type=int, default=2_000)
parser.add_argument("--binary", default=str(here.parent / "target/release/clusterdns"))
options = parser.parse_args()
os.environ["PATH"] += ":/usr/sbin:/sbin"
for program in ("dnsperf", "knotd", "dnsdist"):
    if not shutil.which(program):
        sys.exit(f"overload: {program} is not installed (apt-get install dnsperf knot dnsdist)")
folder = pathlib.Path(tempfile.mkdtemp(prefix="clusterdns-overload-"))
folder.chmod(0o755)


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


def ask(port, name, timeout=5.0):
    """Returns the code of the response for A, and the seconds that it took; None without a response."""
    packet = bytes([1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".") if l) + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout)
        start = time.monotonic()
        try:
            udp.sendto(packet, ("127.0.0.1", port))
            return udp.recv(4096)[3] & 15, time.monotonic() - start
        except OSError:
            return None


def wait_for(port, name):
    for _ in range(60):
        if (found := ask(port, name, 0.5)) and found[0] == 0:
            return
        time.sleep(0.25)
    sys.exit(f"overload: nothing answers on port {port}")


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def metric(port, name):
    """Returns the sum of a metric's samples."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line))


processes = []


def start(*words, out=subprocess.DEVNULL):
    process = subprocess.Popen([str(word) for word in words], stdout=out, stderr=subprocess.STDOUT, cwd=folder)
    processes.append(process)
    return process


knot, slow, port, pages = (free_port() for _ in range(4))
(folder / "example.zone").write_text("example. 3600 SOA ns.example. h.example. 1 3600 600 86400 60\nexample. 3600 NS ns.example.\nns.example. 3600 A 192.0.2.53\n*.example. 300 A 192.0.2.1\n")
(folder / "knot.conf").write_text(
    f"server:\n    rundir: {folder}\n    listen: 127.0.0.1@{knot}\nlog:\n  - target: stderr\n    any: warning\ndatabase:\n    storage: {folder}\n"
    f"zone:\n  - domain: example.\n    file: {folder}/example.zone\n    zonefile-sync: -1\n")
(folder / "dnsdist.conf").write_text(
    f"setSecurityPollSuffix('')\nsetMaxUDPOutstanding(65535)\nsetLocal('127.0.0.1:{slow}')\nnewServer({{address='127.0.0.1:{knot}', sockets=4}})\n"
    f"setACL({{'127.0.0.0/8'}})\naddAction(AllRule(), DelayAction({options.delay}))\n")
(folder / "Corefile").write_text(
    f".:{port} {{\n    bind 127.0.0.1\n    prometheus 127.0.0.1:{pages}\n    kubernetes cluster.local\n    cache 30\n"
    f"    forward slow.example 127.0.0.1:{slow}\n    forward . 127.0.0.1:{knot}\n}}\n")
dice = random.Random(1)
(folder / "slow").write_text("\n".join(f"x{dice.getrandbits(60):015x}.slow.example. A" for _ in range(min(options.rate * options.seconds, 2_000_000))) + "\n")
(folder / "cluster").write_text("db.data.svc.cluster.local. A\nweb.nowhere.svc.cluster.local. A\n")
try:
    start("knotd", "-c", folder / "knot.conf")
    wait_for(knot, "x.example")
    start("dnsdist", "--supervised", "--disable-syslog", "-C", folder / "dnsdist.conf")
    server = start(options.binary, "-quiet", "-conf", folder / "Corefile", "-manifests", here.parent / "deploy/sample")
    wait_for(port, "db.data.svc.cluster.local")
    wait_for(port, "x.example")
    print(f"before: {resident(server.pid):.1f} MB")
    load = ["dnsperf", "-s", "127.0.0.1", "-p", port, "-l", options.seconds, "-c", "16"]
    outside = subprocess.Popen([str(w) for w in load + ["-d", folder / "slow", "-Q", options.rate, "-q", "65000", "-t", "10"]], stdout=(folder / "outside").open("w"))
    inside = subprocess.Popen([str(w) for w in load + ["-d", folder / "cluster", "-Q", "1000", "-q", "1000", "-t", "5", "-v"]], stdout=(folder / "inside").open("w"))
    most, fast = 0.0, []
    for second in range(options.seconds):
        time.sleep(1)
        memory = resident(server.pid)
        most = max(most, memory)
        fast.append(ask(port, f"y{second}.example"))
        if second % 5 == 4:
            shed = metric(pages, "clusterdns_forward_shed_total")
            print(f"{second + 1:3} s: {memory:.1f} MB resident, {shed:,.0f} shed, another upstream answers in {fast[-1][1] * 1e3 if fast[-1] else -1:.1f} ms", flush=True)
    ended = time.monotonic()
    back = None
    while time.monotonic() - ended < 10:
        found = ask(port, f"z{time.monotonic_ns()}.example", 1)
        if found and found[0] == 0:
            back = time.monotonic() - ended
            break
    outside.wait(), inside.wait()
    slow_again = ask(port, "again.slow.example", 10)
    time.sleep(6)
    after = resident(server.pid)
    shed, rejects = metric(pages, "clusterdns_forward_shed_total"), metric(pages, "coredns_forward_max_concurrent_rejects_total")
finally:
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()

text = (folder / "outside").read_text()
codes = dict((code, int(count)) for code, count in re.findall(r"(\w+) (\d+) \([\d.]+%\)", re.search(r"Response codes:\s+(.*)", text)[1]))
sent, lost = (int(re.search(rf"Queries {what}:\s+(\d+)", text)[1]) for what in ("sent", "lost"))
lines = [line.split() for line in (folder / "inside").read_text().splitlines() if line.startswith("> ")]
times = sorted(float(words[-1]) for words in lines if words[1] != "T")
text = (folder / "inside").read_text()
lost_inside = int(re.search(r"Queries lost:\s+(\d+)", text)[1])
shutil.rmtree(folder)
print(f"\nexternal names: {sent:,} sent, " + ", ".join(f"{code} {count:,}" for code, count in codes.items()) + f", {lost:,} without an answer")
print(f"shed by the metrics: {shed:,.0f}, refused by max_concurrent: {rejects:,.0f}")
print(f"cluster names: {len(times):,} answered, {lost_inside} lost, median {times[len(times) // 2] * 1e3:.2f} ms, p99 {times[len(times) * 99 // 100] * 1e3:.2f} ms, longest {times[-1] * 1e3:.1f} ms")
answered = [found for found in fast if found and found[0] == 0]
print(f"another upstream meanwhile: {len(answered)} of {len(fast)} answered")
print(f"memory: {most:.1f} MB at most, {after:.1f} MB afterwards")
print(f"another upstream answers again {back * 1e3 if back else -1:.0f} ms after the end; the slow one answers after {slow_again[1] if slow_again else -1:.2f} s")
