#!/usr/bin/env python3
"""A system bus on which systemd answers as an older one does.

    old_systemd.py VERSION SOCKET     VERSION is 219, 239 or 243

What goes to systemd goes on to the real one. What an older one does not know, or
takes for something else, is answered as that was seen to answer: the error's name
and its text are theirs.
"""

import array
import os
import socket
import struct
import sys
import threading

SYSTEMD = "org.freedesktop.systemd1"
# A sender has a unique name.
UNIQUE = ":1.0"
BUS = "/run/dbus/system_bus_socket"
VERSION, LISTENS = int(sys.argv[1]), sys.argv[2]
ERROR = "org.freedesktop.DBus.Error."

# What StartTransientUnit of 219 takes, of all that was asked for.
TAKEN_BY_219 = {
    "Description", "Type", "ExecStart", "RemainAfterExit", "Environment",
}
# Asked for by name, so that each can be found in a message.
PROPERTIES = [
    "Restart", "RestartUSec", "RestartForceExitStatus", "StartLimitIntervalUSec",
    "StartLimitBurst", "TimeoutStartUSec",
    "StandardOutputFileDescriptor", "StandardErrorFileDescriptor", "EnvironmentFiles",
]

METHOD_CALL, METHOD_RETURN, METHOD_ERROR = 1, 2, 3
MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = 3, 4, 5, 6, 7, 8


def aligned(offset, to):
    return (offset + to - 1) // to * to


def string(text):
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw + b"\0"


def length(data):
    """Of the message that begins here; none while that is not known."""
    if len(data) < 16:
        return None
    body, _, fields = struct.unpack_from("<III", data, 4)
    return aligned(16 + fields, 8) + body


def fields_of(message):
    """The header's fields; those that are no text are numbers."""
    end = 16 + struct.unpack_from("<I", message, 12)[0]
    at, found = 16, {}
    while at < end:
        at = aligned(at, 8)
        code, kind = message[at], chr(message[at + 2])
        at += 4
        if kind == "g":
            size = message[at]
            found[code] = message[at + 1 : at + 1 + size].decode()
            at += size + 2
        elif kind == "u":
            at = aligned(at, 4)
            found[code] = struct.unpack_from("<I", message, at)[0]
            at += 4
        else:
            at = aligned(at, 4)
            size = struct.unpack_from("<I", message, at)[0]
            found[code] = message[at + 4 : at + 4 + size].decode()
            at += size + 5
    return found


def strings_of(message, count):
    """The first arguments, where all of them are text."""
    at = aligned(16 + struct.unpack_from("<I", message, 12)[0], 8)
    found = []
    for _ in range(count):
        at = aligned(at, 4)
        size = struct.unpack_from("<I", message, at)[0]
        found.append(message[at + 4 : at + 4 + size].decode())
        at += size + 5
    return found


def reply(message, sender, signature, body, error=None):
    serial = struct.unpack_from("<I", message, 8)[0]
    fields = [(REPLY_SERIAL, "u", struct.pack("<I", serial)), (SENDER, "s", string(sender))]
    fields.append((SIGNATURE, "g", bytes([len(signature)]) + signature.encode() + b"\0"))
    if error:
        fields.append((ERROR_NAME, "s", string(error)))
    raw = b""
    for code, kind, value in fields:
        raw += b"\0" * (aligned(len(raw), 8) - len(raw))
        raw += bytes([code, 1]) + kind.encode() + b"\0" + value
    kind = METHOD_ERROR if error else METHOD_RETURN
    # No reply is asked for, and the serial is nobody's.
    head = struct.pack("<cBBBIII", b"l", kind, 1, 1, len(body), 0xFFFFFFFF, len(raw))
    return head + raw + b"\0" * (aligned(len(raw), 8) - len(raw)) + body


def refused(message, name, text):
    return reply(message, UNIQUE, "s", string(text), ERROR + name)


