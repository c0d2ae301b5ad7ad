#!/usr/bin/python
# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Report GPUs, driver, topology, runtime and kubelet of a host
version_added: 0.1.0
description:
  - Reports in one round trip what the roles of this collection decide by, on a host with or without NVIDIA's driver.
  - Reads files below C(/proc), C(/sys) and C(/etc), and starts one package query, C(modinfo), C(nvidia-ctk cdi list)
    and one C(systemctl show). It changes nothing, and does not load the driver when it is not loaded.
  - What cannot be read is left out (V(null) or empty) and named in RV(errors); it does not fail the task.
options:
  _nvidia_ml_py:
    description:
      - The source of nvidia-ml-py, packed. The action plugin of this module fills it in; there is no reason to set it.
    type: str
requirements:
  - Python 3.9 or newer on the host, and nothing else.
  - nvidia-ml-py on the controller; an action plugin sends it to the host with the call.
attributes:
  check_mode:
    support: full
    description: Does the same in check mode, since it only reads.
  diff_mode:
    support: none
    description: Nothing is changed, so there is nothing to show.
  idempotent:
    support: full
    description: The task never reports a change.
  platform:
    support: full
    platforms: linux
    description: Package facts need dpkg (Debian family) or rpm (Red Hat family).
notes:
  - Run it as root. Without root other users' processes on the GPUs and Secure Boot may not be seen.
seealso:
  - module: onprem.gpu.survey
author:
  - Contributors to the onprem.gpu collection (@onprem)
"""

EXAMPLES = r"""
- name: Look at the host
  onprem.gpu.gpu_info:
  register: gpu_survey_host

- name: Stop on hosts whose loaded driver is not the installed one
  ansible.builtin.assert:
    that: gpu_survey_host.nvml.state != 'version_mismatch'
    fail_msg: >-
      The loaded driver is {{ gpu_survey_host.driver.module_version }}, the installed one
      {{ gpu_survey_host.driver.installed_module_version }}. Reboot the host or reload the driver.

- name: List the GPUs of each NUMA node
  ansible.builtin.debug:
    msg: "NUMA node {{ item.node }}: {{ item.gpus | join(', ') }}"
  loop: "{{ gpu_survey_host.numa }}"
  loop_control:
    label: "{{ item.node }}"
"""

RETURN = r"""
os:
  description: The operating system.
  returned: always
  type: dict
  contains:
    id:
      description: C(ID) of os-release.
      type: str
      sample: ubuntu
    version_id:
      description: C(VERSION_ID) of os-release.
      type: str
      sample: "24.04"
    codename:
      description: C(VERSION_CODENAME) of os-release.
      type: str
      sample: noble
    like:
      description: C(ID_LIKE) of os-release, word by word.
      type: list
      elements: str
      sample: [debian]
    name:
      description: C(PRETTY_NAME) of os-release.
      type: str
      sample: Ubuntu 24.04.3 LTS
    family:
      description: V(debian), V(redhat), or V(null) for another system.
      type: str
      sample: debian
    package_manager:
      description: V(apt), V(dnf), or V(null) for another system.
      type: str
      sample: apt
    machine:
      description: The kernel's name of the machine.
      type: str
      sample: x86_64
    arch:
      description: The package manager's name of the machine.
      type: str
      sample: amd64
    kernel:
      description: Release of the running kernel.
      type: str
      sample: 6.8.0-87-generic
    hostname:
      description: The kernel's host name.
      type: str
      sample: gpu-a1
    boot_id:
      description: Changes with every boot.
      type: str
      sample: 3a0f2f5c-52b1-4a94-9f2b-2f7c0f8f7f1a
    cgroup_version:
      description: V(1), V(2), or V(null) when control groups are not mounted.
      type: int
      sample: 2
    secure_boot:
      description: Whether Secure Boot is on; V(null) when the firmware's variables cannot be seen.
      type: bool
      sample: true
    memory_bytes:
      description: Memory the kernel manages, in bytes.
      type: int
      sample: 2164099653632
    swap_bytes:
      description: Active swap, in bytes.
      type: int
      sample: 0
    time_synchronized:
      description: Whether the kernel knows its clock to be kept in step; V(null) when it cannot be asked.
      type: bool
      sample: true
disks:
  description:
    - Space by path, for V(/), V(/boot), V(/usr), V(/var) and the kubelet's root folder.
    - A path that does not exist shows the file system it would be made on.
  returned: always
  type: dict
  sample:
    /var: {free_bytes: 512110190592, total_bytes: 1023303680000}
