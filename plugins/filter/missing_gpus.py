# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: missing_gpus
  short_description: Nodes that offer fewer GPUs than they should
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Compares what nodes offer to pods with what is expected of them. More than expected is fine, GPUs may be shared.
      Nodes that the labels C(nvidia.com/gpu.deploy.*) keep the device plugin off are not expected to offer anything.
  positional: expected, nothing_else
  options:
    _input:
      description: RV(onprem.gpu.nodes_info#module:nodes).
      type: dict
      required: true
    expected:
      description: Counts by node and resource, see P(onprem.gpu.expected_gpus#filter).
      type: dict
      required: true
    nothing_else:
      description: Whether resources and labels that tell of another MIG layout are wrong as well.
      type: bool
      default: false
"""

EXAMPLES = r"""
- name: Stop when a GPU is missing
  ansible.builtin.assert:
    that: fleet.nodes | onprem.gpu.missing_gpus(wanted) | length == 0
  vars:
    wanted: {gpu-a: {nvidia.com/gpu: 8}}
"""

RETURN = r"""
  _value:
    description: What each node lacks, by node; empty when all GPUs are there.
    type: dict
    sample:
      gpu-a: offers 7 nvidia.com/gpu, wanted 8
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.operator_plan import missing_gpus


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"missing_gpus": missing_gpus}
