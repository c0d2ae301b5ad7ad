#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mig
short_description: Partition the GPUs of a host with MIG
version_added: 0.2.0
description:
  - Brings the MIG mode and the GPU and compute instances of a host's GPUs to what is wanted, through NVML, and touches
    no instance that is in use.
  - Of all ways to the wanted layout it takes one that destroys the fewest GPU instances, then the fewest compute
    instances. Each new GPU instance is created at an explicit placement that was found before the first change.
  - When one GPU of the host cannot have what is wanted of it, none is touched. When something fails half-way, what was
    there is put back, or the message says what there is now.
  - What is wanted is written in the configuration language of mig-parted, so that existing files work unchanged.
options:
  config:
    description:
      - A configuration as mig-parted has it, C(version) V(v1) and C(mig-configs).
      - C(devices) takes UUIDs and PCI addresses as well, besides V(all) and indexes.
      - The layouts V(all-disabled), V(all-enabled), V(all-balanced) and V(all-)PROFILE need not be in it. They are made
        from what each GPU offers.
    type: dict
  selected:
    description:
      - Name of the layout of O(config) that is wanted. Without O(config) it is one of those that are made from what
        each GPU offers.
      - One of O(selected) and O(layout) is required.
      - It is text. V(on), V(off), V(yes) and V(no) need quotes in YAML, and are refused without.
    type: raw
  layout:
    description: The wanted layout itself, a list of entries as one of those below C(mig-configs).
    type: list
    elements: dict
  reset:
    description:
      - Reset a GPU (C(nvidia-smi --gpu-reset)) whose mode stays pending though nobody holds it.
      - Only GPUs that need it are reset.
    type: bool
    default: false
  lock_timeout_seconds:
    description: Seconds to wait for another run on the same host to end.
    type: int
    default: 60
  _nvidia_ml_py:
    description: The controller's nvidia-ml-py, which the controller's half of the module sends. Not for playbooks.
    type: str
attributes:
  check_mode:
    support: full
    description: Returns the plan that the real run carries out, and calls nothing that changes a GPU.
  diff_mode:
    support: full
    description: Shows the slices of each GPU that changes, before and after.
  idempotent:
    support: full
    description: A second run makes no changing call.
  platform:
    support: full
    platforms: linux
    description: Needs the NVIDIA driver loaded.
notes:
  - Run it as root. Without it NVML does not show what is there.
  - The host needs Python 3.9 and nothing else. The controller's nvidia-ml-py travels with the module.
  - An instance counts as used when NVML lists a process in it, or when the kubelet gave it to a pod that is running.
  - An Ampere GPU (A100, A30) must be idle for a change of its mode; later ones need not. The mode of those is lost when
    the host reboots or the driver is loaded again. Instances are lost on all.
  - The device plugin does not notice a change, and the CDI specification does not follow by itself. After one, run
    C(nvidia-ctk cdi generate) and restart the device plugin of the node.
  - A pod that was given a whole GPU by the kubelet keeps its GPU from being partitioned.
seealso:
  - plugin: onprem.gpu.mig_plan
    plugin_type: filter
  - module: onprem.gpu.gpu_info
author:
  - Contributors to the onprem.gpu collection (@onprem)
"""

EXAMPLES = r"""
- name: Give every GPU the balanced layout of its model
  onprem.gpu.mig:
    selected: all-balanced

- name: See what a layout of mig-parted's file would do
  onprem.gpu.mig:
    config: "{{ lookup('ansible.builtin.file', 'mig-parted.yaml') | from_yaml }}"
    selected: custom-config
  check_mode: true
  diff: true

- name: Three slices for inference on two GPUs, the others whole
  onprem.gpu.mig:
    layout:
      - devices: [0, 1]
        mig-enabled: true
        mig-devices:
          3g.40gb: 1
          2g.20gb: 1
          1g.10gb: 2
      - devices: [2, 3, 4, 5, 6, 7]
        mig-enabled: false
"""

RETURN = r"""
plan:
  description: What was done, or is going to be done, in order, a line for each operation.
  returned: when the GPUs could be read
  type: list
  elements: str
  sample:
    - "GPU 0: destroy 1g.10gb at slice 0 (GPU instance 7)"
    - "GPU 0: create 2g.20gb at slices 0-1"
