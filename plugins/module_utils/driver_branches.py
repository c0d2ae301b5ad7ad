# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each NVIDIA driver branch supports, and until when.

Sources: docs.nvidia.com/datacenter/tesla/drivers/615/supported-drivers-and-cuda-toolkit-versions.html (read 2026-11)
for kinds and ends of life of 535, 580, 595 and 610; an older copy of the same page (2025-08) for 570 and earlier; the
driver installation guide, release 610 and 620, for which kernel modules a branch still ships; the component matrix of
GPU Operator 26.7.0 (2026-08) for the version that is tested most. A branch whose end of life nobody published has
None. NVIDIA keeps the live table at docs.nvidia.com/datacenter/tesla/drivers/releases.json.
"""

from __future__ import annotations

import typing as t

ARCHITECTURES = ("maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell")


class Branch(t.NamedTuple):
    """kind: LTSB (three years of fixes), PB (about one) or NFB (for evaluation). end_of_life: last month with fixes,
    YYYY-MM.

    version: what a role installs when only the branch is named. proprietary: the closed kernel modules still exist.
    """

    kind: str
    end_of_life: str | None
    oldest: str
    newest: str
    version: str | None
    proprietary: bool = True

    def supports(self, architecture: str) -> bool:
        position = ARCHITECTURES.index
        return position(self.oldest) <= position(architecture) <= position(self.newest)


BRANCHES: dict[int, Branch] = {
    535: Branch("LTSB", "2026-06", "maxwell", "hopper", "535.309.01"),
    550: Branch("PB", "2025-07", "maxwell", "hopper", "550.163.01"),
    560: Branch("NFB", "2025-07", "maxwell", "hopper", "560.35.05"),
    565: Branch("NFB", "2025-07", "maxwell", "hopper", "565.57.01"),
    570: Branch("PB", "2026-02", "maxwell", "blackwell", "570.172.08"),
    575: Branch("NFB", "2025-07", "maxwell", "blackwell", "575.57.08"),
    580: Branch("LTSB", "2028-06", "maxwell", "blackwell", "580.173.02"),
    590: Branch("NFB", None, "turing", "blackwell", "590.48.01"),
    595: Branch("PB", "2027-03", "turing", "blackwell", "595.91.07"),
    610: Branch("NFB", "2026-08", "turing", "blackwell", "610.57.04"),
    615: Branch("unverified", None, "turing", "blackwell", "615.78.08"),
    620: Branch("unverified", None, "turing", "blackwell", None, proprietary=False),
}


def branches_for(architectures: t.Collection[str], as_of: str) -> list[int]:
    """Branches that serve all these architectures and, as NVIDIA published, get fixes on as_of (YYYY-MM-DD)."""
    return [
        number
        for number, branch in BRANCHES.items()
        if all(map(branch.supports, architectures)) and branch.end_of_life and not is_past_end(branch, as_of)
    ]


def is_past_end(branch: Branch, as_of: str) -> bool:
    return branch.end_of_life is not None and as_of[:7] > branch.end_of_life


def open_modules_support(architecture: str) -> bool:
    """The open kernel modules need the GPU's own system processor, which came with Turing."""
    return ARCHITECTURES.index(architecture) >= ARCHITECTURES.index("turing")


def proprietary_modules_support(architecture: str, form_factor: str | None) -> bool:
    """The closed modules end with Hopper; in a Grace Hopper superchip Hopper itself is open only."""
    if form_factor == "superchip":
        return False
    return ARCHITECTURES.index(architecture) <= ARCHITECTURES.index("hopper")
