# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: smoke_reports
  short_description: What became of pods that tried GPUs
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Says of each pod whether it still runs, passed or failed, or why there is no verdict. A pod that finds no device
      free, or that somebody takes away, says nothing about its node.
  positional: found
  options:
    _input:
      description: The pods as P(onprem.gpu.smoke_pods#filter) made them.
      type: list
      elements: dict
      required: true
    found:
      description: Pod objects of the API.
      type: list
      elements: dict
      required: true
"""

EXAMPLES = r"""
- name: Read the pods until all have ended
  kubernetes.core.k8s_info:
    kind: Pod
    namespace: gpu-acceptance
  register: found
  until: pods | onprem.gpu.smoke_reports(found.resources) | selectattr('state', 'eq', 'running') | length == 0
"""

RETURN = r"""
  _value:
    description: One dict per pod with node, resource, pod, state and told.
    type: list
    elements: dict
    sample:
      - node: gpu-a
        resource: nvidia.com/gpu
        pod: gpu-acceptance-5d3c1c9e1f00
        state: passed
        told: ''
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.smoke_pod import reports


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"smoke_reports": reports}
