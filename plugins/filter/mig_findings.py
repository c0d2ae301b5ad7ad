# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: mig_findings
  short_description: What stands against the MIG layout of a host
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Checks the configuration's form, that the layout is in it, that the host's GPUs can have it, and that the device
      plugin would offer its slices.
    - As long as no driver answers on the host it goes by tables of NVIDIA's models. With one the survey asks the GPUs.
  positional: wishes, differences
  options:
    _input:
      description: The registered result of M(onprem.gpu.gpu_info).
      type: dict
      required: true
    wishes:
      description:
        - C(layout), C(config) and C(strategy). The role P(onprem.gpu.gpu_mig#role) has them as C(gpu_mig_wishes).
      type: dict
      required: true
    differences:
      description:
        - What the survey found different in the role's document. A layout that GPUs with a driver cannot have now is a
          finding as well.
      type: list
      elements: dict
      default: []
"""

EXAMPLES = r"""
- name: Refuse a layout that the host cannot have
  ansible.builtin.assert:
    that: gpu_survey_host | onprem.gpu.mig_findings(gpu_mig_wishes) | length == 0
"""

RETURN = r"""
  _value:
    description: One dict per finding with check, severity, value, message, allowed and variable; none when all is well.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.mig_findings import mig_findings


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"mig_findings": mig_findings}
