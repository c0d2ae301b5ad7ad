# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: maintenance_lines
  short_description: A rolling maintenance before it begins, for people
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Tells the order of the nodes, the pods that would move, and what blocks.
  positional: drain
  options:
    _input:
      description: What M(onprem.gpu.maintenance) with C(action=claim) returned in check mode.
      type: dict
      required: true
    drain:
      description: What M(onprem.gpu.drain) returned in check mode for the same nodes.
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Show the plan
  ansible.builtin.debug:
    msg: "{{ claim | onprem.gpu.maintenance_lines(foreseen) }}"
"""

RETURN = r"""
  _value:
    description: The lines of the plan.
    type: list
    elements: str
    sample:
      - 1 may be out of service at once.
      - "Batch 1: gpu-1"
      - "  gpu-1: 1 pod would go: team-a/train-0"
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.maintenance_preview import preview_lines


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"maintenance_lines": preview_lines}
