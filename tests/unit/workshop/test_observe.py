# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests on the lab read out of a playbook run."""

from __future__ import annotations

import typing as t
from pathlib import Path

from observe import Run, complete_lines, differing, item_name


def event(kind: str, status: str, **more: t.Any) -> dict[str, t.Any]:
    return {"event": kind, "status": status, "host": "a", "role": None, "task": "x", "item": None, "result": {}, **more}


def run(*events: dict[str, t.Any]) -> Run:
    return Run((), 0, 1.0, 1.0, Path("log"), list(events))


def test_loop_counts_its_items_and_not_their_sum() -> None:
    looped = run(event("item", "changed", item="1"), event("item", "ok", item="2"), event("result", "changed"))
    assert looped.changed_items() == {"a": ["x : 1"]}


def test_task_without_a_loop_counts_once() -> None:
    assert run(event("result", "changed", role="r")).changed_items() == {"a": ["r : x"]}


def test_skipped_tasks_are_no_tasks() -> None:
    assert run(event("result", "skipped"), event("result", "ok", task="y")).tasks() == {"a": 1}


def test_ignored_failures_are_no_failures() -> None:
    assert run(event("result", "ignored", result={"msg": "m"})).failures() == []
    assert run(event("result", "failed", result={"msg": "m"})).failures() == ["a: x: m"]


def test_items_without_a_name_show_their_value() -> None:
    assert item_name(event("item", "ok", item={"path": "/x"})) == 'x : {"path": "/x"}'


def test_line_that_is_still_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text('{"n": 1}\n{"n":')
    with path.open() as lines:
        assert list(complete_lines(lines)) == [{"n": 1}]
        with path.open("a") as more:
            more.write(" 2}\n")
        assert list(complete_lines(lines)) == [{"n": 2}]


def test_differing_knows_what_came_and_what_went() -> None:
    assert differing({"a": "1", "b": "2"}, {"b": "2", "c": "3"}) == {"a": ("1", None), "c": (None, "3")}
