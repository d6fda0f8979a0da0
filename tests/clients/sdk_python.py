"""What the Docker SDK for Python does on any engine, asserted.

usage: DOCKER_HOST=tcp://... python tests/clients/sdk_python.py [SECTION]...

Runs the sections named, or all. Nothing in here knows whether it talks to an engine or to Skep.
The image `busybox:latest` has to be there.
"""

import io
import os
import sys
import tarfile
import time

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

IMAGE = "busybox:latest"
RUN = f"py-{os.getpid()}"
LABELS = {"run": RUN}


def expect(what, wanted, got):
    if wanted != got:
        raise AssertionError(f"{what}: expected {wanted!r}, got {got!r}")


def refused(kind, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind as error:
        return error
    raise AssertionError(f"{call.__qualname__}{arguments} should have failed with {kind.__name__}")


def start(client, name, command, **options):
    return client.containers.run(
        IMAGE, command, name=f"{RUN}-{name}", labels=LABELS, detach=True, **options
    )


def containers(client):
    box = start(client, "box", ["sleep", "600"], environment={"COLOUR": "blue"})
    expect("the status", "running", client.containers.get(box.id).status)
    expect("the list", [box.id], [c.id for c in client.containers.list(filters={"label": f"run={RUN}"})])
    conflict = refused(APIError, client.containers.create, IMAGE, name=f"{RUN}-box")
    expect("the status of a conflict", 409, conflict.status_code)
    box.pause()
    box.reload()
    expect("after pause", "paused", box.status)
    box.unpause()
    box.kill()
    expect("the exit code of a kill", 137, box.wait()["StatusCode"])
    box.remove()
    refused(NotFound, client.containers.get, box.id)
    expect("output of run", b"hi\n", client.containers.run(IMAGE, ["echo", "hi"], remove=True, labels=LABELS))
    error = refused(ContainerError, client.containers.run, IMAGE, ["sh", "-c", "exit 4"], labels=LABELS)
    expect("an exit code", 4, error.exit_status)


def execs(client):
    box = start(client, "exec", ["sleep", "600"])
    result = box.exec_run(["sh", "-c", "echo out; echo err >&2; exit 5"], demux=True)
    expect("an exit code", 5, result.exit_code)
    expect("both streams", (b"out\n", b"err\n"), result.output)
    streamed = box.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True)
    expect("a stream", b"1\n2\n", b"".join(streamed.output))


def attach(client):
    box = client.containers.create(
        IMAGE, ["sh", "-c", "read line; echo got $line"], stdin_open=True, labels=LABELS
    )
    socket = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    box.start()
    socket._sock.sendall(b"it\n")
    expect("the exit code", 0, box.wait()["StatusCode"])
    expect("what it read", b"got it\n", box.logs())
    socket.close()


def streams(client):
    box = start(client, "streams", ["sh", "-c", "echo a; echo b; sleep 1; echo c"])
    expect("a log that is followed to its end", b"a\nb\nc\n", b"".join(box.logs(stream=True, follow=True)))
    content = os.urandom(1_000_000)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("data")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    expect("an archive is taken", True, box.put_archive("/tmp", archive.getvalue()))
    chunks, status = box.get_archive("/tmp/data")
    expect("the size of a file", len(content), status["size"])
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        expect("a file that went in and out", True, tar.extractfile("data").read() == content)


def images(client):
    expect("the list has the image", True, any(IMAGE in image.tags for image in client.images.list()))
    expect("the command of an image", ["sh"], client.images.get(IMAGE).attrs["Config"]["Cmd"])
    refused(ImageNotFound, client.images.get, f"{RUN}-missing")


def changes(client):
    image = client.images.get(IMAGE)
    expect("a tag", True, image.tag(f"{RUN}-tag", "1"))
    saved = b"".join(client.images.get(f"{RUN}-tag:1").save(named=f"{RUN}-tag:1"))
    client.images.remove(f"{RUN}-tag:1")
    refused(ImageNotFound, client.images.get, f"{RUN}-tag:1")
    client.images.load(saved)
    client.images.remove(f"{RUN}-tag:1")


def events(client):
    since = int(time.time()) - 1
    box = start(client, "event", ["true"])
    box.wait()
    box.remove()
    stream = client.events(
        since=since, decode=True, filters={"type": "container", "container": box.id}
    )
    seen = []
    for event in stream:
        if event["Action"] in ("create", "start", "die", "destroy"):
            seen.append(event["Action"])
        if event["Action"] == "destroy":
            break
    stream.close()
    expect("a container's life", ["create", "start", "die", "destroy"], seen)


def volumes(client):
    volume = client.volumes.create(f"{RUN}-vol", labels=LABELS)
    box = start(client, "write", ["touch", "/data/file"], volumes={f"{RUN}-vol": {"bind": "/data"}})
    expect("writing to it", 0, box.wait()["StatusCode"])
    box.remove()
    volume.remove()
    refused(NotFound, client.volumes.get, f"{RUN}-vol")


def networks(client):
    network = client.networks.create(f"{RUN}-net", driver="bridge", labels=LABELS)
    box = start(client, "net", ["sleep", "600"], network=f"{RUN}-net")
    network.disconnect(box)
    box.reload()
    expect("networks after a disconnect", {}, box.attrs["NetworkSettings"]["Networks"])
    box.remove(force=True)
    network.remove()
    refused(NotFound, client.networks.get, network.id)


SECTIONS = {
    "containers": containers,
    "exec": execs,
    "attach": attach,
    "streams": streams,
    "images": images,
    "changes": changes,
    "events": events,
    "volumes": volumes,
    "networks": networks,
}


def main():
    client = docker.from_env()
    try:
        for name in sys.argv[1:] or SECTIONS:
            SECTIONS[name](client)
            print(f"sdk_python.py: {name} passed", flush=True)
    finally:
        for box in client.containers.list(all=True, filters={"label": f"run={RUN}"}):
            box.remove(force=True, v=True)


main()
