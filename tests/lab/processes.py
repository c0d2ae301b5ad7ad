# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's background processes: started detached, found again by pid and start time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import settings


@dataclass(frozen=True)
class Process:
    """A process as the lab recorded it; the start time tells it from a later one with the same pid."""

    name: str
    pid: int
    started: int  # in clock ticks since boot, as in /proc/PID/stat

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.started


def start(name: str, argv: Sequence[str | os.PathLike[str]], env: Mapping[str, str] | None = None) -> Process:
    """Start a program in the background and record it, unless it runs already; its output goes to log/NAME.log."""
    running = recorded(name)
    if running is not None and running.alive:
        return running
    settings.LOGS.mkdir(parents=True, exist_ok=True)
    settings.RUN.mkdir(parents=True, exist_ok=True)
    with log_of(name).open("ab") as log:
        child = subprocess.Popen(
            [os.fspath(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, **(env or {}), settings.PROCESS_TAG: str(settings.STATE)},
            start_new_session=True,
        )
    process = Process(name, child.pid, start_time(child.pid) or 0)
    (settings.RUN / f"{name}.json").write_text(json.dumps({"pid": process.pid, "started": process.started}))
    return process


def recorded(name: str) -> Process | None:
    """Return what was recorded about a process, running or not."""
    try:
        content = json.loads((settings.RUN / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return Process(name, content["pid"], content["started"])


def all_recorded() -> list[Process]:
    """Return every process this lab has recorded."""
    names = sorted(path.stem for path in settings.RUN.glob("*.json"))
    return [process for name in names if (process := recorded(name)) is not None]


def stop(name: str, seconds: float = 5.0) -> None:
    """End a recorded process: politely first, by force when it does not go within ``seconds``."""
    process = recorded(name)
    if process is not None and process.alive:
        end([process.pid], seconds)
    (settings.RUN / f"{name}.json").unlink(missing_ok=True)


def end(pids: Sequence[int], seconds: float) -> None:
    """End processes by pid; SIGKILL after ``seconds``, at once when that is 0. Returns when they are gone."""
    started = {pid: start_time(pid) for pid in pids}
    polite = [(signal.SIGTERM, seconds)] if seconds else []
    for signal_number, patience in (*polite, (signal.SIGKILL, 5.0)):
        for pid, ticks in started.items():
            if ticks is not None and start_time(pid) == ticks:
                _signal(pid, signal_number)
        deadline = time.monotonic() + patience
        while any(ticks is not None and start_time(pid) == ticks for pid, ticks in started.items()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return


def start_time(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot), or None when there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def log_of(name: str) -> Path:
    """Return where a process writes its output."""
    return settings.LOGS / f"{name}.log"


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