def answer(message, peer):
    """What this systemd answers; none where the real one does."""
    fields = fields_of(message)
    member = fields.get(MEMBER)
    if message[1] != METHOD_CALL:
        return None
    # The bus knows this process in place of the one that asks.
    if member == "GetConnectionUnixProcessID":
        return reply(message, "org.freedesktop.DBus", "u", struct.pack("<I", peer))
    if fields.get(DESTINATION) != SYSTEMD:
        return None
    if member == "GetAll" and strings_of(message, 1) == [SYSTEMD + ".Manager"]:
        return reply(message, UNIQUE, "a{sv}", about())
    if member == "EnqueueUnitJob":
        if VERSION < 239:
            text = "Unknown method 'EnqueueUnitJob' or interface 'org.freedesktop.systemd1.Manager'."
            return refused(message, "UnknownMethod", text)
        if strings_of(message, 3)[2] == "triggering":
            return refused(message, "InvalidArgs", "Job mode triggering invalid")
    if member == "StartTransientUnit":
        return transient(message)
    return None


def about():
    """Of the manager's properties, those that anybody here asks for."""
    body = b""
    for name, value in [("Version", str(VERSION)), ("SystemState", "running")]:
        body += b"\0" * (aligned(len(body), 8) - len(body))
        body += string(name) + b"\1s\0"
        body += b"\0" * (aligned(len(body), 4) - len(body)) + string(value)
    return struct.pack("<II", len(body), 0) + body


def transient(message):
    if VERSION < 239:
        if string("exec") in message:
            return refused(message, "InvalidArgs", "Invalid service type exec")
        asked = [name for name in PROPERTIES if string(name) in message]
        for name in sorted(asked, key=lambda name: message.index(string(name))):
            if name not in TAKEN_BY_219:
                text = f"Cannot set property {name}, or unknown property."
                return refused(message, "PropertyReadOnly", text)
    elif VERSION < 243 and string("RestartForceExitStatus") in message:
        # It is taken, and written down as another one.
        (name,) = strings_of(message, 1)
        directory = f"/run/systemd/system/{name}.d"
        os.makedirs(directory)
        with open(f"{directory}/misread.conf", "w") as file:
            file.write("[Service]\nRestartForceExitStatus=\nRestartForceExitStatus=0\n")
    return None


def receive(source):
    data, ancillary, _, _ = source.recvmsg(65536, socket.CMSG_SPACE(4 * 253))
    descriptors = array.array("i")
    for level, kind, raw in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(raw[: len(raw) // 4 * 4])
    return data, descriptors


def send(target, data, descriptors):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
    sent = target.sendmsg([data], rights)
    target.sendall(data[sent:])
    for descriptor in descriptors:
        os.close(descriptor)


def back(bus, client, writing):
    """From the bus: lines of the greeting, then messages, each of them whole."""
    waiting, descriptors = b"", array.array("i")
    while True:
        data, more = receive(bus)
        if not data:
            client.shutdown(socket.SHUT_RDWR)
            return
        waiting, descriptors = waiting + data, descriptors + more
        while waiting:
            is_message = waiting[:1] == b"l"
            size = length(waiting) if is_message else waiting.find(b"\r\n") + 2
            if not size or size < 2 or len(waiting) < size:
                break
            with writing:
                send(client, waiting[:size], descriptors)
            waiting, descriptors = waiting[size:], array.array("i")


def serve(client):
    peer = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    bus = socket.socket(socket.AF_UNIX)
    bus.connect(BUS)
    # The answers of both go to one reader, each whole.
    writing = threading.Lock()
    threading.Thread(target=back, args=(bus, client, writing), daemon=True).start()
    waiting, descriptors, is_begun = b"", array.array("i"), False
    while True:
        data, more = receive(client)
        if not data:
            bus.shutdown(socket.SHUT_RDWR)
            return
        waiting, descriptors = waiting + data, descriptors + more
        if not is_begun:
            greeting, begun, rest = waiting.partition(b"BEGIN\r\n")
            if not begun:
                bus.sendall(waiting)
                waiting = b""
                continue
            bus.sendall(greeting + begun)
            waiting, is_begun = rest, True
        while (size := length(waiting)) and len(waiting) >= size:
            message, waiting = waiting[:size], waiting[size:]
            answered = answer(message, peer)
            if answered:
                with writing:
                    client.sendall(answered)
            else:
                send(bus, message, descriptors)
                descriptors = array.array("i")


def main():
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(LISTENS):
        os.unlink(LISTENS)
    listener.bind(LISTENS)
    listener.listen()
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()


main()
