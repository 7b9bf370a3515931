# Copyright (c) 2026 The digestfix authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Running digestfix on the host."""

from __future__ import annotations

import os
import tempfile

from ansible.module_utils.common.text.converters import to_bytes
from ansible_collections.digestfix.digestfix.plugins.module_utils import answer

# A package installs the program in the first directory, a person in the second.
DIRECTORIES = ["/usr/bin", "/usr/local/bin"]


def run(module, words, standard_input):
    """Runs digestfix and returns its JSON object. Fails the task if there is no object."""
    program = module.params["executable"] or module.get_bin_path("digestfix", opt_dirs=DIRECTORIES)
    if program is None:
        module.fail_json(
            msg="digestfix is not installed on this host. Now: nothing was touched. "
            "Next: install it (the role digestfix.digestfix.digestfix does), or name it with executable"
        )
    if standard_input is not None:
        give(module, standard_input)
    exit_code, stdout, stderr = module.run_command(
        [program] + words,
        environ_update={"LANG": "C.UTF-8"},
    )
    try:
        document = answer.read(exit_code, stdout, stderr)
    except answer.Unreadable as error:
        module.fail_json(msg=str(error), exit_code=exit_code, stdout=stdout, stderr=stderr)
    for warning in document.get("warnings", []):
        module.warn(warning)
    return document


def give(module, standard_input):
    """Makes standard_input the standard input of the programs that the module runs from here on.

    It uses a file, because run_command would write to a pipe. If digestfix ends before
    it has read the pipe, the task fails with "Broken pipe" instead of the reason.
    """
    with tempfile.TemporaryFile(dir=module.tmpdir) as file:
        file.write(to_bytes(standard_input))
        file.seek(0)
        os.dup2(file.fileno(), 0)
