# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images without a registry: docker archives that containerd imports on the hosts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import settings

BUSYBOX = Path("/bin/busybox")
_APPLETS = ("cat", "echo", "env", "false", "ls", "sh", "sleep", "test", "true", "wget")


def write_archive(
    archive: Path,
    tags: Iterable[str],
    files: Mapping[str, Path | bytes],
    entrypoint: Sequence[str],
    links: Mapping[str, str] | None = None,
    *,
    env: Sequence[str] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",),
) -> Path:
    """Write a one-layer image as a docker archive, the same bytes for the same content.

    ``files`` maps paths inside the image to a file here or to bytes, all of them executable; ``links`` maps paths to
    symbolic link targets. An archive that has the same content already is left alone, with its time.
    """
    layer = _layer(files, links or {})
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": "1970-01-01T00:00:00Z"}],
        },
        sort_keys=True,
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": list(tags), "Layers": [f"{digest}/layer.tar"]}]
    content = _tar(
        {config_name: config, f"{digest}/layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}, mode=0o644
    )
    if not archive.exists() or archive.read_bytes() != content:
        archive.parent.mkdir(parents=True, exist_ok=True)
        unfinished = archive.with_name(archive.name + ".unfinished")
        unfinished.write_bytes(content)
        os.replace(unfinished, archive)
    return archive


def write_pause() -> Path:
    """Write the sandbox image every pod needs, and a small shell image for pods of tests and demonstrations."""
    links = {f"bin/{applet}": "busybox" for applet in _APPLETS}
    busybox = {"bin/busybox": BUSYBOX}
    write_archive(settings.IMAGES / "busybox.tar", ["docker.io/library/busybox:1.35"], busybox, ["/bin/sh"], links)
    forever = ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait; done"]
    return write_archive(settings.IMAGES / "pause.tar", [settings.PAUSE_IMAGE], busybox, forever, links)


def _layer(files: Mapping[str, Path | bytes], links: Mapping[str, str]) -> bytes:
    contents = {name: value if isinstance(value, bytes) else value.read_bytes() for name, value in files.items()}
    return _tar(contents, mode=0o755, links=links, folders=("tmp", "etc", "dev", "proc", "sys", "run"))


def _tar(
    files: Mapping[str, bytes], mode: int, links: Mapping[str, str] | None = None, folders: Sequence[str] = ()
) -> bytes:
    buffer = io.BytesIO()
    parents = {parent.as_posix() for name in (*files, *(links or {})) for parent in Path(name).parents} - {"."}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(parents.union(folders)) if folders else ():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name, target in sorted((links or {}).items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
