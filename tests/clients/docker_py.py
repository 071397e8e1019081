"""Calls of docker-py against a gateway; run by tests/tests/docker_clients.rs.

    docker_py.py GROUP IMAGE REGISTRY_IMAGE

GROUP is a function of this file. IMAGE has a shell and is in the store; REGISTRY_IMAGE is in a registry. DOCKER_HOST
names the socket. Every call is checked for its result, and for its effect by another call.
"""

import io
import json
import sys
import tarfile
import time

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound


def refused(status, call, *args, **options):
    """Makes a call that must fail with this status; returns the message."""
    try:
        result = call(*args, **options)
    except APIError as error:
        assert error.response.status_code == status, error
        assert error.explanation, error
        return error.explanation
    raise AssertionError(f"no error, but {result!r}")


def system(client, image, _):
    assert client.ping() is True
    assert client.api._version == "1.50", client.api._version
    version = client.version()
    assert version["ApiVersion"] == "1.50" and version["MinAPIVersion"] == "1.24", version
    assert version["Os"] == "linux" and version["Components"], version
    info = client.info()
    assert info["OSType"] == "linux" and info["NCPU"] > 0 and info["MemTotal"] > 0, info
    assert info["Images"] == 1 and info["Containers"] == 0, info
    client.containers.create(image, "true", name="counted")
    assert client.info()["Containers"] == 1
    usage = client.df()
    assert [row["Names"] for row in usage["Containers"]] == [["/counted"]], usage
    assert usage["Images"][0]["RepoTags"] == ["box:1"], usage
    assert client.networks.list() is not None and client.volumes.list() == []
    refused(404, client.networks.get, "missing")
    refused(404, client.volumes.get, "missing")
    refused(501, client.volumes.create, "data")
    refused(501, client.networks.create, "net")
    refused(501, client.images.build, fileobj=io.BytesIO(b"FROM scratch"))
    # The paths of an older version of the API.
    for number in ("1.24", "1.41", "1.50"):
        older = docker.DockerClient.from_env(version=number)
        assert older.ping() and older.version()["ApiVersion"] == "1.50"
        assert len(older.containers.list(all=True)) == 1
        older.close()


def images(client, image, reference):
    assert [each.tags for each in client.images.list()] == [["box:1"]]
    pulled = client.images.pull(reference)
    assert reference in pulled.tags, pulled.tags
    assert pulled.id.startswith("sha256:") and len(pulled.id) == 71, pulled.id
    assert client.images.get(reference).id == pulled.id
    assert client.images.get(pulled.id).tags == pulled.tags
    assert client.images.get(pulled.short_id.removeprefix("sha256:")).id == pulled.id
    assert pulled.attrs["RootFS"]["Type"] == "layers" and pulled.attrs["Os"] == "linux"
    assert pulled.attrs["RepoDigests"], pulled.attrs
    name = reference.rsplit(":", 1)[0]
    listed = client.images.list(name=name)
    assert [each.id for each in listed] == [pulled.id], listed
    assert client.images.list(filters={"dangling": True}) == []
    assert len(client.images.list(filters={"reference": ["box:*", name]})) == 2
    assert pulled.history()[0]["Id"] == pulled.id, pulled.history()
    # All tags: docker-py returns a list.
    every = client.images.pull(name, all_tags=True)
    assert [each.id for each in every] == [pulled.id]
    # The text of the stream is in docker's words.
    lines = list(client.api.pull(name, tag=reference.rsplit(":", 1)[1], stream=True, decode=True))
    assert lines[0]["status"].startswith("Pulling from "), lines
    assert lines[-1]["status"] == f"Status: Image is up to date for {reference}", lines
    assert pulled.tag("copied/box", "2") is True
    assert "copied/box:2" in client.images.get(reference).tags
    refused(404, client.images.get, "missing:1")
    try:
        client.images.pull(f"{name}-missing", tag="1")
        raise AssertionError("a missing image was pulled")
    except (NotFound, ImageNotFound):
        pass
    archive = b"".join(pulled.save(named=True))
    names = tarfile.open(fileobj=io.BytesIO(archive)).getnames()
    assert "manifest.json" in names, names
    client.images.remove("copied/box:2")
    client.images.remove(reference)
    refused(404, client.images.get, reference)
    loaded = client.images.load(archive)
    assert [each.id for each in loaded] == [pulled.id], loaded
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as layer:
        member = tarfile.TarInfo("hello")
        member.size = 5
        layer.addfile(member, io.BytesIO(b"hello"))
    client.api.import_image_from_data(tar.getvalue(), repository="imported", tag="1")
    assert client.images.get("imported:1").attrs["RootFS"]["Layers"]
    client.images.get(image).tag(f"{name}-pushed", "3")
    lines = list(client.images.push(f"{name}-pushed", tag="3", stream=True, decode=True))
    assert not [line for line in lines if "error" in line], lines
    assert client.images.pull(f"{name}-pushed", tag="3").tags
    pruned = client.images.prune(filters={"dangling": False})
    assert pruned["SpaceReclaimed"] >= 0
    assert client.images.list() == [], client.images.list()


