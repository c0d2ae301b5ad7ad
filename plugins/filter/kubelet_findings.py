# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: kubelet_findings
  short_description: What stands against the wished kubelet settings on one host
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Checks the spelling of policies, and reserved CPUs and memory against what the host has.
  positional: wishes
  options:
    _input:
      description: What M(onprem.gpu.gpu_info) registered for the host.
      type: dict
      required: true
    wishes:
      description:
        - The variables of the role P(onprem.gpu.gpu_kubelet#role) without their prefix.
          The role has them as C(gpu_kubelet_wishes).
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Refuse what cannot work
  ansible.builtin.assert:
    that: findings | selectattr("severity", "eq", "error") | length == 0
  vars:
    findings: "{{ gpu_survey_host | onprem.gpu.kubelet_findings(gpu_kubelet_wishes) }}"
"""

RETURN = r"""
  _value:
    description: One dict per finding, none when all is well.
    type: list
    elements: dict
    contains:
      check:
        description: Which rule, stable.
        type: str
      severity:
        description: V(error) stops the host, V(warning) only tells.
        type: str
      value:
        description: What was asked for.
        type: str
      message:
        description: One sentence that names the value and what it collides with.
        type: str
      allowed:
        description: What would be accepted.
        type: str
      variable:
        description: Where to set it.
        type: str
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.kubelet_plan import refusals


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"kubelet_findings": refusals}
