# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: expected_gpus
  short_description: The GPUs that nodes should offer, from what their hosts have
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Counts the GPUs on the PCI bus of every host that was looked at, and names the host's node.
    - GPUs in MIG mode count as what the device plugin makes of their MIG devices. A layout that this run has written
      counts, else the one that was found.
  positional: mig_strategy
  options:
    _input:
      description:
        - Variables of the hosts, such as C(groups.gpu_nodes | map('extract', hostvars)). Hosts without
          C(gpu_survey_host) are left out.
      type: list
      elements: dict
      required: true
    mig_strategy:
      description: The device plugin's strategy, V(none), V(single) or V(mixed).
      type: str
      default: single
"""

EXAMPLES = r"""
- name: Show the GPUs that should become allocatable
  ansible.builtin.debug:
    msg: "{{ groups.gpu_nodes | map('extract', hostvars) | onprem.gpu.expected_gpus }}"
"""

RETURN = r"""
  _value:
    description: Counts by node and resource.
    type: dict
    sample:
      gpu-a: {nvidia.com/gpu: 8}
      gpu-b: {nvidia.com/mig-3g.40gb: 16}
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.operator_plan import expected_gpus


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"expected_gpus": expected_gpus}
