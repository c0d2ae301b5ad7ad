# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: document_work
  short_description: What has to be written of one state document
  version_added: 0.1.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Sorts the items of a state document into the steps in which the role P(onprem.gpu.gpu_survey#role) writes them,
      and leaves out what M(onprem.gpu.survey) found as it should be.
  positional: differences
  options:
    _input:
      description: The state document.
      type: dict
      required: true
    differences:
      description: The differences the survey found in this document.
      type: list
      elements: dict
      required: true
    fast:
      description:
        - Whether to leave out what the survey found as it should be. With V(false) every item is returned, but for what
          only the survey can know, which is stale services, the initramfs and interrupted package transactions.
      type: bool
      default: true
"""

EXAMPLES = r"""
- name: Show what the driver role would write
  ansible.builtin.debug:
    msg: "{{ gpu_driver_state | onprem.gpu.document_work(gpu_survey_result.documents.gpu_driver) }}"
"""

RETURN = r"""
  _value:
    description: Items by step; an empty list or V(false) where there is nothing to do.
    type: dict
    contains:
      unfinished:
        description: Whether a package transaction was interrupted.
        type: bool
      absent_files:
        description: Paths that must not exist.
        type: list
        elements: str
      folders:
        description: Parents of the files to write, without those that every system has.
        type: list
        elements: str
      first_files:
        description: Files to write before packages.
        type: list
        elements: dict
      refresh_index:
        description: Whether the package manager has to read its repositories again.
        type: bool
      remove:
        description: Names of packages to remove.
        type: list
        elements: str
      install:
        description: All packages of the document as soon as one of them differs.
        type: list
        elements: dict
      hold:
        description: Names of packages to hold.
        type: list
        elements: str
      release:
        description: Names of packages whose hold has to go.
        type: list
        elements: str
      files:
        description: Files to write after packages.
        type: list
        elements: dict
      generated:
        description: All generated files, whose content may depend on anything written before.
        type: list
        elements: dict
      initramfs:
        description: Whether the initramfs is older than what it must contain.
        type: bool
      modules:
        description: Kernel modules to load or unload.
        type: list
        elements: dict
      checkpoints:
        description: State files to compare and perhaps remove.
        type: list
        elements: dict
      mig:
        description: Whether the GPUs have to be partitioned.
        type: bool
      services:
        description: Services whose state differs.
        type: list
        elements: dict
      stale_services:
        description: Names of services that run with older files than those on disk.
        type: list
        elements: str
"""

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.document_work import document_work


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"document_work": document_work}
