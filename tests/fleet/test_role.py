"""The role's plan, with a digestfix that gives the answers it is told to."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

PLAYBOOK = """
- hosts: all
  gather_facts: false
  connection: local
  tasks:
    - ansible.builtin.import_role:
        name: digestfix.digestfix.digestfix
        tasks_from: plan
    - ansible.builtin.debug:
        msg: "{{ inventory_hostname }} stops={{ digestfix_docker_stops | bool }}"
"""

# Each byte of a file counts: that of a raw manifest is what its digest is of.
FILES = {
    "claims.json": b'{ "digestfix_claims": 1,\n  "claims": [] }',
    "manifest.json": b'{"schemaVersion": 2,\r\n\t"layers": [ ], "layers": null, "x": 1e3}\n\n',
    "inspected.json": b'[\n    {"Id": "sha256:00", "RepoTags": ["app:v1"], "Size": 1.0}\n]\n',
    "compose.yaml": b"services:\n  web: {image: app:v1}\n---\n",
    "braces.json": b'{"x": "{{ lookup(\'env\', \'HOME\') }}"}\n',
    "braces": b"# {{ inventory_hostname }} {% raw %}\napp:v1\n",
    "word": b"True",
    "umlauts.json": '{"name": "Größe"}'.encode(),
    "spaces": b"   \n app:v1 \n\n\n",
}

CHANGES = [{"reference": "app:v1", "from": None, "to": "sha256:00"}]


def disturbance(*restarts):
    return {"restarts": restarts, "also_restarts": [], "containers": []}


# What digestfix plan answers, and whether a node is to be drained.
ANSWERS = {
    "restart": (4, {"changes": CHANGES, "disturbance": disturbance("docker.service", "docker.socket")}, True),
    "unread": (4, {"changes": [], "unread": ["app:v1"], "disturbance": disturbance("docker.service")}, True),
    "containerd": (4, {"changes": CHANGES}, False),
    "stopped": (4, {"changes": CHANGES, "disturbance": disturbance("docker.socket")}, False),
    "unmet": (4, {"changes": []}, False),
    "done": (0, {"changes": []}, False),
}


class Plan(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)

    def path(self, name):
        return os.path.join(self.scratch.name, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content)
        return self.path(name)

    def program(self, name, exit_code, **fields):
        """A digestfix that keeps what it reads, and answers this."""
        document = dict(fields, version=1, command="plan", exit_code=exit_code, host={"unit": "docker.service"})
        script = "#!/bin/sh\ncat >%s.$$\ncat <<'EOF'\n%s\nEOF\nexit %d\n"
        path = self.write(name, (script % (self.path("read"), json.dumps(document), exit_code)).encode())
        os.chmod(path, 0o755)
        return path

    def read(self):
        """What was handed to the programs."""
        texts = []
        for name in os.listdir(self.scratch.name):
            if name.startswith("read."):
                with open(self.path(name), "rb") as file:
                    texts.append(file.read())
        return sorted(texts)

    def play(self, hosts, **environment):
        """Plans on each host, which has variables; gives what Ansible said."""
        inventory = {"all": {"hosts": hosts}}
        ran = subprocess.run(
            [
                PROGRAM,
                "-i",
                self.write("inventory.json", json.dumps(inventory).encode()),
                "--forks=2",
                self.write("play.yml", PLAYBOOK.encode()),
            ],
            env=dict(os.environ, ANSIBLE_NOCOLOR="true", LC_ALL="C.UTF-8", **environment),
            capture_output=True,
            text=True,
        )
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        return ran.stdout

    def host(self, program, *files):
        return {
            "ansible_python_interpreter": "/usr/bin/python3",
            "digestfix_executable": program,
            "digestfix_claims_files": [self.write(name, FILES[name]) for name in files],
        }

    def test_a_claims_file_is_handed_over_as_it_is(self):
        for native in ("false", "true"):
            with self.subTest(native=native):
                self.play({"one": self.host(self.program("all", 0, changes=[]), *FILES)}, ANSIBLE_JINJA2_NATIVE=native)
                self.assertEqual(self.read(), sorted(FILES.values()))
                for name in os.listdir(self.scratch.name):
                    os.remove(self.path(name))

    def test_only_a_docker_that_will_stop_has_its_node_drained(self):
        hosts = {
            name: self.host(self.program(name, exit_code, **fields), "claims.json")
            for name, (exit_code, fields, _) in ANSWERS.items()
        }
        said = self.play(hosts)
        for name, (_, _, stops) in ANSWERS.items():
            self.assertIn("%s stops=%s" % (name, stops), said)

    def test_the_claims_in_archives_count_for_the_plan(self):
        hosts = {}
        for name, (exit_code, fields, _) in ANSWERS.items():
            hosts[name] = self.host(self.program(name, exit_code, **fields))
            hosts[name]["digestfix_archives"] = ["/srv/images.tar"]
        said = self.play(hosts)
        for name, (_, _, stops) in ANSWERS.items():
            self.assertIn("%s stops=%s" % (name, stops), said)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop()
    unittest.main()
