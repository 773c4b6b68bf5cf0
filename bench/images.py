#!/usr/bin/env python3
"""Time that images take to travel, engines one after the other in each round; prints medians and minima in seconds.

    bench/images.py [--rounds N] --image HOST:PORT/NAME:TAG NAME=COMMAND...

NAME=COMMAND is an engine and how its client is called, e.g. naru="docker -H unix:///run/naru/naru.sock", or
podman="podman --root /mnt/tmpfs/podman". The image is pulled (cold: no layer is there), pulled again, pushed to a registry
that has nothing (docker-registry with an empty directory of its own, as root of Debian's package), pushed again, saved,
removed. Then an archive with layers that are not compressed (made by skopeo) is loaded, and that is pushed to a registry that
has nothing: such layers have to be compressed first.

With `--pipeline DIR` a shell pipeline per layer (curl, sha256sum, igzip or gzip, sha256sum, tar) of the same layers in parallel
is measured, too; it unpacks in DIR. With `--pid NAME=PID` the most memory that process had while it pulled is told, in
megabytes. All data roots should be on the same kind of file system: times of a disk are not those of an engine.
"""
import argparse, json, os, shlex, shutil, statistics, subprocess, tempfile, time, urllib.request

SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None


def timed(command, stdout=subprocess.DEVNULL):
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE)
    elapsed = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr.decode(errors='replace')[-300:]}")
    return elapsed


class EmptyRegistry:
    """docker-registry with nothing in it, on a port of its own."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(dir=SCRATCH)
        config = f"{self.directory}/config.yml"
        with open(config, "w") as file:
            file.write(f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {self.directory}/data\n"
                       "http:\n  addr: 127.0.0.1:0\n  secret: x\n")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL,
                                        stderr=open(f"{self.directory}/log", "w"))
        while True:
            log = open(f"{self.directory}/log").read()
            if "listening on " in log:
                self.address = log.split("listening on ")[1].split('"')[0].split()[0]
                return self
            if self.process.poll() is not None:
                raise SystemExit(f"docker-registry: {log}")
            time.sleep(0.01)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory)


class Engine:
    def __init__(self, text):
        self.name, command = text.split("=", 1)
        self.client = shlex.split(command)
        # Podman takes no registry on loopback for one without TLS by itself.
        self.insecure = ["--tls-verify=false"] if "podman" in os.path.basename(self.client[0]) else []

    def quiet(self, *args):
        subprocess.run(self.client + list(args), capture_output=True)

    def timed(self, *args, stdout=subprocess.DEVNULL):
        return timed(self.client + list(args), stdout)

    def pull(self, image):
        return self.timed("pull", "-q", *self.insecure, image)

    def push(self, image, registry):
        target = f"{registry.address}/bench/image:1"
        self.quiet("tag", image, target)
        elapsed = self.timed("push", "-q", *self.insecure, target)
        self.quiet("rmi", target)
        return elapsed


class Peak:
    """The most memory a process has between two moments."""

    def __init__(self, pid):
        self.pid = pid
        if pid:
            with open(f"/proc/{pid}/clear_refs", "w") as file:
                file.write("5")

    def megabytes(self):
        status = open(f"/proc/{self.pid}/status").read() if self.pid else ""
        return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)


def pipeline(image, where):
    host, rest = image.split("/", 1)
    name, tag = rest.rsplit(":", 1)
    accept = "application/vnd.oci.image.manifest.v1+json,application/vnd.docker.distribution.manifest.v2+json"
    request = urllib.request.Request(f"http://{host}/v2/{name}/manifests/{tag}", headers={"Accept": accept})
    layers = json.load(urllib.request.urlopen(request))["layers"]
    inflate = "igzip -dc" if shutil.which("igzip") else "gzip -dc"
    root = tempfile.mkdtemp(dir=where)
    start = time.perf_counter()
    running = []
    for at, layer in enumerate(layers):
        os.mkdir(f"{root}/{at}")
        script = (f"curl -s http://{host}/v2/{name}/blobs/{layer['digest']} | tee >(sha256sum >/dev/null) | {inflate} "
                  f"| tee >(sha256sum >/dev/null) | tar -x -C {root}/{at}")
        running.append(subprocess.Popen(["bash", "-c", script]))
    for process in running:
        if process.wait():
            raise SystemExit("the pipeline failed")
    elapsed = time.perf_counter() - start
    shutil.rmtree(root)
    return elapsed


def one_round(engine, image, plain, pid, note):
    loaded = "localhost/bench/loaded:1"
    engine.quiet("rmi", "-f", image, loaded)
    peak = Peak(pid)
    note("pull", engine.pull(image))
    if (memory := peak.megabytes()) is not None:
        note("pull, MB", memory)
    note("pull again", engine.pull(image))
    with EmptyRegistry() as registry:
        note("push", engine.push(image, registry))
        note("push again", engine.push(image, registry))
    with tempfile.NamedTemporaryFile(dir=SCRATCH) as archive:
        note("save", engine.timed("save", image, stdout=archive))
    note("rmi", engine.timed("rmi", image))
    # The files go in the background, which must not slow the load down.
    time.sleep(2)
    note("load", engine.timed("load", "-q", "-i", plain))
    with EmptyRegistry() as registry:
        note("push, loaded", engine.push(loaded, registry))
    engine.quiet("rmi", "-f", loaded)
    time.sleep(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", metavar="NAME=COMMAND", type=Engine)
    parser.add_argument("--image", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pipeline", metavar="DIR")
    parser.add_argument("--pid", action="append", default=[], metavar="NAME=PID")
    options = parser.parse_args()
    pids = dict(text.split("=", 1) for text in options.pid)
    values = {}
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
        plain = f"{directory}/plain.tar"
        timed(["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{options.image}",
               f"docker-archive:{plain}:localhost/bench/loaded:1"])
        for _ in range(options.rounds):
            if options.pipeline:
                values.setdefault(("pull", "pipeline"), []).append(pipeline(options.image, options.pipeline))
            for engine in options.engines:
                note = lambda what, value: values.setdefault((what, engine.name), []).append(value)
                one_round(engine, options.image, plain, pids.get(engine.name), note)
    for (what, name), found in values.items():
        print(f"{what:12} {name:20} median {statistics.median(found):7.2f}  min {min(found):7.2f}  n {len(found)}")


if __name__ == "__main__":
    main()
