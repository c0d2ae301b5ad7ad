# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: repositories
  short_description: Package repositories as one host uses them
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Fills in the placeholders of the addresses, the package format of the host and, for the vendors' own
      repositories, the fingerprint of the vendor's key.
  positional: host
  options:
    _input:
      description:
        - Repositories as dicts with C(name), C(url), C(key) (ASCII-armoured), C(key_fingerprint); for apt
          repositories that are not flat also C(suites) and C(components).
        - Placeholders in C(url) are C({os}) (V(debian12), V(rhel9)), C({cuda_arch}) (V(x86_64), V(sbsa)), C({arch})
          (as the package format says it) and C({format}) (V(deb), V(rpm)).
      type: list
      elements: dict
      required: true
    host:
      description: What M(onprem.gpu.gpu_info) registered for the host.
      type: dict
      required: true
"""

EXAMPLES = r"""
- name: Ask the repositories of this host who signed them
  onprem.gpu.repository_info:
    format: apt
    repositories: "{{ gpu_driver_repositories | onprem.gpu.repositories(gpu_survey_host) }}"
"""

RETURN = r"""
  _value:
    description: The same dicts with C(url) and C(key_fingerprint) filled in and C(format) (V(apt) or V(yum)) added.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.repository import resolved


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"repositories": resolved}
