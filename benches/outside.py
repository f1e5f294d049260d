#!/usr/bin/env python3
"""CPU time of an answer for an external name, cached and not, beside dnsdist and Unbound in one alternating run.

usage: benches/outside.py [--rounds 7] [--seconds 3] [--binary target/release/clusterdns] [--only cached|fresh] [--svg FILE]

Knot on loopback has a wildcard; each server forwards to it. Cached: the same 500 names. Fresh: no name twice. The servers take
turns; the figure is the median of the rounds' ratios to dnsdist. Needs Debian's knot, dnsdist, unbound and dnsperf, and a release
build."""
import argparse, os, pathlib, random, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

here = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--seconds", type=int, default=3)
parser.add_argument("--binary", default=str(here.parent / "target/release/clusterdns"))
parser.add_argument("--only", choices=("cached", "fresh"))
parser.add_argument("--svg")
options = parser.parse_args()
for program in ("dnsperf", "knotd", "dnsdist", "unbound"):
    if not shutil.which(program) and not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin"):
        sys.exit(f"outside: {program} is not installed (apt-get install dnsperf knot dnsdist unbound)")
os.environ["PATH"] += ":/usr/sbin:/sbin"
folder = pathlib.Path(tempfile.mkdtemp(prefix="clusterdns-outside-"))
folder.chmod(0o755)
dice = random.Random(1)


def free_port():
    """Returns a port that is free for UDP and TCP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(("127.0.0.1", tcp.getsockname()[1]))
            except OSError:
                continue
            return tcp.getsockname()[1]


def cpu(pid):
    """Returns user and system seconds of a process."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return [int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:13]]


def queries(kind, per_second=80_000):
    """Writes a file of queries: 500 names, or names that were not used before."""
    path = folder / "queries"
    if kind == "cached":
        names = (f"hot{n}.example. A" for n in range(500))
    else:
        names = (f"x{dice.getrandbits(60):015x}.example. A" for _ in range(per_second * options.seconds))
    path.write_text("\n".join(names) + "\n")
    return path


def measure(pid, port, path):
    """Returns the CPU microseconds of an answer: the total, and the user part."""
    before = cpu(pid)
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(path), "-l", str(options.seconds), "-c", "16", "-q", "200", "-T", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    user, system = [(b - a) * 1e6 for a, b in zip(before, cpu(pid))]
    done, lost = (int(re.search(rf"Queries {what}:\s+(\d+)", printed)[1]) for what in ("completed", "lost"))
    codes = re.search(r"Response codes:\s+(.*)", printed)[1]
    if "NOERROR" not in codes or "," in codes:
        sys.exit(f"outside: not every answer is an address: {codes}")
    return {"all": (user + system) / done, "user": user / done, "lost": lost, "qps": done / options.seconds}


def wait_for(port):
    """Waits until a datagram to the port is answered with an address."""
    packet = bytes.fromhex("0000010000010000000000000468 6f7430".replace(" ", "")) + b"\x07example\0\0\x01\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(0.5)
        for _ in range(60):
            try:
                udp.sendto(packet, ("127.0.0.1", port))
                if udp.recv(4096)[7]:
                    return
            except OSError:
                pass
            time.sleep(0.25)
    sys.exit(f"outside: nothing answers on port {port}")


upstream = free_port()
(folder / "example.zone").write_text("example. 3600 SOA ns.example. h.example. 1 3600 600 86400 60\nexample. 3600 NS ns.example.\nns.example. 3600 A 192.0.2.53\n*.example. 300 A 192.0.2.1\n")
(folder / "knot.conf").write_text(
    f"server:\n    rundir: {folder}\n    listen: 127.0.0.1@{upstream}\n    udp-workers: 2\n"
    f"log:\n  - target: stderr\n    any: warning\ndatabase:\n    storage: {folder}\n"
    f"zone:\n  - domain: example.\n    file: {folder}/example.zone\n    zonefile-sync: -1\n")
subjects, processes = {}, []


def start(*words):
    """Starts a program. Its output is written to a file, for the case that it fails."""
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=(folder / "errors").open("w"), cwd=folder)
    processes.append(process)
    return process


