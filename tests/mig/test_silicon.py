# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: E501, PLR0917 -- programs for other processes, and parametrized tests
"""MIG of the mock NVML, asked through nvidia-ml-py by processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import silicon
import silicon_mig
from mig_machine import PRELUDE, MigMachine, compile_library
from package_contents import COMPILE, SILICON

CAPABLE = sorted(name for name, model in silicon.MODELS.items() if model.mig)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("library"))


def machine(place: Path, library: Path, *models: str, **more: bool) -> MigMachine:
    return MigMachine(place / "machine", library, models or ("A100-SXM-40GB",), **more)


@pytest.mark.parametrize("model", CAPABLE)
def test_profiles_are_those_of_the_table(tmp_path: Path, library: Path, model: str) -> None:
    one = machine(tmp_path, library, model)
    one.put(0)
    answer = one.ask(
        "g, found = h(), {}\n"
        "for e in range(18):\n"
        "    try: i = n.nvmlDeviceGetGpuInstanceProfileInfo(g, e)\n"
        "    except n.NVMLError as error:\n"
        "        assert error.value == 3\n"
        "        continue\n"
        "    p = n.nvmlDeviceGetGpuInstanceProfileInfo(g, e, version=1)\n"
        "    assert (p.id, p.memorySizeMB, p.ofaCount) == (i.id, i.memorySizeMB, i.ofaCount)\n"
        "    found[i.name] = [e, i.id, i.sliceCount, i.instanceCount, i.multiprocessorCount, i.memorySizeMB, placements(g, i.id),"
        " n.nvmlDeviceGetGpuInstanceRemainingCapacity(g, i.id)]\n"
        "assert code(n.nvmlDeviceGetGpuInstanceProfileInfo, g, 18) == 2\n"
        "found"
    )
    assert answer == {
        f"MIG {p.name}": [
            p.enum,
            p.id,
            p.slices,
            p.count,
            p.multiprocessors,
            p.memory_mib,
            [[start, p.size] for start in p.starts],
            p.count,
        ]
        for p in silicon_mig.PROFILES[silicon.MODELS[model].mig]
    }


def test_an_instance_needs_free_slices_a_count_and_a_start_of_the_table(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    one.put(0, "1g.5gb@0", "1g.5gb+me@1")
    answer = one.ask("g = h()\n[code(create, g, p) for p in ('4g.20gb@0', '1g.5gb+me@2', '2g.10gb@1', '3g.20gb@4')]")
    assert answer == [23, 23, 2, 0]


@pytest.mark.parametrize("model", CAPABLE)
def test_random_instances_are_refused_exactly_when_they_overlap_or_are_too_many(
    tmp_path: Path, library: Path, model: str
) -> None:
    """Plain profiles only: those with attributes share engines."""
    one = machine(tmp_path, library, model)
    one.put(0)
    answer = one.ask(
        "import random\n"
        "dice, g, there, seen = random.Random(7), h(), {}, set()\n"
        "plain = [i for e in range(18) if not code(n.nvmlDeviceGetGpuInstanceProfileInfo, g, e) for i in [n.nvmlDeviceGetGpuInstanceProfileInfo(g, e)] if not set(i.name) & set('+-')]\n"
        "for step in range(300):\n"
        "    if there and dice.random() < 0.3: n.nvmlGpuInstanceDestroy(there.pop(dice.choice(sorted(there)))[2])\n"
        "    i = dice.choice(plain)\n"
        "    start, size = dice.choice(placements(g, i.id))\n"
        "    overlaps = any(start < s + z and s < start + size for s, (z, _id, _handle) in there.items())\n"
        "    many = sum(number == i.id for _size, number, _handle in there.values()) >= i.instanceCount\n"
        "    try: there[start] = (size, i.id, create(g, f'{i.name[4:]}@{start}'))\n"
        "    except n.NVMLError as error: assert error.value == 23 and (overlaps or many), (i.name, start, there)\n"
        "    else: assert not overlaps and not many, (i.name, start, there)\n"
        "    seen.add((overlaps, many))\n"
        "len(seen) > 1"
    )
    assert answer is True


def test_a_handle_dies_with_its_instance_even_if_another_takes_its_place(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    one.put(0, "3g.20gb@0")
    answer = one.ask(
        "g = h()\n"
        "gi = gis(g)[0]\n"
        "old, before = n.nvmlDeviceGetMigDeviceHandleByIndex(g, 0), n.nvmlGpuInstanceGetComputeInstanceById(gi, 0)\n"
        "n.nvmlComputeInstanceDestroy(before)\n"
        "default_ci(gi, 3)\n"
        "[code(n.nvmlDeviceGetUUID, old) != 0, code(n.nvmlComputeInstanceGetInfo, before) != 0, code(n.nvmlDeviceGetUUID, n.nvmlDeviceGetMigDeviceHandleByIndex(g, 0))]"
    )
    assert answer == [True, True, 0]


def test_the_driver_picks_starts_and_ids_have_holes(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    one.put(0)
    answer = one.ask(
        "g = h()\n[place(create(g, p)) for p in ('1g.5gb', '1g.5gb', '2g.10gb')] + [code(create, g, '3g.20gb')]"
    )
    assert answer == [[13, 19, 6, 1], [11, 19, 4, 1], [3, 14, 0, 2], 23]


def test_all_media_engines_leave_only_instances_without(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library, "RTX-PRO-6000")
    one.put(0, "1g.24gb+me.all@0")
    assert one.ask("g = h()\n[code(create, g, p) for p in ('1g.24gb@3', '1g.24gb-me@3')]") == [23, 0]


def test_mig_devices_have_indexes_with_holes_and_die_with_their_instance(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    one.put(0, "3g.20gb@4", "1g.5gb@0")
    answer = one.ask(
        "g = h()\nd = n.nvmlDeviceGetMigDeviceHandleByIndex(g, 0)\n"
        "gi = n.nvmlDeviceGetGpuInstanceById(g, n.nvmlDeviceGetGpuInstanceId(d))\n"
        "name, uuid = n.nvmlDeviceGetName(d), n.nvmlDeviceGetUUID(d)\n"
        "same = n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(uuid))\n"
        "at = n.nvmlDeviceGetAttributes(d)\n"
        "parent = n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(d))\n"
        "early = code(n.nvmlGpuInstanceDestroy, gi)\n"
        "n.nvmlComputeInstanceDestroy(n.nvmlGpuInstanceGetComputeInstanceById(gi, 0))\n"
        "hole = code(n.nvmlDeviceGetMigDeviceHandleByIndex, g, 0)\n"
        "[name, uuid[:4], same, at.computeInstanceSliceCount, at.memorySizeMB, parent[:4], early, hole, code(n.nvmlDeviceGetUUID, d),"
        " code(n.nvmlDeviceGetMigDeviceHandleByIndex, g, 1), n.nvmlDeviceGetMaxMigDeviceCount(g), code(n.nvmlGpuInstanceDestroy, gi),"
        " code(n.nvmlGpuInstanceDestroy, gi)]"
    )
    name = "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert answer == [name, "MIG-", 0, 3, 19968, "GPU-", 19, 6, 6, 0, 7, 0, 2]


@pytest.mark.parametrize(
    ("model", "answer"), [("A100-SXM-40GB", [0, 3, 3, 0, 0]), ("H100-SXM", [0, 0, 3, 0, 0]), ("T4", [3, 3, 3, 3, 0])]
)
def test_queries_while_mig_is_off(tmp_path: Path, library: Path, model: str, answer: list[int]) -> None:
    assert (
        machine(tmp_path, library, model).ask(
            "g = h()\n[code(n.nvmlDeviceGetGpuInstanceProfileInfo, g, 0, 1), code(n.nvmlDeviceGetGpuInstanceProfileInfo, g, 0),"
            " code(n.nvmlDeviceGetGpuInstanceRemainingCapacity, g, 0), code(placements, g, 0), n.nvmlDeviceGetMaxMigDeviceCount(g)]"
        )
        == answer
    )


@pytest.mark.parametrize(
    ("model", "passthrough", "busy", "answer"),
    [
        ("A100-SXM", False, False, [0, 1, 1]),
        ("A100-SXM", False, True, [19, 0, 1]),
        ("A100-SXM", True, False, [16, 0, 1]),
        ("H100-SXM", True, False, [0, 1, 1]),
    ],
)
def test_a_mode_changes_now_or_stays_pending(
    tmp_path: Path, library: Path, model: str, passthrough: bool, busy: bool, answer: list[int]
) -> None:
    one = machine(tmp_path, library, model, passthrough=passthrough)
    if busy:
        one.mark_busy("gpu.0")
    assert one.ask("g = h()\n[n.nvmlDeviceSetMigMode(g, 1), *n.nvmlDeviceGetMigMode(g)]") == answer


def test_a_process_that_holds_an_ampere_gpu_keeps_its_mode_pending(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    program = f"{PRELUDE}\nprint('ready', flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=one.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as monitor:
        assert monitor.stdout and monitor.stdout.readline() == b"ready\n"
        assert one.ask("n.nvmlDeviceSetMigMode(h(), 1)") == 19
        monitor.communicate(b"\n")
    assert one.ask("n.nvmlDeviceSetMigMode(h(), 1)") == 0


@pytest.mark.parametrize(("model", "mode"), [("A30", [1, 1]), ("H100-SXM", [0, 0])])
@pytest.mark.parametrize("how", ["reboot", "reload_driver"])
def test_instances_are_lost_and_ampere_keeps_its_mode(
    tmp_path: Path, library: Path, model: str, mode: list[int], how: str
) -> None:
    one = machine(tmp_path, library, model)
    one.put(0, {"A30": "2g.12gb@2"}.get(model, "3g.40gb@0"))
    getattr(one, how)()
    assert one.ask("n.nvmlDeviceGetMigMode(h())") == mode
    assert not [key for key in one.state() if ".gi." in key]


def test_a_used_instance_cannot_be_destroyed_and_lists_its_processes(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    one.put(0, "3g.20gb@4")
    one.mark_busy("gpu.0.gi.1.ci.0", 4711)
    program = (
        "g = h()\nci = n.nvmlGpuInstanceGetComputeInstanceById(n.nvmlDeviceGetGpuInstanceById(g, 1), 0)\n"
        "[code(n.nvmlComputeInstanceDestroy, ci),"
        " [[p.pid, p.gpuInstanceId, p.computeInstanceId] for p in n.nvmlDeviceGetComputeRunningProcesses(g)]]"
    )
    assert one.ask(program) == [19, [[4711, 1, 0]]]
    one.release("gpu.0.gi.1.ci.0")
    node = one.devices / "nvidia-caps/nvidia-cap13"
    node.touch()
    with node.open():
        assert one.ask(program) == [19, []]
    assert one.ask(program) == [0, []]


def test_capabilities_follow_instances(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    one.put(0, "3g.20gb@4")
    access = one.silicon / "proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access"
    assert access.read_text().startswith("DeviceFileMinor: 13\n")
    assert "gpu0/gi1/ci0/access 13\n" in (one.silicon / "proc/driver/nvidia-caps/mig-minors").read_text()
    one.ask("code(n.nvmlComputeInstanceDestroy, n.nvmlGpuInstanceGetComputeInstanceById(gis(h())[0], 0))")
    assert not access.parent.exists()


def test_faults_hit_the_nth_call_and_calls_are_logged(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    one.put(0)
    one.inject("create_gi", 999, nth=2)
    assert one.ask(
        "g = h()\n[code(create, g, '1g.5gb@0'), code(create, g, '1g.5gb@1'), code(create, g, '1g.5gb@1')]"
    ) == [
        0,
        999,
        0,
    ]
    assert one.calls() == [
        "create_gi gpu=0 profile=1g.5gb start=0 size=1 gi=7 result=0",
        "create_gi gpu=0 profile=1g.5gb start=1 size=1 result=999",
        "create_gi gpu=0 profile=1g.5gb start=1 size=1 gi=8 result=0",
    ]


def test_two_processes_at_once_leave_a_whole_state(tmp_path: Path, library: Path) -> None:
    one = machine(tmp_path, library)
    one.put(0)
    program = (
        f"{PRELUDE}\nfor i in range(60):\n    for p in ('1g.5gb@0', '1g.5gb@1', '1g.5gb'):\n"
        "        try: n.nvmlGpuInstanceDestroy(create(h(), p))\n        except n.NVMLError as e: assert e.value == 23\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], env=one.environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert not [key for key in one.state() if ".gi." in key]
    assert len(one.calls()) >= 240


def test_a_reset_applies_what_is_pending_unless_somebody_uses_the_gpu(tmp_path: Path, library: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    subprocess.run([*COMPILE, '-DDRIVER_VERSION="x"', "-o", smi, SILICON / "smi.c", "-ldl"], check=True)
    one = machine(tmp_path, library)
    one.put(0, "1g.5gb@0")
    assert one.ask("[n.nvmlDeviceSetMigMode(h(), 0), n.nvmlDeviceGetMigMode(h())]") == [19, [1, 0]]
    one.mark_busy("gpu.0.gi.7")
    command = [str(smi), "--gpu-reset", "-i", "0"]
    refused = subprocess.run(command, env=one.environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, "in use by another process" in refused.stdout) == (19, True)
    one.release("gpu.0.gi.7")
    subprocess.run(command, env=one.environment, check=True)
    assert one.ask("n.nvmlDeviceGetMigMode(h())") == [0, 0]
    assert not [key for key in one.state() if ".gi." in key]
