#!/usr/bin/env python3
"""Asks a containerd's CRI what a kubelet asks it, without digestfix's own client.

  cri.py [--socket PATH] status NAME    prints the image's ID, or none
  cri.py [--socket PATH] list           prints each image: ID and names
  cri.py [--socket PATH] remove NAME    as a kubelet's garbage collection does

gRPC by curl; of protobuf, strings and messages in messages.
"""
import struct
import subprocess
import sys


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
            _, data = varint(data)
        else:
            data = data[8 if key & 7 == 1 else 4 :]


def call(socket, method, message):
    request = b"\0" + struct.pack(">I", len(message)) + message
    answer = subprocess.run(
        ["curl", "-sS", "--http2-prior-knowledge", "--unix-socket", socket, "-D", "/dev/stderr",
         "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@-",
         "http://cri/runtime.v1.ImageService/" + method],
        input=request, capture_output=True, check=True)
    if b"grpc-status: 0" not in answer.stderr:
        sys.exit(answer.stderr.decode())
    return answer.stdout[5:]


def image(message):
    found = list(fields(message))
    names = sorted(value.decode() for number, value in found if number in (2, 3))
    return next(value.decode() for number, value in found if number == 1), names


def main(words):
    socket = "/run/containerd/containerd.sock"
    if words[0] == "--socket":
        socket, words = words[1], words[2:]
    spec = field(1, field(1, words[1].encode())) if len(words) > 1 else b""
    if words[0] == "status":
        answer = dict(fields(call(socket, "ImageStatus", spec)))
        print(image(answer[1])[0] if 1 in answer else "none")
    elif words[0] == "list":
        for _, one in sorted(fields(call(socket, "ListImages", b""))):
            print(*image(one)[:1], *image(one)[1])
    elif words[0] == "remove":
        call(socket, "RemoveImage", spec)
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