try:
    start("knotd", "-c", folder / "knot.conf")
    wait_for(upstream)

    port = free_port()
    (folder / "Corefile").write_text(f".:{port} {{\n    bind 127.0.0.1\n    forward . 127.0.0.1:{upstream}\n    cache 30\n}}\n")
    subjects["clusterdns"] = (start(options.binary, "-quiet", "-conf", folder / "Corefile"), port)

    port = free_port()
    (folder / "dnsdist.conf").write_text(
        "setSecurityPollSuffix('')\nsetMaxUDPOutstanding(65535)\n"
        + f"addLocal('127.0.0.1:{port}', {{reusePort=true}})\n" * 2
        + f"newServer({{address='127.0.0.1:{upstream}', sockets=4}})\nsetACL({{'127.0.0.0/8'}})\n"
        + "getPool(''):setCache(newPacketCache(100000, {numberOfShards=20}))\n")
    subjects["dnsdist"] = (start("dnsdist", "--supervised", "--disable-syslog", "-C", folder / "dnsdist.conf"), port)

    port = free_port()
    (folder / "unbound.conf").write_text(
        f"server:\n  interface: 127.0.0.1@{port}\n  num-threads: 2\n  so-reuseport: yes\n  do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n"
        f"  pidfile: {folder}/unbound.pid\n  directory: {folder}\n  use-syslog: no\n  module-config: iterator\n  do-not-query-localhost: no\n"
        f"  access-control: 127.0.0.0/8 allow\n  msg-cache-slabs: 2\n  rrset-cache-slabs: 2\n  outgoing-range: 4096\n  num-queries-per-thread: 2048\n"
        f"forward-zone:\n  name: .\n  forward-addr: 127.0.0.1@{upstream}\n")
    subjects["unbound"] = (start("unbound", "-d", "-c", folder / "unbound.conf"), port)
    for _, port in subjects.values():
        wait_for(port)

    results = {}
    for kind in ("cached", "fresh"):
        if options.only in (None, kind):
            found = results[kind] = {name: [] for name in subjects}
            for number in range(options.rounds):
                for name, (process, port) in subjects.items():
                    found[name].append(measure(process.pid, port, queries(kind)))
                print(f"{kind}, round {number + 1} of {options.rounds}: " + ", ".join(f"{name} {of[-1]['all']:.2f}" for name, of in found.items()) + " µs", flush=True)
finally:
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()
    shutil.rmtree(folder)

print(f"\n{'':<8} {'server':<12} {'CPU µs':>7} {'user':>6} {'qps':>8} {'lost':>5} {'ratio to dnsdist: median (least, most)':>40}")
for kind, found in results.items():
    for name, of in found.items():
        ratios = sorted(mine["all"] / theirs["all"] for mine, theirs in zip(of, found["dnsdist"]))
        middle = lambda key: statistics.median(one[key] for one in of)
        print(f"{kind:<8} {name:<12} {middle('all'):>7.2f} {middle('user'):>6.2f} {middle('qps'):>8.0f} {sum(one['lost'] for one in of):>5} "
              f"{statistics.median(ratios):>22.3f} ({ratios[0]:.3f}, {ratios[-1]:.3f})")
if options.svg:
    bars, most = [], max(one["all"] for found in results.values() for of in found.values() for one in of)
    for kind, found in results.items():
        for name, of in found.items():
            value, user = (statistics.median(one[key] for one in of) for key in ("all", "user"))
            y, scale = 40 + len(bars) * 30, 380 / most
            bars.append(f'<text x="150" y="{y + 16}" text-anchor="end">{kind}: {name}</text><rect x="160" y="{y}" width="{value * scale:.0f}" height="22" fill="#9db8d2"/>'
                        f'<rect x="160" y="{y}" width="{user * scale:.0f}" height="22" fill="#1f5a92"/><text x="{166 + value * scale:.0f}" y="{y + 16}">{value:.1f} µs</text>')
    pathlib.Path(options.svg).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{60 + 30 * len(bars)}" font-family="sans-serif" font-size="13">'
        f'<text x="10" y="22">CPU microseconds of an answer for an external name, UDP on loopback (dark: user)</text>{"".join(bars)}</svg>\n')
