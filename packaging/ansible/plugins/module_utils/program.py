# Copyright (c) 2026 The digestfix authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Running digestfix on the host."""

from __future__ import annotations

from ansible_collections.digestfix.digestfix.plugins.module_utils import answer

# A package puts it into the first; by hand it goes to the second.
DIRECTORIES = ["/usr/bin", "/usr/local/bin"]


def run(module, words, standard_input):
    """Runs it, and gives its JSON object. Fails the task when there is none."""
    program = module.params["executable"] or module.get_bin_path("digestfix", opt_dirs=DIRECTORIES)
    if program is None:
        module.fail_json(
            msg="digestfix is not installed on this host. Now: nothing was touched. "
            "Next: install it (the role digestfix.digestfix.digestfix does), or name it with executable"
        )
    exit_code, stdout, stderr = module.run_command(
        [program] + words,
        data=standard_input,
        binary_data=True,
        environ_update={"LANG": "C.UTF-8"},
    )
    try:
        document = answer.read(exit_code, stdout, stderr)
    except answer.Unreadable as error:
        module.fail_json(msg=str(error), exit_code=exit_code, stdout=stdout, stderr=stderr)
    for warning in document.get("warnings", []):
        module.warn(warning)
    return document
