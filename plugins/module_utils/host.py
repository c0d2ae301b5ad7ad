# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host a module runs on: its files, programs, disks and clocks, read and never changed.

The only place where gpu_info and survey touch the outside. A test gives another root folder and a stand-in for run().
What is not there is an answer (None or an empty list). What is there but cannot be read is noted in `errors` and
answered as if it were not there, so that one broken file costs one fact and not the whole report.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import pwd
import stat
import subprocess
import time
import typing as t

PROGRAM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

# An absent file, a path through something that is no folder, and what sysfs says of an attribute without a value.
NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ESRCH)


class HostError(Exception):
    """The host cannot answer what has to be known: says which program or file, and what it said."""


class CommandResult(t.NamedTuple):
    """What a program left behind. `rc` is None when it did not start or ran out of time; `stderr` then says so."""

    rc: int | None
    stdout: str
    stderr: str


class FileStatus(t.NamedTuple):
    """One directory entry; a symbolic link is not followed. `kind`: file, directory, symlink or other."""

    kind: str
    mode: str
    owner: str
    uid: int
    group: str
    gid: int
    size: int
    mtime_ns: int


Run = t.Callable[[t.Sequence[str], float], CommandResult]


def run_program(argv: t.Sequence[str], timeout_seconds: float) -> CommandResult:
    """Run a program without input, in the C locale, and wait for it."""
    environment = dict(os.environ, LC_ALL="C", LANGUAGE="C", PATH=":".join(PROGRAM_FOLDERS))
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return CommandResult(None, "", f"no answer within {timeout_seconds:g} seconds")
    except OSError as error:
        return CommandResult(None, "", error.strerror or str(error))
    return CommandResult(done.returncode, _text(done.stdout), _text(done.stderr))


