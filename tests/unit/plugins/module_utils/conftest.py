# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host made of a folder and of recorded answers of programs."""

from __future__ import annotations

import os
import pathlib
import typing as t

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.host import CommandResult, Host

Answer = CommandResult | t.Callable[[t.Sequence[str]], CommandResult]


class HostTree:
    """Files below a temporary root, and programs that answer what they are told to."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.calls: list[list[str]] = []
        self._answers: dict[str, Answer] = {}

    def write(self, path: str, content: str | bytes = "", mode: int = 0o644) -> pathlib.Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        file.chmod(mode)
        return file

    def folder(self, path: str) -> pathlib.Path:
        folder = self.root / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def link(self, path: str, target: str) -> None:
        link = self.root / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    def age(self, path: str, seconds_since_1970: float) -> None:
        moment = int(seconds_since_1970 * 1_000_000_000)
        os.utime(self.root / path.lstrip("/"), ns=(moment, moment))

    def program(self, name: str, stdout: str = "", rc: int | None = 0, stderr: str = "") -> None:
        self.program_that(name, CommandResult(rc, stdout, stderr))

    def program_that(self, name: str, answer: Answer) -> None:
        self.write(f"/usr/bin/{name}", mode=0o755)
        self._answers[name] = answer

    def host(self) -> Host:
        return Host(str(self.root), self._run)

    def _run(self, argv: t.Sequence[str], _timeout_seconds: float) -> CommandResult:
        self.calls.append(list(argv))
        answer = self._answers[os.path.basename(argv[0])]
        return answer(argv) if callable(answer) else answer


@pytest.fixture
def host_tree(tmp_path: pathlib.Path) -> HostTree:
    return HostTree(tmp_path)
