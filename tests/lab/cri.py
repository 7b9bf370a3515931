#!/usr/bin/env python3
"""Asks a containerd's CRI what a kubelet asks it, without digestfix's own client.

  cri.py [--socket PATH] status NAME    prints the image's ID, or none
  cri.py [--socket PATH] list           prints each image: ID and names
  cri.py [--socket PATH] remove NAME    as a kubelet's garbage collection does
  cri.py [--socket PATH] pod NAME...    runs a pod with a container of each name, and
                                        prints what they say

gRPC by curl; of protobuf, strings and messages in messages.
"""
import pathlib
import struct
import subprocess
import sys
import time

IMAGES = "ImageService/"
RUNTIME = "RuntimeService/"
LOGS = "/run/cri-logs"
EXITED = 2


def field(number, value):
    length, encoded = len(value), b""
    while length > 0x7F:
        encoded += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + encoded + bytes([length]) + value


def varint(data):
    value = shift = 0
    while True:
        byte, data = data[0], data[1:]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, data


def fields(data):
    while data:
        key, data = varint(data)
        if key & 7 == 2:
            length, data = varint(data)
            yield key >> 3, data[:length]
            data = data[length:]
        elif key & 7 == 0:
            value, data = varint(data)
            yield key >> 3, value
        else:
            data = data[8 if key & 7 == 1 else 4 :]


def call(socket, method, message):
    request = b"\0" + struct.pack(">I", len(message)) + message
    answer = subprocess.run(
        ["curl", "-sS", "--http2-prior-knowledge", "--unix-socket", socket, "-D", "/dev/stderr",
         "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@-",
         "http://cri/runtime.v1." + method],
        input=request, capture_output=True, check=True)
    if b"grpc-status: 0" not in answer.stderr:
        sys.exit(answer.stderr.decode())
    return answer.stdout[5:]


def image(message):
    found = list(fields(message))
    names = sorted(value.decode() for number, value in found if number in (2, 3))
    return next(value.decode() for number, value in found if number == 1), names


def container(socket, pod, sandbox, number, name):
    """Runs one to its end; what it says is in its log."""
    config = (field(1, field(1, b"c%d" % number)) + field(2, field(1, name.encode()))
              + field(11, b"%d.log" % number))
    made = call(socket, RUNTIME + "CreateContainer", field(1, pod) + field(2, config) + field(3, sandbox))
    own = field(1, dict(fields(made))[1])
    call(socket, RUNTIME + "StartContainer", own)
    while dict(fields(dict(fields(call(socket, RUNTIME + "ContainerStatus", own)))[1])).get(3) != EXITED:
        time.sleep(0.05)
    print(pathlib.Path(LOGS, "%d.log" % number).read_text().split(" ", 3)[3].strip())


def run_pod(socket, names):
    metadata = field(1, b"lab") + field(2, b"lab-uid") + field(3, b"default")
    sandbox = field(1, metadata) + field(2, b"lab") + field(3, LOGS.encode())
    pod = dict(fields(call(socket, RUNTIME + "RunPodSandbox", field(1, sandbox))))[1]
    try:
        for number, name in enumerate(names):
            container(socket, pod, sandbox, number, name)
    finally:
        call(socket, RUNTIME + "StopPodSandbox", field(1, pod))
        call(socket, RUNTIME + "RemovePodSandbox", field(1, pod))


def main(words):
    socket = "/run/containerd/containerd.sock"
    if words[0] == "--socket":
        socket, words = words[1], words[2:]
    spec = field(1, field(1, words[1].encode())) if len(words) > 1 else b""
    if words[0] == "status":
        answer = dict(fields(call(socket, IMAGES + "ImageStatus", spec)))
        print(image(answer[1])[0] if 1 in answer else "none")
    elif words[0] == "list":
        for _, one in sorted(fields(call(socket, IMAGES + "ListImages", b""))):
            print(*image(one)[:1], *image(one)[1])
    elif words[0] == "remove":
        call(socket, IMAGES + "RemoveImage", spec)
    elif words[0] == "pod":
        run_pod(socket, words[1:])
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
