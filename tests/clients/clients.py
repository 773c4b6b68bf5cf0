"""What the Python clients do with an engine: docker-py and testcontainers, each as its users write it.

    DOCKER_HOST=unix:///... BOX=box:1 python3 clients.py [NAME...]

Every function whose name begins with `test_` is run, and a failure ends it with a traceback. No image is fetched: all run
the image named by BOX, a busybox.
"""

import io
import os
import socket
import struct
import sys
import tarfile
import time
import traceback
import urllib.request
import uuid

# The reaper of testcontainers is an image of the web.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.types import Healthcheck, LogConfig, Mount, Ulimit
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

BOX = os.environ["BOX"]
PATIENCE = 60
client = docker.from_env()


def name(purpose):
    return f"py-{purpose}-{uuid.uuid4().hex[:8]}"


def until(what, condition):
    """Waits; how long it takes is nobody's business unless it never comes."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)


class Running:
    """A container that is removed at the end of the block, whatever happens in it."""

    def __init__(self, command="sleep 1000", **options):
        self.options = {"detach": True, "name": name("box"), **options}
        self.command = command

    def __enter__(self):
        self.container = client.containers.run(BOX, self.command, **self.options)
        return self.container

    def __exit__(self, *_):
        try:
            self.container.remove(force=True, v=True)
        except NotFound:
            pass


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


def pruned(objects, **filters):
    """What a prune removes. Two of a kind do not run at once, and others prune the same engine."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return objects.prune(filters=filters)
        except APIError as error:
            if error.status_code != 409 or time.monotonic() > end:
                raise
        time.sleep(0.05)


def frames(sock, want):
    """Bytes per stream from an attached socket until `want` of all have come or it ends."""
    raw = getattr(sock, "_sock", sock)
    raw.settimeout(PATIENCE)

    def exactly(count):
        data = b""
        while len(data) < count:
            part = raw.recv(count - len(data))
            if not part:
                return None
            data += part
        return data

    found = {1: b"", 2: b""}
    while sum(map(len, found.values())) < want:
        head = exactly(8)
        if head is None:
            break
        stream, length = struct.unpack(">BxxxL", head)
        found[stream] += exactly(length)
    return found


def test_system():
    version = client.version()
    assert version["ApiVersion"] and version["Os"] == "linux" and version["Components"], version
    info = client.info()
    assert info["ServerVersion"] == version["Version"] and info["NCPU"] > 0 and info["MemTotal"] > 0, info
    assert client.ping() is True
    df = client.df()
    assert any(BOX in (image["RepoTags"] or []) for image in df["Images"]), df


def test_run():
    assert client.containers.run(BOX, ["echo", "hello"], remove=True) == b"hello\n"
    out = client.containers.run(BOX, ["sh", "-c", "echo out; echo err >&2"], remove=True, stdout=True, stderr=True)
    assert sorted(out.splitlines()) == [b"err", b"out"], out
    try:
        client.containers.run(BOX, ["sh", "-c", "echo why >&2; exit 7"], remove=True)
    except ContainerError as error:
        assert error.exit_status == 7 and b"why" in error.stderr, (error.exit_status, error.stderr)
    else:
        raise AssertionError("an exit code is an error")
    try:
        client.containers.run(BOX, "/nosuch", remove=True)
    except APIError as error:
        assert error.status_code == 400 and "/nosuch" in error.explanation, error
    else:
        raise AssertionError("a program that is not there cannot be run")
    try:
        client.images.get("nosuch:1")
    except ImageNotFound:
        pass
    else:
        raise AssertionError("no such image")


