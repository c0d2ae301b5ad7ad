# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: operator_changes
  short_description: How a helm release differs from what it should be
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Compares chart version and values of a release, and tells when a release was begun and not finished.
  positional: version, values
  options:
    _input:
      description: RV(kubernetes.core.helm_info#module:status), or an empty mapping when there is no release.
      type: dict
      required: true
    version:
      description: Version of the chart, with or without a leading C(v).
      type: str
      required: true
    values:
      description: Values the release should have.
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Show what an upgrade would change
  ansible.builtin.debug:
    msg: "{{ release.status | default({}) | onprem.gpu.operator_changes('v26.7.0', {'driver': {'enabled': false}}) }}"
"""

RETURN = r"""
  _value:
    description: One line per difference; empty when there is none.
    type: list
    elements: str
    sample: ["values.mig.strategy: single -> mixed"]
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.operator_plan import release_changes


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"operator_changes": release_changes}
