# Copyright (c) 2026 The digestfix authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""What is asked of digestfix: from a task's parameters to a command line."""

from __future__ import annotations

import json

CLAIMS = {
    "claims": {"type": "list", "elements": "str", "default": []},
    "from": {"type": "list", "elements": "path", "default": []},
    # Ansible would turn a dictionary into the text that Python has for it.
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
    """The parameters name no claims, or contradict each other, or one is not what it has to be."""


def standard_input(content):
    """The content as digestfix reads it.

    Before ansible-core 2.19, a template whose text looks like a dictionary or a
    list becomes one, and the bytes of the text are lost. A claims file means the
    same in any spelling. Of a manifest, each byte counts.
    """
    if content == "":
        # Ansible takes an empty text for none, and digestfix would wait for its end.
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
    """Parameters as the options of the command line that are named alike."""
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
    """The claims as the rest of the command line.

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
