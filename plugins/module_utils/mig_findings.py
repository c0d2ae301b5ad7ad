# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stands against a host's MIG layout before anything is changed.

    mig_findings(host, wishes, differences=()) -> list[Finding]

Pure. `host` is the registered result of onprem.gpu.gpu_info. `wishes` is `gpu_mig_wishes`: layout (a name, "" wants
nothing), config (a document in mig-parted's language, or {}) and strategy (of the device plugin). `differences` are
those that the survey found in the document gpu_mig.

The document's form is judged always, its fit by the tables of models, and only while no driver answers: with one, the
GPUs themselves say what they offer (the survey asks them), and a driver may name profiles another way.
"""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.onprem.gpu.plugins.module_utils.findings import Finding, finding
from ansible_collections.onprem.gpu.plugins.module_utils.mig_config import (
    EVERY_GPU,
    UUID,
    ConfigError,
    Problem,
    document_problems,
    select,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import Gpu, foreseen, plan_host
from ansible_collections.onprem.gpu.plugins.module_utils.mig_models import gpu_without_hardware, is_known
from ansible_collections.onprem.gpu.plugins.module_utils.mig_offer import Devices, devices_of_layout, offered

VARIABLE = "gpu_mig_layout"

Facts = t.Mapping[str, t.Any]


def mig_findings(host: Facts, wishes: Facts, differences: t.Iterable[Facts] = ()) -> list[Finding]:
    return _of_wishes(host, wishes) or [
        finding("mig_layout", found["want"], f"layout {found['want']} cannot be had now: {found['have']}", "", VARIABLE)
        for found in differences
        if (found["kind"], found["name"]) == ("mig", "layout") and host["nvml"]["state"] == "ok"
    ]


def _of_wishes(host: Facts, wishes: Facts) -> list[Finding]:
    layout, config = wishes["layout"], wishes["config"] or None
    if isinstance(layout, bool):
        text = f"gpu_mig_layout is {str(layout).lower()}, because YAML reads on, off, yes and no as truth values"
        return [finding("mig_layout", layout, text, 'the name in quotes, such as "off"', VARIABLE)]
    if not layout or not host["gpus"]:
        return []
    problems = document_problems(config) if config else []
    if problems:
        return [_of_problem(problem) for problem in problems]
    if not _is_made(layout) and layout not in (config or {}).get("mig-configs", {}):
        names = ", ".join([*(config or {}).get("mig-configs", {}), *EVERY_GPU, "all-PROFILE"])
        text = f"gpu_mig_layout is {layout}, which is not the name of a layout"
        return [finding("mig_layout", layout, text, names, VARIABLE)]
    if not _can_be_foreseen(host, layout, config):
        return []
    return _findings_without_hardware(_gpus(host), layout, config, wishes["strategy"], host["nvml"]["state"] == "ok")


def _is_made(layout: str) -> bool:
    return layout.startswith("all-")


def _of_problem(problem: Problem) -> Finding:
    return finding("mig_layout", problem.value, str(problem), "", "gpu_mig_config")


def _can_be_foreseen(host: Facts, layout: str, config: Facts | None) -> bool:
    """Whether all models are in the tables, and no GPU is named by what only its driver tells."""
    entries = (config or {}).get("mig-configs", {}).get(layout, [])
    devices = [device for entry in entries if entry["devices"] != "all" for device in entry["devices"]]
    by_uuid = any(isinstance(device, str) and UUID.fullmatch(device) for device in devices)
    return not by_uuid and all(is_known(gpu["model"] or gpu["device_id"] or "") for gpu in host["gpus"])


def _gpus(host: Facts) -> list[Gpu]:
    return [
        replace(gpu_without_hardware(gpu["model"] or gpu["device_id"], index), pci_address=gpu["pci_address"])
        for index, gpu in enumerate(host["gpus"])
    ]


def _findings_without_hardware(
    gpus: t.Sequence[Gpu], layout: str, config: Facts | None, strategy: str, driver_answers: bool
) -> list[Finding]:
    try:
        planned = plan_host(gpus, select(config, layout, gpus).wanteds)
    except ConfigError as error:
        return [] if driver_answers else [_of_problem(problem) for problem in error.problems]
    if planned.refusals:
        return [] if driver_answers else [finding("mig_layout", layout, planned.message, "", VARIABLE)]
    changed = {plan.gpu.uuid: foreseen(plan) for plan in planned.plans}
    devices = devices_of_layout([changed.get(gpu.uuid, gpu) for gpu in gpus])
    return _strategy_findings(layout, devices, strategy)


def _strategy_findings(layout: str, devices: t.Sequence[Devices], strategy: str) -> list[Finding]:
    """A layout whose slices the device plugin would keep from pods."""
    if offered(devices, strategy) and not (strategy == "none" and any(devices)):
        return []
    if all(not each for each in devices) and all(each is not None for each in devices):
        return []  # MIG on and nothing made yet, which offers nothing under any strategy
    profiles = ", ".join(sorted({name for each in devices for name in each or ["whole GPUs"]}))
    text = f"layout {layout} makes {profiles} of this host's GPUs, and with MIG strategy {strategy} no pod gets them"
    allowed = {
        "none": "mixed or single",
        "single": "mixed, or a layout with one profile on all GPUs of the host",
        "mixed": "a layout whose compute instances fill their GPU instances",
    }[strategy]
    return [finding("mig_strategy", strategy, text, allowed, "gpu_operator_mig_strategy")]
