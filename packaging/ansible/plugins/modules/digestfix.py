#!/usr/bin/python
# Copyright (c) 2026 The digestfix authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Makes claims about digests true on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digestfix
short_description: Give images on a Docker host their registry digests back
version_added: 0.1.0
description:
  - Runs C(digestfix apply) on the host. It locks Docker's data root, stops Docker, changes Docker's references,
    starts Docker, and asks the engine whether it finds each image by its digest. If a step fails, it undoes
    everything.
  - When all claims are already true, the module touches nothing and stops nothing.
  - In check mode it runs C(digestfix plan), which touches nothing, and fails if an apply would be refused.
author:
  - The digestfix authors
extends_documentation_fragment:
  - digestfix.digestfix.request
attributes:
  check_mode:
    support: full
    description: Reports what would change, and touches nothing.
  diff_mode:
    support: full
    description: Shows the references that change, before and after.
options:
  containers:
    description:
      - What may happen to running containers.
      - With V(keep) they keep running; if that is impossible, the task fails and nothing is touched.
      - With V(restart) they stop with Docker and are started again.
      - With V(ignore) they stop with Docker, and those with a restart policy come back.
    type: str
    choices: [keep, restart, ignore]
    default: keep
  force_restart:
    description:
      - Restart Docker even if its configuration or unit changed after dockerd started and only a start can show
        whether Docker accepts the change. Docker may then not start again. This does not help if dockerd itself has
        refused the change.
    type: bool
    default: false
  containers_changed:
    description:
      - What the task does if the references were changed but the state of a container changed too (exit code 6).
      - With V(fail) the task fails and is reported as changed. With V(warn) it prints a warning.
    type: str
    choices: [fail, warn]
    default: fail
  wait:
    description: Seconds to wait for another digestfix on the same data root to end.
    type: int
    default: 0
  keep_backups:
    description: How many former reference stores are kept. If omitted, digestfix's own default applies.
    type: int
  keep_days:
    description:
      - Backups of the references that are older than this many days are deleted, except the newest three. If omitted,
        digestfix's own default applies.
    type: int
  metrics:
    description:
      - A file, C(*.prom), to which digestfix writes the result of the run, for node_exporter's textfile collector.
        Check mode does not write it.
    type: path
seealso:
  - module: digestfix.digestfix.digestfix_info
"""

EXAMPLES = r"""
- name: Give one image its digest back
  digestfix.digestfix.digestfix:
    claims:
      - registry.example:5000/app:v1@sha256:47b1a2449c0e0f1fd7d2d0a8a0e8c9bb4d1c7d8d1b0c2f1d6d2f5a3b7c9e5734

- name: Apply what another host exported, if that is proven
  digestfix.digestfix.digestfix:
    content: "{{ lookup('ansible.builtin.file', 'digests.json', rstrip=false) | string }}"
    require: proven

- name: Apply the files in /etc/digestfix/claims.d
  digestfix.digestfix.digestfix:
    claims_d: true
    wait: 300

- name: See whether that would be refused, without touching anything
  digestfix.digestfix.digestfix:
    claims_d: true
  check_mode: true
  register: planned
"""

RETURN = r"""
exit_code:
  description:
    - digestfix's exit code.
    - V(0) done, or nothing to do; V(1) failed, and the host is as it was found; V(2) usage; V(3) refused, nothing was
      touched; V(4) changes are pending, or none of the claims could be applied (in check mode; C(changed)
      distinguishes the two); V(5) the host is not completely as it should be; V(6) done, but the state of a container
      changed.
  returned: always
  type: int
  sample: 0
changes:
  description: The references that change, with the image that each pointed at before and points at now.
  returned: when digestfix made a plan
  type: list
  elements: dict
  sample:
    - reference: registry.example:5000/app@sha256:47b1…
      from: null
      to: sha256:f32f…
      trust: matched
      origin: /etc/digestfix/claims.d/digests.json
claims:
  description: Each claim, the image it is about, how well it is known, and whether it held before.
  returned: when digestfix made a plan
  type: list
  elements: dict
skipped_claims:
  description: Claims from files that do not apply to this host, and why.
  returned: when digestfix made a plan
  type: list
  elements: dict
stops:
  description: What applying will stop. Nothing stops if there is nothing to change, or on the containerd image store.
  returned: in check mode, when digestfix made a plan
  type: dict
  contains:
    docker:
      description: Whether Docker's unit stops. This alone decides whether a node is drained.
      type: bool
    units:
      description: The units that stop and are started again, including Docker's own.
      type: list
      elements: str
    containers:
      description: The running containers that do not keep running.
      type: list
      elements: str
  sample:
    docker: true
    units: [docker.service, docker.socket]
    containers: []
disturbance:
  description: What applying would disturb, as digestfix says it.
  returned: in check mode, when something would stop
  type: dict
transaction:
  description: The name that C(digestfix history) and C(digestfix rollback) have for what was done.
  returned: when something was begun
  type: str
  sample: 20261124T113000Z-4711
backup:
  description: Where the former references are kept.
  returned: when something changed
  type: str
container_changes:
  description: The containers that are not what they were.
  returned: when something was begun
  type: list
  elements: dict
steps:
  description: Each step with its seconds since the start.
  returned: when something was begun
  type: list
  elements: dict
host:
  description: The data root, the storage driver, the unit and the engine's version, as digestfix found them.
  returned: when they were found
  type: dict
problem:
  description:
    - What went wrong (C(what)), the state of the host now (C(state)), and what to do (C(next)).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.digestfix.digestfix.plugins.module_utils import answer, program, request


def command_line(params, check):
    """The words after the program's name."""
    if check:
        words = ["plan", "--json"] + request.options(params, [*request.CONTAINERS, *request.HOST])
    else:
        words = ["apply", "--json"] + request.options(params, [*request.CONTAINERS, *request.RUN, *request.HOST])
    return words + request.claims(params)


def has_changed(document, check):
    """Whether the references are other than they were, or would be."""
    if check:
        return answer.pending(document)
    # A host that could not be restored is not as it was, whatever else is known of it.
    return document.get("changed", document["exit_code"] == answer.BROKEN)


def main():
    """Runs the module."""
    module = AnsibleModule(
        argument_spec=dict(
            request.CLAIMS,
            containers_changed={"type": "str", "choices": ["fail", "warn"], "default": "fail"},
            **request.CONTAINERS,
            **request.RUN,
            **request.HOST,
            **request.EXECUTABLE,
        ),
        supports_check_mode=True,
    )
    check = module.check_mode
    try:
        words = command_line(module.params, check)
        standard_input = request.standard_input(module.params["content"])
    except request.Unusable as error:
        module.fail_json(msg=str(error))
    document = program.run(module, words, standard_input)
    result = answer.returned(document)
    result["changed"] = has_changed(document, check)
    will_stop = answer.stops(document) if check else None
    if will_stop is not None:
        result["stops"] = will_stop
    if result["changed"]:
        result["diff"] = answer.difference(document)
    code = document["exit_code"]
    if code == answer.CONTAINERS_CHANGED and module.params["containers_changed"] == "warn":
        module.warn(answer.explain(document))
    elif code not in (answer.DONE, answer.PENDING):
        module.fail_json(msg=answer.explain(document), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
