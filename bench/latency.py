#!/usr/bin/env python3
"""Latency of the commands that users feel, engines interleaved in one run; prints medians and minima in milliseconds.

    bench/latency.py [--samples N] NAME=COMMAND...

NAME=COMMAND is an engine and how its client is called, e.g.

    bench/latency.py naru="target/x86_64-unknown-linux-gnu/release/naru" \\
        docker-to-naru="docker -H unix:///run/naru/naru.sock" \\
        docker-to-dockerd="docker -H unix:///var/run/docker.sock"

Each engine needs an image `bench:1` with busybox (made by `tar -C root -c . | NAME import - bench:1`). `--crun BUNDLE` adds
a bare `crun run` of a bundle that executes `true`, `--chroot DIR` says where crun and the bundle are found. crun refuses hosts
that have cgroup v1 and v2 side by side: `--mounts PID` has it run with the mounts of another process, e.g. of

    unshare -m sh -c 'umount -Rl /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec sleep 10000' &
"""
import argparse, ctypes, os, shlex, statistics, subprocess, time

libc = ctypes.CDLL(None, use_errno=True)


def run(command, chroot=None, cwd=None, mounts=None):
    def enter():
        if mounts is not None and libc.setns(mounts, 0):
            raise OSError(ctypes.get_errno(), "setns")
        if chroot:
            os.chroot(chroot)
        if cwd:
            os.chdir(cwd)
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          preexec_fn=enter if chroot or cwd or mounts is not None else None)
    elapsed = (time.perf_counter() - start) * 1000
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr.decode(errors='replace')[-300:]}")
    return elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--crun", metavar="BUNDLE")
    parser.add_argument("--chroot", metavar="DIR")
    parser.add_argument("--mounts", metavar="PID")
    options = parser.parse_args()
    engines = {name: shlex.split(command) for name, command in (engine.split("=", 1) for engine in options.engines)}
    for client in engines.values():
        subprocess.run(client + ["rm", "-f", "bench-exec"], capture_output=True)
        run(client + ["run", "-d", "--name", "bench-exec", "bench:1", "sleep", "100000"])
    cases = {
        "run --rm true": ["run", "--rm", "bench:1", "true"],
        "run --rm --network none true": ["run", "--rm", "--network", "none", "bench:1", "true"],
        "exec true": ["exec", "bench-exec", "true"],
        "ps": ["ps"],
    }
    mounts = os.open(f"/proc/{options.mounts}/ns/mnt", os.O_RDONLY) if options.mounts else None
    times = {}
    for sample in range(options.samples):
        for case, words in cases.items():
            for name, client in engines.items():
                times.setdefault((case, name), []).append(run(client + words))
        if options.crun:
            command = ["crun", "run", f"bench{sample}"]
            times.setdefault(("crun run true", "bare"), []).append(run(command, options.chroot, options.crun, mounts))
    for client in engines.values():
        subprocess.run(client + ["rm", "-f", "bench-exec"], capture_output=True)
    for (case, name), values in times.items():
        print(f"{case:32} {name:20} median {statistics.median(values):8.1f}   min {min(values):8.1f}")


if __name__ == "__main__":
    main()