pci:
  description: NVIDIA's GPUs and NVSwitches on the PCI bus, by address, whether or not a driver is installed.
  returned: always
  type: list
  elements: dict
  contains:
    address:
      description: PCI address as sysfs writes it.
      type: str
      sample: "0000:1b:00.0"
    kind:
      description: V(gpu) or V(nvswitch).
      type: str
      sample: gpu
    vendor:
      description: PCI vendor id, hexadecimal. V(15b3) for the switch management device of NVLink 5 boards.
      type: str
      sample: 10de
    device:
      description: PCI device id, hexadecimal.
      type: str
      sample: "2330"
    class:
      description: PCI class and sub-class, hexadecimal.
      type: str
      sample: "0302"
    subsystem:
      description: PCI subsystem vendor and device id.
      type: str
      sample: "10de:16c1"
    numa_node:
      description: NUMA node; V(null) when the firmware tells none.
      type: int
      sample: 0
    driver:
      description: The kernel driver bound to the device, V(null) without one.
      type: str
      sample: nvidia
    model:
      description: Model of a GPU; V(null) for one this collection does not know.
      type: str
      sample: H100-SXM5-80GB
    architecture:
      description: V(pascal), V(volta), V(turing), V(ampere), V(ada), V(hopper) or V(blackwell); V(null) when not known.
      type: str
      sample: hopper
    form_factor:
      description: V(pcie), V(sxm) or V(superchip); V(null) when not known.
      type: str
      sample: sxm
    switched:
      description: Whether full boards of this GPU connect it through NVSwitches in the same host.
      type: bool
      sample: true
gpus:
  description:
    - All GPUs of the PCI bus, by address, each with what the driver tells of it.
    - The facts from RV(gpus[].index) on come from the driver and are V(null) unless RV(nvml.state) is V(ok).
  returned: always
  type: list
  elements: dict
  contains:
    pci_address:
      description: PCI address as sysfs writes it.
      type: str
      sample: "0000:1b:00.0"
    device_id:
      description: PCI device id, hexadecimal.
      type: str
      sample: "2330"
    model:
      description: See RV(pci[].model).
      type: str
      sample: H100-SXM5-80GB
    architecture:
      description: See RV(pci[].architecture).
      type: str
      sample: hopper
    form_factor:
      description: See RV(pci[].form_factor).
      type: str
      sample: sxm
    numa_node:
      description: See RV(pci[].numa_node).
      type: int
      sample: 0
    kernel_driver:
      description: The kernel driver bound to the device.
      type: str
      sample: nvidia
    index:
      description: The driver's number of the GPU.
      type: int
      sample: 0
    uuid:
      description: The GPU's own identifier.
      type: str
      sample: GPU-4f3b7e0e-2ad6-5a7f-9d63-0d1b6f7f6b2c
    name:
      description: The product name the driver tells.
      type: str
      sample: NVIDIA H100 80GB HBM3
    serial:
      description: Serial number of the board.
      type: str
      sample: "1652923033635"
    memory_mib:
      description: Memory of the GPU in MiB.
      type: int
      sample: 81559
    minor:
      description: The N of C(/dev/nvidiaN).
      type: int
      sample: 0
    compute_capability:
      description: CUDA compute capability.
      type: str
      sample: "9.0"
    mig_mode:
      description: V(enabled) or V(disabled); V(null) for a GPU without MIG.
      type: str
      sample: disabled
    mig_devices:
      description:
        - Profile of each MIG device, in the driver's order; a compute instance that is smaller than its GPU instance
          is named with both. V(null) for a GPU without MIG.
      type: list
      elements: str
      sample: [3g.40gb, 2g.20gb, 1g.10gb, 1g.10gb]
    mig_uuids:
      description: The UUIDs of RV(gpus[].mig_devices), in the same order. V(null) for a GPU without MIG.
      type: list
      elements: str
      sample: [MIG-140cfab9-69d0-5b6a-8261-dad2e8458642]
    persistence:
      description: Whether the driver keeps the GPU initialised without users.
      type: bool
      sample: true
    ecc_uncorrected:
      description: Memory errors since the driver was loaded that ECC could not correct; V(null) where nobody counts.
      type: int
      sample: 0
    row_remap_pending:
      description: Whether a broken row of memory waits for a reset to be replaced; V(null) on GPUs without spare rows.
      type: bool
      sample: false
    row_remap_failed:
      description: Whether no spare row was left for a broken one, so the GPU has to be replaced.
      type: bool
      sample: false
    fabric:
      description:
        - How far the fabric manager has come with this GPU, V(not_started), V(in_progress), V(completed) or V(failed).
        - V(null) for a GPU on no fabric, and before Hopper, where the driver does not tell.
      type: str
      sample: completed
