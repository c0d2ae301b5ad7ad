# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kubelet's resource managers on one host: reserved CPUs and memory from the measured topology.

    refusals(host, wishes) -> list[Finding]     every reason why the wishes cannot be met on this host; [] = plan() succeeds
    plan(host, wishes) -> dict                  the KubeletConfiguration drop-in as data; raises PlanError with the refusals

`host` is the registered result of onprem.gpu.gpu_info (gpu_survey_host); only CPU, NUMA, PCI and kubelet.distribution are read.
`wishes` is `gpu_kubelet_wishes` of roles/gpu_kubelet/vars/main.yml: the role's variables without their prefix
(version, cpu_manager_policy, memory_manager_policy, reserved_cores, reserved_cpus, ...). Finding: see findings.py.
"""

from __future__ import annotations
