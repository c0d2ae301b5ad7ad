# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel module files without code: what modinfo and depmod read of a module, and nothing to run.

The files are x86-64 ELF objects with a .modinfo section and the symbols a module exports or wants, so the real modinfo
and depmod work on them; only loading them is simulated.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATABLE, _X86_64 = 1, 62
_PROGRAM_DATA, _SYMBOLS, _STRINGS = 1, 2, 3
_ALLOCATED = 2
_GLOBAL = 1 << 4


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    content: bytes
    flags: int = 0
    info: int = 0
    entry_size: int = 0


def module_file(fields: Sequence[tuple[str, str]], exports: Sequence[str] = (), wants: Sequence[str] = ()) -> bytes:
    """Return a module file with these .modinfo fields, exported symbols and symbols it wants from other modules."""
    names = b"\0" + b"".join(symbol.encode() + b"\0" for symbol in wants)
    symbols = _SYMBOL.pack(0, 0, 0, 0, 0, 0)
    offset = 1
    for symbol in wants:
        symbols += _SYMBOL.pack(offset, _GLOBAL, 0, 0, 0, 0)
        offset += len(symbol) + 1
    sections = [
        _Section(".modinfo", _PROGRAM_DATA, b"".join(f"{k}={v}\0".encode() for k, v in fields), _ALLOCATED),
        _Section("__ksymtab_strings", _PROGRAM_DATA, b"".join(s.encode() + b"\0" for s in exports), _ALLOCATED),
        _Section(".strtab", _STRINGS, names),
        _Section(".symtab", _SYMBOLS, symbols, info=1, entry_size=_SYMBOL.size),
    ]
    return _elf([section for section in sections if section.content])


def _elf(sections: Sequence[_Section]) -> bytes:
    """Lay sections out behind the ELF header, the section headers last."""
    numbers = {section.name: number for number, section in enumerate(sections, start=1)}
    names = b"\0" + b"".join(section.name.encode() + b"\0" for section in sections) + b".shstrtab\0"
    body = b""
    headers = _SECTION_HEADER.pack(*[0] * 10)
    for section in [*sections, _Section(".shstrtab", _STRINGS, names)]:
        body += b"\0" * (-len(body) % 8)
        headers += _SECTION_HEADER.pack(
            names.index(section.name.encode() + b"\0"),
            section.kind,
            section.flags,
            0,
            _ELF_HEADER.size + len(body),
            len(section.content),
            numbers[".strtab"] if section.kind == _SYMBOLS else 0,
            section.info,
            1,
            section.entry_size,
        )
        body += section.content
    body += b"\0" * (-len(body) % 8)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    count = len(sections) + 2
    header = _ELF_HEADER.pack(
        identity,
        _RELOCATABLE,
        _X86_64,
        1,
        0,
        0,
        _ELF_HEADER.size + len(body),
        0,
        _ELF_HEADER.size,
        0,
        0,
        _SECTION_HEADER.size,
        count,
        count - 1,
    )
    return header + body + headers