def test_many_options():
    options = dict(
        cap_add=["NET_ADMIN"], cap_drop=["CHOWN"], cpu_shares=512, cpu_quota=50000, cpu_period=100000, dns=["10.9.8.7"],
        dns_search=["example.test"], environment={"A": "1 2", "B": ""}, extra_hosts={"there": "10.1.2.3"}, hostname="here",
        init=True, labels={"x": "y"}, log_config=LogConfig(type="json-file", config={"max-size": "1m"}), mem_limit="64m",
        mem_swappiness=None, network_mode="bridge", oom_score_adj=100, pids_limit=50, ports={"80/tcp": None, "81/udp": ("127.0.0.1", None)},
        read_only=True, restart_policy={"Name": "on-failure", "MaximumRetryCount": 2}, security_opt=["no-new-privileges"], shm_size="16m",
        stdin_open=True, stop_signal="SIGINT", sysctls={"net.core.somaxconn": "99"}, tmpfs={"/scratch": "size=1m,uid=1000"},
        tty=True, ulimits=[Ulimit(name="nofile", soft=100, hard=200)], user="1000:1000", working_dir="/tmp",
        healthcheck=Healthcheck(test=["CMD", "true"], interval=10**9, timeout=10**9, retries=3, start_period=10**9),
    )
    with Running("sleep 1000", **options) as container:
        container.reload()
        host, config = container.attrs["HostConfig"], container.attrs["Config"]
        assert host["Memory"] == 64 << 20 and host["PidsLimit"] == 50 and host["ReadonlyRootfs"] and host["ShmSize"] == 16 << 20, host
        assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}, host
        assert config["Hostname"] == "here" and config["User"] == "1000:1000" and "A=1 2" in config["Env"] and "B=" in config["Env"], config
        assert container.ports["80/tcp"][0]["HostPort"] and container.ports["81/udp"][0]["HostIp"] == "127.0.0.1", container.ports
        code, out = container.exec_run("sh -c 'id -u; pwd; ulimit -n; cat /proc/sys/net/core/somaxconn; grep there /etc/hosts; cat /etc/resolv.conf'")
        assert code == 0 and out.split()[:4] == [b"1000", b"/tmp", b"100", b"99"] and b"10.1.2.3" in out and b"example.test" in out, out
        until("it is healthy", lambda: client.api.inspect_container(container.id)["State"]["Health"]["Status"] == "healthy")
        container.update(mem_limit="32m", memswap_limit="32m")
        container.reload()
        assert container.attrs["HostConfig"]["Memory"] == 32 << 20


def test_exec():
    # The client loses what comes together with the headers of the answer, also beside dockerd, which is only slower: hence
    # the sleeps here and elsewhere.
    with Running() as container:
        code, out = container.exec_run(["sh", "-c", "echo $X; pwd; id -u; exit 3"], environment={"X": "y"}, workdir="/tmp", user="1")
        assert (code, out) == (3, b"y\n/tmp\n1\n"), (code, out)
        code, (out, err) = container.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
        assert (code, out, err) == (0, b"o\n", b"e\n"), (code, out, err)
        code, stream = container.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True)
        assert code is None and b"".join(stream) == b"1\n2\n3\n"
        code, out = container.exec_run(["sh", "-c", "tty"], tty=True)
        assert out.startswith(b"/dev/pts/"), out
        # With a socket: what is written comes back, and the end of the input ends it.
        made = client.api.exec_create(container.id, ["cat"], stdin=True)
        sock = client.api.exec_start(made["Id"], socket=True)
        raw = getattr(sock, "_sock", sock)
        raw.sendall(b"into it\n")
        assert frames(sock, 8)[1] == b"into it\n"
        raw.shutdown(socket.SHUT_WR)
        assert frames(sock, 1) == {1: b"", 2: b""}
        until("the exec has ended", lambda: not client.api.exec_inspect(made["Id"])["Running"])
        assert client.api.exec_inspect(made["Id"])["ExitCode"] == 0
        sock.close()
        made = client.api.exec_create(container.id, ["sh", "-c", "sleep 0.2; touch /done"])
        assert not client.api.exec_start(made["Id"], detach=True)
        until("it ran behind", lambda: container.exec_run("test -e /done")[0] == 0)
        made = client.api.exec_create(container.id, ["sleep", "100"], tty=True)
        client.api.exec_start(made["Id"], detach=True)
        client.api.exec_resize(made["Id"], height=10, width=20)


def test_logs():
    with Running(["sh", "-c", "for i in 1 2 3; do echo $i; done; echo e >&2; until [ -e /go ]; do sleep 0.05; done; echo last"]) as container:
        until("four lines", lambda: len(container.logs().splitlines()) == 4)
        assert container.logs(stdout=False, stderr=True) == b"e\n"
        assert container.logs(stderr=False) == b"1\n2\n3\n"
        # Lines are counted over both streams.
        assert container.logs(stderr=False, tail=4) == b"1\n2\n3\n"
        assert len(container.logs(tail=1).splitlines()) == 1
        stamped = container.logs(timestamps=True, stderr=False).splitlines()
        assert stamped[0].endswith(b"Z 1"), stamped
        assert container.logs(since=int(time.time()) + 1000) == b""
        assert container.logs(until=1) == b""
        stream = container.logs(stream=True, follow=True)
        container.exec_run("touch /go")
        assert b"".join(stream).endswith(b"last\n")
        assert container.wait() == {"StatusCode": 0}


