# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module mig on a machine with simulated GPUs, each run in a process of its own.

What is there is read from the simulation's own files, never through the collection, so that both can be compared.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import typing as t
from collections.abc import Iterator, Sequence
from pathlib import Path

import pynvml
from mig_machine import MigMachine, compile_library

ROOT = Path(__file__).resolve().parent.parent

# Preloads what takes long, then runs each request in a process of its own, which alone opens the library.
SERVER = """
import io, json, os, sys, importlib
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
names = ("mig", "survey")
modules = {name: importlib.import_module("ansible_collections.onprem.gpu.plugins.modules." + name) for name in names}
mig_run = importlib.import_module("ansible_collections.onprem.gpu.plugins.module_utils.mig_run")
mig_host = importlib.import_module("ansible_collections.onprem.gpu.plugins.module_utils.mig_host")

def module(name, arguments):
    if arguments.pop("_impatient", False):
        mig_run.PAUSES_SECONDS = (0.0,) * len(mig_run.PAUSES_SECONDS)
    root, user = arguments.pop("_root"), arguments.pop("_user")
    if user:
        os.seteuid(user)
    mig_host.Host = modules["survey"].Host = lambda host=mig_host.Host: host(root)
    with patch_module_args(arguments):
        modules[name].main()

for line in sys.stdin:
    request = json.loads(line)
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writable, 1)
        os.environ.update(request["environment"])
        code = 1
        try:
            module(*request["module"])
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException as error:
            import traceback
            print(json.dumps({"crashed": traceback.format_exc()}))
        sys.stdout.flush()
        os._exit(code)
    os.close(writable)
    with os.fdopen(readable) as answer:
        output = answer.read()
    os.waitpid(child, 0)
    print(json.dumps(output), flush=True)
"""


class Server:
    """One process that has everything loaded but NVML."""

    def __init__(self, folder: Path) -> None:
        self.library = compile_library(folder)
        paths = [str(ROOT / ".build" / "collections"), str(Path(pynvml.__file__).parent)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env={**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, arguments: dict[str, t.Any], environment: dict[str, str]) -> dict[str, t.Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"module": [module, arguments], "environment": environment}) + "\n")
        self._process.stdin.flush()
        result = json.loads(json.loads(self._process.stdout.readline()))
        if "crashed" in result:
            raise AssertionError(result["crashed"])
        return {"failed": False, **{key: value for key, value in result.items() if key != "invocation"}}

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class ModuleMachine(MigMachine):
    """One GPU after the other, by the models' names in the lab's fleet files."""

    def __init__(self, server: Server, place: Path, models: Sequence[str], *, passthrough: bool = False) -> None:
        super().__init__(place, server.library, models, passthrough=passthrough)
        self._server = server
        self.root = place / "root"  # what the module takes for the host's files
        self.root.mkdir()

    # --- what a test prepares ---

    def prepare(self, *instances: str, gpu: int = 0) -> None:
        """Switch MIG on and make instances: "3g.20gb@4", with * after it in use, with - without a compute instance."""
        self.put(gpu, *(instance.rstrip("*-") for instance in instances))
        for instance in instances:
            place = self._place(gpu, int(instance.rstrip("*-").rpartition("@")[2]))
            if instance.endswith("*"):
                self.mark_busy(f"{place}.ci.0", 1)
            if instance.endswith("-"):
                with self.edit() as state:
                    del state[f"{place}.ci.0"]

    def forget_calls(self) -> None:
        (self.silicon / "nvml.calls").write_text("")

    # --- what the module does ---

    def run(
        self, check_mode: bool = False, impatient: bool = False, user: int = 0, **options: t.Any
    ) -> dict[str, t.Any]:
        """impatient: what is in use is asked again at once; user: number of the user who runs the module."""
        arguments = {**options, "_ansible_check_mode": check_mode, "_ansible_diff": True, "_impatient": impatient}
        return self._run("mig", arguments, user)

    def survey(self, **wish: t.Any) -> dict[str, t.Any]:
        """What the module survey says of a document that wants this layout, the driver's loaded version being there."""
        version = self.root / "proc/driver/nvidia/version"
        version.parent.mkdir(parents=True, exist_ok=True)
        version.write_bytes((self.silicon / "proc/driver/nvidia/version").read_bytes())
        return self.survey_without_driver(**wish)

    def survey_without_driver(self, **wish: t.Any) -> dict[str, t.Any]:
        return self._run("survey", {"documents": {"d": {"mig": {**wish, "disrupts": "gpu"}}}}, 0)

    def _run(self, module: str, arguments: dict[str, t.Any], user: int) -> dict[str, t.Any]:
        own = {name: self.environment[name] for name in ("SILICON", "SILICON_DEV")}
        return self._server.run(module, {**arguments, "_root": str(self.root), "_user": user}, own)

    def layout(self, *entries: str, gpu: int = 0, check_mode: bool = False, **options: t.Any) -> dict[str, t.Any]:
        """Ask one GPU for instances: layout("3g.20gb", "1g.5gb")."""
        counts = {name: entries.count(name) for name in entries}
        wanted = [{"devices": [gpu], "mig-enabled": True, "mig-devices": counts}]
        return self.run(check_mode, layout=wanted, **options)

    # --- what is there ---

    def present(self, gpu: int = 0) -> list[str]:
        """The GPU instances as profile@start, by start; + follows for each compute instance over one, - for none."""
        state = self.state()
        found = []
        for place, (number, start) in self._instances(gpu).items():
            computes = sum(bool(re.fullmatch(re.escape(place) + r"\.ci\.\d+", key)) for key in state)
            found.append((start, f"{self._names(gpu)[number]}@{start}{'-' if not computes else '+' * (computes - 1)}"))
        return [text for _start, text in sorted(found)]

    def identities(self, gpu: int = 0) -> dict[int, str]:
        """Start -> all the simulation knows of the instance there and its compute instances, ids and UUIDs included."""
        state = self.state()
        return {
            start: json.dumps(
                {key: value for key, value in state.items() if key == place or key.startswith(f"{place}.")}
            )
            for place, (_number, start) in self._instances(gpu).items()
        }

    def mode(self, gpu: int = 0) -> tuple[int, int]:
        """Current and pending."""
        state = self.state()
        current = int(state.get(f"gpu.{gpu}.mig.mode", "0"))
        return current, int(state.get(f"gpu.{gpu}.mig.pending", str(current)))

    def _place(self, gpu: int, start: int) -> str:
        return next(place for place, (_number, at) in self._instances(gpu).items() if at == start)

    def _instances(self, gpu: int) -> dict[str, tuple[int, int]]:
        """Key of the state -> profile id, start."""
        return dict(self._read_instances(gpu))

    def _read_instances(self, gpu: int) -> Iterator[tuple[str, tuple[int, int]]]:
        for key, value in self.state().items():
            if re.fullmatch(rf"gpu\.{gpu}\.gi\.\d+", key):
                number, start, *_rest = value.split()
                yield key, (int(number), int(start))

    def _names(self, gpu: int) -> dict[int, str]:
        """Profile id -> name."""
        lines = (self.silicon / "board").read_text().splitlines()
        profiles = [line.split("=", 1)[1].split() for line in lines if line.startswith(f"gpu.{gpu}.mig.profile.")]
        return {int(words[1]): words[0] for words in profiles}
