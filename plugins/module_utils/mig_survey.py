# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What differs between the MIG layouts that state documents want and those of this host's GPUs.

Asks the same planner that the module mig carries out. Nothing is changed, not even by opening the library: run by root
it would load the kernel module, so a driver that is not loaded is an answer.
"""

from __future__ import annotations

import collections
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.drift import GpuLayout, MigState
from ansible_collections.onprem.gpu.plugins.module_utils.driver_facts import loaded_driver_version
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.mig_config import ConfigError, select
from ansible_collections.onprem.gpu.plugins.module_utils.mig_host import opened
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import Gpu, Plan, foreseen, line, plan_host
from ansible_collections.onprem.gpu.plugins.module_utils.mig_picture import bars
from ansible_collections.onprem.gpu.plugins.module_utils.mig_run import MigRunError, read_gpus
from ansible_collections.onprem.gpu.plugins.module_utils.state_document import Documents, Item


def layouts(host: Host, packed_source: str | None, documents: Documents) -> dict[str, MigState]:
    """The state of each document with a section mig, by the document's name."""
    wishes = {name: document["mig"] for name, document in documents.items() if document["mig"]}
    if not wishes:
        return {}
    if loaded_driver_version(host) is None:
        return dict.fromkeys(wishes, MigState(problem="the NVIDIA driver is not loaded"))
    try:
        with opened(packed_source) as library:
            gpus = read_gpus(library)
    except MigRunError as error:
        return dict.fromkeys(wishes, MigState(problem=str(error)))
    return {name: _state(gpus, wish) for name, wish in wishes.items()}


def _state(gpus: t.Sequence[Gpu], wish: Item) -> MigState:
    try:
        planned = plan_host(gpus, select(wish["config"], wish["selected"], gpus).wanteds)
    except ConfigError as error:
        return MigState(problem=str(error))
    if planned.refusals:
        return MigState(problem=planned.message)
    return MigState(tuple(_layout(plan) for plan in planned.plans if plan.changed))


def _layout(plan: Plan) -> GpuLayout:
    after = foreseen(plan)
    return GpuLayout(
        name=f"GPU {plan.gpu.index}",
        want=told(after),
        have=told(plan.gpu),
        operations=tuple(line(operation) for operation in plan.operations),
        before="".join(f"{text}\n" for text in bars(plan.gpu)),
        after="".join(f"{text}\n" for text in bars(after)),
    )


def told(gpu: Gpu) -> str:
    """Mode and instances in words: "MIG on, 3g.40gb, 2 x 1g.10gb"."""
    if not gpu.mode.current:
        return "MIG off"
    counts = collections.Counter(gpu.profile_name(instance.profile_id) for instance in gpu.instances)
    names = [name if count == 1 else f"{count} x {name}" for name, count in sorted(counts.items())]
    return ", ".join(["MIG on", *(names or ["no instances"])])
