#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_objects
short_description: Write many Kubernetes objects in one call and say what each of them changed
version_added: 0.1.0
description:
  - Hands a list of objects to M(kubernetes.core.k8s) with server-side apply under the field manager C(onprem.gpu), and
    turns its answer into one diff per object and one message for all that failed.
  - A field that was applied once and is no longer in the definition is removed, and fields of other managers stay.
    Where two managers want different things, the definition here wins.
  - In check mode the API server is asked what it would do, without doing it. Objects in a namespace that the same list
    would make are reported as changed, because the API server cannot be asked about them yet.
author:
  - Contributors to the onprem.gpu collection (@onprem)
extends_documentation_fragment:
  - onprem.gpu.cluster
attributes:
  check_mode:
    support: full
    description: Predicts what would be written and writes nothing.
  diff_mode:
    support: full
    description: One diff per object that differs, without its status and without what the API server adds.
  idempotent:
    support: full
    description: Objects that are as wanted are not written.
options:
  objects:
    description:
      - Definitions, in the order in which they are written. Each needs C(apiVersion), C(kind) and C(metadata.name).
    type: list
    elements: dict
    required: true
  state:
    description:
      - V(present) applies the objects, V(absent) deletes them. Objects that are not there are none to delete.
    type: str
    choices: [present, absent]
    default: present
  wait:
    description:
      - Whether to wait until the objects are ready, or gone.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait for each object with O(wait=true).
    type: int
    default: 120
seealso:
  - module: kubernetes.core.k8s
"""

EXAMPLES = r"""
- name: Make two namespaces
  onprem.gpu.cluster_objects:
    objects:
      - apiVersion: v1
        kind: Namespace
        metadata:
          name: team-vision
      - apiVersion: v1
        kind: ResourceQuota
        metadata:
          name: gpus
          namespace: team-vision
        spec:
          hard:
            requests.nvidia.com/gpu: "4"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
objects:
  description: What became of each object, in the order of O(objects). When some failed, only those.
  returned: success, and when the API server refused some of them
  type: list
  elements: dict
  contains:
    object:
      description: Kind, namespace and name.
      type: str
      sample: ResourceQuota team-vision/gpus
    changed:
      description: Whether it was written, or would be.
      type: bool
    error:
      description: Why it could not be written, in the API server's words; V(null) when it could.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import AUTHENTICATION_OPTIONS


def main() -> None:
    options = {
        "objects": {"type": "list", "elements": "dict", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "wait": {"type": "bool", "default": False},
        "wait_timeout": {"type": "int", "default": 120},
    }
    module = AnsibleModule(argument_spec={**AUTHENTICATION_OPTIONS, **options}, supports_check_mode=True)
    module.fail_json(msg="onprem.gpu.cluster_objects works through its action plugin only.")


if __name__ == "__main__":
    main()
