# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests on the lab share. The lab must be up: `make lab-up`."""

from __future__ import annotations

import subprocess
import sys

import observe
import pytest

LAB = (sys.executable, str(observe.ROOT / "tests" / "lab"))


@pytest.fixture(scope="session")
def hosts() -> list[str]:
    """The lab's GPU hosts by name; without a lab that is up nothing here can run."""
    status = subprocess.run([*LAB, "status"], capture_output=True, text=True, check=False)
    if status.returncode != 0:
        pytest.fail(f"the lab is not up (make lab-up): {status.stdout.strip()} {status.stderr.strip()}", pytrace=False)
    return observe.hosts()


@pytest.fixture(scope="session")
def reset_hosts() -> object:
    """A function that makes hosts as delivered: bare disks, no Node."""

    def reset(*names: str) -> None:
        subprocess.run([*LAB, "reset", *names], check=True, capture_output=True)

    return reset
