# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: plan_lines
  short_description: The differences of a host as a plan for people
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - A heading with the number of differences and what changing them disrupts, then the differences.
  positional: host, full
  options:
    _input:
      description: RV(onprem.gpu.survey#module:differences).
      type: list
      elements: dict
      required: true
    host:
      description: Name of the host for the heading.
      type: str
      required: true
    full:
      description:
        - With V(true), one line per difference, saying what is there now. Otherwise one line per document and kind.
      type: bool
      default: false
"""

EXAMPLES = r"""
- name: Show what will change
  ansible.builtin.debug:
    msg: "{{ gpu_survey_result.differences | onprem.gpu.plan_lines(inventory_hostname) | join('\n') }}"
"""

RETURN = r"""
  _value:
    description: The lines.
    type: list
    elements: str
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils import run_plan


def plan_lines(differences: list[dict[str, t.Any]], host: str, full: bool = False) -> list[str]:
    return run_plan.difference_lines(differences, host) if full else run_plan.plan_lines(differences, host)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"plan_lines": plan_lines}
