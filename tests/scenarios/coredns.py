#!/usr/bin/env python3
"""Runs scenario files against CoreDNS. usage: coredns.py KUBECONFIG FILE.dns...

The API server should have no controllers beside it, so that EndpointSlices stay as the files have them. Needs `coredns`,
`kubectl` and `cargo` on PATH, and PyYAML. The objects of a file are applied; each of its Corefiles gets a CoreDNS of its
own, and the sections with this Corefile run against it. Exit status 1 if any of them fails."""
import collections, json, os, re, socket, subprocess, sys, tempfile, time
import yaml

kubeconfig, files = os.path.abspath(sys.argv[1]), sys.argv[2:]
kubectl = ["kubectl", "--kubeconfig", kubeconfig]


def blocks(lines):
    """Keyword lines with their bodies."""
    out = []
    for line in lines:
        if line[:1].strip() and not line.startswith("#"):
            out.append((line, []))
        elif out and not line.startswith("#"):
            out[-1][1].append(line[4:])
    return [(head, "\n".join(body)) for head, body in out]


def apply(text):
    items = [i for d in yaml.safe_load_all(text) if d for i in d.get("items", [d])]
    items = [i for i in items if i["metadata"]["name"] != "kubernetes"]
    spaces = {i["metadata"]["namespace"] for i in items if "namespace" in i["metadata"]}
    spaces -= {i["metadata"]["name"] for i in items if i["kind"] == "Namespace"}
    items = [{"kind": "Namespace", "metadata": {"name": n}} for n in spaces] + sorted(items, key=lambda i: i["kind"] != "Namespace")
    for item in items:
        item["apiVersion"] = "discovery.k8s.io/v1" if item["kind"] == "EndpointSlice" else "v1"
    pods, items = [i for i in items if i["kind"] == "Pod"], [i for i in items if i["kind"] != "Pod"]
    run = lambda *words, **more: subprocess.run([*kubectl, *words], text=True, check=True, stdout=subprocess.DEVNULL, **more)
    # What an earlier run has left may not be changed into what is wanted now.
    for ns in {i["metadata"]["namespace"] for i in items if "namespace" in i["metadata"]}:
        run("delete", "services,endpointslices,pods", "--all", "--grace-period=0", "--force", "-n", ns, stderr=subprocess.DEVNULL)
    run("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    for pod in pods:
        name, ns = pod["metadata"]["name"], pod["metadata"]["namespace"]
        subprocess.run([*kubectl, "create", "serviceaccount", "default", "-n", ns], capture_output=True)
        status = pod.pop("status")
        pod["spec"] = {"containers": [{"name": "c", "image": "none"}], "automountServiceAccountToken": False}
        run("apply", "-f", "-", input=json.dumps(pod), stderr=subprocess.DEVNULL)
        run("patch", "pod", name, "-n", ns, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def corefile(text):
    """With the way to the API server in every kubernetes stanza."""
    text = re.sub(r"^(\s*kubernetes\b[^{\n]*)$", r"\1 {\n}", text, flags=re.M)
    return re.sub(r"^(\s*kubernetes\b[^{\n]*)\{", rf"\1{{\n kubeconfig {kubeconfig}\n", text, flags=re.M)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


failed = False
for path in files:
    name = os.path.basename(path).removesuffix(".dns")
    head, *sections = re.split(r"^== ", open(path).read(), flags=re.M)
    head = blocks(head.splitlines())
    served = next((h.split()[1] for h, _ in head if h.startswith("served ")), None)
    shared = "".join(b for h, b in head if h == "corefile")
    with tempfile.TemporaryDirectory() as folder:
        for h, body in head:
            if h == "objects":
                apply(body)
            elif h.startswith("objects "):
                apply(open(os.path.join(os.path.dirname(path), "..", h.split()[1])).read())
        groups = collections.defaultdict(list)
        for section in sections:
            title, *lines = section.splitlines()
            own = [b for h, b in blocks(lines) if h == "corefile"]
            groups[own[-1] if own else shared].append(f"{name}: {title.strip()}")
        for text, titles in groups.items():
            if "$DIR" in text or re.search(r"^\S*:\d+ .*\{$|\bbind\b", text, flags=re.M) or not text.strip():
                print("not asked, for its Corefile:", *titles, sep="\n  ")
                continue
            port = free_port()
            conf = os.path.join(folder, "Corefile")
            open(conf, "w").write(corefile(text))
            log = open(os.path.join(folder, "log"), "w+")
            server = subprocess.Popen(["coredns", "-conf", conf, "-dns.port", str(port)], stdout=log, stderr=log)
            try:
                for _ in range(100):
                    with socket.socket() as s:
                        if s.connect_ex(("127.0.0.1", port)) == 0:
                            break
                    time.sleep(0.1)
                else:
                    log.seek(0)
                    print(*titles, log.read(), sep="\n")
                    failed = True
                    continue
                env = dict(os.environ, SUBJECT=f"127.0.0.1:{port}", SERVES=served or "shop")
                words = ["cargo", "test", "-q", "--test", "scenarios", "--", "--exact", *titles]
                for title in titles:
                    result = subprocess.run([*words[:-len(titles)], title], env=env, text=True, capture_output=True)
                    if result.returncode:
                        failed = True
                        print(f"{title}: FAILED", "\n".join(l for l in result.stdout.splitlines() if re.match(r"\s+[-+] |tests/", l)), sep="\n")
                    else:
                        print(f"{title}:", "ignored" if " 1 ignored" in result.stdout else "ok")
            finally:
                server.terminate()
                server.wait()
sys.exit(failed)