def test_attach():
    container = client.containers.create(BOX, "cat", stdin_open=True, name=name("attach"))
    try:
        sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        container.start()
        raw = getattr(sock, "_sock", sock)
        raw.sendall(b"one\n")
        assert frames(sock, 4)[1] == b"one\n"
        raw.sendall(b"two\n")
        assert frames(sock, 4)[1] == b"two\n"
        sock.close()
        assert container.logs() == b"one\ntwo\n"
    finally:
        container.remove(force=True)
    with Running(["sh", "-c", "until [ -e /go ]; do sleep 0.05; done; echo a; echo b"]) as container:
        stream = container.attach(stream=True)
        container.exec_run("touch /go")
        assert b"".join(stream) == b"a\nb\n"
    with Running("sh", tty=True, stdin_open=True) as container:
        sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        raw = getattr(sock, "_sock", sock)
        raw.settimeout(PATIENCE)
        container.resize(31, 71)
        raw.sendall(b"stty size; echo $((40+2))\n")
        seen = b""
        while b"42" not in seen:
            seen += raw.recv(4096)
        assert b"31 71" in seen, seen
        sock.close()


def test_lifecycle():
    with Running(["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"]) as container:
        container.pause()
        container.reload()
        assert container.status == "paused"
        container.unpause()
        new = name("renamed")
        container.rename(new)
        assert client.containers.get(new).id == container.id
        assert [found.id for found in client.containers.list(filters={"name": new, "status": "running"})] == [container.id]
        top = container.top()
        assert "PID" in top["Titles"] and top["Processes"], top
        container.restart(timeout=5)
        until("it heeds signals again", lambda: container.logs().count(b"up") == 2)
        container.stop(timeout=20)
        assert container.wait(condition="not-running")["StatusCode"] == 9
        container.start()
        container.kill(signal="SIGKILL")
        assert container.wait()["StatusCode"] == 137
        container.remove()
        try:
            client.containers.get(new)
        except NotFound:
            pass
        else:
            raise AssertionError("it was removed")


def test_stats():
    with Running(["sh", "-c", "while :; do :; done"], cpu_quota=20000) as container:
        once = container.stats(stream=False)
        assert once["memory_stats"]["usage"] > 0 and once["cpu_stats"]["cpu_usage"]["total_usage"] > 0 and once["name"] == "/" + container.name, once
        assert "eth0" in once["networks"], once
        stream = container.stats(stream=True, decode=True)
        first, second = next(stream), next(stream)
        assert second["cpu_stats"]["cpu_usage"]["total_usage"] > first["cpu_stats"]["cpu_usage"]["total_usage"]
        assert second["precpu_stats"]["system_cpu_usage"] == first["cpu_stats"]["system_cpu_usage"]
        stream.close()


def test_archives():
    with Running() as container:
        assert container.put_archive("/tmp", archive(**{"a.txt": b"hello", "b.txt": b"there"}))
        assert container.exec_run(["sh", "-c", "cat /tmp/a.txt /tmp/b.txt"])[1] == b"hellothere"
        parts, stat = container.get_archive("/tmp/a.txt")
        assert stat["name"] == "a.txt" and stat["size"] == 5, stat
        with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
            assert tar.extractfile("a.txt").read() == b"hello"
        changes = {change["Path"]: change["Kind"] for change in container.diff()}
        assert changes["/tmp/a.txt"] == 1, changes
        for broken in (lambda: container.get_archive("/nosuch"), lambda: container.put_archive("/nosuch", archive(a=b""))):
            try:
                broken()
            except NotFound:
                continue
            raise AssertionError("there is no such path")
        with tarfile.open(fileobj=io.BytesIO(b"".join(container.export()))) as tar:
            assert "tmp/a.txt" in tar.getnames()


def test_images():
    repository = name("image")
    with Running() as container:
        container.exec_run(["sh", "-c", "echo kept > /kept"])
        image = container.commit(repository=repository, tag="1", message="why", author="me", changes=["ENV Z=1", "LABEL k=v"])
    assert image.tags == [f"{repository}:1"] and image.labels == {"k": "v"}, image.attrs
    assert client.containers.run(image.id, ["sh", "-c", "cat /kept; echo $Z"], remove=True) == b"kept\n1\n"
    assert image.tag(repository, tag="2") and len(client.images.list(name=repository)) == 1
    assert image.history()[0]["Comment"] == "why", image.history()
    saved = b"".join(image.save(named=f"{repository}:1"))
    client.images.remove(f"{repository}:1")
    client.images.remove(f"{repository}:2")
    (loaded,) = client.images.load(saved)
    assert loaded.tags == [f"{repository}:1"] and loaded.id == image.id
    client.images.remove(loaded.id)
    assert client.images.list(filters={"reference": repository}) == []
    assert "SpaceReclaimed" in pruned(client.images, dangling=True, label="nobody=has")


