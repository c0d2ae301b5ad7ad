# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey says of MIG what the module mig would do, and calls nothing that changes a GPU."""

from __future__ import annotations

import random
import typing as t

import pytest

H100 = "H100-SXM"
PLACES = ("1g.10gb@0", "1g.10gb@1", "2g.20gb@2", "3g.40gb@4", "1g.10gb@6")


def test_a_layout_that_is_there_does_not_differ(machine: t.Any) -> None:
    host = machine(H100)
    host.run(selected="all-balanced")
    host.forget_calls()
    result = host.survey(selected="all-balanced")
    assert (result["converged"], result["differences"], host.calls()) == (True, [], [])


def test_each_gpu_that_differs_is_drawn_before_and_after(machine: t.Any) -> None:
    host = machine(H100, H100)
    host.prepare("3g.40gb@4", gpu=1)
    result = host.survey(selected="all-3g.40gb")
    assert [found["id"] for found in result["differences"]] == ["d/mig/GPU 0", "d/mig/GPU 1"]
    first, second = result["differences"]
    assert (first["have"], first["want"], first["disrupts"]) == ("MIG off", "MIG on, 2 x 3g.40gb", "gpu")
    assert (second["have"], second["want"]) == ("MIG on, 3g.40gb", "MIG on, 2 x 3g.40gb")
    assert "create 3g.40gb at slices 0-3" in second["summary"]
    assert result["diff"][1]["before"].count("3g.40gb") == 1
    assert result["diff"][1]["after"].count("3g.40gb") == 2


def test_what_is_not_possible_says_why(machine: t.Any) -> None:
    host = machine(H100)
    host.prepare("1g.10gb@1*")
    [found] = host.survey(selected="all-7g.80gb")["differences"]
    assert (found["id"], found["want"]) == ("d/mig/layout", "all-7g.80gb")
    assert "1g.10gb" in found["have"]
    [found] = host.survey(selected="no-such")["differences"]
    assert "is not the name of a layout" in found["have"]


def test_without_a_driver_nothing_is_opened(machine: t.Any) -> None:
    host = machine(H100)
    [found] = host.survey_without_driver(selected="all-balanced")["differences"]
    assert (found["name"], found["have"]) == ("layout", "the NVIDIA driver is not loaded")


@pytest.mark.parametrize("seed", range(20))
def test_survey_and_module_agree(machine: t.Any, seed: int) -> None:
    """Converged exactly when the module changes nothing."""
    dice = random.Random(seed)
    host = machine(H100)
    host.prepare(*[place for place in PLACES[:4] if dice.random() < 0.5])
    layout = dice.choice(["all-balanced", "all-enabled", "all-disabled", "all-1g.10gb", "all-3g.40gb"])
    if dice.random() < 0.4:
        host.run(selected=layout)
    host.forget_calls()
    surveyed = host.survey(selected=layout)
    assert host.calls() == []
    assert host.run(selected=layout)["changed"] is not surveyed["converged"]
    assert host.survey(selected=layout)["converged"]
