"""Leaves everything behind: file system, network, other processes, privileges.

Direct system calls, since Python 3.11 has no os.unshare. Linux on x86-64 and arm64, kernel 5.12.
"""

import ctypes
import os
import stat
import struct
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NAMESPACES = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000
_NEW_USER = 0x10000000
_REC, _PRIVATE, _BIND, _DETACH = 0x4000, 1 << 18, 0x1000, 2
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
_READ_ONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PDEATHSIG, _DUMPABLE, _CAPBSET_DROP, _NO_NEW_PRIVS, _SUBREAPER = 1, 4, 24, 38, 36
NOBODY = 65534
TMP_MIB, FILES = 64, 4096
"""Size of `/tmp`, number of files and folders in it."""
TMP = f"size={TMP_MIB}m,nr_inodes={FILES},mode=0700,uid={{uid}},gid={{uid}}"


def call(name: str, *arguments: object) -> None:
    """A call of the C library. Raises OSError with its name."""
    given = [text.encode() if isinstance(text, str) else text for text in arguments]
    if getattr(_LIBC, name)(*given) != 0:
        number = ctypes.get_errno()
        shown = " ".join(str(argument) for argument in arguments)
        raise OSError(number, f"{name} {shown}: {os.strerror(number)}")


def _pivot(new: str, old: str) -> None:
    call("syscall", _PIVOT_ROOT[os.uname().machine], new, old)


def enter(uid: int) -> int:
    """New namespaces; the uid to run as (a mapped one when the caller is not root)."""
    if os.geteuid() == 0:
        call("unshare", _NEW_NAMESPACES)
        return uid
    outer_uid, outer_gid = os.getuid(), os.getgid()
    call("unshare", _NEW_NAMESPACES | _NEW_USER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {outer_gid} 1")
    return NOBODY


def new_root(uid: int, visible: dict[str, str]) -> None:
    """A root of its own in memory: the visible paths read-only (place inside -> path outside)."""
    call("mount", None, "/", None, _REC | _PRIVATE, None)
    call("mount", "tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "mode=0755")
    os.mkdir("/tmp/new")
    os.mkdir("/tmp/old")
    call("mount", "tmpfs", "/tmp/new", "tmpfs", _NOSUID | _NODEV, "mode=0755")
    _pivot("/tmp", "/tmp/old")
    os.chdir("/")
    for inside, outside in sorted(visible.items()):
        _show(inside, outside)
    for device in ("null", "zero", "random", "urandom"):
        _bind(f"/old/dev/{device}", f"/new/dev/{device}", attributes=0)
    os.mkdir("/new/tmp")
    call("mount", "tmpfs", "/new/tmp", "tmpfs", _NOSUID | _NODEV, TMP.format(uid=uid))
    os.mkdir("/new/proc")
    try:
        call("mount", "proc", "/new/proc", "proc", _NOSUID | _NODEV | _NOEXEC, None)
    except OSError:  # a container hides parts of its own: then there is none in the box
        os.rmdir("/new/proc")
    call("umount2", "/old", _DETACH)
    os.chdir("/new")
    _pivot(".", ".")
    call("umount2", ".", _DETACH)
    os.chdir("/")
    _restrict("/", _READ_ONLY, recursive=False)
    os.chdir("/tmp")


def _show(inside: str, outside: str) -> None:
    source, target = "/old" + outside, "/new" + inside
    if os.path.islink(source):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(os.readlink(source), target)
    elif os.path.exists(source):
        _bind(source, target, attributes=_READ_ONLY | _ATTR_NOSUID | _ATTR_NODEV)


def _bind(source: str, target: str, attributes: int) -> None:
    path = Path(target)
    if stat.S_ISDIR(os.stat(source).st_mode):
        path.mkdir(parents=True, exist_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    call("mount", source, target, None, _BIND | _REC, None)
    if attributes:
        _restrict(target, attributes)


def _restrict(target: str, attributes: int, recursive: bool = True) -> None:
    wanted = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0), 32)
    flags = _AT_RECURSIVE if recursive else 0
    call("syscall", _MOUNT_SETATTR, -100, target, flags, wanted, ctypes.c_size_t(32))


def become(uid: int) -> None:
    """Another user for good, without groups."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def bound() -> None:
    """Capabilities that no later program can gain: none. Only root may, and need, say so."""
    for capability in range(64):
        if _LIBC.prctl(_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break


def guard() -> None:
    """No capabilities, no new privileges, no reading of this process by others of its user."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    call("capset", header, ctypes.create_string_buffer(24))
    call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", _DUMPABLE, 0, 0, 0, 0)
    call("prctl", _SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """SIGKILL when the starter ends."""
    call("prctl", _PDEATHSIG, 9, 0, 0, 0)
