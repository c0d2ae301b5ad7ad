# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests on the lab share. The lab must be up: `make lab-up`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kubernetes
import observe
import pytest
import urllib3

LAB = (sys.executable, str(observe.ROOT / "tests" / "lab"))


@pytest.fixture(scope="session")
def hosts() -> list[str]:
    """The lab's GPU hosts by name; without a lab that is up nothing here can run."""
    status = subprocess.run([*LAB, "status"], capture_output=True, text=True, check=False)
    if status.returncode != 0:
        pytest.fail(f"the lab is not up (make lab-up): {status.stdout.strip()} {status.stderr.strip()}", pytrace=False)
    return observe.hosts()


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """The lab's kubeconfig; without an API server that answers nothing here can run."""
    if not observe.KUBECONFIG.exists():
        pytest.fail(f"the lab is not up (make lab-up): there is no {observe.KUBECONFIG}", pytrace=False)
    client = kubernetes.config.new_client_from_config(str(observe.KUBECONFIG))
    try:
        kubernetes.client.VersionApi(client).get_code(_request_timeout=10)
    except (kubernetes.client.ApiException, urllib3.exceptions.HTTPError) as error:
        pytest.fail(f"the lab's API server does not answer (make lab-up): {error}", pytrace=False)
    return observe.KUBECONFIG


@pytest.fixture(scope="session")
def reset_hosts() -> object:
    """A function that makes hosts as delivered: bare disks, no Node."""

    def reset(*names: str) -> None:
        subprocess.run([*LAB, "reset", *names], check=True, capture_output=True)

    return reset
