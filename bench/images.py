#!/usr/bin/env python3
"""Time that images take to travel, engines one after the other in each round; prints medians and minima in seconds.

    bench/images.py [--rounds N] --image HOST:PORT/NAME:TAG NAME=COMMAND...

NAME=COMMAND is an engine and how its client is called, e.g. naru="docker -H unix:///run/naru/naru.sock". The image is pulled
(cold: no layer is there), pulled again, saved, removed, loaded, pushed to a new repository of the same registry. With
`--pipeline` a shell pipeline per layer (curl, sha256sum, igzip or gzip, sha256sum, tar) of the same layers in parallel is
measured, too: `--pipeline DIR` says where it may unpack.
"""
import argparse, json, os, shlex, shutil, statistics, subprocess, tempfile, time, urllib.request


def timed(command, stdout=subprocess.DEVNULL):
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE)
    elapsed = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr.decode(errors='replace')[-300:]}")
    return elapsed


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--image", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pipeline", metavar="DIR")
    options = parser.parse_args()
    engines = {name: shlex.split(command) for name, command in (engine.split("=", 1) for engine in options.engines)}
    image, host = options.image, options.image.split("/", 1)[0]
    times = {}
    note = lambda what, name, seconds: times.setdefault((what, name), []).append(seconds)
    for round_ in range(options.rounds):
        if options.pipeline:
            note("pull", "pipeline", pipeline(image, options.pipeline))
        for name, client in engines.items():
            subprocess.run(client + ["rmi", "-f", image], capture_output=True)
            note("pull", name, timed(client + ["pull", "-q", image]))
            note("pull again", name, timed(client + ["pull", "-q", image]))
            with tempfile.NamedTemporaryFile(dir="/dev/shm") as archive:
                note("save", name, timed(client + ["save", image], stdout=archive))
                note("rmi", name, timed(client + ["rmi", image]))
                time.sleep(2)
                note("load", name, timed(client + ["load", "-q", "-i", archive.name]))
            target = f"{host}/bench-{name}-{os.getpid()}-{round_}:1"
            subprocess.run(client + ["tag", image, target], capture_output=True)
            note("push", name, timed(client + ["push", "-q", target]))
            subprocess.run(client + ["rmi", "-f", image, target], capture_output=True)
            time.sleep(2)
    for (what, name), values in times.items():
        print(f"{what:12} {name:20} median {statistics.median(values):7.2f}  min {min(values):7.2f}  n {len(values)}")


if __name__ == "__main__":
    main()
