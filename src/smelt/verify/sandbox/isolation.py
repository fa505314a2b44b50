"""Levels of isolation: which the machine allows, and how a box is started at each.

bubblewrap: bwrap gives namespaces and a root of its own; namespaces: the box makes them itself, as
root or in a user namespace; process: a plain process with limits, a clean environment and an empty
folder, only where the user accepts it. Where the caller is root, the program is not.
"""

import json
import os
import shutil
import sys
import sysconfig
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from smelt.core.errors import UserError

LEVELS = ("bubblewrap", "namespaces", "process")
_HERE = Path(__file__).resolve().parent
_PACKAGES = ("numpy", "numpy.libs")
_FIRST_UID, _UIDS = 60_000, 5_000
# Coprime to _UIDS: processes up to 72 pids apart begin at least 64 uids apart.
_STRIDE = 617
# Only the folder `inside` is there: its packages are made up, so that nothing else is imported.
_START = """
import sys, types
for name in ("smelt", "smelt.verify", "smelt.verify.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
sys.path.insert(0, sys.argv.pop(1))
sys.modules["smelt.verify.sandbox"].__path__ = sys.path[:1]
from smelt.verify.sandbox.inside.start import main
main()
"""
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the order of sets is part of what programs return
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
}


@lru_cache
def visible() -> dict[str, str]:
    """What a box sees, read-only: place inside -> path outside."""
    seen = ["/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/etc/ld.so.cache"]
    prefixes = {sys.base_prefix, sys.base_exec_prefix, sysconfig.get_path("stdlib")}
    real = os.path.realpath(sys.executable)
    prefixes |= {real, *(os.path.realpath(path) for path in prefixes)}
    kept = [path for path in sorted(prefixes) if path not in ("/", "/usr")]
    for path in kept:
        if not any(path.startswith(f"{other}/") for other in (*seen, *kept)):
            seen.append(path)
    places = {path: path for path in seen if os.path.lexists(path)}
    places["/box/inside"] = str(_HERE / "inside")
    for name, folder in packages().items():
        places[f"/packages/{name}"] = folder
    return places


@lru_cache
def packages() -> dict[str, str]:
    """Packages that programs and tests may import beside the standard library: name -> folder."""
    found = find_spec("numpy")
    if found is None or found.origin is None:
        return {}
    above = Path(found.origin).parent.parent
    return {name: str(above / name) for name in _PACKAGES if (above / name).is_dir()}


def command(level: str, number: int, folder: str) -> list[str]:
    """The command line of a box. number: of the box in this process, gives it a uid of its own;
    folder: an empty one, where a plain process works."""
    place = (os.getpid() * _STRIDE + number) % _UIDS
    uid = _FIRST_UID + place if os.geteuid() == 0 else os.getuid()
    settings = {"level": level, "uid": uid, "visible": visible(), "packages": "/packages"}
    python, starter = [os.path.realpath(sys.executable), "-s", "-S", "-P"], str(_HERE)
    if level == "process":
        settings["packages"] = f"{folder}/.packages"
    if level == "bubblewrap":
        starter = "/box"
    line = [*python, "-c", _START, starter, json.dumps(settings)]
    return [*_bubblewrap(), *line] if level == "bubblewrap" else line


def _bubblewrap() -> list[str]:
    words = [shutil.which("bwrap") or "bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
    words += ["--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--as-pid-1"]
    if os.geteuid() == 0:  # no user namespace: the box changes to a user without any rights itself
        for capability in ("SETUID", "SETGID", "SETPCAP"):
            words += ["--cap-add", f"CAP_{capability}"]
    else:
        words += ["--unshare-user", "--cap-drop", "ALL"]
    parents = {str(parent) for inside in visible() for parent in Path(inside).parents}
    for parent in sorted(parents - {"/"} - set(visible())):  # which bwrap would make for root alone
        words += ["--perms", "0755", "--dir", parent]
    for inside, outside in visible().items():
        if os.path.islink(outside):
            words += ["--symlink", os.readlink(outside), inside]
        else:
            words += ["--ro-bind", outside, inside]
    words += ["--proc", "/proc", "--dev", "/dev", "--size", str(64 << 20), "--perms", "1777"]
    # /dev is a file system of its own, of an ordinary caller's: read-only too.
    words += ["--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]
    return [*words, "--chdir", "/tmp"]


def prepare(level: str, folder: Path) -> None:
    """Fill the folder of a plain process with what `command` says is there."""
    if level == "process":
        (folder / ".packages").mkdir()
        for name, path in packages().items():
            (folder / ".packages" / name).symlink_to(path)


def available(level: str) -> str:
    """Why a level can not be had here; empty when it can."""
    from smelt.verify.sandbox.box import Box, BoxError

    if sys.platform != "linux":
        return f"{sys.platform} is not Linux"
    if level == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    try:
        Box(level).close()
    except BoxError as error:
        return str(error)
    return ""


@lru_cache
def _probe() -> tuple[str, str]:
    reasons = []
    for level in LEVELS[:2]:
        reason = available(level)
        if not reason:
            return level, ""
        reasons.append(f"{level}: {reason}")
    return "none", "; ".join(reasons)


def isolation(unsafe: bool = False) -> str:
    """The best level that this machine allows, probed once. Raises UserError where there is none,
    unless `unsafe` accepts "process"."""
    level, reasons = _probe()
    if level != "none":
        return level
    if not unsafe:
        raise UserError(
            "generated programs",
            f"no way to isolate them ({reasons})",
            "bubblewrap, or Linux namespaces",
            "install bubblewrap (apt-get install bubblewrap), or run them as they are: "
            "--set unsafe_code=true",
        )
    if reason := available("process"):
        raise UserError("generated programs", f"no process for them ({reason})", "Linux")
    return "process"
