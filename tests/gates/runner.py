# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run gates, show progress while they run and one summary at the end.

A gate is a list of commands that must all succeed. Its output goes to a log file of its own; the summary ends with the
end of the log of each gate that failed. What cannot run has failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV_BIN = ROOT / ".venv" / "bin"
LOGS = ROOT / ".build" / "logs"
LOG_LINES_SHOWN = 40

Command = Sequence[str | Path]


@dataclass(frozen=True)
class Gate:
    """One thing that must hold.

    `prepare` runs first and gives the folder in which the commands run. When the gate that `needs` names is part of the
    same run and did not pass, this one does not run either, which is a failure.
    """

    name: str
    shows: str
    commands: tuple[Command, ...]
    minutes: float = 10
    prepare: Callable[[], Path] = lambda: ROOT
    environment: tuple[tuple[str, str], ...] = ()
    needs: str | None = None
    beside: str | None = None  # runs at the same time as the gate of this name, if that comes right before


@dataclass(frozen=True)
class Outcome:
    gate: Gate
    seconds: float
    problem: str | None

    @property
    def passed(self) -> bool:
        return self.problem is None


class Runner:
    """Keeps the outcomes of one run and prints them as they come."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.outcomes: list[Outcome] = []
        self.started = time.monotonic()
        LOGS.mkdir(parents=True, exist_ok=True)

    def run_together(self, gates: Sequence[Gate], at_once: int) -> None:
        """Gates that do not disturb each other, AT_ONCE at a time; the longest should come first."""
        with ThreadPoolExecutor(at_once) as pool:
            for done in as_completed([pool.submit(run_gate, gate) for gate in gates]):
                self._record(done.result())

    def run_in_order(self, gates: Sequence[Gate]) -> None:
        for group in grouped(gates):
            ready = [gate for gate in group if self._is_ready(gate)]
            if ready:
                self.run_together(ready, at_once=len(ready))

    def _is_ready(self, gate: Gate) -> bool:
        self._say(f"{gate.name}: {gate.shows} (log: {log_path(gate).relative_to(ROOT)})")
        if gate.needs not in self.names or self._has_passed(gate.needs):
            return True
        log_path(gate).unlink(missing_ok=True)
        self._record(Outcome(gate, 0.0, f"not run, because '{gate.needs}' did not pass"))
        return False

    def finish(self) -> int:
        """Print the summary; the exit code is 0 only when every gate passed."""
        failed = [outcome for outcome in self.outcomes if not outcome.passed]
        width = max(len(outcome.gate.name) for outcome in self.outcomes)
        print(f"\n{'gate':{width}}  {'result':6}  {'seconds':>7}  what it shows")
        for outcome in self.outcomes:
            result = "passed" if outcome.passed else "FAILED"
            print(f"{outcome.gate.name:{width}}  {result}  {outcome.seconds:7.1f}  {outcome.gate.shows}")
        for outcome in failed:
            print(f"\n{outcome.gate.name}: {outcome.problem}")
            print("".join(f"    | {line}\n" for line in last_lines(log_path(outcome.gate))), end="")
        print(f"\nlogs: {LOGS.relative_to(ROOT)}, {self._elapsed()} in all")
        print(f"{len(self.outcomes) - len(failed)} passed, {len(failed)} failed", flush=True)
        return 1 if failed else 0

    def _has_passed(self, name: str) -> bool:
        return any(outcome.gate.name == name and outcome.passed for outcome in self.outcomes)

    def _record(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        result = "ok" if outcome.passed else f"FAILED: {outcome.problem}"
        self._say(f"{len(self.outcomes)}/{len(self.names)} {outcome.gate.name} {result} ({outcome.seconds:.1f} s)")

    def _say(self, text: str) -> None:
        print(f"[{self._elapsed()}] {text}", flush=True)

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{minutes:02d}:{seconds:02d}"


def grouped(gates: Sequence[Gate]) -> list[list[Gate]]:
    """The gates in their order; those that may run beside the one before are in a list with it."""
    groups: list[list[Gate]] = []
    for gate in gates:
        if groups and gate.beside == groups[-1][0].name:
            groups[-1].append(gate)
        else:
            groups.append([gate])
    return groups


def log_path(gate: Gate) -> Path:
    return LOGS / f"{gate.name}.log"


def last_lines(path: Path) -> list[str]:
    """The end of a log; a gate that never ran has none."""
    return path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:] if path.exists() else []


def run_gate(gate: Gate) -> Outcome:
    started = time.monotonic()
    problem = None
    with log_path(gate).open("w") as log:
        try:
            folder = gate.prepare()
            deadline = started + gate.minutes * 60
            for command in gate.commands:
                problem = run_command(command, folder, dict(gate.environment), log.fileno(), deadline)
                if problem:
                    break
        except Exception as error:  # what stops one gate must not stop the others
            problem = f"could not run: {error}"
            log.write(f"{problem}\n")
    return Outcome(gate, time.monotonic() - started, problem)


def run_command(command: Command, folder: Path, extra: dict[str, str], log: int, deadline: float) -> str | None:
    """What went wrong, or None. The whole process group ends with the deadline (time.monotonic() seconds)."""
    words = [str(word) for word in command]
    os.write(log, f"$ {' '.join(words)}\n".encode())
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=gate_environment(extra),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        code = process.wait(timeout=max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        stop_group(process)
        return f"'{words[0]}' was still running at the gate's time limit"
    except BaseException:
        stop_group(process)
        raise
    return None if code == 0 else f"'{' '.join(words[:4])} ...' ended with exit code {code}"


def stop_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def gate_environment(extra: dict[str, str]) -> dict[str, str]:
    """The caller's environment with the pinned tools first on PATH, this checkout's collections, and plain output."""
    return {
        **os.environ,
        "PATH": f"{VENV_BIN}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".build" / "collections"),
        "PYTHONPATH": str(ROOT / ".build" / "collections"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
        **extra,
    }
