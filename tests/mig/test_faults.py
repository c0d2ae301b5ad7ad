# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every changing call of a transition fails, once or for good: all is as before, or the message says what there is."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

import pytest

A40, H100, PRO = "A100-SXM-40GB", "H100-SXM", "RTX-PRO-6000"
GPU_IS_LOST, IN_USE, INSUFFICIENT_RESOURCES, UNKNOWN = 15, 19, 23, 999
CODES = (GPU_IS_LOST, IN_USE, INSUFFICIENT_RESOURCES, UNKNOWN)
FOR_GOOD = 1000


@dataclass(frozen=True)
class Transition:
    """From instances that are there (None: MIG is off) to those that are wanted (None: off)."""

    model: str
    found: str | None
    wanted: str | None


TRANSITIONS = {
    "on and filled": Transition(H100, None, "3g.40gb 2g.20gb 1g.10gb 1g.10gb"),
    "on and filled, with the driver's reset": Transition(A40, None, "4g.20gb 2g.10gb 1g.5gb"),
    "off": Transition(H100, "3g.40gb@0 3g.40gb@4", None),
    "off, with the driver's reset": Transition(A40, "7g.40gb@0", None),
    "all others": Transition(A40, "3g.20gb@0 3g.20gb@4", "4g.20gb 2g.10gb 1g.5gb"),
    "two small ones become one": Transition(A40, "1g.5gb@0 1g.5gb@1 2g.10gb@2 3g.20gb@4", "3g.20gb 2g.10gb 2g.10gb"),
    "around a busy one": Transition(
        A40, "1g.5gb@0 1g.5gb@1 1g.5gb@3* 1g.5gb@4 1g.5gb@5", "3g.20gb 1g.5gb 1g.5gb 1g.5gb"
    ),
    "grown": Transition(H100, "3g.40gb@4", "3g.40gb 3g.40gb"),
    "divided": Transition(A40, "3g.20gb@4", "1c.3g.20gb 1c.3g.20gb 1c.3g.20gb"),
    "twelve slices": Transition(PRO, "1g.24gb@3 1g.24gb@6", "2g.48gb 1g.24gb 1g.24gb"),
}


def prepared(machine: t.Any, transition: Transition) -> t.Any:
    host = machine(transition.model)
    if transition.found is not None:
        host.prepare(*transition.found.split())
    return host


def run(host: t.Any, transition: Transition) -> dict[str, t.Any]:
    if transition.wanted is None:
        return host.run(selected="all-disabled", impatient=True)
    return host.layout(*transition.wanted.split(), impatient=True)


@pytest.mark.parametrize("times", [1, FOR_GOOD])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_call_that_fails(machine: t.Any, name: str, code: int, times: int) -> None:
    transition = TRANSITIONS[name]
    undisturbed = prepared(machine, transition)
    assert not run(undisturbed, transition)["failed"]
    target = (undisturbed.mode(), undisturbed.present())
    calls = len(undisturbed.calls())
    assert calls > 1
    for after in range(1, calls + 1):
        host = prepared(machine, transition)
        before = (host.mode(), host.present())
        identities = host.identities()
        host.inject("any", code, nth=after, times=times)
        result = run(host, transition)
        there = (host.mode(), host.present())
        told = f"call {after}: {result.get('msg')}"
        if not result["failed"]:
            assert there == target, told
            assert code == IN_USE, "a call that failed was taken for one that worked"
        elif result["reason"] == "rolled_back":
            assert there == before, told
            assert result["changed"] == (host.identities() != identities), told
        elif result["reason"] == "reset_required":  # the mode was taken and did not become active
            (current, pending), _instances = there
            assert current != pending, told
            assert "stays pending" in result["msg"]
        else:
            assert result["reason"] == "rollback_failed", told
            assert_remains_are_told(result["msg"], there, lost=code == GPU_IS_LOST)
            assert result["changed"], told
        if transition.found and "*" in transition.found:
            busy = int(transition.found.split("*")[0].rpartition("@")[2])
            assert host.identities()[busy] == identities[busy], f"{told}: the instance in use was touched"


def assert_remains_are_told(message: str, there: tuple[tuple[int, int], list[str]], lost: bool) -> None:
    if lost:
        assert "does not answer any more" in message
        return
    told = re.search(r"What is there now: GPU 0 \(.*?\): MIG (on|off), (.*)\.$", message)
    assert told, message
    (current, _pending), present = there
    assert told.group(1) == ("on" if current else "off")
    places = sorted(re.sub(r" \(.*?\)", "", text) for text in re.split(r", (?=\d)", told.group(2)) if "@" in text)
    assert places == sorted(instance.rstrip("+-") for instance in present)


def test_a_monitor_that_lets_go_only_costs_a_moment(machine: t.Any) -> None:
    host = machine(A40)
    host.prepare("1g.5gb@0")
    host.inject("destroy_gi", IN_USE, times=2)
    result = host.layout("2g.10gb", "2g.10gb", "2g.10gb")
    assert not result["failed"], result["msg"]
    assert host.present() == ["2g.10gb@0", "2g.10gb@2", "2g.10gb@4"]


def test_a_monitor_that_holds_on_is_an_error_and_the_instance_is_whole_again(machine: t.Any) -> None:
    host = machine(A40)
    host.prepare("1g.5gb@0")
    host.inject("destroy_gi", IN_USE, times=FOR_GOOD)
    result = host.layout("2g.10gb", "2g.10gb", "2g.10gb", impatient=True)
    assert (result["failed"], result["reason"]) == (True, "rolled_back")
    assert host.present() == ["1g.5gb@0"]
    assert "DCGM" in result["msg"]
