# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wish as options and as a file; what a bad file says is tried with the program itself, in tests/mig."""

from __future__ import annotations

import json
import typing as t

import pytest
from mig_notation import make_gpu

from ansible_collections.onprem.gpu.plugins.module_utils.mig_config import select
from ansible_collections.onprem.gpu.plugins.module_utils.mig_wish import (
    SavedWishError,
    Wish,
    saved_wish,
    wish_of,
    wish_problems,
)

LAYOUT = [{"devices": "all", "mig-enabled": True, "mig-devices": {"3g.40gb": 2}}]
CONFIG = {"version": "v1", "mig-configs": {"halves": LAYOUT}}

GOOD: tuple[dict[str, t.Any], ...] = (
    {"selected": "all-balanced"},
    {"config": None, "selected": "all-balanced", "layout": None, "reset": None},
    {"config": CONFIG, "selected": "halves", "reset": True},
    {"layout": LAYOUT},
    {"layout": LAYOUT, "selected": None, "config": None, "reset": False},
)


@pytest.mark.parametrize("options", GOOD)
def test_a_file_is_read_as_the_same_options_are(options: dict[str, t.Any]) -> None:
    assert saved_wish(json.dumps(options), "mig.json") == wish_of(options)
    assert wish_of(options).reset is bool(options.get("reset"))


def test_a_layout_that_stands_for_itself_is_the_same_as_one_by_name() -> None:
    gpus = [make_gpu("H100-80GB")]
    named, inline = wish_of({"config": CONFIG, "selected": "halves"}), wish_of({"layout": LAYOUT})
    assert select(named.document, named.selected, gpus) == select(inline.document, inline.selected, gpus)
    assert inline.selected == "layout"


def test_other_options_of_the_module_are_no_part_of_the_wish() -> None:
    assert wish_of({"selected": "a", "lock_timeout_seconds": 5}) == Wish(None, "a")


def test_all_mistakes_are_told_at_once() -> None:
    problems = wish_problems({"selected": 7, "reset": "no", "layuot": []})
    assert [problem.entry for problem in problems] == ["wish", "selected", "reset"]
    with pytest.raises(SavedWishError) as told:
        saved_wish('{"selected": 7, "reset": "no", "layuot": []}', "/etc/onprem-gpu/mig.json")
    assert all(str(problem) in str(told.value) for problem in problems)


def test_a_file_that_never_ends_is_no_json() -> None:
    with pytest.raises(SavedWishError, match="is not JSON"):
        saved_wish("[" * 100_000, "mig.json")
