#!/usr/bin/python
# Copyright (c) 2026 The digestfix authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Says whether claims about digests hold on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digestfix_info
short_description: Say whether claims about digests hold on a Docker host
version_added: 0.1.0
description:
  - Runs C(digestfix verify) on the host, which reads the reference store and asks the running engine.
  - It touches nothing. The task does not fail if a claim does not hold; check RV(holds).
author:
  - The digestfix authors
extends_documentation_fragment:
  - digestfix.digestfix.request
attributes:
  check_mode:
    support: full
    description: It changes nothing in any mode.
  diff_mode:
    support: none
    description: It changes nothing.
seealso:
  - module: digestfix.digestfix.digestfix
"""

EXAMPLES = r"""
- name: Look whether the claims of this host hold
  digestfix.digestfix.digestfix_info:
    claims_d: true
  register: verified

- name: Stop where they do not
  ansible.builtin.assert:
    that: verified.holds
"""

RETURN = r"""
holds:
  description: Whether all claims hold, in the file and according to the engine.
  returned: success
  type: bool
  sample: true
pending:
  description:
    - Whether a claim about an image on this host does not hold. If no claim is about an image on this host, RV(holds)
      and this are both V(false).
  returned: success
  type: bool
  sample: false
claims:
  description:
    - Each claim, the image it is about, how well it is known, and whether it holds in the file and in the engine.
  returned: success
  type: list
  elements: dict
changes:
  description: What would have to change for the claims to hold.
  returned: success
  type: list
  elements: dict
skipped_claims:
  description: Claims from files that do not apply to this host, and why.
  returned: success
  type: list
  elements: dict
host:
  description: The data root, the storage driver, the unit and the engine's version, as digestfix found them.
  returned: when they were found
  type: dict
exit_code:
  description: digestfix's exit code; V(0) if all claims hold, V(4) if one does not, or if no claim could be applied.
  returned: always
  type: int
problem:
  description: What went wrong (C(what)), the state of the host now (C(state)), and what to do (C(next)).
  returned: on failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.digestfix.digestfix.plugins.module_utils import answer, program, request


def main():
    """Runs the module."""
    module = AnsibleModule(
        argument_spec=dict(request.CLAIMS, **request.HOST, **request.EXECUTABLE),
        supports_check_mode=True,
    )
    try:
        claims = request.claims(module.params)
        standard_input = request.standard_input(module.params["content"])
    except request.Unusable as error:
        module.fail_json(msg=str(error))
    words = ["verify", "--json"] + request.options(module.params, request.HOST)
    document = program.run(module, words + claims, standard_input)
    result = answer.returned(document)
    if document["exit_code"] not in (answer.DONE, answer.PENDING):
        module.fail_json(msg=answer.explain(document), **result)
    module.exit_json(
        holds=document["exit_code"] == answer.DONE,
        pending=answer.unheld(document),
        **result,
    )


if __name__ == "__main__":
    main()
