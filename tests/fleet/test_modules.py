"""The modules on answers that no healthy host gives."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest

from ansible_collections.digestfix.digestfix.plugins.module_utils import answer, request
from ansible_collections.digestfix.digestfix.plugins.modules import digestfix, digestfix_info

DEFAULTS = {
    name: specification.get("default")
    for each in (request.CLAIMS, request.CONTAINERS, request.RUN, request.HOST)
    for name, specification in each.items()
}

PROBLEM = {"what": ["container web stopped"], "state": "Docker runs", "next": "look at it"}


def command_line(check=False, **params):
    return digestfix.command_line(dict(DEFAULTS, **params), check)


def run_module(exit_code, document, module=digestfix, reads=False, **params):
    """Runs the module with a program that gives this answer, or a hash of what it reads."""
    with tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "digestfix")
        with open(program, "w") as file:
            answer_it = "sha256sum" if reads else "cat <<'EOF'\n%s\nEOF" % document
            file.write("#!/bin/sh\n%s\nexit %d\n" % (answer_it, exit_code))
        os.chmod(program, 0o755)
        arguments = dict(params, executable=program)
        if "content" not in params:
            arguments["claims"] = ["app:v1@sha256:00"]
        ran = subprocess.run(
            [sys.executable, "-m", module.__name__],
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
            metrics="/srv/digestfix.prom",
            data_root="/srv/docker",
            containerd_root="/srv/containerd",
        )
        self.assertEqual(
            words,
            ["apply", "--json", "--containers=restart", "--wait=60", "--keep-days=7"]
            + ["--metrics=/srv/digestfix.prom", "--data-root=/srv/docker", "--containerd-root=/srv/containerd"]
            + ["--require=proven", "--replace", "--rewrite=docker.io=registry:5000/hub", "--from=/srv/x", "--from=-"]
            + ["--remove=b:v1", "--", "a:v1@sha256:00"],
        )

    def test_a_plan_has_no_lock_to_wait_for(self):
        self.assertEqual(
            command_line(check=True, claims_d=True, wait=60, keep_backups=1, metrics="/srv/x.prom", force_restart=True),
            ["plan", "--json", "--containers=keep", "--force-restart", "--"],
        )

    def test_empty_lists_are_not_the_claims_directories(self):
        with self.assertRaises(request.Unusable):
            command_line()
        with self.assertRaises(request.Unusable):
            command_line(claims_d=True, remove=["b:v1"])


class Input(unittest.TestCase):
    def test_an_empty_text_has_an_end(self):
        self.assertEqual(request.standard_input(""), "\n")
        self.assertEqual(request.standard_input("text"), "text")
        self.assertIsNone(request.standard_input(None))

    def test_a_claims_file_may_have_become_a_dictionary(self):
        claims = {"digestfix_claims": 1, "claims": [{"reference": "a:v1", "replace": True, "x": None}]}
        self.assertEqual(json.loads(request.standard_input(claims)), claims)
        result = run_module(0, answered(0, changed=False), content=claims)
        self.assertFalse(result.get("failed"), result)

    def test_a_program_that_ends_before_it_reads_still_says_why(self):
        # More than a pipe holds.
        result = run_module(3, answered(3, problem=PROBLEM), content="a:v1@sha256:00\n" * 100000)
        self.assertIn("digestfix: refused: container web stopped", result["msg"])

    def test_what_is_given_is_read_whole(self):
        for content in ("", "\u00e4:v1@sha256:00\n" * 100000):
            result = run_module(0, "", content=content, reads=True)
            wanted = request.standard_input(content).encode()
            self.assertIn("It said: %s" % hashlib.sha256(wanted).hexdigest(), result["msg"])

    def test_another_file_may_not(self):
        for content in ({"schemaVersion": 2}, [{"Id": "sha256:00"}], True):
            for module in (digestfix, digestfix_info):
                result = run_module(0, answered(0, changed=False), module, content=content)
                self.assertTrue(result["failed"], result)
                self.assertIn("Now: nothing was touched. Next: ", result["msg"])
                self.assertIn("| string }}", result["msg"])


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

    def test_a_plan_says_what_will_stop(self):
        containers = [{"name": "web", "fate": "keeps_running"}, {"name": "db", "fate": "started_again"}]
        changes = [{"reference": "a:v1", "from": None, "to": "sha256:00"}]

        def planned(exit_code, **fields):
            document = answered(exit_code, host={"unit": "docker.service"}, **fields)
            return run_module(exit_code, document, _ansible_check_mode=True)

        disturbance = {"restarts": ["docker.service"], "also_restarts": ["ours.service"], "containers": containers}
        stops = {"docker": True, "units": ["docker.service", "ours.service"], "containers": ["db"]}
        result = planned(4, changes=changes, disturbance=disturbance)
        self.assertEqual((result["changed"], result["stops"]), (True, stops))
        refused = planned(3, changes=changes, disturbance=disturbance, problem=PROBLEM)
        self.assertEqual((refused["failed"], refused["stops"]), (True, stops))
        nothing = {"docker": False, "units": [], "containers": []}
        result = planned(4, changes=changes)
        self.assertEqual((result["changed"], result["stops"]), (True, nothing))
        self.assertNotIn("stops", planned(3, problem=PROBLEM))

    def test_claims_about_other_hosts_are_no_pending_change(self):
        result = run_module(4, answered(4, changes=[]), _ansible_check_mode=True)
        self.assertFalse(result["changed"] or result.get("failed"), result)
        result = run_module(4, answered(4, changes=[], claims=[]), digestfix_info)
        self.assertEqual((result["holds"], result["pending"]), (False, False))
        for engine in ({}, {"holds_in_engine": False}):
            claims = [dict({"holds_in_file": bool(engine)}, **engine)]
            result = run_module(4, answered(4, changes=[], claims=claims), digestfix_info)
            self.assertEqual((result["holds"], result["pending"]), (False, True))

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
