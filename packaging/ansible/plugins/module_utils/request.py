# Copyright (c) 2026 The digestfix authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Turns the parameters of a task into a command line of digestfix."""

from __future__ import annotations

import json

CLAIMS = {
    "claims": {"type": "list", "elements": "str", "default": []},
    "from": {"type": "list", "elements": "path", "default": []},
    # Otherwise Ansible would turn a dictionary into its Python representation.
    "content": {"type": "raw"},
    "claims_d": {"type": "bool", "default": False},
    "remove": {"type": "list", "elements": "str", "default": []},
    "rewrite": {"type": "dict", "default": {}},
    "tags": {"type": "bool", "default": False},
    "require": {"type": "str", "choices": ["asserted", "matched", "proven"]},
    "replace": {"type": "bool", "default": False},
    "allow_image_id_digest": {"type": "bool", "default": False},
}

CONTAINERS = {
    "containers": {
        "type": "str",
        "choices": ["keep", "restart", "ignore"],
        "default": "keep",
    },
    "force_restart": {"type": "bool", "default": False},
}

RUN = {
    "wait": {"type": "int", "default": 0},
    "keep_backups": {"type": "int"},
    "keep_days": {"type": "int"},
    "metrics": {"type": "path"},
}

HOST = {
    "store": {"type": "str", "choices": ["docker", "kubernetes"]},
    "containerd_socket": {"type": "path"},
    "data_root": {"type": "path"},
    "driver": {"type": "str"},
    "unit": {"type": "str"},
    "config_file": {"type": "path"},
    "socket": {"type": "path"},
    "offline": {"type": "bool", "default": False},
    "containerd_root": {"type": "path"},
}

EXECUTABLE = {"executable": {"type": "path"}}


class Unusable(Exception):
    """The parameters name no claims, or contradict each other, or one of them is invalid."""


def standard_input(content):
    """Returns the content in the form that digestfix reads.

    Before ansible-core 2.19, a template whose text looks like a dictionary or a
    list becomes one, and the bytes of the text are lost. That does not change the
    meaning of a claims file. In a manifest, each byte counts.
    """
    if content == "":
        # Ansible treats an empty text as no input, and digestfix would wait for the end of the input.
        return "\n"
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, dict) and "digestfix_claims" in content:
        return json.dumps(content)
    raise Unusable(
        "content is no text but a %s. Now: nothing was touched. Next: ansible-core before 2.19 turns a text that looks "
        "like JSON into one; let the template end in the filter string, as in "
        "{{ lookup('ansible.builtin.file', 'manifest.json', rstrip=false) | string }}" % type(content).__name__
    )


def options(params, names):
    """Turns parameters into the command-line options of the same names."""
    words = []
    for name in names:
        value = params[name]
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words += [option] if value else []
        elif value is not None:
            words.append("%s=%s" % (option, value))
    return words


def claims(params):
    """Returns the claims as the rest of the command line.

    digestfix reads the claims directories when it is given nothing else. A list
    that a template left empty must not come to that, so it has to be said.
    """
    named = params["claims"] or params["from"] or params["remove"] or params["content"] is not None
    if params["claims_d"] and named:
        raise Unusable("claims_d goes without claims, from, content and remove")
    if not params["claims_d"] and not named:
        raise Unusable("claims, from, content and remove are all empty; say claims_d to use the claims.d directories")
    words = options(params, ["tags", "require", "replace", "allow_image_id_digest"])
    words += ["--rewrite=%s=%s" % rule for rule in params["rewrite"].items()]
    words += ["--from=%s" % source for source in params["from"]]
    if params["content"] is not None:
        words.append("--from=-")
    words += ["--remove=%s" % reference for reference in params["remove"]]
    return words + ["--"] + params["claims"]
