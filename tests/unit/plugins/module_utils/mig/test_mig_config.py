# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations in mig-parted's language, and what they want of the GPUs of a host."""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from mig_notation import make_gpu, make_wanted_on

from ansible_collections.onprem.gpu.plugins.module_utils.mig_config import (
    ConfigError,
    document_problems,
    export,
    layout_names,
    select,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import Gpu, Wanted, plan
from ansible_collections.onprem.gpu.plugins.module_utils.mig_models import MIG_MODELS, gpu_without_hardware

FLEET = yaml.safe_load((Path(__file__).parent / "files" / "fleet.yaml").read_text())


def gpus(*models: str) -> list[Gpu]:
    made = [gpu_without_hardware(model, index) for index, model in enumerate(models)]
    return [replace(gpu, subsystem_id="0x16C110DE") if gpu.model == "NVIDIA H100 80GB" else gpu for gpu in made]


def counts(wanted: Wanted | None) -> dict[str, int] | None:
    """Instances by name; None where nothing is wanted of a GPU, or MIG is to be off."""
    if wanted is None or not wanted.enabled:
        return None
    return dict(Counter(each.profile_name for each in wanted.instances or ()))


def test_the_whole_document_is_fine() -> None:
    assert document_problems(FLEET) == []
    assert set(FLEET["mig-configs"]) <= set(layout_names(FLEET, gpus("H100-80GB")))


def test_one_entry_for_each_model() -> None:
    selection = select(FLEET, "small-slices", gpus("A100-40GB", "H100-80GB", "A30-24GB", "L4"))
    assert [counts(wanted) for wanted in selection.wanteds] == [{"1g.5gb": 7}, {"1g.10gb": 7}, {"1g.6gb": 4}, None]


def test_indexes_choose_gpus() -> None:
    first, second, third, fourth = select(FLEET, "two-kinds", gpus(*["H100-80GB"] * 4)).wanteds
    assert first == second == Wanted(False, None) or (first and not first.enabled and second and not second.enabled)
    assert counts(third) == {"3g.40gb": 2}
    assert counts(fourth) == {"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 1, "1g.10gb+me": 1}


def test_compute_instances_share_gpu_instances() -> None:
    [wanted] = select(FLEET, "divided", gpus("H100-80GB")).wanteds
    assert wanted and wanted.instances
    assert sorted(each.compute for each in wanted.instances) == [(1, 1, 1), (2, 1)]


def test_a_display_gpu_stays_off_and_subsystems_count() -> None:
    h100 = gpus("H100-80GB")[0]
    other = replace(h100, index=1, uuid="GPU-1", subsystem_id="0x000010DE")
    assert [counts(wanted) for wanted in select(FLEET, "workstation", [h100, other]).wanteds] == [{"7g.80gb": 1}, None]


@pytest.mark.parametrize("model", MIG_MODELS)
def test_every_layout_that_is_made_fits(model: str) -> None:
    [gpu] = gpus(model)
    names = layout_names(None, [gpu])
    assert {"all-disabled", "all-enabled", "all-balanced", f"all-{gpu.profiles[0].name}"} <= set(names)
    for name in names:
        [wanted] = select(None, name, [gpu]).wanteds
        assert wanted, name
        if name not in ("all-disabled", "all-enabled"):
            assert plan(gpu, wanted).changed, name
            assert all(each.enabled in (None, True) for each in plan(gpu, wanted).operations)


@pytest.mark.parametrize(
    ("model", "balanced"),
    [
        ("A100-40GB", {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}),
        ("H100-80GB", {"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}),
        ("A30-24GB", {"2g.12gb": 1, "1g.6gb": 2}),
        ("RTX-PRO-6000-96GB", {"2g.48gb": 1, "1g.24gb": 2}),
    ],
)
def test_balance(model: str, balanced: dict[str, int]) -> None:
    [wanted] = select(None, "all-balanced", gpus(model)).wanteds
    assert counts(wanted) == balanced


def test_a_label_writes_a_dot_for_the_plus() -> None:
    [wanted] = select(None, "all-1g.10gb.me", gpus("H100-80GB")).wanteds
    assert counts(wanted) == {"1g.10gb+me": 1}


def test_a_gpu_without_mig_is_passed_over_among_all() -> None:
    selection = select(FLEET, "all-enabled", gpus("H100-80GB", "L4"))
    assert [bool(wanted) for wanted in selection.wanteds] == [True, False]
    assert "not MIG capable" in selection.notes[0]


@pytest.mark.parametrize(
    ("document", "entry", "words"),
    [
        (None, "", ["empty"]),
        ([], "", ["empty"]),
        ("v1", "", ["v1"]),
        ({"mig-configs": {}}, "version", ["v1"]),
        ({"version": 1, "mig-configs": {"a": []}}, "version", ["1", "v1"]),
        ({"version": "v1"}, "mig-configs", []),
        ({"version": "v1", "mig-configs": {"a": []}}, "mig-configs.a", []),
        (
            {"version": "v1", "mig-configs": {False: [{"devices": "all", "mig-enabled": False}]}},
            "mig-configs",
            ["quotes"],
        ),
    ],
)
def test_a_document_that_is_none(document: t.Any, entry: str, words: list[str]) -> None:
    problems = document_problems(document)
    assert problems
    told = " ".join(map(str, problems))
    for word in [entry, *words]:
        assert word in told


@pytest.mark.parametrize(
    ("changes", "entry", "words"),
    [
        ({"devices": 0}, "devices", ["0", "all"]),
        ({"devices": [-1]}, "devices", ["-1"]),
        ({"devices": [True]}, "devices", ["true"]),
        ({"devices": "GPU-1"}, "devices", ["GPU-1"]),
        ({"device-filter": ["0x2330"]}, "device-filter", ["0x2330", "0x"]),
        ({"mig-enabled": "yes"}, "mig-enabled", ["yes", "true"]),
        ({"mig-enabled": False}, "mig-devices", []),
        ({"mig-devices": ["1g.10gb"]}, "mig-devices", ["1g.10gb"]),
        ({"mig-devices": {"1g.10gb": "7"}}, "mig-devices", ["7"]),
        ({"mig-devices": {"1g.10gb": True}}, "mig-devices", ["true"]),
        ({"mig-devices": {"1g.10gb": -1}}, "mig-devices", ["-1"]),
        ({"mig-devices": {"1g.10gb": 0}}, "mig-devices", ["0"]),
        ({"mig-devices": {"1g10gb": 1}}, "mig-devices", ["1g10gb", "1g.10gb"]),
        ({"mig-devices": {"1g.10gb+me,me.all": 1}}, "mig-devices", ["twice"]),
        ({"mig-devices": {"4c.3g.40gb": 1}}, "mig-devices", ["4 slices", "3"]),
        ({"mig_devices": {}}, "mig_devices", ["mig-devices"]),
    ],
)
def test_an_entry_that_makes_no_sense(changes: dict[str, t.Any], entry: str, words: list[str]) -> None:
    document = {
        "version": "v1",
        "mig-configs": {
            "fine": [{"devices": "all", "mig-enabled": False}],
            "odd": [{"devices": "all", "mig-enabled": True, "mig-devices": {"1g.10gb": 1}, **changes}],
        },
    }
    [problem, *_more] = document_problems(document)
    assert problem.entry.startswith("mig-configs.odd[0]")
    assert entry in str(problem)
    for word in words:
        assert word in str(problem)
    with pytest.raises(ConfigError):  # also when another layout of the document is selected
        select(document, "fine", gpus("H100-80GB"))


def test_every_problem_is_told_at_once() -> None:
    entries = [{"devices": 0, "mig-enabled": True, "mig-devices": {"1g.10gb": -1}}, {"mig-enabled": False}]
    assert len(document_problems({"version": "v2", "mig-configs": {"a": entries}})) >= 4


@pytest.mark.parametrize("text", ["3g@4 2g@0 1g@2..3", "7g@0", "1g@0..6", ""])
def test_what_is_exported_wants_what_is_there(text: str) -> None:
    gpu = make_gpu("A100-40GB", text)
    document, _notes = export([gpu], "now")
    assert document_problems(document) == []
    [wanted] = select(document, "now", [gpu]).wanteds
    assert wanted
    assert not plan(gpu, wanted).changed


def test_export_of_what_is_off() -> None:
    gpu = make_gpu("A100-40GB", on=False)
    document, _notes = export([gpu], "now")
    [wanted] = select(document, "now", [gpu]).wanteds
    assert wanted
    assert not plan(gpu, wanted).changed
    assert plan(gpu, make_wanted_on(gpu, "7g")).changed
