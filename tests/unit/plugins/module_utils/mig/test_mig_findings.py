# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.mig_findings import mig_findings

H100, L4 = {"model": "H100-SXM5-80GB", "device_id": "2330"}, {"model": "L4", "device_id": "27b8"}


def host(*gpus: dict[str, str], nvml: str = "no_library") -> dict[str, t.Any]:
    addressed = [{**gpu, "pci_address": f"0000:{index + 0x1B:02x}:00.0"} for index, gpu in enumerate(gpus)]
    return {"gpus": addressed, "nvml": {"state": nvml}}


def config(counts: dict[str, int], devices: t.Any = "all") -> dict[str, t.Any]:
    entry = {"devices": devices, "mig-enabled": True, "mig-devices": counts}
    return {"version": "v1", "mig-configs": {"own": [entry]}}


def findings(facts: dict[str, t.Any], layout: t.Any, document: t.Any = None, strategy: str = "mixed") -> list[str]:
    wishes = {"layout": layout, "config": document or {}, "strategy": strategy}
    return [f"{found['check']}: {found['message']}" for found in mig_findings(facts, wishes)]


@pytest.mark.parametrize(
    ("layout", "document", "strategy"),
    [
        ("", {"not": "looked at"}, "mixed"),
        ("all-balanced", None, "mixed"),
        ("all-1g.10gb", None, "single"),
        ("all-disabled", None, "single"),
        ("all-enabled", None, "single"),
        ("own", config({"3g.40gb": 2}), "single"),
        ("own", config({"3g.40gb": 2}, ["0000:1b:00.0"]), "mixed"),
    ],
)
def test_layouts_that_fit_are_let_through(layout: str, document: t.Any, strategy: str) -> None:
    assert findings(host(H100), layout, document, strategy) == []


@pytest.mark.parametrize(
    ("layout", "document", "words"),
    [
        (False, None, "YAML reads on, off, yes and no"),
        ("balanced", None, "gpu_mig_layout is balanced, which is not the name of a layout"),
        ("own", {"version": "v2", "mig-configs": {}}, "version: 'v2' is not a version of this language"),
        ("own", config({"1g.5gb": 1}), "1g.5gb"),
        ("own", config({"3g.40gb": 3}), "3g.40gb"),
        ("own", config({"3g.40gb": 1}, [4]), "is not a GPU of this host"),
        ("own", config({"3g.40gb": 1}, ["0000:99:00.0"]), "is not a GPU of this host"),
        ("all-9g.1gb", None, "all-9g.1gb"),
    ],
)
def test_layouts_that_cannot_be_are_refused_before_a_driver_is_there(
    layout: t.Any, document: t.Any, words: str
) -> None:
    assert any(words in found for found in findings(host(H100), layout, document))


def test_gpus_that_answer_say_themselves_what_they_offer() -> None:
    """A driver may call the profile of a table another way; the survey asks it."""
    assert findings(host(H100, nvml="ok"), "own", config({"1g.11gb": 1})) == []
    assert findings(host(H100, nvml="ok"), "own", {"version": "v2"}) != []


def test_a_uuid_is_known_only_to_the_driver() -> None:
    assert findings(host(H100), "own", config({"3g.40gb": 1}, ["GPU-1111"])) == []


def test_a_model_nobody_knows_is_left_to_its_driver() -> None:
    assert findings(host({"model": None, "device_id": "ffff"}), "own", config({"1g.99gb": 1})) == []


def test_gpus_without_mig_are_passed_over() -> None:
    assert findings(host(L4, L4), "all-balanced") == []


@pytest.mark.parametrize(
    ("gpus", "layout", "strategy", "words"),
    [
        ([H100], "all-balanced", "single", "makes 1g.10gb, 2g.20gb, 3g.40gb"),
        ([H100, L4], "all-1g.10gb", "single", "1g.10gb, whole GPUs"),
        ([H100], "parts", "mixed", "makes 1c.3g.40gb of"),
        ([H100], "all-1g.10gb", "none", "with MIG strategy none no pod gets them"),
    ],
)
def test_slices_that_no_pod_would_get_are_refused(gpus: list[t.Any], layout: str, strategy: str, words: str) -> None:
    document = config({"1c.3g.40gb": 3})
    document["mig-configs"]["parts"] = document["mig-configs"].pop("own")
    [found] = findings(host(*gpus), layout, document, strategy)
    assert found.startswith("mig_strategy: ")
    assert words in found


def test_what_the_gpus_themselves_refuse_is_found_by_the_survey() -> None:
    wishes = {"layout": "own", "config": config({"1g.11gb": 1}), "strategy": "mixed"}
    differences = [
        {"kind": "mig", "name": "layout", "want": "own", "have": "GPU 0 has no profile 1g.11gb."},
        {"kind": "mig", "name": "GPU 0", "want": "MIG on", "have": "MIG off"},
        {"kind": "file", "name": "layout", "want": "x", "have": "y"},
    ]
    [found] = mig_findings(host(H100, nvml="ok"), wishes, differences)
    assert "GPU 0 has no profile 1g.11gb." in found["message"]
    assert mig_findings(host(H100), wishes | {"layout": "all-balanced"}, differences) == []
