#!/usr/bin/env python3
"""Networks of engines side by side: throughput, requests, names, many containers, memory of ports, coming and going.

    bench/network.py [--only CASE,...] [--samples N] [--seconds S] NAME=SOCKET:PIDFILE...

Each engine runs in a network namespace of its own, so that rules and links of others are not measured:

    ip netns add bench-naru
    nsenter --net=/run/netns/bench-naru naru daemon -H unix:///run/bench/naru.sock --pidfile /run/bench/naru.pid \\
        --data-root /var/tmp/bench-naru --exec-root /run/bench/naru --bridge bench0 --bip 10.91.0.1/24 \\
        --config-file /dev/null &
    ip netns add bench-docker
    nsenter --net=/run/netns/bench-docker dockerd -H unix:///run/bench/docker.sock -p /run/bench/docker.pid \\
        --data-root /var/tmp/bench-docker --exec-root /run/bench/docker --bip 10.92.0.1/24 &
    bench/network.py naru=/run/bench/naru.sock:/run/bench/naru.pid docker=/run/bench/docker.sock:/run/bench/docker.pid

Each needs an image `bench:1` with busybox. Programs: docker (the client), iperf3, wrk, nginx, dnsperf, iproute2, nft. What
serves and asks runs in the containers' namespaces but is the host's program, the same for all engines. Engines are
interleaved; medians are printed, with the least and the most.
"""
import argparse, contextlib, json, os, re, statistics, subprocess, tempfile, time

CASES = ["throughput", "requests", "names", "many", "ports", "cycles"]
OTHER, HOST = "10.93.0.2", "10.93.0.1"
results = {}


def run(*words, ok=True, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, stdin=subprocess.DEVNULL, **more)
    if ok and done.returncode:
        raise SystemExit(f"{words}: {done.stdout[-300:]} {done.stderr[-300:]}")
    return done.stdout.strip()


def note(case, name, value, unit):
    results.setdefault((case, unit), {}).setdefault(name, []).append(value)


def say(case, name, text):
    print(f"{case:44} {name:10} {text}", flush=True)


class Engine:
    def __init__(self, text):
        self.name, rest = text.split("=", 1)
        self.socket, pidfile = rest.rsplit(":", 1)
        self.pid = int(open(pidfile).read())
        self.net = f"/proc/{self.pid}/ns/net"

    def do(self, *words, **more):
        return run("docker", "-H", f"unix://{self.socket}", *words, **more)

    def box(self, name, *flags):
        self.do("rm", "-f", name, ok=False)
        self.do("run", "-d", "--init", "--name", name, *flags, "bench:1", "sleep", "100000")
        pid = self.do("inspect", "-f", "{{.State.Pid}}", name)
        address = self.do("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)
        return f"/proc/{pid}/ns/net", address

    def network(self, name, *flags):
        self.do("network", "rm", name, ok=False)
        self.do("network", "create", *flags, name)

    def memory(self):
        """PSS in MB of the daemon and of what serves its ports (docker-proxy), and how many processes that is."""
        total, count = 0, 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                parent = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1]
                own = int(pid) == self.pid or (parent == str(self.pid) and open(f"/proc/{pid}/comm").read().strip() == "docker-proxy")
                if own:
                    total += int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read(), re.M)[1])
                    count += 1
            except (FileNotFoundError, ProcessLookupError, TypeError):
                continue
        return total / 1024, count


def within(net, *words, **more):
    return run("nsenter", f"--net={net}", *words, **more)


