# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The plan of a run for people: per host what differs and what changing it disrupts.

Pure. Differences are those of onprem.gpu.survey; see docs/architecture.md.
"""

from __future__ import annotations

import typing as t

DISRUPTIONS = ("reboot", "gpu", "runtime", "kubelet", "none")  # what hurts most comes first

Difference = t.Mapping[str, t.Any]


def plan_lines(differences: t.Iterable[Difference], host: str) -> list[str]:
    """Return a heading and one line per difference, in the order in which roles write them."""
    differences = list(differences)
    disturbed = [name for name in DISRUPTIONS if name != "none" and any(d["disrupts"] == name for d in differences)]
    heading = f"{host}: {len(differences)} to change, disrupts {', '.join(disturbed) or 'nothing'}"
    width = max((len(item["document"]) for item in differences), default=0)
    return [heading] + [
        f"  {item['document']:<{width}}  {'' if item['disrupts'] == 'none' else item['disrupts']:<7}  {item['summary']}"
        for item in differences
    ]
