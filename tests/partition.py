# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook partition on one host of the lab, and what became of its GPUs, its node and its pods."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import typing as t

import observe

sys.path.insert(0, str(observe.ROOT / "tests" / "lab"))

import silicon

HOST = "gpu-h100-1"
PLAYBOOK = observe.ROOT / "playbooks" / "partition.yml"
SITE = observe.ROOT / "playbooks" / "site.yml"
SILICON = observe.LAB / "hosts" / HOST / "silicon"
ANNOTATION = "onprem.gpu/partition"
SLICE, WHOLE_SLICES = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-7g.80gb"
WAIT_SECONDS = 120

# GPU 0: slices that all-balanced keeps wherever a pod sits; GPU 1: one that is in its way.
OWN = {
    "gpu_mig_layout": "own",
    "gpu_mig_config": {
        "version": "v1",
        "mig-configs": {
            "own": [
                {"devices": [0], "mig-enabled": True, "mig-devices": {"1g.10gb": 4}},
                {"devices": [1], "mig-enabled": True, "mig-devices": {"7g.80gb": 1}},
                {"devices": [2, 3, 4, 5, 6, 7], "mig-enabled": False},
            ]
        },
    },
}
Wish = t.Union[str, t.Mapping[str, t.Any]]


def words(wish: Wish, strategy: str = "mixed") -> list[str]:
    """Arguments of ansible-playbook for a layout by name, or for variables that say it."""
    variables = {"gpu_mig_layout": wish} if isinstance(wish, str) else dict(wish)
    variables["gpu_operator_mig_strategy"] = strategy
    return ["--limit", HOST, "--extra-vars", json.dumps(variables)]


def run(wish: Wish, *more: str) -> observe.Run:
    return observe.play(PLAYBOOK, *words(wish), *more)


def site(wish: Wish, *more: str, strategy: str = "mixed") -> observe.Run:
    return observe.play(SITE, *words(wish, strategy), *more)


def serve() -> None:
    """The host in service, its GPUs whole, and a device plugin that names each profile."""
    site("").require_success()


def give_whole_gpus_back() -> None:
    """As other tests expect the host: MIG off, no tool that wants otherwise, the chart's own strategy."""
    run("all-disabled").require_success()
    site("", strategy="single").require_success()


# -- GPUs -------------------------------------------------------------------------------------------------------------


def instances(gpu: int) -> dict[str, str]:
    """Start -> all that the simulation knows of the GPU instance there, compute instances and UUIDs included."""
    state = silicon.read_state(SILICON)
    places = {key: value.split() for key, value in state.items() if re.fullmatch(rf"gpu\.{gpu}\.gi\.\d+", key)}
    return {
        start: json.dumps({key: value for key, value in state.items() if key == place or key.startswith(f"{place}.")})
        for place, (_profile, start, *_rest) in places.items()
    }


def calls() -> list[str]:
    """Calls of NVML so far that change something, refused ones too."""
    log = SILICON / "nvml.calls"
    return log.read_text().splitlines() if log.exists() else []


def with_calls(wish: Wish, *more: str) -> tuple[observe.Run, list[str]]:
    """A run, and the changing calls of NVML that it made."""
    before = len(calls())
    return run(wish, *more), calls()[before:]


# -- node and pods ----------------------------------------------------------------------------------------------------


def node() -> dict[str, t.Any]:
    found: dict[str, t.Any] = observe.cluster_objects("get", "node", HOST)
    return found


def offers() -> dict[str, int]:
    """Resources of NVIDIA that the node offers now."""
    allocatable = node()["status"]["allocatable"]
    return {name: int(count) for name, count in allocatable.items() if name.startswith("nvidia.com/") and int(count)}


def pod_is_gone(name: str, namespace: str) -> bool:
    return not observe.kubectl("get", "pod", name, "--namespace", namespace, "--ignore-not-found").strip()


def rebooted(wanted: dict[str, int]) -> dict[str, t.Any]:
    """Reboot the host, wait until its node offers what is wanted, and tell in which order it came up."""
    births = int(silicon.read_state(SILICON).get("mig.births", "0"))
    boot = node()["status"]["nodeInfo"]["bootID"]
    reboot()
    wait_for(lambda: node()["status"]["nodeInfo"]["bootID"] != boot and is_ready() and offers() == wanted)
    return {
        "new_instances": int(silicon.read_state(SILICON)["mig.births"]) - births,
        "tool_ended": moment("gpu-mig.service", "ExecMainExitTimestampMonotonic"),
        "kubelet_started": moment("kubelet.service", "ExecMainStartTimestampMonotonic"),
        "offers": offers(),
    }


def reboot() -> None:
    """The connection dies with the host, so no answer is expected."""
    command = ["ssh", "-F", str(observe.SSH_CONFIG), HOST, "sudo systemctl reboot"]
    subprocess.run(command, capture_output=True, check=False, timeout=WAIT_SECONDS)


def is_ready() -> bool:
    conditions = {condition["type"]: condition["status"] for condition in node()["status"]["conditions"]}
    return conditions["Ready"] == "True"


def moment(unit: str, name: str) -> int:
    """Microseconds since the boot."""
    return int(observe.on_host(HOST, f"systemctl show --value --property={name} {unit}"))


def wait_for(condition: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{HOST} does not come to what was waited for: {offers()}"
        time.sleep(1)
