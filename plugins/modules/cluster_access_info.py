#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cluster_access_info
short_description: Ask the API server who it is and whether we may do what a run needs
version_added: 0.1.0
description:
  - Reads the version of the API server, then asks it about each right. Fails when the server cannot be reached, when it
    does not accept the credentials, or when a right is missing; all missing rights are named at once.
  - Runs where the kubeconfig is, so give it C(delegate_to=localhost) and C(run_once=true).
author:
  - Contributors to the onprem.gpu collection (@onprem)
extends_documentation_fragment:
  - onprem.gpu.cluster
attributes:
  check_mode:
    support: full
    description: Reads only.
  diff_mode:
    support: none
    description: Reads only.
  idempotent:
    support: full
    description: Reads only.
options:
  rights:
    description: What the user of the kubeconfig must be allowed to do.
    type: list
    elements: dict
    default: []
    suboptions:
      resource:
        description: Plural name of the resource, such as V(nodes).
        type: str
        required: true
      verbs:
        description: Verbs such as V(list) and V(patch).
        type: list
        elements: str
        required: true
      group:
        description: API group; empty for the core group.
        type: str
        default: ""
      namespace:
        description: Namespace; empty for all of them, and for resources without one.
        type: str
        default: ""
seealso:
  - module: onprem.gpu.nodes_info
"""

EXAMPLES = r"""
- name: Stop early when nodes cannot be labelled or hosts cannot join
  onprem.gpu.cluster_access_info:
    kubeconfig: ~/.kube/prod.yml
    rights:
      - {resource: nodes, verbs: [list, get, patch]}
      - {resource: secrets, verbs: [create, delete], namespace: kube-system}
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
version:
  description: Version of the API server.
  returned: when the API server answered
  type: str
  sample: v1.37.1
denied:
  description: Rights that are missing, in words.
  returned: when the API server answered
  type: list
  elements: str
  sample: ["create secrets in kube-system"]
http:
  description: What was sent to the API server; see M(onprem.gpu.nodes).
  returned: when the API server answered
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils import access_review
from ansible_collections.onprem.gpu.plugins.module_utils.cluster import (
    AUTHENTICATION_OPTIONS,
    Cluster,
    ClusterError,
    OutcomeUnknown,
    open_cluster,
)

OPTIONS: dict[str, t.Any] = {
    **AUTHENTICATION_OPTIONS,
    "rights": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "resource": {"type": "str", "required": True},
            "verbs": {"type": "list", "elements": "str", "required": True},
            "group": {"type": "str", "default": ""},
            "namespace": {"type": "str", "default": ""},
        },
    },
}


def server_version(cluster: Cluster) -> str:
    return str(cluster.demand(cluster.get("/version"), "read the version")["gitVersion"])


def denied_rights(cluster: Cluster, rights: list[dict[str, t.Any]]) -> list[str]:
    """Return the rights that the server does not grant, in words."""
    reviews = [review for right in rights for review in access_review.reviews(right)]
    return [access_review.in_words(review) for review in reviews if not is_allowed(cluster, review)]


def is_allowed(cluster: Cluster, review: dict[str, t.Any]) -> bool:
    what = f"ask whether we may {access_review.in_words(review)}"
    answer = cluster.request("POST", access_review.PATH, body=review)
    return bool(cluster.demand(answer, what)["status"]["allowed"])


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    cluster = open_cluster(module)
    try:
        version = server_version(cluster)
        denied = denied_rights(cluster, module.params["rights"])
    except ClusterError as error:
        module.fail_json(msg=str(error), reason=error.reason)
    except OutcomeUnknown as error:
        module.fail_json(
            msg=f"{cluster.where} broke off while it was asked for rights: {error}", reason="api_unavailable"
        )
    answers: dict[str, t.Any] = {"version": version, "denied": denied, "http": cluster.http}
    if denied:
        missing = ", ".join(denied)
        module.fail_json(
            msg=f"The user of {cluster.where} may not {missing}. Grant these rights, or use another kubeconfig "
            "or context (gpu_cluster_kubeconfig, gpu_cluster_context).",
            reason="forbidden",
            **answers,
        )
    module.exit_json(changed=False, **answers)


if __name__ == "__main__":
    main()