nvswitch:
  description: NVSwitches of the host.
  returned: always
  type: dict
  contains:
    present:
      description: Whether there is one.
      type: bool
      sample: true
    count:
      description: How many there are.
      type: int
      sample: 4
    addresses:
      description: Their PCI addresses.
      type: list
      elements: str
      sample: ["0000:07:00.0", "0000:08:00.0", "0000:09:00.0", "0000:0a:00.0"]
    expected:
      description: Whether a host with these GPUs normally has NVSwitches.
      type: bool
      sample: true
    fabric_manager:
      description: Whether C(nvidia-fabricmanager.service) runs.
      type: bool
      sample: true
cpu:
  description: The CPUs that are online.
  returned: always
  type: dict
  contains:
    count:
      description: How many there are.
      type: int
      sample: 4
    online:
      description: Their numbers.
      type: list
      elements: int
      sample: [0, 1, 2, 3]
    cores:
      description: Physical cores in the order of their first CPU.
      type: list
      elements: dict
      contains:
        id:
          description: The core's number, unique within its socket.
          type: int
          sample: 0
        socket:
          description: The socket's number.
          type: int
          sample: 0
        numa_node:
          description: The NUMA node's number.
          type: int
          sample: 0
        cpus:
          description: The CPUs (hardware threads) of the core that are online.
          type: list
          elements: int
          sample: [0, 2]
numa:
  description: NUMA nodes; a single node V(0) on a kernel without NUMA.
  returned: always
  type: list
  elements: dict
  contains:
    node:
      description: The node's number.
      type: int
      sample: 0
    cpus:
      description: Its CPUs that are online.
      type: list
      elements: int
      sample: [0, 1, 2, 3]
    memory_bytes:
      description: Its memory in bytes.
      type: int
      sample: 1082049826816
    hugepages:
      description: How many huge pages it has reserved, by size.
      type: dict
      sample: {2Mi: 0, 1Gi: 4}
    gpus:
      description: PCI addresses of its GPUs. On a host with one node that is all of them.
      type: list
      elements: str
      sample: ["0000:1b:00.0"]
driver:
  description: NVIDIA's driver as installed and as loaded.
  returned: always
  type: dict
  contains:
    packages:
      description: Installed packages that belong to the driver, with their complete versions.
      type: dict
      sample: {nvidia-open: 580.159.03-1, libnvidia-ml1: 580.159.03-1}
    held:
      description: Those of them that are held (C(apt-mark hold), C(dnf versionlock)).
      type: list
      elements: str
      sample: [nvidia-open]
    module_version:
      description: Version of the kernel module that is loaded, V(null) when none is.
      type: str
      sample: 580.159.03
    installed_module_version:
      description: Version of the kernel module on disk for the running kernel, V(null) when there is none.
      type: str
      sample: 580.159.03
    flavour:
      description: V(open) or V(proprietary), of the loaded module, else of the one on disk; V(null) without either.
      type: str
      sample: open
    nouveau_loaded:
      description: Whether the nouveau driver is loaded.
      type: bool
      sample: false
    modules:
      description: The driver's kernel modules that are loaded.
      type: list
      elements: str
      sample: [nvidia, nvidia_modeset, nvidia_uvm]
    users:
      description: Processes that hold one of C(/dev/nvidia*) open.
      type: list
      elements: dict
      contains:
        pid:
          description: Process id.
          type: int
          sample: 1234
        command:
          description: Name of the program, without its arguments.
          type: str
          sample: nvidia-persiste
nvml:
  description: What the driver's management library answers.
  returned: always
  type: dict
  contains:
    state:
      description:
        - V(ok), V(no_library) (no driver installed), V(driver_not_loaded), V(version_mismatch) (the driver was upgraded
          and the old module is still loaded), or V(error).
      type: str
      sample: ok
    code:
      description: The library's return code (nvmlReturn_t).
      type: int
      sample: 0
    message:
      description: The library's message, empty when RV(nvml.state) is V(ok).
      type: str
      sample: ""
    driver_version:
      description: Version of the driver the library talks to.
      type: str
      sample: 580.159.03
    cuda_version:
      description: Newest CUDA version this driver runs.
      type: str
      sample: "13.0"
    gpu_count:
      description: How many GPUs the driver shows.
      type: int
      sample: 8