class Host:
    """The machine below `root`; absolute paths in, facts out."""

    def __init__(self, root: str = "/", run: Run = run_program) -> None:
        self._root = root.rstrip("/")
        self._run = run
        self.errors: list[dict[str, str]] = []

    def note_error(self, subject: str, reason: str) -> None:
        """Remember that something could not be read; `subject` is a path or a program."""
        entry = {"path": subject, "reason": reason}
        if entry not in self.errors:
            self.errors.append(entry)

    # --- files ---

    def read_bytes(self, path: str) -> bytes | None:
        """The content of a file (links followed), or None."""
        try:
            with open(self._root + path, "rb") as file:
                return file.read()
        except OSError as error:
            self._note_unless_absent(path, error)
            return None

    def read_text(self, path: str) -> str | None:
        """The content of a text file, or None. Bytes that are no UTF-8 are replaced."""
        content = self.read_bytes(path)
        return None if content is None else _text(content)

    def read_value(self, path: str) -> str | None:
        """The content of a one-value file of /proc or /sys without white space around it; None when empty or absent."""
        content = self.read_text(path)
        return (content.strip("\0 \t\n") or None) if content is not None else None

    def read_number(self, path: str) -> int | None:
        """The decimal number in a one-value file, or None."""
        value = self.read_value(path)
        try:
            return int(value) if value is not None else None
        except ValueError:
            self.note_error(path, f"{value!r} is not a number")
            return None

    def names(self, folder: str) -> list[str]:
        """The sorted names in a folder; [] when there is none."""
        try:
            return sorted(os.listdir(self._root + folder))
        except OSError as error:
            self._note_unless_absent(folder, error)
            return []

    def exists(self, path: str) -> bool:
        """Whether something is at the path, links followed."""
        return os.path.exists(self._root + path)

    def link_name(self, path: str) -> str | None:
        """The last part of what a symbolic link points to (sysfs: the driver of a device), or None."""
        target = self.link_target(path)
        return os.path.basename(target) if target else None

    def link_target(self, path: str) -> str | None:
        """What a symbolic link says, or None when the path is none."""
        try:
            return os.readlink(self._root + path)
        except OSError as error:
            if error.errno != errno.EINVAL:
                self._note_unless_absent(path, error)
            return None

    def status(self, path: str) -> FileStatus | None:
        """Kind, mode ("0644"), owner, size in bytes and modification time of one entry, or None."""
        try:
            found = os.lstat(self._root + path)
        except OSError as error:
            self._note_unless_absent(path, error)
            return None
        return FileStatus(
            kind=_kind(found.st_mode),
            mode=f"{stat.S_IMODE(found.st_mode):04o}",
            owner=_user_name(found.st_uid),
            uid=found.st_uid,
            group=_group_name(found.st_gid),
            gid=found.st_gid,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
        )

    def modified_ns(self, path: str) -> int | None:
        """When the content of a file (links followed) last changed, in nanoseconds since 1970, or None."""
        try:
            return os.stat(self._root + path).st_mtime_ns
        except OSError as error:
            self._note_unless_absent(path, error)
            return None

    def space(self, path: str) -> dict[str, int] | None:
        """Free (for ordinary users) and total bytes of the file system that holds the path, or None."""
        try:
            disk = os.statvfs(self._root + path)
        except OSError as error:
            self._note_unless_absent(path, error)
            return None
        return {"free_bytes": disk.f_bavail * disk.f_frsize, "total_bytes": disk.f_blocks * disk.f_frsize}

    def open_files(self, prefix: str) -> list[dict[str, t.Any]]:
        """Processes that hold a file open whose path starts with `prefix`: [{pid, command}], by process id."""
        holders = []
        for pid in self._process_ids():
            if self._holds_open(pid, prefix):
                holders.append({"pid": pid, "command": self.read_value(f"/proc/{pid}/comm")})
        return holders

    def holders(self, path: str) -> list[int]:
        """Ids of the processes that hold one file open."""
        return [pid for pid in self._process_ids() if path in self._open_paths(pid)]

    def _process_ids(self) -> list[int]:
        return sorted(int(name) for name in self.names("/proc") if name.isdigit())

    def _holds_open(self, pid: int, prefix: str) -> bool:
        return any(path.startswith(prefix) for path in self._open_paths(pid))

    def _open_paths(self, pid: int) -> list[str]:
        folder = f"{self._root}/proc/{pid}/fd"
        try:
            return [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        except OSError:
            return []  # the process or the file went away meanwhile

    def _note_unless_absent(self, path: str, error: OSError) -> None:
        if error.errno not in NOTHING_THERE:
            self.note_error(path, error.strerror or str(error))

    # --- programs ---

    def program(self, name: str) -> str | None:
        """The absolute path of a program (a name, or a path itself), or None."""
        candidates = [name] if name.startswith("/") else [f"{folder}/{name}" for folder in PROGRAM_FOLDERS]
        return next((path for path in candidates if os.access(self._root + path, os.X_OK)), None)

    def run(self, argv: t.Sequence[str], timeout_seconds: float = 30.0) -> CommandResult | None:
        """Run a program of the host; None when it is not installed. Never raises for what the program does."""
        path = self.program(argv[0])
        return self._run([path, *argv[1:]], timeout_seconds) if path else None

    def output(self, argv: t.Sequence[str], timeout_seconds: float = 30.0) -> str | None:
        """What a program prints; None when it is not installed or fails, a failure being noted."""
        result = self.run(argv, timeout_seconds)
        if result is None or result.rc == 0:
            return result.stdout if result else None
        self.note_error(argv[0], command_failure(result))
        return None

    # --- clocks ---

    def boot_clock_offset_ns(self) -> int:
        """Nanoseconds to add to a CLOCK_MONOTONIC time to get the time of day as the clock runs now."""
        return time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def time_synchronized(self) -> bool | None:
        """Whether the kernel knows its clock to be kept in step by NTP or the like; None when it cannot be asked."""
        return clock_is_synchronized()


def command_failure(result: CommandResult) -> str:
    """One line that says how a program failed."""
    said = (result.stderr.strip() or result.stdout.strip()).splitlines()
    reason = said[-1] if said else "it said nothing"
    return reason if result.rc is None else f"exit status {result.rc}: {reason}"


def clock_is_synchronized() -> bool | None:
    """Ask adjtimex(2), changing nothing; systemd judges in the same way: maximum error below 16 seconds."""
    # struct timex of 64-bit Linux: modes at byte 0, maxerror in microseconds at byte 24, 208 bytes in all.
    buffer = ctypes.create_string_buffer(256)
    try:
        state = ctypes.CDLL(None).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    return None if state < 0 else ctypes.c_long.from_buffer(buffer, 24).value < 16_000_000


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
