# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab that died at any moment leaves nothing behind after `down`, and `up` goes on where it was.

These tests take the machine's lab down and leave none behind: they run before the others bring theirs up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = [sys.executable, str(ROOT / "tests/lab")]
MARKER = Path("/run/onprem-gpu-lab.json")
KILLED_AFTER_SECONDS = (0.3, 0.6, 1.0, 1.5, 2.5, 4.0)


@pytest.fixture(autouse=True)
def no_lab() -> Iterator[None]:
    run("down")
    yield
    run("down")


def run(*words: str, check: bool = True, lab: list[str] = LAB) -> str:
    done = subprocess.run([*lab, *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def traces() -> list[str]:
    """What a lab could leave on the machine, seen with the machine's own tools and not with the lab's."""
    commands = (
        ["sh", "-c", "ip -brief link | grep lab0"],
        ["sh", "-c", "ip route | grep -E '10[.](88|89)[.]'"],
        ["sh", "-c", "ip netns list | grep lab-"],
        ["sh", "-c", "nft list ruleset | grep onprem_gpu_lab"],
        ["sh", "-c", "grep -E ' lab-| /.*[.]lab/' /proc/self/mountinfo"],
        ["sh", "-c", "find /sys/fs/cgroup -maxdepth 2 -name 'lab-*'"],
        ["sh", "-c", "grep -l -a -s ONPREM_GPU_LAB= /proc/[0-9]*/environ"],
        ["sh", "-c", "ls -d /run/onprem-gpu-lab.json /run/systemd/nspawn/propagate/lab-* 2>/dev/null"],
    )
    outputs = (subprocess.run(command, capture_output=True, text=True, check=False).stdout for command in commands)
    return [line for output in outputs for line in output.splitlines()]


def kill_up_after(seconds: float) -> None:
    up = subprocess.Popen([*LAB, "up"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(seconds)
    os.killpg(up.pid, signal.SIGKILL)
    up.wait()


def test_down_leaves_nothing_and_says_so_when_there_is_nothing() -> None:
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    run("up")
    assert traces()
    run("down")
    assert traces() == []
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding
    assert "no lab on this machine" in run("down")


@pytest.mark.parametrize("seconds", KILLED_AFTER_SECONDS)
def test_down_after_up_was_killed(seconds: float) -> None:
    kill_up_after(seconds)
    run("down")
    assert traces() == []


def test_up_goes_on_after_it_was_killed() -> None:
    for seconds in KILLED_AFTER_SECONDS:
        kill_up_after(seconds)
    run("up")
    run("status")


def test_up_changes_nothing_where_the_lab_is_up() -> None:
    run("up")
    before = run("status")
    run("up")
    assert run("status") == before


def test_a_lab_whose_state_is_lost_is_taken_down() -> None:
    run("up")
    shutil.rmtree(ROOT / ".lab/run")
    MARKER.unlink()
    run("down")
    assert traces() == []


def test_the_lab_of_another_checkout_is_recognised_and_taken_over(tmp_path: Path) -> None:
    run("up")
    elsewhere = tmp_path / "checkout"
    shutil.copytree(ROOT / "tests/lab", elsewhere / "tests/lab")
    other = [sys.executable, str(elsewhere / "tests/lab")]
    assert f"belongs to another checkout: {ROOT / '.lab'}" in run("status", lab=other, check=False)
    assert f"the lab of another checkout ({ROOT / '.lab'}): taking it down" in run("up", lab=other)
    assert json.loads(MARKER.read_text())["state"] == str(elsewhere / ".lab")
    assert not (ROOT / ".lab/hosts").exists()
    run("down")
    assert traces() == []
