# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which driver packages, parameters and services a host gets: from wishes and hardware, nothing else.

    refusals(host, wishes) -> list[Finding]     every reason why the wishes cannot be met on this host; [] = plan() succeeds
    plan(host, wishes) -> dict                  packages, services, kernel module flavour; raises PlanError with the refusals

`host` is the registered result of onprem.gpu.gpu_info (gpu_survey_host); only PCI and OS facts are read.
`wishes` is `gpu_driver_wishes` of roles/gpu_driver/vars/main.yml: the role's variables without their prefix
(branch, version, kernel_modules, flavour, fabric_manager, allow_end_of_life, as_of, ...). Finding: see findings.py.
"""

from __future__ import annotations
