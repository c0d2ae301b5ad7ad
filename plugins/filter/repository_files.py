# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: repository_files
  short_description: Key and source files of package repositories
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Makes the files through which apt or dnf uses each repository and trusts exactly one key for it.
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
- name: Show the files
  ansible.builtin.debug:
    msg: "{{ gpu_driver_repositories | onprem.gpu.repository_files(gpu_survey_host) | map(attribute='path') }}"
"""

RETURN = r"""
  _value:
    description: Files as items of the state document, all to be written before packages.
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.repository import repository_files


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"repository_files": repository_files}
