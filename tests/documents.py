# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The items of the state documents that a run compared a host with, for tests that look at each of them."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from observe import Event, ObservationError, Run

SURVEY = "onprem.gpu.survey"

# section of a document -> kind of its differences and where the name is
SECTIONS = {
    "packages": ("package", "name"),
    "files": ("file", "path"),
    "generated": ("generated", "path"),
    "modules": ("module", "name"),
    "services": ("service", "name"),
    "checkpoints": ("checkpoint", "path"),
}
# kind -> the word with which tests/host_state.py names it
STATE_WORDS = {
    "package": "package",
    "hold": "hold",
    "file": "file",
    "generated": "file",
    "module": "module",
    "service": "service",
}


@dataclass(frozen=True)
class Item:
    """One thing a document wants; `id` is the id of its difference."""

    document: str
    kind: str
    name: str
    wish: dict[str, t.Any]

    @property
    def id(self) -> str:
        return f"{self.document}/{self.kind}/{self.name}"

    @property
    def state_key(self) -> str | None:
        """Its key in a host's state; None when that state cannot show it."""
        word = STATE_WORDS.get(self.kind)
        return f"{word} {self.name}" if word else None


def survey_event(run: Run, host: str) -> Event:
    """The last survey of HOST in a run."""
    for event in reversed(run.events):
        if event["event"] == "result" and event["action"] == SURVEY and event["host"] == host:
            return event
    raise ObservationError(f"{host} was not surveyed, see {run.log}")


def items(run: Run, host: str) -> list[Item]:
    """Every item of every document that the run compared HOST with, and a hold for each package that wants one."""
    found = []
    for document, content in survey_event(run, host)["arguments"]["documents"].items():
        for section, (kind, key) in SECTIONS.items():
            for wish in content.get(section) or []:
                found.append(Item(document, kind, wish[key], wish))
                if kind == "package" and wish.get("hold"):
                    found.append(Item(document, "hold", wish[key], wish))
    return found


def differences(run: Run, host: str) -> dict[str, dict[str, t.Any]]:
    """What the last survey of HOST found, by id."""
    result = survey_event(run, host)["result"]
    return {difference["id"]: difference for difference in result["differences"]}


def traceable_differences(run: Run, host: str) -> set[str]:
    """Ids of the differences that show in a host's state: a service that is only restarted looks as before.

    An interrupted transaction is one difference of a document and shows in the packages it names.
    """
    found = differences(run, host)
    traceable = {name for name, difference in found.items() if not _only_restarts(difference)}
    return traceable.union(*(_half_installed(difference) for difference in found.values()))


def _only_restarts(difference: dict[str, t.Any]) -> bool:
    return difference["kind"] == "service" and str(difference["want"]).startswith("restarted for")


def _half_installed(difference: dict[str, t.Any]) -> set[str]:
    """Of "libcuda1 is unpacked, nvidia-smi is half-configured" the ids of the packages."""
    if difference["kind"] != "unfinished":
        return set()
    return {f"{difference['document']}/package/{told.split(' is ')[0]}" for told in difference["have"].split(", ")}


def converged(run: Run, host: str) -> bool:
    return bool(survey_event(run, host)["result"]["converged"])
