# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: fleet_lines
  short_description: The state of a fleet as a table for people
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - One line per host with node, state, GPUs found and allocatable, driver, kubelet and product.
  positional: nodes, alive
  options:
    _input:
      description:
        - The variables of each host, as in C(hostvars). C(gpu_survey_host) and C(gpu_node_object) are looked at where
          the run got that far.
      type: list
      elements: dict
      required: true
    nodes:
      description: RV(onprem.gpu.nodes_info#module:nodes).
      type: dict
      required: true
    alive:
      description: Names of the hosts that did not fail.
      type: list
      elements: str
      required: true
"""

EXAMPLES = r"""
- name: Show the fleet
  ansible.builtin.debug:
    msg: "{{ hosts | onprem.gpu.fleet_lines(fleet.nodes, ansible_play_hosts) | join('\n') }}"
  vars:
    hosts: "{{ ansible_play_hosts_all | map('extract', hostvars) }}"
"""

RETURN = r"""
  _value:
    description: The lines, the first with the headings.
    type: list
    elements: str
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.fleet_table import fleet_lines


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"fleet_lines": fleet_lines}
