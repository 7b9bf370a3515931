# Copyright (c) 2026 The digestfix authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""What is documented alike of every module."""

from __future__ import annotations


class ModuleDocFragment:
    """What is claimed, and where Docker lives."""

    DOCUMENTATION = r"""
requirements:
  - digestfix on the host, of the collection's release
  - to run as root (C(become))
options:
  claims:
    description:
      - Claims to make true, each in one of the forms C(NAME:TAG@sha256:HEX), C(NAME@sha256:HEX) and C(REF=IMAGE).
      - At least one of O(claims), O(from), O(content), O(remove) and O(claims_d) must be set.
    type: list
    elements: str
    default: []
  from:
    description:
      - Files and directories on the host with claims, of any kind that digestfix reads - its own claims file, an OCI
        layout or archive, skopeo's C(dir:), raw manifests, what C(docker image inspect) printed, Kubernetes and
        compose YAML, lists.
    type: list
    elements: path
    default: []
  content:
    description:
      - The text of one such file. The module passes it on standard input, so that no file stays on the host.
      - Before ansible-core 2.19, a template whose text looks like JSON becomes a dictionary or a list. End the
        template with the filter C(string), as in the example. digestfix's own claims file is also taken as a
        dictionary.
    type: raw
  claims_d:
    description:
      - Use the files in C(/etc/digestfix/claims.d), C(/run/digestfix/claims.d) and C(/usr/lib/digestfix/claims.d).
      - Cannot be combined with O(claims), O(from), O(content) and O(remove).
    type: bool
    default: false
  remove:
    description: References to drop, as C(NAME:TAG) or C(NAME@sha256:HEX).
    type: list
    elements: str
    default: []
  rewrite:
    description:
      - Renames repositories that are read from files. A name that begins with the key begins with the value instead.
    type: dict
    default: {}
  tags:
    description: Take tags from files too, if the files say which image each tag points at.
    type: bool
    default: false
  require:
    description: Refuse changes whose digests are known less well than this.
    type: str
    choices: [asserted, matched, proven]
  replace:
    description: Overwrite conflicting references.
    type: bool
    default: false
  allow_image_id_digest:
    description: Accept a digest that is the ID of an image on the host.
    type: bool
    default: false
  store:
    description: The images to work on. By default those of Docker, or those of the Kubernetes node if the host has no
      Docker.
    type: str
    choices: [docker, kubernetes]
  containerd_socket:
    description: The socket of a Kubernetes node's containerd.
    type: path
  data_root:
    description: Docker's data root. If this option and the following ones are omitted, digestfix detects them.
    type: path
  driver:
    description: The storage driver.
    type: str
  unit:
    description: Docker's systemd unit.
    type: str
  config_file:
    description: Docker's configuration file.
    type: path
  socket:
    description: The Unix socket of Docker's API.
    type: path
  offline:
    description: Work without a daemon, as on a mounted disk.
    type: bool
    default: false
  containerd_root:
    description: containerd's root directory, where Docker keeps manifests.
    type: path
  executable:
    description:
      - Where digestfix is installed. If omitted, the module looks in C(PATH), C(/usr/bin) and C(/usr/local/bin).
    type: path
"""