def containers(client, image, _):
    # `containers.run` gives the output only if the log is one that docker can read.
    assert client.containers.run(image, "echo hello", remove=True) == b"hello\n"
    assert client.containers.list(all=True) == []
    try:
        client.containers.run(image, ["sh", "-c", "echo wrong >&2; exit 7"], remove=True)
        raise AssertionError("no error")
    except ContainerError as error:
        assert error.exit_status == 7 and error.stderr == b"wrong\n", error
    assert client.containers.list(all=True) == []
    refused(404, client.containers.get, "missing")
    try:
        client.api.create_container("missing:1", "true")
        raise AssertionError("created from nothing")
    except ImageNotFound:
        pass
    one = client.containers.run(
        image,
        ["sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"],
        name="one",
        detach=True,
        environment={"A": "b"},
        labels={"of": "test"},
        working_dir="/tmp",
        hostname="here",
        mem_limit="64m",
    )
    assert one.name == "one" and one.status == "created", one.status
    one.reload()
    assert one.status == "running" and one.attrs["State"]["Pid"] > 0
    assert "A=b" in one.attrs["Config"]["Env"] and "FROM_IMAGE=yes" in one.attrs["Config"]["Env"]
    assert one.attrs["HostConfig"]["Memory"] == 64 << 20
    assert one.attrs["Config"]["Hostname"] == "here" and one.attrs["Config"]["WorkingDir"] == "/tmp"
    refused(409, client.containers.create, image, "true", name="one")
    for filters in ({"name": "on"}, {"label": "of=test"}, {"label": ["of"]}, {"status": "running"}, {"id": one.id[:9]}):
        assert [each.id for each in client.containers.list(filters=filters)] == [one.id], filters
    assert client.containers.list(filters={"status": ["exited", "paused"]}) == []
    assert client.containers.list(filters={"label": "of=other"}) == []
    code, output = one.exec_run(["sh", "-c", "echo $A; echo to stderr >&2; exit 4"], demux=True)
    assert code == 4 and output == (b"b\n", b"to stderr\n"), (code, output)
    code, output = one.exec_run("pwd")
    assert (code, output) == (0, b"/tmp\n"), output
    titles = one.top()
    assert titles["Titles"] and titles["Processes"], titles
    one.pause()
    assert client.containers.get("one").status == "paused"
    one.unpause()
    one.rename("uno")
    assert client.containers.get("uno").id == one.id
    refused(404, client.containers.get, "one")
    assert one.logs() == b"up\n"
    one.restart(timeout=5)
    assert client.containers.get("uno").status == "running"
    assert one.logs(tail=1) == b"up\n" and one.logs().count(b"up\n") == 2
    stamped = one.logs(timestamps=True, tail=1)
    assert stamped[:2] == b"20" and stamped.endswith(b"Z up\n"), stamped
    one.stop(timeout=10)
    assert one.wait()["StatusCode"] == 3
    one.reload()
    assert one.status == "exited" and one.attrs["State"]["ExitCode"] == 3
    one.start()
    one.kill("KILL")
    assert one.wait()["StatusCode"] == 137
    refused(409, one.kill)
    one.start()
    refused(409, one.remove)
    one.remove(force=True)
    refused(404, client.containers.get, "uno")
    # docker-py names the target of a bind as an anonymous volume, too.
    volumes = {"/etc": {"bind": "/host-etc", "mode": "ro"}}
    output = client.containers.run(image, "cat /host-etc/hostname", volumes=volumes, remove=True)
    assert output.decode() == open("/etc/hostname").read()
    for name in ("left", "over"):
        client.containers.create(image, "true", name=name)
    assert client.containers.list() == []
    assert sorted(each.name for each in client.containers.list(all=True)) == ["left", "over"]
    assert len(client.containers.list(all=True, limit=1)) == 1
    pruned = client.containers.prune()
    assert len(pruned["ContainersDeleted"]) == 2, pruned
    assert client.containers.list(all=True) == []
    message = refused_with(image, client, ports={"80/tcp": 8080})
    assert "port" in message, message
    message = refused_with(image, client, volumes={"named": {"bind": "/data"}})
    assert "volume" in message, message
    assert client.containers.list(all=True) == []


