# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: smoke_pods
  short_description: Pods that try the GPUs of nodes, one for each resource a node offers
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Each pod asks for one device and is pinned to its node. It tolerates every taint, so it reaches nodes that are
      cordoned too, and has the priority class C(gpu-acceptance), which must exist and should never preempt.
    - Nodes that are not Ready get none.
  positional: settings
  options:
    _input:
      description: RV(onprem.gpu.nodes_info#module:nodes).
      type: dict
      required: true
    settings:
      description:
        - C(image), C(command) (a list, may be empty), C(namespace), C(runtime_class) (may be empty), C(timeout_seconds)
          and C(run), a value that no other run has.
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Try the GPUs of all nodes
  onprem.gpu.cluster_objects:
    objects: "{{ fleet.nodes | onprem.gpu.smoke_pods(settings) }}"
  vars:
    settings:
      image: nvcr.io/nvidia/k8s/cuda-sample:vectoradd-cuda12.5.0
      command: []
      namespace: gpu-acceptance
      runtime_class: ""
      timeout_seconds: 300
      run: "{{ 999999 | random }}"
"""

RETURN = r"""
  _value:
    description: Pod objects.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.smoke_pod import pods


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"smoke_pods": pods}
