# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of the gates: what cannot run has failed, and the last line says how many did."""

from __future__ import annotations

import sys
import typing as t

import pytest
from gates import runner
from gates.runner import Gate, Runner


@pytest.fixture(autouse=True)
def logs(tmp_path: t.Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOGS", tmp_path)
    monkeypatch.setattr(runner, "ROOT", tmp_path)


def gate(name: str, *commands: tuple[str, ...], minutes: float = 1, **more: t.Any) -> Gate:
    return Gate(name, "a rule", commands, minutes=minutes, prepare=lambda: runner.ROOT, **more)


def run(*gates: Gate) -> int:
    started = Runner({one.name for one in gates})
    started.run_in_order(gates)
    return started.finish()


def test_all_passed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(gate("a", ("true",)), gate("b", ("true",))) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 0 failed"


@pytest.mark.parametrize("command", [("false",), ("/no/such/program",)], ids=["fails", "cannot run"])
def test_what_fails_or_cannot_run_has_failed(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(gate("a", ("true",), command), gate("b", ("true",))) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 1 failed"


def test_gate_without_what_it_needs_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(gate("lab", ("false",)), gate("journey", ("true",), needs="lab")) == 1
    shown = capsys.readouterr().out
    assert "not run, because 'lab' did not pass" in shown
    assert shown.splitlines()[-1] == "0 passed, 2 failed"


def test_gate_asked_for_alone_runs_without_what_it_needs() -> None:
    assert run(gate("journey", ("true",), needs="lab")) == 0


def test_a_gate_beside_another_runs_while_that_one_does(tmp_path: t.Any) -> None:
    """Each waits for what the other one makes."""
    meet = "touch {0}; for i in $(seq 100); do [ -e {1} ] && exit 0; sleep 0.05; done; exit 1"
    first, second = ("sh", "-c", meet.format("a", "b")), ("sh", "-c", meet.format("b", "a"))
    assert run(gate("molecule", first), gate("cluster", second, beside="molecule"), gate("last", ("true",))) == 0
    assert run(gate("a", ("rm", "a", "b")), gate("b", ("test", "!", "-e", "a"))) == 0


def test_time_limit_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(gate("slow", (sys.executable, "-c", "import time; time.sleep(60)"), minutes=0.005)) == 1
    assert "time limit" in capsys.readouterr().out


def test_end_of_the_log_is_shown_for_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    run(gate("a", ("sh", "-c", "echo the reason; exit 3")))
    assert "    | the reason" in capsys.readouterr().out
