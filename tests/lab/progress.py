# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Named steps with elapsed time, each with its own log file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


class LabError(Exception):
    """Something a person can act on; the text is the whole message."""


class Step:
    """One step of a run: says what it does, runs commands and keeps all their output in one log file."""

    def __init__(self, title: str, log: Path) -> None:
        self.title = title
        self.log = log
        self._log_file = log.open("a", encoding="utf-8")

    def say(self, text: str) -> None:
        """Print one line of progress inside the step, and log it."""
        print(f"           {text}", flush=True)
        self._write(text + "\n")

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        check: bool = True,
    ) -> str:
        """Run a command and return its standard output; both its outputs are logged.

        Raises LabError with the last line of the error output when it fails and ``check`` is true.
        """
        words = [os.fspath(word) for word in argv]
        self._write("$ " + " ".join(words) + "\n")
        done = subprocess.run(
            words,
            input=stdin or "",
            env={**os.environ, **(env or {})},
            cwd=cwd,
            text=True,
            capture_output=True,
            check=False,
        )
        self._write(done.stdout + done.stderr)
        if check and done.returncode != 0:
            last_line = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise LabError(f"{Path(words[0]).name} ended with status {done.returncode}: {last_line}")
        return done.stdout

    def close(self) -> None:
        self._log_file.close()

    def _write(self, text: str) -> None:
        self._log_file.write(text)
        self._log_file.flush()


class Progress:
    """A run of several steps."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started = time.monotonic()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Print the title when the step starts, its duration when it ends; a failure names the log."""
        self._logs.mkdir(parents=True, exist_ok=True)
        step = Step(title, self._logs / (title.lower().replace(" ", "-").replace("/", "-") + ".log"))
        started = time.monotonic()
        print(f"[{self.elapsed:6.1f} s] {title}", flush=True)
        try:
            yield step
        except (LabError, OSError, subprocess.SubprocessError) as error:
            raise LabError(f"step '{title}' failed: {error} (log: {step.log})") from error
        finally:
            step.close()
        seconds = time.monotonic() - started
        if seconds >= 1:
            print(f"           {title}: {seconds:.1f} s", flush=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started
