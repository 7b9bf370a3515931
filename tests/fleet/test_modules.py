"""The modules on answers that no healthy host gives."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

from ansible_collections.digestfix.digestfix.plugins.module_utils import answer, program, request
from ansible_collections.digestfix.digestfix.plugins.modules import digestfix

DEFAULTS = {
    name: specification.get("default")
    for each in (request.CLAIMS, request.CONTAINERS, request.RUN, request.HOST)
    for name, specification in each.items()
}

PROBLEM = {"what": ["container web stopped"], "state": "Docker runs", "next": "look at it"}


def command_line(check=False, **params):
    return digestfix.command_line(dict(DEFAULTS, **params), check)


def run_module(exit_code, document, **params):
    """Runs the module with a program that gives this answer."""
    with tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "digestfix")
        with open(program, "w") as file:
            file.write("#!/bin/sh\ncat <<'EOF'\n%s\nEOF\nexit %d\n" % (document, exit_code))
        os.chmod(program, 0o755)
        arguments = dict(params, claims=["app:v1@sha256:00"], executable=program)
        ran = subprocess.run(
            [sys.executable, "-m", digestfix.__name__],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
        )
    return json.loads(ran.stdout)


def answered(exit_code, **fields):
    return json.dumps(dict(fields, version=1, command="apply", exit_code=exit_code))


class Requests(unittest.TestCase):
    def test_every_parameter_becomes_an_option(self):
        words = command_line(
            claims=["a:v1@sha256:00"],
            **{"from": ["/srv/x"], "content": "text", "remove": ["b:v1"], "rewrite": {"docker.io": "registry:5000/hub"}},
            require="proven",
            replace=True,
            containers="restart",
            wait=60,
            keep_days=7,
            data_root="/srv/docker",
        )
        self.assertEqual(
            words,
            ["apply", "--json", "--containers=restart", "--wait=60", "--keep-days=7", "--data-root=/srv/docker"]
            + ["--require=proven", "--replace", "--rewrite=docker.io=registry:5000/hub", "--from=/srv/x", "--from=-"]
            + ["--remove=b:v1", "--", "a:v1@sha256:00"],
        )

    def test_a_plan_has_no_lock_to_wait_for(self):
        self.assertEqual(
            command_line(check=True, claims_d=True, wait=60, keep_backups=1),
            ["plan", "--json", "--containers=keep", "--"],
        )

    def test_empty_lists_are_not_the_claims_directories(self):
        with self.assertRaises(request.NothingAsked):
            command_line()
        with self.assertRaises(request.NothingAsked):
            command_line(claims_d=True, remove=["b:v1"])


class Input(unittest.TestCase):
    def test_an_empty_text_has_an_end(self):
        self.assertEqual(program.standard_input(""), "\n")
        self.assertEqual(program.standard_input("text"), "text")
        self.assertIsNone(program.standard_input(None))


class Answers(unittest.TestCase):
    def test_done_but_a_container_changed(self):
        document = answered(6, changed=True, problem=PROBLEM)
        result = run_module(6, document)
        self.assertTrue(result["failed"] and result["changed"], result)
        self.assertIn("container web stopped. Now: Docker runs. Next: look at it", result["msg"])
        result = run_module(6, document, containers_changed="warn")
        self.assertTrue(result["changed"] and not result.get("failed"), result)
        self.assertIn("container web stopped", str(result["warnings"]))

    def test_what_could_not_be_restored_has_changed(self):
        result = run_module(5, answered(5, problem=PROBLEM))
        self.assertTrue(result["failed"] and result["changed"], result)
        self.assertIn("COULD NOT RESTORE THE HOST", result["msg"])

    def test_what_was_undone_has_not(self):
        changes = [{"reference": "a:v1", "from": None, "to": "sha256:00"}]
        result = run_module(1, answered(1, changed=False, changes=changes, problem=PROBLEM))
        self.assertTrue(result["failed"] and not result["changed"], result)
        self.assertNotIn("diff", result)

    def test_no_json_and_another_version(self):
        self.assertIn("ended with 2", run_module(2, "error: unexpected argument")["msg"])
        self.assertIn("version 2", run_module(0, '{"version": 2}')["msg"])

    def test_a_diff_has_what_was_displaced(self):
        changes = [
            {"reference": "b:v1", "from": "sha256:00", "to": "sha256:11"},
            {"reference": "a:v1", "from": "sha256:22", "to": None},
        ]
        diff = answer.difference({"changes": changes})
        self.assertEqual(diff["before"], "a:v1=sha256:22\nb:v1=sha256:00\n")
        self.assertEqual(diff["after"], "b:v1=sha256:11\n")


if __name__ == "__main__":
    unittest.main()
