# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processor time of the module mig on a host where nothing differs: eight GPUs with seven instances each.

    python tests/perf/mig_run.py        exit code 1 over the budget

Runs the module as Ansible does on a host, in a Python of its own, on simulated GPUs.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mig_module import ModuleMachine, Server
from run_module import run_module

GPUS, BUDGET_SECONDS, RUNS = 8, 0.5, 5


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        machine = ModuleMachine(server, Path(folder) / "machine", ["H100-SXM"] * GPUS)
        assert machine.run(selected="all-1g.10gb")["changed"]
        environment = {name: machine.environment[name] for name in ("SILICON", "SILICON_DEV", "LD_LIBRARY_PATH")}
        seconds = min(measured(environment) for _run in range(RUNS))
        server.close()
    print(
        f"mig, {GPUS} GPUs with 7 instances each, nothing differs: {seconds:.2f} s of CPU (budget {BUDGET_SECONDS} s)"
    )
    return int(seconds > BUDGET_SECONDS)


def measured(environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_module("mig", {"selected": "all-1g.10gb"}, environment=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result["failed"] or result["changed"]:
        raise AssertionError(f"the run was to change nothing: {result}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