runtime:
  description: Container runtimes, and the one the kubelet uses.
  returned: always
  type: dict
  contains:
    containerd:
      description: RV(runtime.containerd.version), whether its unit is active, and its socket if that is there.
      type: dict
      contains:
        version:
          description: Version, V(null) when it is not installed.
          type: str
          sample: 2.4.2
        active:
          description: Whether its unit runs.
          type: bool
          sample: true
        socket:
          description: Path of its socket, V(null) when that is not there.
          type: str
          sample: /run/containerd/containerd.sock
    crio:
      description: CRI-O, with the same keys.
      type: dict
      sample: {version: null, active: false, socket: null}
    docker:
      description: Docker, with the same keys.
      type: dict
      sample: {version: null, active: false, socket: null}
    embedded:
      description: The containerd inside k3s and RKE2, without a version of its own.
      type: dict
      sample: {active: false, socket: null}
    cri_socket:
      description: RV(kubelet.cri_endpoint), else the only CRI socket on the host, else V(null).
      type: str
      sample: unix:///run/containerd/containerd.sock
toolkit:
  description: NVIDIA's container toolkit.
  returned: always
  type: dict
  contains:
    version:
      description: Version, V(null) when it is not installed.
      type: str
      sample: 1.20.1
    packages:
      description: Its installed packages with their complete versions.
      type: dict
      sample: {nvidia-container-toolkit: 1.20.1-1}
    cdi_devices:
      description:
        - Names of the devices of C(nvidia.com/gpu) in the host's CDI specifications; V(null) without the toolkit.
      type: list
      elements: str
      sample: ["0", GPU-4f3b7e0e-2ad6-5a7f-9d63-0d1b6f7f6b2c, all]
kubelet:
  description: The kubelet and the cluster it belongs to.
  returned: always
  type: dict
  contains:
    version:
      description: Version of the kubelet, or of k3s or RKE2; V(null) when none is installed.
      type: str
      sample: 1.37.1
    active:
      description: Whether its unit runs.
      type: bool
      sample: true
    distribution:
      description: V(kubeadm), V(kubespray), V(rke2), V(k3s), or V(none) on a host no cluster was set up on.
      type: str
      sample: kubeadm
    joined:
      description: Whether the host has credentials of a node.
      type: bool
      sample: true
    node_name:
      description: Name of the Node, V(null) when nothing on the host tells it.
      type: str
      sample: gpu-a1
    root_dir:
      description: The kubelet's root folder.
      type: str
      sample: /var/lib/kubelet
    config_file:
      description: Value of the kubelet's C(--config), V(null) when not given.
      type: str
      sample: /var/lib/kubelet/config.yaml
    config_dir:
      description: Value of the kubelet's C(--config-dir), V(null) when not given.
      type: str
      sample: /etc/kubernetes/kubelet.conf.d
    drop_ins:
      description: The files in that folder that the kubelet reads, in its order.
      type: list
      elements: str
      sample: [/etc/kubernetes/kubelet.conf.d/50-onprem-gpu.conf]
    cri_endpoint:
      description: The endpoint the kubelet is given by flag or configuration file, V(null) when neither tells.
      type: str
      sample: unix:///run/containerd/containerd.sock
    cpu_manager_state:
      description: Policy the CPU manager's state file was made with, V(null) without such a file.
      type: str
      sample: static
    memory_manager_state:
      description: Policy the memory manager's state file was made with, V(null) without such a file.
      type: str
      sample: Static
python:
  description: The Python that ran this module, which other programs on the host can use as well.
  returned: always
  type: str
  sample: /usr/bin/python3.11
errors:
  description: What could not be read.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The file or program.
      type: str
      sample: /sys/bus/pci/devices/0000:1b:00.0/numa_node
    reason:
      description: What the system said.
      type: str
      sample: Input/output error
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.host_facts import read_facts
from ansible_collections.onprem.gpu.plugins.module_utils.nvml import NvmlSourceError, read_nvml

ARGUMENTS: dict[str, t.Any] = {
    # nvidia-ml-py's source, from the action plugin; no_log keeps it out of logs and results.
    "_nvidia_ml_py": {"type": "str", "no_log": True},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    source = module.params["_nvidia_ml_py"]
    try:
        facts = read_facts(Host(), lambda driver_loaded: read_nvml(source, driver_loaded))
    except NvmlSourceError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
