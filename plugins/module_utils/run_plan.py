# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of a run for people: per host what differs and what changing it disrupts.

Pure. Differences are those of onprem.gpu.survey; see docs/architecture.md.
"""

from __future__ import annotations

import typing as t

DISRUPTIONS = ("reboot", "gpu", "runtime", "kubelet")  # what hurts most comes first
DISRUPTION_WORDS = {"none": "", **{name: name for name in DISRUPTIONS}}

Difference = t.Mapping[str, t.Any]


def plan_lines(differences: t.Sequence[Difference], host: str) -> list[str]:
    """Return a heading and one line per document and kind of item, in the order in which roles write them."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for item in _without_implied_holds(differences):
        names.setdefault((item["document"], item["disrupts"], item["kind"]), []).append(item["name"])
    rows = [(document, disrupts, f"{kind}: {', '.join(found)}") for (document, disrupts, kind), found in names.items()]
    return [_heading(differences, host), *_aligned(rows)]


def difference_lines(differences: t.Sequence[Difference], host: str) -> list[str]:
    """Return a heading and one line per difference, saying what is there now."""
    rows = [(item["document"], item["disrupts"], item["summary"]) for item in differences]
    return [_heading(differences, host), *_aligned(rows)]


def _heading(differences: t.Sequence[Difference], host: str) -> str:
    found = {item["disrupts"] for item in differences}
    disturbed = [name for name in DISRUPTIONS if name in found]
    return f"{host}: {len(differences)} to change, disrupts {', '.join(disturbed) or 'nothing'}"


def _without_implied_holds(differences: t.Sequence[Difference]) -> list[Difference]:
    """A package that is to be installed gets its hold with it; one line is enough."""
    installed = {item["name"] for item in differences if item["kind"] == "package"}
    return [item for item in differences if item["kind"] != "hold" or item["name"] not in installed]


def _aligned(rows: t.Sequence[tuple[str, str, str]]) -> list[str]:
    width = max((len(document) for document, _disrupts, _text in rows), default=0)
    return [f"{document:<{width}}  {DISRUPTION_WORDS[disrupts]:<7}  {text}" for document, disrupts, text in rows]
