# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import images


def an_archive(place: Path, content: bytes = b"#!/bin/sh\n") -> Path:
    return images.write_archive(
        place / "x.tar", ["lab/x:1"], {"usr/bin/x": content}, ["/usr/bin/x"], {"bin/y": "../usr/bin/x"}
    )


def read(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as outer:
        file = outer.extractfile(name)
        assert file is not None
        return file.read()


def test_archive_names_its_tag_program_and_layer_digest(tmp_path: Path) -> None:
    archive = an_archive(tmp_path)
    manifest = json.loads(read(archive, "manifest.json"))[0]
    config = json.loads(read(archive, manifest["Config"]))
    layer = read(archive, manifest["Layers"][0])
    assert manifest["RepoTags"] == ["lab/x:1"]
    assert config["config"]["Entrypoint"] == ["/usr/bin/x"]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]


def test_layer_has_parents_before_files_and_files_are_executable(tmp_path: Path) -> None:
    archive = an_archive(tmp_path)
    manifest = json.loads(read(archive, "manifest.json"))[0]
    with tarfile.open(fileobj=io.BytesIO(read(archive, manifest["Layers"][0]))) as layer:
        names = layer.getnames()
        assert names.index("usr") < names.index("usr/bin") < names.index("usr/bin/x")
        assert layer.getmember("usr/bin/x").mode == 0o755
        assert layer.getmember("bin/y").linkname == "../usr/bin/x"
        assert layer.getmember("tmp").mode == 0o1777


def test_same_content_leaves_the_archive_and_its_time_alone(tmp_path: Path) -> None:
    archive = an_archive(tmp_path)
    os.utime(archive, (1, 1))
    an_archive(tmp_path)
    assert archive.stat().st_mtime == 1
    an_archive(tmp_path, b"other")
    assert archive.stat().st_mtime != 1
