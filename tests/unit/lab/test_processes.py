# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
import settings


@pytest.fixture(autouse=True)
def lab_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LOGS", "RUN", "STATE"):
        monkeypatch.setattr(settings, name, tmp_path / name)
    yield
    for process in processes.all_recorded():
        processes.stop(process.name)


def test_a_started_process_is_found_again_and_not_started_twice() -> None:
    first = processes.start("sleeper", ["sleep", "60"])
    assert processes.start("sleeper", ["sleep", "60"]) == first
    assert processes.recorded("sleeper") == first
    assert first.alive


def test_a_stopped_process_is_gone_and_forgotten() -> None:
    process = processes.start("sleeper", ["sleep", "60"])
    processes.stop("sleeper")
    assert not process.alive
    assert processes.recorded("sleeper") is None


def test_one_that_ignores_the_polite_signal_is_killed() -> None:
    process = processes.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
    wait_for(lambda: "ready" in processes.log_of("stubborn").read_text())
    processes.stop("stubborn", seconds=0.2)
    assert not process.alive


def test_a_reused_pid_is_not_taken_for_ours() -> None:
    settings.RUN.mkdir(parents=True)
    (settings.RUN / "old.json").write_text(json.dumps({"pid": os.getpid(), "started": 1}))
    old = processes.recorded("old")
    assert old is not None
    assert not old.alive
    processes.stop("old")  # would end this very test run if it went by the pid alone


def test_output_goes_to_the_log_and_the_environment_carries_the_tag() -> None:
    processes.start("speaker", ["sh", "-c", f"echo tag=${settings.PROCESS_TAG}"])
    wait_for(lambda: processes.log_of("speaker").read_text() == f"tag={settings.STATE}\n")


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
