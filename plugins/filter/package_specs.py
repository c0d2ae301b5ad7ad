# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: package_specs
  short_description: Packages at exact versions, as apt or dnf name them
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Makes names for M(ansible.builtin.apt) or M(ansible.builtin.dnf) that match exactly one upstream version.
      V(580.95.05) does not match V(580.95.051).
  positional: package_format
  options:
    _input:
      description: Packages as dicts with C(name) and C(version); without a version any one will do.
      type: list
      elements: dict
      required: true
    package_format:
      description: V(apt) or V(yum).
      type: str
      choices: [apt, yum]
      required: true
"""

EXAMPLES = r"""
- name: Install the driver
  ansible.builtin.apt:
    name: "{{ gpu_driver_state.packages | onprem.gpu.package_specs('apt') }}"
"""

RETURN = r"""
  _value:
    description: Package names with their versions.
    type: list
    elements: str
    sample: ["nvidia-open=580.95.05-*"]
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.document_work import package_specs


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"package_specs": package_specs}
