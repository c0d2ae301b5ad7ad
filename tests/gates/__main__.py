# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All gates of the project: `python tests/gates check|test|slow`, or the names of gates.

check: gates and unit tests, no lab. test: those, and on a fresh lab the journey, molecule and the contracts. slow: the
random tests with all their tries and the measurements, on a fresh lab.
"""

from __future__ import annotations

import argparse
import os
import sys

from collection_copy import copy_for_ansible_test, copy_for_documentation
from runner import ROOT, Command, Gate, Runner

PYTHON = sys.executable
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
LAB = (PYTHON, "tests/lab")
# They need the control plane and no host, so they run while molecule is at work on the hosts.
CLUSTER_TESTS = ("test_nodes.py", "test_drain.py", "test_maintenance.py")
OWN_GATE_TESTS = (
    *CLUSTER_TESTS,
    "test_lab_takedown.py",
    "test_journey.py",
    "test_survey_honesty.py",
    "test_kill_anywhere.py",
    "test_partition_disturbed.py",
    "test_maintain.py",
    "test_maintenance_thousand.py",
)
TYPED_FOLDERS = tuple(
    path
    for path in ("tests/gates", "tests/lab", "tests/mig", "tests/perf", "tests/integration")
    if (ROOT / path).is_dir()
)


def pytest(*words: str) -> Command:
    return (PYTHON, "-m", "pytest", "-q", "--durations=10", *words)


def integration(*names: str) -> Command:
    return pytest(*(f"tests/integration/{name}" for name in names))


# The longest first: they share the machine's cores.
STATIC = (
    Gate(
        name="sanity",
        shows="ansible-test's own checks of plugins and documentation",
        commands=(("ansible-test", "sanity", "--python", PYTHON_VERSION, "--color", "no"),),
        prepare=copy_for_ansible_test,
    ),
    Gate(
        name="unit",
        shows="unit tests",
        commands=(pytest("tests/unit"),),
    ),
    Gate(
        name="ansible-lint",
        shows="roles and playbooks, profile production",
        commands=(("ansible-lint", "--nocolor"),),
    ),
    Gate(
        name="docs",
        shows="documentation of every plugin and role is complete",
        commands=(
            ("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "all", "."),
        ),
        prepare=copy_for_documentation,
    ),
    Gate(
        name="install",
        shows="builds, installs from the tarball, runs from there",
        commands=((PYTHON, "tests/gates/installed_collection.py"),),
    ),
    Gate(
        name="types",
        shows="static types of plugins, lab and tests",
        commands=(
            ("mypy", "-p", "ansible_collections.onprem.gpu.plugins"),
            *(("env", f"MYPYPATH={folder}:tests:tests/lab", "mypy", folder) for folder in TYPED_FOLDERS),
        ),
    ),
    Gate(
        name="ruff",
        shows="Python lint and format",
        commands=(("ruff", "check", "--output-format", "concise", "."), ("ruff", "format", "--check", ".")),
    ),
    Gate(
        name="yamllint",
        shows="YAML style",
        commands=(("yamllint", "--strict", "."),),
    ),
    Gate(
        name="changelog",
        shows="changelog fragments",
        commands=(("antsibull-changelog", "lint"),),
    ),
)

MIG = Gate(
    name="mig",
    shows="MIG on simulated GPUs: known cases, failing calls, bad input; plans against an oracle",
    commands=(pytest("tests/mig", "tests/unit/plugins/module_utils/mig"),),
    environment=(("CASES", "20000"),),
)
TAKEDOWN = Gate(
    name="takedown",
    shows="a killed, lost or foreign lab leaves nothing behind",
    commands=(integration("test_lab_takedown.py"),),
    minutes=40,
)
LAB_UP = Gate(
    name="lab-up",
    shows="a fresh lab: cluster, repositories, bare hosts",
    commands=((*LAB, "down"), (*LAB, "up")),
    minutes=40,
)
LAB_DOWN = Gate(
    name="lab-down",
    shows="the lab leaves nothing behind",
    commands=((*LAB, "down"),),
    minutes=5,
)
ON_LAB = (
    Gate(
        name="journey",
        shows="bare hosts to GPUs in service, then a run that changes nothing",
        commands=(integration("test_journey.py"),),
        minutes=20,
        needs="lab-up",
    ),
    Gate(
        name="molecule",
        shows="converge, idempotence, check mode, verify",
        commands=(("molecule", "test", "--all"),),
        minutes=20,
        needs="lab-up",
    ),
    Gate(
        name="cluster",
        shows="nodes, drain and the books of maintenance on the real control plane",
        commands=(integration(*CLUSTER_TESTS),),
        minutes=20,
        needs="lab-up",
        beside="molecule",
    ),
    Gate(
        name="contract",
        shows="modules and roles against real daemons",
        commands=((*integration(""), *(f"--ignore=tests/integration/{name}" for name in OWN_GATE_TESTS)),),
        minutes=40,
        needs="lab-up",
    ),
)
SLOW = (
    Gate(
        name="honesty",
        shows="the survey agrees with a full run",
        commands=(integration("test_survey_honesty.py"),),
        minutes=60,
        needs="lab-up",
    ),
    Gate(
        name="kill",
        shows="killed anywhere, a rerun ends the same (20 tries)",
        commands=(integration("test_kill_anywhere.py"),),
        minutes=150,
        environment=(("TRIES", "20"),),
        needs="lab-up",
    ),
    Gate(
        name="partition",
        shows="a node that is partitioned in service: killed runs, failing calls, boots without a layout",
        commands=(integration("test_partition_disturbed.py"),),
        minutes=60,
        needs="lab-up",
    ),
    Gate(
        name="maintain",
        shows="rolling maintenance under load: new drivers, one that is taken back, runs that are disturbed",
        commands=(integration("test_maintain.py", "test_maintenance_thousand.py"),),
        minutes=60,
        needs="lab-up",
    ),
    Gate(
        name="perf",
        shows="speed of a run that changes nothing",
        commands=tuple((PYTHON, f"tests/perf/{name}") for name in ("", "mig_plan.py", "mig_run.py", "drain.py")),
        minutes=20,
        needs="lab-up",
    ),
)
SUITES = {
    "check": STATIC,
    "test": (*STATIC, MIG, TAKEDOWN, LAB_UP, *ON_LAB, LAB_DOWN),
    "slow": (LAB_UP, *SLOW, LAB_DOWN),
}
BY_NAME = {gate.name: gate for gate in (*STATIC, MIG, TAKEDOWN, LAB_UP, *ON_LAB, *SLOW, LAB_DOWN)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/gates", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*SUITES, *BY_NAME], metavar="NAME", help=", ".join(BY_NAME))
    gates = chosen_gates(parser.parse_args().names)
    runner = Runner({gate.name for gate in gates})
    runner.run_together([gate for gate in gates if gate in STATIC], at_once=min(2, os.cpu_count() or 1))
    runner.run_in_order([gate for gate in gates if gate not in STATIC])
    return runner.finish()


def chosen_gates(names: list[str]) -> list[Gate]:
    """Gates of suites and single gates, each once, in the order asked for."""
    gates = [gate for name in names for gate in SUITES.get(name) or (BY_NAME[name],)]
    return list(dict.fromkeys(gates))


if __name__ == "__main__":
    sys.exit(main())
