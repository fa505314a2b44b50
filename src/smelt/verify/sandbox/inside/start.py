"""Starts a box: leaves everything behind, then serves. Its one argument says how, as JSON."""

import contextlib
import gc
import json
import os
import socket
import sys
from pathlib import Path

from smelt.verify.sandbox.inside import isolate
from smelt.verify.sandbox.inside.server import Server

# Imported once, since programs often do.
COMMON = """
typing math cmath collections itertools functools re string random heapq bisect json copy datetime
ctypes operator hashlib decimal fractions statistics dataclasses enum abc inspect
"""


def main() -> None:
    """Isolate, fork where namespaces need it, serve."""
    settings = json.loads(sys.argv[1])
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    for name in COMMON.split():
        __import__(name)
    level, uid = settings["level"], settings["uid"]
    if level == "namespaces":
        uid = isolate.enter(uid)
        child = os.fork()
        if child:
            control.close()
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)
        isolate.new_root(uid, settings["visible"])
    alone = level != "process"
    if level == "process" and os.geteuid() == 0 and _readable(uid):
        os.chown(".", uid, uid)
        alone = True
    if os.geteuid() == 0:
        isolate.bound()
        if alone:
            isolate.become(uid)
    isolate.guard()
    os.listdir(Path(os.__file__).parent)  # without the standard library every program would fail
    if level != "process":  # its parent is a thread of the harness, which may end before it does
        isolate.die_with_parent()
    os.dup2(nothing, 1)
    sys.path.pop(0)  # the folder of this file: nothing there is for programs
    gc.collect()
    gc.freeze()
    with contextlib.suppress(EOFError, ConnectionError):  # the harness has hung up
        Server(control, alone, settings["packages"]).run()


def _readable(uid: int) -> bool:
    """Whether that user can read the standard library, without which no program runs."""
    os.seteuid(uid)
    try:
        return os.access(Path(os.__file__).parent, os.R_OK | os.X_OK, effective_ids=True)
    finally:
        os.seteuid(0)
