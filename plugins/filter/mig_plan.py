# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
  name: mig_plan
  short_description: Plan a MIG layout on the controller, without a GPU
  version_added: 0.2.0
  author:
    - Contributors to the onprem.gpu collection (@onprem)
  description:
    - Tells what a layout makes of GPUs of given models without instances, or why they cannot have it.
    - It goes by tables of what NVIDIA's models offer. The module M(onprem.gpu.mig) asks the GPU itself, whose names and
      numbers may differ with the driver.
  positional: selected
  options:
    _input:
      description:
        - Models of the GPUs of a host, in NVML's order. A model is the name that M(onprem.gpu.gpu_info) reports
          (V(H100-SXM5-80GB)), the name of a family with its memory (V(H100-80GB)), or a PCI device id (V(0x2330)).
      type: list
      elements: str
      required: true
    selected:
      description:
        - Name of the layout, in O(config) or one of V(all-disabled), V(all-enabled), V(all-balanced), V(all-)PROFILE.
      type: str
      required: true
    config:
      description: A configuration in mig-parted's language.
      type: dict
"""

EXAMPLES = r"""
- name: Draw what the balanced layout is on each model of the fleet
  ansible.builtin.debug:
    msg: "{{ models | onprem.gpu.mig_plan('all-balanced') | map(attribute='picture') | flatten }}"
  vars:
    models: [A30-24GB, H100-80GB, RTX-PRO-6000-96GB]

- name: Refuse a layout that the GPUs of a host cannot have, before it is touched
  ansible.builtin.assert:
    that: gpu_survey_host.gpus | map(attribute='model') | onprem.gpu.mig_plan('training', config)
  vars:
    config: "{{ lookup('ansible.builtin.file', 'mig-parted.yaml') | from_yaml }}"
"""

RETURN = r"""
  _value:
    description:
      - For each GPU that something is wanted of what RV(onprem.gpu.mig#module:gpus) has.
      - A layout that cannot be had is an error that names the entry, the value and what is allowed.
    type: list
    elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.onprem.gpu.plugins.module_utils.mig_config import ConfigError, select
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import foreseen, plan_host, result
from ansible_collections.onprem.gpu.plugins.module_utils.mig_models import MIG_MODELS, gpu_without_hardware, is_known
from ansible_collections.onprem.gpu.plugins.module_utils.mig_picture import bars


def mig_plan(models: list[str], selected: str, config: dict[str, t.Any] | None = None) -> list[dict[str, t.Any]]:
    unknown = [model for model in models if not is_known(model)]
    if unknown:
        known = ", ".join(MIG_MODELS)
        raise AnsibleFilterError(f"mig_plan: {unknown[0]!r} is no model of a GPU. Those with MIG are {known}.")
    gpus = [gpu_without_hardware(model, index) for index, model in enumerate(models)]
    try:
        planned = plan_host(gpus, select(config, selected, gpus).wanteds)
    except ConfigError as error:
        raise AnsibleFilterError(f"mig_plan: {error}") from error
    if planned.refusals:
        raise AnsibleFilterError(f"mig_plan: {planned.message}")
    return [{**result(each), "picture": bars(foreseen(each))} for each in planned.plans]


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"mig_plan": mig_plan}
