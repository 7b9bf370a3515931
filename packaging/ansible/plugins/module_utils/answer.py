# Copyright (c) 2026 The digestfix authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Turns the JSON output of digestfix into the result of a task."""

from __future__ import annotations

import json

DONE = 0
FAILED = 1
REFUSED = 3
PENDING = 4
BROKEN = 5
CONTAINERS_CHANGED = 6

VERSION = 1

KINDS = {
    FAILED: "failed, the host is as it was found",
    REFUSED: "refused",
    BROKEN: "COULD NOT RESTORE THE HOST, a person is needed",
    CONTAINERS_CHANGED: "done, but containers are not what they were",
}

RETURNED = (
    "host",
    "claims",
    "changes",
    "disturbance",
    "transaction",
    "backup",
    "container_changes",
    "steps",
    "problem",
)


class Unreadable(Exception):
    """digestfix gave no answer, or one in a version that this collection does not know."""


def read(exit_code, stdout, stderr):
    """The JSON object."""
    try:
        document = json.loads(stdout)
        version = document["version"]
    except (ValueError, TypeError, KeyError):
        said = (stderr.strip() or stdout.strip() or "nothing")[-2000:]
        raise Unreadable("digestfix ended with %d, without its JSON. It said: %s" % (exit_code, said))
    if version != VERSION:
        raise Unreadable(
            "digestfix answered in version %s of its JSON, and this collection reads version %d. "
            "Next: install the digestfix and the collection of one release" % (version, VERSION)
        )
    return document


def returned(document):
    """What a task returns of it."""
    result = dict((name, document[name]) for name in RETURNED if name in document)
    result["exit_code"] = document["exit_code"]
    # Ansible counts a task as skipped if its result has the key "skipped".
    if "skipped" in document:
        result["skipped_claims"] = document["skipped"]
    return result


def pending(document):
    """Whether a reference must change, or the engine must read the references again.

    The exit code does not say that: it has another value if all claims are about images of other hosts.
    """
    return bool(document.get("changes") or document.get("unread"))


def unheld(document):
    """Whether a claim about an image of this host does not hold, according to verify."""
    return bool(document.get("changes")) or any(
        not claim["holds_in_file"] or claim.get("holds_in_engine") is False for claim in document.get("claims", [])
    )


def stops(document):
    """What applying a plan will stop. None if digestfix stopped before it made a plan."""
    if "changes" not in document:
        return None
    disturbance = document.get("disturbance", {}) if pending(document) else {}
    units = disturbance.get("restarts", [])
    return {
        "docker": document.get("host", {}).get("unit") in units,
        "units": units + disturbance.get("also_restarts", []),
        "containers": [one["name"] for one in disturbance.get("containers", []) if one["fate"] != "keeps_running"],
    }


def explain(document):
    """Describes a failure: what failed, the state of the host now, and what to do."""
    code = document["exit_code"]
    problem = document.get("problem") or {}
    parts = ["digestfix: %s: %s" % (KINDS.get(code, "exit code %d" % code), "; ".join(problem.get("what", [])))]
    if problem.get("state"):
        parts.append("Now: %s" % problem["state"])
    if problem.get("next"):
        parts.append("Next: %s" % problem["next"])
    return ". ".join(parts)


def difference(document):
    """The changed references before and after, each written like a claim."""

    def side(key):
        lines = ["%s=%s\n" % (change["reference"], change[key]) for change in document.get("changes", []) if change[key]]
        return "".join(sorted(lines))

    header = "references in %s" % document.get("host", {}).get("data_root", "the data root")
    return {
        "before_header": header,
        "before": side("from"),
        "after_header": header,
        "after": side("to"),
    }