gpus:
  description: The plan of each GPU that something is wanted of.
  returned: when the GPUs could be read and nothing is in the way
  type: list
  elements: dict
  contains:
    index:
      description: Number of the GPU in NVML's order.
      type: int
    uuid:
      description: UUID of the GPU.
      type: str
    pci_address:
      description: PCI address of the GPU.
      type: str
      sample: "0000:1b:00.0"
    model:
      description: Name of the GPU.
      type: str
    mode:
      description: MIG mode, C(current), C(pending) and C(wanted), each V(0) or V(1), before the run.
      type: dict
    changed:
      description: Whether this GPU changes.
      type: bool
    kept:
      description: GPU instances that stay, with C(profile), C(start), C(size) and C(gi_id).
      type: list
      elements: dict
    plan:
      description:
        - Operations with C(op) and what belongs to it. C(op) is V(set_mode), V(destroy_compute_instance),
          V(destroy_gpu_instance), V(create_gpu_instance) or V(create_compute_instance).
      type: list
      elements: dict
    notes:
      description: What is worth knowing.
      type: list
      elements: str
    picture:
      description: The slices of the GPU when the plan is carried out, as lines of text.
      type: list
      elements: str
before:
  description: Every GPU of the host as it was, with C(index), C(uuid), C(mode), C(instances) and C(picture).
  returned: when the GPUs could be read
  type: list
  elements: dict
after:
  description: The same as it is at the end. In check mode it is not there.
  returned: when something was changed
  type: list
  elements: dict
reset_required:
  description: Whether a GPU has to be reset for its mode to become active.
  returned: always
  type: bool
reboot_required:
  description: Whether the host has to be rebooted for a mode to become active.
  returned: always
  type: bool
reason:
  description:
    - On failure, what kind it is. V(invalid) (the configuration), V(invalid_profile), V(not_supported), V(infeasible),
      V(in_use), V(no_permission), V(driver), V(reset_required), V(locked), V(rolled_back) (all is as before) or
      V(rollback_failed) (the message says what there is).
  returned: failure
  type: str
  sample: in_use
blockers:
  description: Instances in use that stand in the way.
  returned: failure
  type: list
  elements: dict
  contains:
    gpu:
      description: Number of the GPU in NVML's order.
      type: int
    gi_id:
      description: Number of the GPU instance; V(null) when the whole GPU is held.
      type: int
    profile:
      description: Its profile.
      type: str
    start:
      description: Its first memory slice.
      type: int
    ci_ids:
      description: Numbers of the compute instances in use.
      type: list
      elements: int
    users:
      description: Who uses it, for people.
      type: list
      elements: str
      sample: [pod team-a/train-0, process 4711 (python3)]
    pods:
      description: The pods among them.
      type: list
      elements: str
      sample: [team-a/train-0]
    others:
      description: Users that belong to no pod.
      type: list
      elements: str
      sample: [process 4711 (python3)]
    enough:
      description:
        - Where several ways lead to the layout, the instances of one of them have V(true). It is enough to free these.
      type: bool
notes:
  description: What is worth knowing, such as GPUs that were skipped because they have no MIG mode.
  returned: success
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils.mig_host import partition
from ansible_collections.onprem.gpu.plugins.module_utils.mig_run import Result, final_pictures, pictures
from ansible_collections.onprem.gpu.plugins.module_utils.mig_wish import wish_of

ARGUMENTS: dict[str, t.Any] = {
    "config": {"type": "dict"},
    "selected": {"type": "raw"},
    "layout": {"type": "list", "elements": "dict"},
    "reset": {"type": "bool", "default": False},
    "lock_timeout_seconds": {"type": "int", "default": 60},
    # nvidia-ml-py's source, from the action plugin; no_log keeps it out of logs and results.
    "_nvidia_ml_py": {"type": "str", "no_log": True},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_one_of=[("selected", "layout")],
        mutually_exclusive=[("selected", "layout"), ("config", "layout")],
        supports_check_mode=True,
    )
    options = module.params
    timeout = options["lock_timeout_seconds"]
    result = partition(options["_nvidia_ml_py"], wish_of(options), module.check_mode, timeout)
    if module._diff and "before" in result:
        result["diff"] = difference(result)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


def difference(result: Result) -> dict[str, str]:
    """The pictures of all GPUs before and after, in check mode as they are going to be."""
    return {"before": as_text(pictures(result["before"])), "after": as_text(final_pictures(result))}


def as_text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