def test_volumes():
    volume = client.volumes.create(name=name("volume"), labels={"py": "volume"})
    try:
        assert volume.attrs["Driver"] == "local" and volume.attrs["Mountpoint"], volume.attrs
        client.containers.run(BOX, ["sh", "-c", "echo data > /v/file"], volumes={volume.name: {"bind": "/v", "mode": "rw"}}, remove=True)
        mounts = [Mount("/v", volume.name, read_only=True), Mount("/t", None, type="tmpfs", tmpfs_size=1 << 20)]
        assert client.containers.run(BOX, ["sh", "-c", "cat /v/file; touch /v/x 2>/dev/null || echo refused"], mounts=mounts, remove=True) == b"data\nrefused\n"
        assert [found.name for found in client.volumes.list(filters={"label": "py=volume"})] == [volume.name]
        with Running(volumes=[f"{volume.name}:/v"]) as container:
            assert container.attrs is not None
            try:
                volume.remove()
            except APIError as error:
                assert error.status_code == 409, error
            else:
                raise AssertionError("it is in use")
        gone = pruned(client.volumes, all="1", label="py=volume")
        assert gone["VolumesDeleted"] == [volume.name], gone
    finally:
        try:
            volume.remove(force=True)
        except NotFound:
            pass


def test_networks():
    network = client.networks.create(name("network"), driver="bridge", labels={"py": "network"}, internal=True, check_duplicate=True)
    try:
        with Running(network=network.name, hostname="one") as one, Running() as two:
            network.connect(two, aliases=["second"])
            code, out = one.exec_run(["sh", "-c", "ping -c 1 second"])
            assert code == 0, out
            network.reload()
            assert {container.id for container in network.containers} == {one.id, two.id}
            network.disconnect(two)
            assert network.name not in client.api.inspect_container(two.id)["NetworkSettings"]["Networks"]
        assert [found.id for found in client.networks.list(names=[network.name], greedy=True)] == [network.id]
        assert pruned(client.networks, label="py=network")["NetworksDeleted"] == [network.name]
    finally:
        try:
            network.remove()
        except NotFound:
            pass


def test_events():
    since = int(time.time())
    with Running("true") as container:
        container.wait()
        until("it has ended", lambda: client.api.inspect_container(container.id)["State"]["Status"] == "exited")
        stream = client.events(decode=True, since=since, until=int(time.time()) + 1, filters={"container": container.id, "type": "container"})
        actions = [event["Action"] for event in stream]
        assert actions[:2] == ["create", "start"] and "die" in actions, actions
    live = client.events(decode=True, filters={"type": "volume", "event": "create"})
    volume = client.volumes.create(name=name("seen"))
    try:
        # Others make volumes, too.
        assert any(event["Actor"]["ID"] == volume.name for event in live)
    finally:
        live.close()
        volume.remove()


def test_prune():
    label = name("prune")
    container = client.containers.create(BOX, "true", labels={"prune": label})
    gone = pruned(client.containers, label=f"prune={label}")
    assert gone["ContainersDeleted"] == [container.id] and "SpaceReclaimed" in gone, gone


def test_testcontainers():
    page = "echo serving; mkdir /www; echo page > /www/index.html; exec httpd -f -p 8080 -h /www"
    with DockerContainer(BOX).with_exposed_ports(8080).with_env("K", "v").with_command(["sh", "-c", page]) as container:
        wait_for_logs(container, "serving", timeout=PATIENCE)
        address = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8080)}/"

        def answers():
            try:
                return urllib.request.urlopen(address, timeout=5).read() == b"page\n"
            except OSError:
                return False

        until("the page comes", answers)
        result = container.exec(["sh", "-c", "echo $K"])
        assert (result.exit_code, result.output) == (0, b"v\n"), result
        assert container.get_logs()[0] == b"serving\n", container.get_logs()


def test_testcontainers_network():
    with Network() as network:
        with DockerContainer(BOX).with_network(network).with_network_aliases("server").with_command("sleep 1000"):
            with DockerContainer(BOX).with_network(network).with_command("ping -c 1 server") as asking:
                wait_for_logs(asking, "1 packets received", timeout=PATIENCE)


def main():
    tests = {key: value for key, value in globals().items() if key.startswith("test_")}
    chosen = sys.argv[1:] or list(tests)
    failed = []
    for key in chosen:
        try:
            tests[key]()
            print(f"{key} ok", flush=True)
        except Exception:
            failed.append(key)
            print(f"{key} FAILED\n{traceback.format_exc()}", flush=True)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


main()
