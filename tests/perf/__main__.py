# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that changes nothing costs: `make perf`, on the lab that is up.

Ours (all of playbooks/site.yml) against tests/perf/plain, which does the hosts' part of the same work in the usual way,
in one sitting on the same hosts. Then the controller's processor time for more and more hosts.
"""

from __future__ import annotations

import json
import sys
import tempfile
import typing as t
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import observe
import yaml
from documents import survey_event

SITE = observe.ROOT / "playbooks" / "site.yml"
PLAIN = Path(__file__).resolve().parent / "plain" / "site.yml"
NAMES = (1, 3, 30)
SESSIONS_PER_HOST = 2


def main() -> int:
    hosts = observe.hosts()
    print("converging the hosts first ...", flush=True)
    observe.play(SITE).require_success()
    ours, our_sessions = counted(hosts, SITE)
    with wishes_file(ours, hosts) as wishes:
        observe.play(PLAIN, "--extra-vars", f"@{wishes}").require_success()
        plain, plain_sessions = counted(hosts, PLAIN, "--extra-vars", f"@{wishes}")
    print_comparison(hosts, (("onprem.gpu, all of site", ours, our_sessions), ("plain Ansible", plain, plain_sessions)))
    print_growth(hosts)
    return verdict(ours, plain, our_sessions)


def counted(hosts: list[str], playbook: Path, *words: str) -> tuple[observe.Run, dict[str, int]]:
    count = observe.SessionCount(hosts)
    run = observe.play(playbook, *words).require_success()
    return run, count.finish()


@contextmanager
def wishes_file(run: observe.Run, hosts: list[str]) -> Iterator[Path]:
    """A variables file with the documents that our run compared each host with."""
    wishes = {host: survey_event(run, host)["arguments"]["documents"] for host in hosts}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wishes.json"
        path.write_text(json.dumps({"wishes": wishes}))
        yield path


def print_comparison(hosts: list[str], rows: t.Iterable[tuple[str, observe.Run, dict[str, int]]]) -> None:
    print(f"\nA run that changes nothing, {len(hosts)} hosts\n")
    print(f"{'':24}  {'SSH sessions':>12}  {'tasks':>8}  {'changed':>7}  {'wall s':>7}  {'controller CPU s':>16}")
    print(f"{'':24}  {'per host':>12}  {'per host':>8}  {'':>7}  {'':>7}  {'per host':>16}")
    for name, run, sessions in rows:
        changed = sum(len(items) for items in run.changed_items().values())
        cpu = run.cpu_seconds / len(hosts)
        tasks = max(run.tasks().values())
        print(
            f"{name:24}  {max(sessions.values()):12}  {tasks:8}  {changed:7}  {run.seconds:7.1f}  {cpu:16.2f}",
            flush=True,
        )


def print_growth(hosts: list[str]) -> None:
    """Survey and plan of 1, 3 and 30 inventory names; where there are fewer hosts, several names stand for one."""
    print("\nController CPU of a site run that changes nothing\n")
    print(f"{'names':>5}  {'CPU s':>7}  {'per name':>8}  {'wall s':>7}")
    for names in NAMES:
        with inventory_of(hosts, names) as inventory:
            run = observe.play(SITE, inventory=inventory).require_success()
        print(f"{names:5}  {run.cpu_seconds:7.2f}  {run.cpu_seconds / names:8.2f}  {run.seconds:7.1f}", flush=True)


@contextmanager
def inventory_of(hosts: list[str], count: int) -> Iterator[Path]:
    """The lab's inventory with COUNT names, which stand for its hosts in turn and for their nodes."""
    source = yaml.safe_load((observe.INVENTORY / "hosts.yml").read_text())["all"]
    aliases = {f"perf-{number:02d}": hosts[number % len(hosts)] for number in range(count)}
    groups = {name: group_of_aliases(group, aliases) for name, group in source["children"].items()}
    everyone = {name: {**source["hosts"][host], "gpu_node_name": host} for name, host in aliases.items()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": everyone, "children": groups}}))
        for variables in ("group_vars", "host_vars"):
            if (observe.INVENTORY / variables).exists():
                (place / variables).symlink_to(observe.INVENTORY / variables)
        yield place


def group_of_aliases(group: dict[str, t.Any], aliases: dict[str, str]) -> dict[str, t.Any]:
    members = {name: None for name, host in aliases.items() if host in (group.get("hosts") or {})}
    return {**group, "hosts": members}


def verdict(ours: observe.Run, plain: observe.Run, sessions: dict[str, int]) -> int:
    problems = []
    if ours.changed_items() or plain.changed_items():
        problems.append(f"a run changed something: {ours.changed_items()} {plain.changed_items()}")
    if max(sessions.values()) > SESSIONS_PER_HOST:
        problems.append(f"more than {SESSIONS_PER_HOST} SSH sessions on a host: {sessions}")
    for problem in problems:
        print(f"perf: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
