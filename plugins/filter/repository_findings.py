# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: repository_findings
  short_description: What is wrong with package repositories, by their keys and by their own answers
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Without O(answers), compares each repository's key with the fingerprint that is wanted for it, on the controller
      and without gpg.
    - With O(answers), looks at what M(onprem.gpu.repository_info) found on a host, and whether the wanted versions of
      O(packages) are offered.
  positional: answers, packages
  options:
    _input:
      description:
        - Repositories with C(name), C(url), C(key), C(key_fingerprint) and C(variable), the name of the variable that
          describes it.
      type: list
      elements: dict
      required: true
    answers:
      description: RV(onprem.gpu.repository_info#module:repositories).
      type: list
      elements: dict
    packages:
      description: Packages with C(name) and C(version), as in a state document.
      type: list
      elements: dict
      default: []
"""

EXAMPLES = r"""
- name: Compare the keys with their fingerprints
  onprem.gpu.report_findings:
    findings: "{{ gpu_preflight_repositories | onprem.gpu.repository_findings }}"
"""

RETURN = r"""
  _value:
    description: One dict per finding, with C(check), C(severity), C(value), C(message), C(allowed) and C(variable).
    type: list
    elements: dict
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.compat import answer_refusals, repository_refusals
from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding


def repository_findings(
    repositories: list[dict[str, t.Any]],
    answers: list[dict[str, t.Any]] | None = None,
    packages: t.Sequence[dict[str, t.Any]] = (),
) -> list[Finding]:
    if answers is None:
        return repository_refusals(repositories)
    return answer_refusals(repositories, answers, packages)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"repository_findings": repository_findings}