def refused_with(image, client, **options):
    try:
        client.containers.create(image, "true", **options)
    except APIError as error:
        assert error.response.status_code in (400, 501), error
        return error.explanation
    raise AssertionError(f"{options} was not refused")


def streams(client, image, _):
    # The attached stream carries both outputs, and ends with the container.
    container = client.containers.create(image, ["sh", "-c", "echo out; echo err >&2; echo end"])
    output = container.attach(stdout=True, stderr=True, stream=True, logs=True)
    container.start()
    assert sorted(b"".join(output).splitlines()) == [b"end", b"err", b"out"]
    container.remove()
    # Input through a socket: the half-close ends the container's standard input.
    container = client.containers.create(image, "cat", stdin_open=True)
    container.start()
    socket = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    socket._sock.sendall(b"through the socket\n")
    socket._sock.shutdown(1)
    read = b""
    while chunk := socket._sock.recv(4096):
        read += chunk
    assert read == b"\x01\0\0\0\0\0\0\x13through the socket\n", read
    assert container.wait()["StatusCode"] == 0
    container.remove()
    # Logs that are followed end with the container.
    container = client.containers.run(image, ["sh", "-c", "for n in 1 2 3; do echo $n; done"], detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    container.remove()
    # A terminal: no frames, and its size can be changed.
    container = client.containers.run(image, "cat", tty=True, stdin_open=True, detach=True)
    container.resize(30, 100)
    created = client.api.exec_create(container.id, "stty size", tty=True)
    started = client.api.exec_start(created["Id"], tty=True)
    assert started.strip(), started
    assert client.api.exec_inspect(created["Id"])["ExitCode"] == 0
    assert not container.exec_run("sleep 0", detach=True).output
    parts = list(container.exec_run(["sh", "-c", "echo a; echo b"], stream=True).output)
    assert b"".join(parts) == b"a\nb\n", parts
    container.remove(force=True)


def events(client, image, _):
    container = client.containers.run(image, "true", name="told", labels={"of": "test"}, detach=True)
    container.wait()
    container.remove()
    finish = int(time.time()) + 1
    told = client.events(since=0, until=finish, decode=True, filters={"type": ["container"], "container": ["told"]})
    told = list(told)
    assert [each["Action"] for each in told if each["Action"] != "attach"] == ["create", "start", "die", "destroy"], told
    die = next(each for each in told if each["Action"] == "die")
    assert die["Actor"]["Attributes"]["exitCode"] == "0" and die["Actor"]["Attributes"]["of"] == "test", die
    assert die["status"] == "die" and die["id"] == container.id and die["from"] == image, die
    assert die["timeNano"] // 10**9 == die["time"] and die["scope"] == "local", die
    assert list(client.events(since=0, until=finish, filters={"label": "of=other"})) == []
    # Live events, and an end from this side.
    live = client.events(decode=True, filters={"event": "tag"})
    client.images.get(image).tag("told/again", "1")
    first = next(live)
    assert first["Type"] == "image" and first["Action"] == "tag", first
    live.close()


def main():
    group, image, reference = sys.argv[1:]
    client = docker.from_env()
    globals()[group](client, image, reference)
    client.close()
    print(json.dumps({"group": group, "docker-py": docker.__version__}))


main()
