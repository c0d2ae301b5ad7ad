# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module mig does in situations that people meet: a GPU as it is found, what is wanted, what must come of it.

Instances are written profile@start, with * when in use, and - without a compute instance.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

import pytest
import silicon

A40, A80, A30 = "A100-SXM-40GB", "A100-SXM", "A30"
H100, PRO = "H100-SXM", "RTX-PRO-6000"
IN_USE, UNKNOWN, GPU_IS_LOST, VERSION_MISMATCH = 19, 999, 15, 18


@dataclass(frozen=True)
class Change:
    """A layout that can be had: what there is, what is wanted, what is there afterwards, what must not be touched."""

    model: str
    found: str
    wanted: str
    after: str
    kept: str = ""


def times(text: str) -> list[str]:
    """ "3g.20gb 1g.5gb*2" as a list of profiles."""
    return [name for part in text.split() for name, _x, count in [part.partition("*")] for _ in range(int(count or 1))]


ROW = " ".join(f"1g.5gb@{start}" for start in range(7))

CHANGES = {
    "all there": Change(A40, ROW, "1g.5gb*7", ROW, kept=ROW),
    "starts do not matter": Change(
        A40, "3g.20gb@0 2g.10gb@4 1g.5gb@6", "1g.5gb 2g.10gb 3g.20gb", "3g.20gb@0 2g.10gb@4 1g.5gb@6"
    ),
    "two small ones become one": Change(
        A40,
        "1g.5gb@0 1g.5gb@1 2g.10gb@2 3g.20gb@4",
        "3g.20gb 2g.10gb*2",
        "2g.10gb@0 2g.10gb@2 3g.20gb@4",
        kept="2g.10gb@2 3g.20gb@4",
    ),
    "one more": Change(A40, "3g.20gb@4", "3g.20gb*2", "3g.20gb@0 3g.20gb@4", kept="3g.20gb@4"),
    "the busy one decides the half": Change(
        A40,
        ROW.replace("@3", "@3*"),
        "3g.20gb 1g.5gb*3",
        "1g.5gb@0 1g.5gb@1 1g.5gb@3 3g.20gb@4",
        kept="1g.5gb@0 1g.5gb@1 1g.5gb@3",
    ),
    "a busy one in the only room": Change(
        A40, "1g.5gb@6*", "4g.20gb 2g.10gb 1g.5gb", "4g.20gb@0 2g.10gb@4 1g.5gb@6", kept="1g.5gb@6"
    ),
    "in the way and moved": Change(A40, "1g.5gb@0", "4g.20gb 1g.5gb", "4g.20gb@0 1g.5gb@4"),
    "on the wrong half": Change(A40, "3g.20gb@0", "4g.20gb 3g.20gb", "4g.20gb@0 3g.20gb@4"),
    "only one half will do": Change(
        A40,
        "2g.10gb@0 1g.5gb@4 1g.5gb@6",
        "3g.20gb 2g.10gb 1g.5gb*2",
        "2g.10gb@0 1g.5gb@2 1g.5gb@3 3g.20gb@4",
        kept="2g.10gb@0",
    ),
    "one of two goes": Change(
        A40, "2g.10gb@0 2g.10gb@4", "3g.20gb 2g.10gb*2", "2g.10gb@0 2g.10gb@2 3g.20gb@4", kept="2g.10gb@0"
    ),
    "shrinking keeps the busy one": Change(
        A40, ROW.replace("@6", "@6*"), "1g.5gb*2", "1g.5gb@0 1g.5gb@6", kept="1g.5gb@0 1g.5gb@6"
    ),
    "media engines are not any": Change(
        A40,
        "1g.5gb+me@0",
        "1g.5gb+me 1g.5gb*6",
        "1g.5gb+me@0 " + " ".join(f"1g.5gb@{start}" for start in range(1, 7)),
        kept="1g.5gb+me@0",
    ),
    "double memory": Change(H100, "1g.10gb@1", "1g.20gb*4", "1g.20gb@0 1g.20gb@2 1g.20gb@4 1g.20gb@6"),
    "double memory beside a busy one": Change(
        H100,
        "1g.10gb@6*",
        "1g.20gb*3 1g.10gb",
        "1g.20gb@0 1g.20gb@2 1g.20gb@4 1g.10gb@6",
        kept="1g.10gb@6",
    ),
    "four slices": Change(A30, "1g.6gb@1 1g.6gb@2", "2g.12gb 1g.6gb*2", "1g.6gb@0 1g.6gb@1 2g.12gb@2", kept="1g.6gb@1"),
    "twelve slices": Change(
        PRO, "1g.24gb@3 1g.24gb@6", "2g.48gb 1g.24gb*2", "1g.24gb@0 1g.24gb@3 2g.48gb@6", kept="1g.24gb@3"
    ),
    "all media engines": Change(
        PRO,
        "1g.24gb@0",
        "1g.24gb+me.all 1g.24gb-me*3",
        "1g.24gb+me.all@0 1g.24gb-me@3 1g.24gb-me@6 1g.24gb-me@9",
    ),
    "after a reboot": Change(A40, "", "3g.20gb*2", "3g.20gb@0 3g.20gb@4"),
    "an earlier run died in the middle": Change(A40, "3g.20gb@0-", "3g.20gb", "3g.20gb@0"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_layout_that_can_be_had(machine: t.Any, name: str) -> None:
    case = CHANGES[name]
    host = machine(case.model)
    host.prepare(*case.found.split())
    before, was = host.identities(), host.present()
    entries = times(case.wanted)

    foretold = host.layout(*entries, check_mode=True)
    assert host.calls() == []
    assert host.present() == was

    result = host.layout(*entries)
    assert not result["failed"], result["msg"]
    assert host.present() == case.after.split()
    assert result["changed"] == (was != host.present())
    assert (foretold["plan"], foretold["gpus"], foretold["changed"]) == (
        result["plan"],
        result["gpus"],
        result["changed"],
    )
    after = host.identities()
    for instance in case.kept.split():
        start = int(instance.rpartition("@")[2])
        assert after[start] == before[start], f"{instance} was touched"

    host.forget_calls()
    again = host.layout(*entries)
    assert (again["changed"], again["plan"], host.calls()) == (False, [], [])


@dataclass(frozen=True)
class Refusal:
    """A layout that cannot be had: nothing is called, and the message has what a person needs."""

    model: str
    found: str
    wanted: str
    reason: str
    words: tuple[str, ...]


REFUSALS = {
    "either of two is in the way": Refusal(
        A40, "1g.5gb@0 1g.5gb@1* 1g.5gb@2 1g.5gb@5*", "3g.20gb 1g.5gb*2", "in_use", ("1g.5gb at slice 1", "at slice 5")
    ),
    "a busy one in the only room": Refusal(
        A40, "1g.5gb@4 1g.5gb@5*", "4g.20gb 2g.10gb 1g.5gb", "in_use", ("1g.5gb at slice 5",)
    ),
    "too many slices": Refusal(A40, "", "4g.20gb 3g.20gb 1g.5gb", "invalid", ("9 memory slices", "8")),
    "one media extension": Refusal(A40, "", "1g.5gb+me*2", "invalid", ("1g.5gb+me", "one")),
    "a name of another model": Refusal(
        A80, "3g.40gb@0", "1g.5gb*7", "invalid", ("1g.5gb", "1g.10gb", "3g.40gb", "7g.80gb")
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_layout_that_cannot_be_had(machine: t.Any, name: str) -> None:
    case = REFUSALS[name]
    host = machine(case.model)
    host.prepare(*case.found.split())
    before = host.state()
    for check_mode in (True, False):
        result = host.layout(*times(case.wanted), check_mode=check_mode)
        assert (result["failed"], result["changed"], result["reason"]) == (True, False, case.reason), result["msg"]
        for word in case.words:
            assert word in result["msg"]
    assert host.calls() == []
    assert host.state() == before


# --- modes ---


def test_off_stays_off(machine):
    host = machine(H100)
    assert host.run(selected="all-disabled")["changed"] is False
    assert host.calls() == []


def test_hopper_changes_its_mode_at_once(machine):
    host = machine(H100)
    foretold = host.layout("3g.40gb", "3g.40gb", check_mode=True)
    assert (host.mode(), host.calls()) == ((0, 0), [])
    result = host.layout("3g.40gb", "3g.40gb")
    assert result["plan"] == foretold["plan"]
    assert (host.mode(), host.present()) == ((1, 1), ["3g.40gb@0", "3g.40gb@4"])
    assert (result["reset_required"], result["reboot_required"]) == (False, False)


def test_check_mode_plans_with_mig_off(machine):
    result = machine(H100).layout(*times("2g.20gb*3 1g.10gb"), check_mode=True)
    made = [(one["profile"], one["start"]) for one in result["gpus"][0]["plan"] if one["op"] == "create_gpu_instance"]
    assert made == [("2g.20gb", 0), ("2g.20gb", 2), ("2g.20gb", 4), ("1g.10gb", 6)]


@pytest.mark.parametrize("model", sorted(name for name, model in silicon.MODELS.items() if model.mig))
def test_profiles_have_the_driver_s_names_while_mig_is_off(machine, model):
    """The driver tells names only with MIG on; before, they are made from the sizes."""
    host = machine(model)
    off = host.run(True, selected="no-such-layout")["msg"]
    host.prepare()
    on = host.run(True, selected="no-such-layout")["msg"]
    assert "all-1g." in off
    assert on == off


def test_an_idle_ampere_gpu_changes_its_mode_inside_the_call(machine):
    host = machine(A40)
    result = host.layout("4g.20gb", "2g.10gb", "1g.5gb")
    assert not result["failed"], result["msg"]
    assert host.present() == ["4g.20gb@0", "2g.10gb@4", "1g.5gb@6"]


def test_an_ampere_gpu_that_is_held_stays_pending_until_it_is_let_go(machine):
    host = machine(A40)
    host.mark_busy("gpu.0")
    for changed in (True, False):
        result = host.layout("7g.40gb")
        assert (result["failed"], result["reason"], result["reset_required"]) == (True, "reset_required", True)
        assert result["changed"] is changed
        assert "stays pending (to be enabled)" in result["msg"]
        assert (host.mode(), host.present()) == ((0, 1), [])
    assert [call.split()[0] for call in host.calls()] == ["set_mode", "set_mode"]
    host.release("gpu.0")
    assert host.layout("7g.40gb")["failed"] is False
    assert host.present() == ["7g.40gb@0"]


def test_the_kernel_module_that_keeps_a_gpu_from_being_reset_is_named(machine):
    """No list of processes shows it: consoles and display servers use GPUs through it."""
    host = machine(A40)
    host.mark_busy("gpu.0")
    assert "nvidia_drm" not in host.run(selected="all-enabled", reset=True)["msg"]
    (host.root / "sys/module/nvidia_drm").mkdir(parents=True)
    result = host.run(selected="all-enabled", reset=True)
    assert (result["failed"], result["reason"]) == (True, "reset_required")
    assert "kernel module nvidia_drm" in result["msg"]


def test_a_machine_that_may_not_reset_its_gpus_has_to_be_rebooted(machine):
    host = machine(A40, passthrough=True)
    result = host.run(selected="all-enabled")
    assert (result["failed"], result["changed"], result["reboot_required"]) == (True, True, True)
    assert (result["reset_required"], "rebooted" in result["msg"]) == (False, True)


def test_a_pending_mode_is_taken_back(machine):
    host = machine(A40)
    host.mark_busy("gpu.0")
    host.run(selected="all-enabled")
    assert host.mode() == (0, 1)
    result = host.run(selected="all-disabled")
    assert (result["failed"], result["changed"], host.mode()) == (False, True, (0, 0))


def test_switching_off_destroys_what_is_idle(machine):
    host = machine(A40)
    host.prepare("3g.20gb@0", "3g.20gb@4")
    assert host.run(selected="all-disabled")["failed"] is False
    assert (host.mode(), host.present()) == ((0, 0), [])


def test_switching_off_is_refused_while_an_instance_is_in_use(machine):
    host = machine(H100)
    host.prepare("3g.40gb@0*", "3g.40gb@4")
    result = host.run(selected="all-disabled")
    assert (result["failed"], result["reason"], host.calls()) == (True, "in_use", [])
    assert [(one["profile"], one["start"], one["ci_ids"]) for one in result["blockers"]] == [("3g.40gb", 0, [0])]


# --- several GPUs ---


def test_models_of_one_host_get_each_their_balance(machine):
    host = machine(A40, "T4", H100)
    host.prepare("3g.20gb@4", "2g.10gb@0", "1g.5gb@2", "1g.5gb@3")
    result = host.run(selected="all-balanced")
    assert not result["failed"], result["msg"]
    assert any("not MIG capable" in note for note in result["notes"])
    assert host.present(2) == ["2g.20gb@0", "1g.10gb@2", "1g.10gb@3", "3g.40gb@4"]
    assert {call.split()[1] for call in host.calls()} == {"gpu=2"}


def test_a_gpu_without_mig_that_is_named_stops_all(machine):
    host = machine(A40, "T4")
    result = host.run(layout=[{"devices": [0, 1], "mig-enabled": True, "mig-devices": {}}])
    assert (result["failed"], result["reason"], host.calls()) == (True, "invalid", [])
    assert "Tesla T4" in result["msg"]


def test_a_name_means_another_profile_on_another_model(machine):
    host = machine(A40, A80)
    assert host.run(selected="all-1g.10gb")["failed"] is False
    assert host.present(0) == ["1g.10gb@0", "1g.10gb@2", "1g.10gb@4", "1g.10gb@6"]
    assert host.present(1) == [f"1g.10gb@{start}" for start in range(7)]


def test_two_layouts_for_one_gpu_are_refused(machine):
    host = machine(H100)
    host.prepare("3g.40gb@4*")
    entries = [
        {"devices": "all", "mig-enabled": True, "mig-devices": {"3g.40gb": 2}},
        {"devices": [0], "mig-enabled": True, "mig-devices": {"1g.10gb": 7}},
    ]
    result = host.run(layout=entries)
    assert (result["failed"], result["reason"], host.calls()) == (True, "invalid", [])


def test_one_blocked_gpu_keeps_all_untouched(machine):
    host = machine(H100, H100)
    host.prepare("1g.10gb@0*", gpu=1)
    result = host.run(selected="all-7g.80gb")
    assert (result["failed"], result["reason"], host.calls()) == (True, "in_use", [])


def test_a_lost_gpu_is_named_and_nothing_is_done(machine):
    host = machine(*[H100] * 8)
    with host.edit() as state:
        state["gpu.5.lost"] = "1"
    result = host.run(selected="all-balanced")
    assert (result["failed"], result["reason"], host.calls()) == (True, "driver", [])
    assert "GPU 5" in result["msg"]


# --- compute instances ---


def test_a_gpu_instance_is_divided_without_being_made_again(machine):
    host = machine(A40)
    host.prepare("3g.20gb@0")
    [before] = host.identities().values()
    result = host.layout("1c.3g.20gb", "1c.3g.20gb", "1c.3g.20gb")
    assert not result["failed"], result["msg"]
    assert host.present() == ["3g.20gb@0++"]
    assert not any("_gi" in call for call in host.calls())
    assert before


# --- the driver ---


@pytest.mark.parametrize("check_mode", [True, False])
def test_who_is_not_root_is_refused_before_anything_is_read(machine, check_mode):
    host = machine(H100)
    result = host.run(check_mode, user=65534, selected="all-balanced")
    assert (result["failed"], result["reason"], host.calls()) == (True, "no_permission", [])
    assert "become: true" in result["msg"]


def test_a_driver_that_waits_for_a_reboot_is_told(machine):
    host = machine(H100)
    with host.edit() as state:
        state["module.nvidia"] = "570.10.01 open"
    result = host.run(selected="all-balanced")
    assert (result["failed"], result["reason"]) == (True, "driver")
    assert "load it again or reboot" in result["msg"]
