# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wishes that make no sense: each gets an error that names entry, value and what is allowed, and nothing is called."""

from __future__ import annotations

import fcntl
import multiprocessing
import typing as t

import pytest

H100, T4 = "H100-SXM", "T4"


def entry(**changes: t.Any) -> dict[str, t.Any]:
    return {"devices": "all", "mig-enabled": True, "mig-devices": {"1g.10gb": 7}, **changes}


def document(*entries: t.Any, name: t.Any = "wanted", **changes: t.Any) -> dict[str, t.Any]:
    return {"version": "v1", "mig-configs": {name: list(entries)}, **changes}


# options of the module -> what the message must say
BAD: dict[str, tuple[dict[str, t.Any], tuple[str, ...]]] = {
    "unknown profile": ({"layout": [entry(**{"mig-devices": {"1g.5gb": 7}})]}, ("1g.5gb", "1g.10gb", "layout[0]")),
    "no name of a profile": ({"layout": [entry(**{"mig-devices": {"small": 7}})]}, ("small", "1g.10gb")),
    "too many slices": ({"layout": [entry(**{"mig-devices": {"1g.10gb": 8}})]}, ("1g.10gb", "8", "7")),
    "impossible attribute": ({"layout": [entry(**{"mig-devices": {"1g.10gb+gfx": 1}})]}, ("1g.10gb+gfx", "1g.10gb+me")),
    "unknown attribute": ({"layout": [entry(**{"mig-devices": {"1g.10gb+fast": 1}})]}, ("+fast", "+me")),
    "two layouts for a GPU": (
        {"layout": [entry(), entry(devices=[0], **{"mig-devices": {"3g.40gb": 2}})]},
        ("layout[1]", "layout[0]", "different"),
    ),
    "an index that is not there": ({"layout": [entry(devices=[0, 9])]}, ("9", "layout[0]")),
    "a UUID that is not there": (
        {"layout": [entry(devices=["GPU-00000000-0000-0000-0000-000000000000"])]},
        ("GPU-00000000-0000-0000-0000-000000000000",),
    ),
    "no UUID": ({"layout": [entry(devices=["first"])]}, ("first", "all")),
    "a configuration for no GPU": ({"layout": [entry(**{"device-filter": "0x20B010DE"})]}, ("0x233010DE",)),
    "a filter that is none": ({"layout": [entry(**{"device-filter": "A100"})]}, ("A100", "device-filter")),
    "off as a name": (
        {"config": document(entry(), name="off"), "selected": False},
        ("false", "in quotes"),
    ),
    "a mode that is no truth value": ({"layout": [entry(**{"mig-enabled": "maybe"})]}, ("maybe", "true")),
    "a negative count": ({"layout": [entry(**{"mig-devices": {"1g.10gb": -1}})]}, ("-1", "1g.10gb")),
    "all counts 0": ({"layout": [entry(**{"mig-devices": {"1g.10gb": 0}})]}, ("0", "mig-devices")),
    "devices with MIG off": ({"layout": [entry(**{"mig-enabled": False})]}, ("mig-devices",)),
    "no devices with MIG on": ({"layout": [{"devices": "all", "mig-enabled": True}]}, ("mig-devices",)),
    "a GPU that cannot, named": ({"layout": [entry(devices=[1])]}, ("Tesla T4", "no MIG mode")),
    "an empty file": ({"config": {}, "selected": "wanted"}, ("version", "mig-configs")),
    "another version": ({"config": document(entry(), version="v2"), "selected": "wanted"}, ("v2", "v1")),
    "a key nobody knows": ({"layout": [entry(**{"mig-device": {}})]}, ("mig-device",)),
    "a name that is not in the file": ({"config": document(entry()), "selected": "wantde"}, ("wantde", "wanted")),
    "layouts that are no list": (
        {"config": {"version": "v1", "mig-configs": {"wanted": "1g.10gb"}}, "selected": "wanted"},
        ("wanted", "list"),
    ),
    "an empty layout": ({"layout": []}, ("layout",)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wish_that_makes_no_sense(machine: t.Any, name: str) -> None:
    options, words = BAD[name]
    host = machine(H100, T4)
    before = host.state()
    for check_mode in (True, False):
        result = host.run(check_mode, **options)
        assert (result["failed"], result.get("changed", False)) == (True, False)
        for word in words:
            assert word.lower() in result["msg"].lower()
    assert host.calls() == []
    assert host.state() == before


def test_a_filtered_entry_that_hits_nothing_is_normal(machine: t.Any) -> None:
    host = machine(H100)
    entries = [entry(**{"device-filter": ["0x20B010DE"], "mig-devices": {"1g.5gb": 7}}), entry()]
    assert host.run(layout=entries)["failed"] is False
    assert len(host.present()) == 7


def test_a_zero_beside_real_counts_is_nothing(machine: t.Any) -> None:
    host = machine(H100)
    wish = [entry(**{"mig-devices": {"3g.40gb": 2, "1g.10gb": 0}})]
    assert host.run(layout=wish)["changed"] is True
    assert host.run(layout=wish)["changed"] is False


def test_gpus_are_named_by_uuid_and_address_too(machine: t.Any) -> None:
    host = machine(H100, H100)
    [first, second] = host.run(True, selected="all-enabled")["before"]
    wish = [entry(devices=[first["uuid"]]), entry(devices=[second["pci_address"]], **{"mig-devices": {"3g.40gb": 2}})]
    assert host.run(layout=wish)["failed"] is False
    assert (len(host.present(0)), host.present(1)) == (7, ["3g.40gb@0", "3g.40gb@4"])


def hold(path: str, ready: t.Any, done: t.Any) -> None:
    with open(path, "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready.set()
        done.wait()


def test_a_second_run_leaves_cleanly(machine: t.Any) -> None:
    host = machine(H100)
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    other = fork.Process(target=hold, args=("/run/onprem-gpu-mig.lock", ready, done))
    other.start()
    ready.wait()
    try:
        result = host.run(selected="all-balanced", lock_timeout_seconds=0)
        assert (result["failed"], result["reason"], host.calls()) == (True, "locked", [])
    finally:
        done.set()
        other.join()
    assert host.run(selected="all-balanced")["failed"] is False
