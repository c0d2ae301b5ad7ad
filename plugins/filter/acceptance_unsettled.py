# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: acceptance_unsettled
  short_description: Nodes that may still come to what is wanted of them
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Nodes that are not Ready yet, have not reported since their host booted, or do not offer the GPUs they should.
    - Nodes that are not there, and those whose device plugin a label keeps off, are not waited for.
  positional: targets
  options:
    _input:
      description: RV(onprem.gpu.nodes_info#module:nodes).
      type: dict
      required: true
    targets:
      description:
        - One dict per host with C(node), C(expected) (counts by resource), C(boot_id) and C(waits), whether it is worth
          waiting for it.
      type: list
      elements: dict
      required: true
"""

EXAMPLES = r"""
- name: Wait for the nodes
  onprem.gpu.nodes_info:
    names: [gpu-a]
  register: found
  until: found.nodes | onprem.gpu.acceptance_unsettled(targets) | length == 0
  vars:
    targets:
      - node: gpu-a
        expected: {nvidia.com/gpu: 8}
        boot_id: "{{ gpu_survey_host.os.boot_id }}"
        waits: true
"""

RETURN = r"""
  _value:
    description: Names, sorted.
    type: list
    elements: str
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.acceptance import unsettled


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"acceptance_unsettled": unsettled}
