# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program gpu-mig as it stands on a node, run as a process of its own on a machine with simulated GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing as t
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mig_module import ModuleMachine, Server

from ansible_collections.onprem.gpu.plugins.filter.mig_tool_files import FilterModule

# One that has neither Ansible nor nvidia-ml-py, where there is one; the program looks at nothing installed anyhow.
INTERPRETER = next(path for path in ("/usr/bin/python3", sys.executable) if os.path.exists(path))
PREFIX = "/usr/local"


def install(root: Path, interpreter: str = INTERPRETER) -> Path:
    """Write the files of the filter below a folder that stands for / and return the program."""
    for item in FilterModule().filters()["mig_tool_files"](interpreter):
        file = root / item["path"].lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if "src" in item:
            shutil.copyfile(item["src"], file)
        else:
            file.write_text(item["content"].replace(PREFIX, f"{root}{PREFIX}"))
        file.chmod(int(item["mode"], 8))
    return root / "usr/local/sbin/gpu-mig"


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class ToolMachine(ModuleMachine):
    """A machine that keeps a layout; what a node has in /etc and /run lies in its own folder."""

    def __init__(self, program: Path, server: Server, place: Path, models: Sequence[str]) -> None:
        super().__init__(server, place, models)
        self._program = program
        self.saved, self.state_file = place / "etc/mig.json", place / "run/onprem-gpu/mig.json"
        self.saved.parent.mkdir()

    def save(self, **wish: t.Any) -> None:
        self.saved.write_text(json.dumps(wish))

    def start(self, command: str, *options: str, **environment: str) -> subprocess.Popen[str]:
        files = {"--file": self.saved, "--state-file": self.state_file}
        known = {"apply": list(files), "plan": ["--file"], "show": list(files)}.get(command, [])
        names = ("LD_LIBRARY_PATH", "SILICON", "SILICON_DEV")
        return subprocess.Popen(
            [self._program, command, *(word for name in known for word in (name, str(files[name]))), *options],
            env={**{name: self.environment[name] for name in names}, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=0o077,  # as careful as an administrator's shell can be
        )

    def tool(self, command: str, *options: str, **environment: str) -> Ended:
        process = self.start(command, *options, **environment)
        out, err = process.communicate()
        assert "Traceback" not in err, err
        return Ended(process.returncode, out, err)

    def last(self) -> dict[str, t.Any] | None:
        """What the last apply left for everybody to read."""
        try:
            return t.cast("dict[str, t.Any]", json.loads(self.state_file.read_text()))
        except FileNotFoundError:
            return None

    def unload_driver(self) -> None:
        with self.edit() as state:
            self._loaded = state.pop("module.nvidia")

    def load_driver(self) -> None:
        with self.edit() as state:
            state["module.nvidia"] = self._loaded

    def shapes(self, gpu: int = 0) -> list[str]:
        """The instances without their places, sorted: what a layout says of them."""
        return sorted(name + mark[len(mark.rstrip("+-")) :] for name, _at, mark in self._present(gpu))

    def _present(self, gpu: int) -> list[tuple[str, str, str]]:
        return [instance.partition("@") for instance in self.present(gpu)]
