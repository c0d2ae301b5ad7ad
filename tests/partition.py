# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook partition on one host of the lab, and what became of its GPUs, its node and its pods."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import typing as t

import observe
import workloads

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
Wish = str | t.Mapping[str, t.Any]


def words(wish: Wish) -> list[str]:
    """Arguments of ansible-playbook for a layout by name, or for variables that say it."""
    variables = {"gpu_mig_layout": wish} if isinstance(wish, str) else dict(wish)
    variables |= {"gpu_mig_evict_force": True, "gpu_mig_wait_seconds": 90}
    return ["--limit", HOST, "--extra-vars", json.dumps(variables)]


def run(wish: Wish, *more: str) -> observe.Run:
    return observe.play(PLAYBOOK, *words(wish), *more)


def site(wish: Wish, *more: str) -> observe.Run:
    return observe.play(SITE, *words(wish), *more)


def serve() -> None:
    """The host in service, its GPUs whole."""
    if not observe.kubectl("get", "node", HOST, "--ignore-not-found").strip() or offers() != {"nvidia.com/gpu": 8}:
        site("").require_success()


def give_whole_gpus_back() -> None:
    """As other tests expect the host: MIG off, and no tool that wants otherwise."""
    run("all-disabled").require_success()
    run("").require_success()


def until(running: observe.RunningPlay, task: str) -> bool:
    """Wait for a result of a task; False when the run ends without one."""
    with running.events_path.open(encoding="utf-8") as lines:
        while running.process.poll() is None:
            for event in observe.complete_lines(lines):
                if event["event"] in ("result", "item") and event["task"] == task and event["status"] != "skipped":
                    return True
            time.sleep(0.02)
    return False


# -- GPUs -------------------------------------------------------------------------------------------------------------


def instances(gpu: int) -> dict[str, str]:
    """Start -> all that the simulation knows of the GPU instance there, compute instances and UUIDs included."""
    state = silicon.read_state(SILICON)
    places = {key: value.split() for key, value in state.items() if re.fullmatch(rf"gpu\.{gpu}\.gi\.\d+", key)}
    return {
        start: json.dumps({key: value for key, value in state.items() if key == place or key.startswith(f"{place}.")})
        for place, (_profile, start, *_rest) in places.items()
    }


def layout() -> set[tuple[str, str, str]]:
    """(GPU, profile id, start) of every GPU instance of the host."""
    found = set()
    for key, value in silicon.read_state(SILICON).items():
        match = re.fullmatch(r"gpu\.(\d+)\.gi\.\d+", key)
        if match:
            profile, start, *_rest = value.split()
            found.add((match.group(1), profile, start))
    return found


def forget_an_instance() -> None:
    """Take one GPU instance away with all that is in it, as somebody with nvidia-smi could."""
    with silicon.edit_state(SILICON) as state:
        place = next(key for key in state if re.fullmatch(r"gpu\.\d+\.gi\.\d+", key))
        for key in [key for key in state if key == place or key.startswith(f"{place}.")]:
            del state[key]


@contextlib.contextmanager
def fault(told: str) -> t.Iterator[None]:
    """Let calls of NVML on the host fail: "OPERATION AFTER CODE TIMES", see the README of the simulated hardware."""
    with silicon.edit_state(SILICON) as state:
        state["mig.fault.0"] = told
    try:
        yield
    finally:
        with silicon.edit_state(SILICON) as state:
            for key in [key for key in state if key.startswith("mig.fault.")]:
                del state[key]


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


@contextlib.contextmanager
def pod_on_a_slice() -> t.Iterator[workloads.Occupant]:
    """A pod of a namespace without quota that computes on a 1g.10gb slice."""
    team = workloads.Team("partition-pod", 0)
    observe.kubectl("create", "namespace", team.namespace)
    try:
        with workloads.occupying("computes", team, 1, HOST, resource=SLICE) as pod:
            yield pod
    finally:
        observe.kubectl("delete", "namespace", team.namespace, "--wait=true")


def reboot() -> None:
    """The connection dies with the host, so no answer is expected."""
    command = ["ssh", "-F", str(observe.SSH_CONFIG), HOST, "sudo systemctl reboot"]
    subprocess.run(command, capture_output=True, check=False, timeout=WAIT_SECONDS)


def reboot_and_wait() -> None:
    """Until the host has another boot and all its units have started or failed."""
    boot = boot_id()
    reboot()
    wait_for(lambda: boot_id() not in ("", boot))
    observe.on_host(HOST, "systemctl is-system-running --wait || true")


def boot_id() -> str:
    try:
        return observe.on_host(HOST, "cat /proc/sys/kernel/random/boot_id").strip()
    except observe.ObservationError:
        return ""


def is_ready() -> bool:
    conditions = {condition["type"]: condition["status"] for condition in node()["status"]["conditions"]}
    return conditions["Ready"] == "True"


def moment(unit: str, name: str) -> int:
    """Microseconds since the boot."""
    return int(observe.on_host(HOST, f"systemctl show --value --property={name} {unit}"))


def wait_for(condition: t.Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{HOST} does not come to what was waited for; it offers {offers()}"
        time.sleep(1)