@contextlib.contextmanager
def service(net, *words):
    process = subprocess.Popen(["nsenter", f"--net={net}", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    time.sleep(0.4)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def machine(net):
    """Another machine: a namespace with a cable to the one of `net`. Yields its own."""
    keeper = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; echo; read -r line"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    keeper.stdout.readline()
    there = f"/proc/{keeper.pid}/ns/net"
    try:
        within(net, "ip", "link", "add", "bench-up", "type", "veth", "peer", "name", "eth0", "netns", keeper.pid)
        within(net, "ip", "addr", "add", f"{HOST}/24", "dev", "bench-up")
        within(net, "ip", "link", "set", "bench-up", "up")
        within(there, "ip", "addr", "add", f"{OTHER}/24", "dev", "eth0")
        within(there, "ip", "link", "set", "eth0", "up")
        yield there
    finally:
        within(net, "ip", "link", "del", "bench-up", ok=False)
        keeper.stdin.close()
        keeper.wait()


def flow(net, address, port, seconds):
    """Gigabits per second of one TCP connection."""
    for _ in range(3):  # the server takes one client at a time and may not be through with the last
        text = within(net, "iperf3", "-J", "-c", address, "-p", port, "-t", seconds, ok=False)
        with contextlib.suppress(KeyError, ValueError):
            return json.loads(text)["end"]["sum_received"]["bits_per_second"] / 1e9
        time.sleep(0.5)
    raise SystemExit(f"iperf3 to {address}:{port}: {text[-300:]}")


def throughput(engines, options):
    case = "throughput, Gbit/s: "
    with contextlib.ExitStack() as stack:
        sides = {}
        for engine in engines:
            other = stack.enter_context(machine(engine.net))
            engine.network("bench-net")
            server, address = engine.box("bench-server", "--network", "bench-net", "-p", "5301:5201")
            client, _ = engine.box("bench-client", "--network", "bench-net")
            stack.enter_context(service(server, "iperf3", "-s"))
            sides[engine.name] = [("container to container", client, address, 5201), ("host to published port, own address", engine.net, HOST, 5301),
                                  ("host to published port, 127.0.0.1", engine.net, "127.0.0.1", 5301), ("another machine to published port", other, HOST, 5301)]
        bare = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; echo; read -r line"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)
        bare.stdout.readline()
        other = stack.enter_context(machine(f"/proc/{bare.pid}/ns/net"))
        stack.enter_context(service(other, "iperf3", "-s"))
        for _ in range(options.samples):
            note(case + "bare veth pair", "bare", flow(f"/proc/{bare.pid}/ns/net", OTHER, 5201, options.seconds), "")
            for number in range(4):
                for engine in engines:
                    what, net, address, port = sides[engine.name][number]
                    note(case + what, engine.name, flow(net, address, port, options.seconds), "")
        bare.stdin.close()


def requests(engines, options):
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.chmod(folder, 0o755)
        open(f"{folder}/index.html", "w").write("x" * 612)
        open(f"{folder}/conf", "w").write(f"daemon off; worker_processes 1; user root; error_log /dev/null; events {{}}\n"
            f"http {{ access_log off; keepalive_requests 1000000; server {{ listen 80; root {folder}; }} }}\n")
        sides = {}
        for engine in engines:
            other = stack.enter_context(machine(engine.net))
            server, address = engine.box("bench-server", "-p", "5302:80")
            stack.enter_context(service(server, "nginx", "-c", f"{folder}/conf", "-g", f"pid {folder}/{engine.name}.pid;"))
            sides[engine.name] = [("another machine", other, f"{HOST}:5302"), ("host, 127.0.0.1", engine.net, "127.0.0.1:5302"),
                                  ("host, container's own address", engine.net, f"{address}:80")]
        for _ in range(options.samples):
            for number in range(3):
                for engine in engines:
                    what, net, address = sides[engine.name][number]
                    text = within(net, "wrk", "-t", "1", "-c", "1", "-d", f"{options.seconds}s", "--latency", f"http://{address}/")
                    value, unit = re.search(r"50%\s+([\d.]+)(us|ms)", text).groups()
                    note(f"one request after another, us: {what}", engine.name, float(value) * (1000 if unit == "ms" else 1), "")
                    text = within(net, "wrk", "-t", "1", "-c", "32", "-d", f"{options.seconds}s", f"http://{address}/")
                    note(f"requests/s, 32 connections: {what}", engine.name, float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), "")


def names(engines, options):
    with tempfile.NamedTemporaryFile("w", suffix=".dns") as queries:
        queries.write("bench-server A\n")
        queries.flush()
        nets = {}
        for engine in engines:
            engine.network("bench-net2")
            engine.box("bench-server", "--network", "bench-net2")
            nets[engine.name], _ = engine.box("bench-client", "--network", "bench-net2")
        for _ in range(options.samples):
            for engine in engines:
                text = within(nets[engine.name], "dnsperf", "-s", "127.0.0.11", "-d", queries.name, "-l", options.seconds)
                lost = re.search(r"Queries lost:\s+(\d+)", text)[1]
                assert "NOERROR" in text, text
                note("a container's name, answers/s", engine.name, float(re.search(r"Queries per second:\s+([\d.]+)", text)[1]), "")
                if lost != "0":
                    say("lost queries", engine.name, lost)


def many(engines, options):
    for engine in engines:
        engine.network("bench-many", "--subnet", "10.94.0.0/22")
        count = options.containers
        before, start = engine.memory()[0], time.time()
        boxes = [engine.box(f"bench-m{number}", "--network", "bench-many")[1] for number in range(count)]
        say(f"{count} containers in one network", engine.name, f"{time.time() - start:.1f} s to start, daemon {before:.1f} to {engine.memory()[0]:.1f} MB")
        script = "; ".join(f"nslookup -type=a bench-m{number} 127.0.0.11 | grep -q 'Address.* {address}$' || echo bench-m{number}" for number, address in enumerate(boxes))
        start = time.time()
        wrong = engine.do("exec", "bench-m0", "busybox", "sh", "-c", script.replace("nslookup", "busybox nslookup").replace("grep", "busybox grep"))
        say("all names from one container", engine.name, f"{time.time() - start:.1f} s, wrong: {len(wrong.split())}")
        wrong, start = [], time.time()
        for number in range(count):
            target = (number * 7 + 1) % count
            text = engine.do("exec", f"bench-m{number}", "busybox", "nslookup", "-type=a", f"bench-m{target}", "127.0.0.11", ok=False)
            if not text.endswith(boxes[target]):
                wrong.append(number)
        say("another's name from each container", engine.name, f"{time.time() - start:.1f} s, wrong: {len(wrong)}")
        start = time.time()
        engine.do("rm", "-f", *(f"bench-m{number}" for number in range(count)))
        engine.do("network", "rm", "bench-many")
        say(f"rm -f of {count}", engine.name, f"{time.time() - start:.1f} s, daemon {engine.memory()[0]:.1f} MB")


def ports(engines, options):
    for engine in engines:
        engine.box("bench-ports")
        before = engine.memory()
        start = time.time()
        engine.box("bench-ports", "-p", "21000-21999:21000-21999")
        took = time.time() - start
        after = engine.memory()
        say("1,000 published ports", engine.name, f"{took:.2f} s, {after[0] - before[0]:.1f} MB more, {after[1] - before[1]} processes more")
        start = time.time()
        engine.do("rm", "-f", "bench-ports")
        say("their end", engine.name, f"{time.time() - start:.2f} s")


def cycles(engines, options):
    for engine in engines:
        engine.network("bench-cycle")
        net, _ = engine.box("bench-box", "-p", "5303:80")

        def state():
            rules = within(engine.net, "nft", "list", "ruleset")
            return {"descriptors": len(os.listdir(f"/proc/{engine.pid}/fd")), "links": len(within(engine.net, "ip", "-o", "link").splitlines()),
                    "words of rules": len(rules.split()), "daemon MB": round(engine.memory()[0], 1)}

        def cycle():
            engine.do("network", "connect", "bench-cycle", "bench-box")
            engine.do("network", "disconnect", "bench-cycle", "bench-box")

        cycle()
        before, start = state(), time.time()
        for _ in range(options.cycles):
            cycle()
        took = time.time() - start
        time.sleep(0.5)
        say(f"{options.cycles} times connect, disconnect", engine.name, f"{took:.1f} s; before {before}, after {state()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", metavar="NAME=SOCKET:PIDFILE")
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--cycles", type=int, default=500)
    options = parser.parse_args()
    engines = [Engine(text) for text in options.engines]
    try:
        for case in options.only.split(","):
            globals()[case](engines, options)
    finally:
        for engine in engines:
            found = engine.do("ps", "-aq", "--filter", "name=bench-", ok=False).split()
            if found:
                engine.do("rm", "-f", *found, ok=False)
            for name in engine.do("network", "ls", "--filter", "name=bench-", "--format", "{{.Name}}", ok=False).split():
                engine.do("network", "rm", name, ok=False)
        for (case, _), by_name in results.items():
            for name, values in by_name.items():
                say(case, name, f"{statistics.median(values):10.1f}   ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
