#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bootstrap_token
short_description: Make and remove a short-lived token with which hosts join a kubeadm cluster
version_added: 0.1.0
description:
  - Creates a bootstrap token through the API, and tells what else a joining host needs. No access to a control plane
    host is needed.
  - Each call with O(state=present) makes a new token. Delete it when the hosts have joined; it ends by itself after
    O(lifetime_minutes).
  - The result holds the token. Use C(no_log=true) on the task.
author:
  - Contributors to the onprem.gpu collection (@onprem)
extends_documentation_fragment:
  - onprem.gpu.cluster
attributes:
  check_mode:
    support: full
    description: Nothing is written; O(state=present) returns no token.
  diff_mode:
    support: none
    description: There is nothing to show but secrets.
  idempotent:
    support: partial
    description: O(state=absent) is; O(state=present) makes a new token each time.
options:
  state:
    description: Whether to make a token or to remove one.
    type: str
    choices: [present, absent]
    default: present
  token_id:
    description: First part of the token to remove, as returned in RV(token_id). Needed for O(state=absent).
    type: str
  lifetime_minutes:
    description: How long the token is good for.
    type: int
    default: 15
  description:
    description: Text stored with the token, for people who list tokens.
    type: str
    default: made by onprem.gpu to join hosts
  groups:
    description: Groups a host is in while it uses the token. Each starts with C(system:bootstrappers:).
    type: list
    elements: str
    default: ["system:bootstrappers:kubeadm:default-node-token"]
"""

EXAMPLES = r"""
- name: Make a token for this run
  onprem.gpu.bootstrap_token:
  delegate_to: localhost
  run_once: true
  no_log: true
  register: join

- name: Remove it again
  onprem.gpu.bootstrap_token:
    state: absent
    token_id: "{{ join.token_id }}"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
token:
  description: The token, a secret.
  returned: O(state=present) outside of check mode
  type: str
token_id:
  description: Its first part, which is no secret.
  returned: O(state=present) outside of check mode
  type: str
api_server_endpoint:
  description: Address and port of the API server, from the ConfigMap C(kube-public/cluster-info).
  returned: O(state=present)
  type: str
  sample: 192.0.2.10:6443
ca_cert:
  description: The cluster's CA certificates, PEM.
  returned: O(state=present)
  type: str
ca_cert_hashes:
  description: Hashes of the CAs' public keys, as C(caCertHashes) of kubeadm.
  returned: O(state=present)
  type: list
  elements: str
http:
  description: What was sent to the API server; see RV(onprem.gpu.nodes#module:http).
  returned: when the options were valid
  type: dict
reason:
  description: Why it failed; V(not_found), V(forbidden), V(conflict), V(refused) or V(api_unavailable).
  returned: on failure
  type: str
"""

import datetime
import re
import secrets

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.onprem.gpu.plugins.module_utils.bootstrap import (
    HAS_LIBRARIES,
    cluster_access,
    create_token,
    delete_token,
    new_token,
    stored_secret,
    token_secret,
)
from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    AUTHENTICATION_OPTIONS,
    Cluster,
    ClusterError,
    open_cluster,
)

GROUP_PREFIX = "system:bootstrappers:"
OPTIONS = {
    **AUTHENTICATION_OPTIONS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "token_id": {"type": "str", "no_log": False},
    "lifetime_minutes": {"type": "int", "default": 15},
    "description": {"type": "str", "default": "made by onprem.gpu to join hosts"},
    "groups": {"type": "list", "elements": "str", "default": [f"{GROUP_PREFIX}kubeadm:default-node-token"]},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=OPTIONS, supports_check_mode=True, required_if=[("state", "absent", ("token_id",))]
    )
    refuse_bad_options(module)
    cluster = open_cluster(module)
    if not HAS_LIBRARIES:
        module.fail_json(msg=missing_required_lib("cryptography and PyYAML"))
    try:
        result = present(cluster, module) if module.params["state"] == "present" else absent(cluster, module)
    except ClusterError as error:
        module.fail_json(msg=str(error), reason=error.reason, http=cluster.http)
    module.exit_json(http=cluster.http, **result)


def refuse_bad_options(module: AnsibleModule) -> None:
    token_id, lifetime = module.params["token_id"], module.params["lifetime_minutes"]
    if token_id is not None and not re.fullmatch("[a-z0-9]{6}", token_id):
        module.fail_json(msg=f"token_id is {token_id!r}; it must be 6 lower-case letters and digits")
    if lifetime < 1:
        module.fail_json(msg=f"lifetime_minutes is {lifetime}; it must be 1 or more")
    strangers = [group for group in module.params["groups"] if not group.startswith(GROUP_PREFIX)]
    if strangers:
        module.fail_json(msg=f"groups has {strangers[0]!r}; each group must start with {GROUP_PREFIX}")


def present(cluster: Cluster, module: AnsibleModule) -> dict:
    access = cluster_access(cluster)
    if module.check_mode:
        return {"changed": True, **access}
    token = new_token(secrets.choice)
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(
        minutes=module.params["lifetime_minutes"]
    )
    create_token(cluster, token_secret(token, expires, module.params["description"], module.params["groups"]))
    return {"changed": True, "token": token, "token_id": token.split(".", maxsplit=1)[0], **access}


def absent(cluster: Cluster, module: AnsibleModule) -> dict:
    token_id = module.params["token_id"]
    if module.check_mode:
        return {"changed": stored_secret(cluster, token_id) is not None}
    return {"changed": delete_token(cluster, token_id)}


if __name__ == "__main__":
    main()
