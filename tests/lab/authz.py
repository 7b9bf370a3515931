"""An authorization plugin for Docker, which allows everything but the name "forbidden"."""

import json
import os
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer

SOCKET = "/run/docker/plugins/lab.sock"


class Plugin(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = {"Implements": ["authz"]}
        if not self.path.endswith("Activate"):
            answer = {"Allow": b"forbidden" not in asked, "Msg": "not by this plugin"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_):
        pass

    def address_string(self):
        return "docker"


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


os.makedirs(os.path.dirname(SOCKET), exist_ok=True)
Server(SOCKET, Plugin).serve_forever()
