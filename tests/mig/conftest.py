# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mig_module import ModuleMachine, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("library"))
    yield made
    made.close()


@pytest.fixture
def machine(server: Server, tmp_path: Path) -> Callable[..., ModuleMachine]:
    """machine("A100-SXM-40GB", ...) makes a machine with these GPUs."""
    numbers = itertools.count()
    return lambda *models, **more: ModuleMachine(server, tmp_path / str(next(numbers)), models, **more)
