# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: mig_evictions
  short_description: Who has to go before GPUs can be partitioned
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Takes the instances in use that stand in the way of a layout and tells whose they are. Where several ways lead to
      the layout it is the one that the planner names.
  options:
    _input:
      description: RV(onprem.gpu.mig#module:blockers).
      type: list
      elements: dict
      required: true
"""

EXAMPLES = r"""
- name: Show the pods that would be evicted
  ansible.builtin.debug:
    msg: "{{ (planned.blockers | onprem.gpu.mig_evictions).pods }}"
"""

RETURN = r"""
  _value:
    description: Pods and others, each sorted.
    type: dict
    contains:
      pods:
        description: Pods as C(namespace/name).
        type: list
        elements: str
        sample: [team-a/train-0]
      others:
        description: Users that are no pods; only a person can make them go.
        type: list
        elements: str
        sample: [process 4711 (python3)]
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.mig_offer import evictions


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"mig_evictions": evictions}
