"""The sandbox: hostile programs are contained at every level that the machine has, and after each
the same boxes judge a sound program right, with nothing left of the hostile one."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import smelt
from smelt.core.errors import UserError
from smelt.verify import code
from smelt.verify.sandbox import isolation
from smelt.verify.sandbox.inside import isolate
from smelt.verify.sandbox.inside.server import Server
from smelt.verify.sandbox.job import Job
from smelt.verify.sandbox.pool import REASONS, Pair
from tests.verify.hostile import ATTACKS, FORGERIES

SOUND = Job(
    "import os\ndef double(x): return 2 * x\ndef left(): return os.listdir('.')\n"
    "def write(): return open('file', 'w').write('x')",
    ("double", "left", "write"),
    "assert double(4) == 8\nassert left() == []\nassert write() == 1", 5.0,
)  # fmt: skip
SECONDS = 0.25


# Root can make namespaces: in CI their tests fail where they are refused, and are not skipped.
REQUIRED = {"namespaces"} if os.environ.get("SMELT_CI") and os.geteuid() == 0 else set()
MISSING = {level: isolation.available(level) for level in {*isolation.LEVELS[:2]} - REQUIRED}
LEVELS = [
    pytest.param(level, marks=pytest.mark.skipif(bool(reason), reason=f"{level}: {reason}"))
    for level, reason in ((level, MISSING.get(level, "")) for level in isolation.LEVELS[:2])
]


@dataclass
class Target:
    """Boxes, and what their programs attack."""

    pair: Pair
    names: dict[str, Any]
    processes: int = 0


def below(pid: int) -> int:
    """Number of processes under one, itself included, as this process sees them."""
    count = 1
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        count += sum(below(int(child)) for child in path.read_text().split())
    return count


def processes(pair: Pair) -> int:
    return sum(below(box.process.pid) for box in pair.boxes.values())


@pytest.fixture(scope="module", params=LEVELS)
def target(request: Any, tmp_path_factory: Any) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("outside")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SMELT_SECRET", "sesame")
        udp.bind(("127.0.0.1", 0))
        unix.bind(str(folder / "socket"))
        unix.listen()
        names = {
            "PARENT": os.getpid(),
            "FOLDER": str(folder),
            "SOCKET_PATH": str(folder / "socket"),
        }
        names |= {"TCP_PORT": tcp.getsockname()[1], "UDP_PORT": udp.getsockname()[1]}
        pair = Pair(request.param)
        assert pair.judge(SOUND) == (True, "right")
        found = Target(pair, names, processes=processes(pair))
        yield found
        pids = [box.process.pid for box in pair.boxes.values()]
        pair.close()
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        for listener in (tcp, udp, unix):
            listener.setblocking(False)
        for listener in (tcp, unix):
            with pytest.raises(BlockingIOError):
                listener.accept()
        with pytest.raises(BlockingIOError):
            udp.recv(1)
        assert [path.name for path in folder.iterdir()] == ["socket"]


def assert_contained(target: Target, program: str, tests: str, reasons: set[str]) -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
    try:
        right, reason = target.pair.judge(Job(program, ("attack",), tests, SECONDS))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not right
    assert reason in reasons
    assert reason in REASONS
    assert not caught
    # The harness goes on, and nothing is left: no file (SOUND looks), no process.
    assert target.pair.judge(SOUND) == (True, "right")
    assert processes(target.pair) == target.processes


@pytest.mark.parametrize("name", FORGERIES)
def test_a_program_can_not_forge_its_verdict(target: Target, name: str) -> None:
    program, reasons = FORGERIES[name]
    assert_contained(target, program, "assert attack() == [4, 'x']", reasons)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_contained(target: Target, name: str) -> None:
    program, reasons = ATTACKS[name]
    for word, value in target.names.items():
        program = program.replace(word, repr(value))
    assert_contained(target, program, "assert attack() is True", reasons)


def test_tests_that_consume_an_endless_generator_time_out(target: Target) -> None:
    program = "def attack():\n    while True: yield 1"
    assert_contained(target, program, "assert sum(attack()) == 1", {"timeout"})


def test_a_box_holds_so_many_files_and_no_more(target: Target) -> None:
    program = (
        "import os, time\ndef make(count):\n    for n in range(count): open(str(n), 'w').close()\n"
        "    time.sleep(1)\n    return True"
    )
    for count, verdict in ((isolate.FILES - 1, (True, "right")), (isolate.FILES, (False, "error"))):
        assert target.pair.judge(Job(program, ("make",), f"assert make({count})")) == verdict
    assert target.pair.judge(SOUND) == (True, "right")


def test_boxes_of_neighbouring_processes_are_different_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    seen: dict[int, int] = {}
    for pid in range(4_194_240, 4_194_304):  # the highest there are
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        for number in range(64):
            uid = json.loads(isolation.command("namespaces", number, "")[-1])["uid"]
            assert seen.setdefault(uid, pid) == pid
    assert len(seen) == 64 * 64
    assert min(seen) >= 60_000
    assert max(seen) < 65_000


def test_the_program_is_nobody(target: Target) -> None:
    """Not root, no capabilities, alone with its server, a root that nobody can write."""
    facts = Job(
        "import os, re\nstatus = open('/proc/self/status').read()\n"
        "def facts(): return [os.getuid() == 0, os.getppid(), os.getgroups(),\n"
        "    re.findall(r'(?:CapEff|CapPrm|CapAmb|NoNewPrivs|Seccomp):\\s+(\\w+)', status),\n"
        "    os.access('/', os.W_OK)]",
        ("facts",),
        "assert facts()[:3] in ([False, 1, []], [False, 1, [65534]])\n"
        f"assert facts()[3] == {['0' * 16, '0' * 16, '0' * 16, '1', '2']}\n"
        "assert facts()[4:] == [False]",
    )  # fmt: skip
    assert target.pair.judge(facts) == (True, "right")


def test_a_box_that_dies_is_replaced(target: Target) -> None:
    for role in ("program", "judge"):
        process = target.pair.box(role).process  # asked again, it may be the new box's
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        assert target.pair.judge(SOUND) == (True, "right")
    slow = Job("import time\ntime.sleep(30)", (), "")
    group = target.pair.box("program").process.pid
    killer = threading.Timer(0.5, os.killpg, (group, signal.SIGKILL))
    killer.start()
    assert target.pair.judge(slow) == (False, "died")
    killer.join()
    assert target.pair.judge(SOUND) == (True, "right")
    assert processes(target.pair) == target.processes


def test_a_server_that_was_changed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no filter is known a program can set rank and limits of its server, which has its
    user: then the next program gets another box."""
    ours, theirs = socket.socketpair()
    with ours:
        server = Server(theirs, False, "")
        monkeypatch.setattr(os, "getpriority", lambda *given: 19)
        server.run()
        theirs.close()
        assert ours.recv(1) == b""


def test_a_plain_process_ends_too() -> None:
    """The level without isolation keeps limits, a clean environment, and leaves nothing running."""
    pair = Pair("process")
    try:
        assert pair.judge(SOUND) == (True, "right")
        before = processes(pair)
        for name in ("infinite loop", "memory", "endless output", "daemon", "TCP", "crash"):
            program, reasons = ATTACKS[name]
            program = program.replace("TCP_PORT", "9")
            right, reason = pair.judge(
                Job(program, ("attack",), "assert attack() is True", SECONDS)
            )
            assert not right
            assert reason in reasons
            assert pair.judge(SOUND) == (True, "right")
            assert processes(pair) == before
        work = Path(pair.boxes["program"].folder.name)
    finally:
        pair.close()
    assert not work.exists()


def test_without_isolation_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_probe", lambda: ("none", "bubblewrap: not installed"))
    with pytest.raises(UserError, match=r"bubblewrap: not installed.*unsafe_code=true"):
        code.run([SOUND])
    with pytest.raises(UserError, match="no way to isolate"):
        code.score("x", "assert f()")
    assert code.isolation(unsafe=True) == "process"
    assert code.run([SOUND, SOUND], unsafe=True) == [(True, "right")] * 2
    assert code.score(SOUND.program, SOUND.tests, unsafe=True) == (True, "right")
    code.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_an_ordinary_user_has_the_same_levels() -> None:
    """With the system's Python: the one of these tests may lie where others can not read."""
    python, source = Path("/usr/bin/python3"), str(Path(smelt.__file__).parents[1])
    script = (
        "import sys; assert sys.version_info >= (3, 11)\n"
        "from smelt.verify.sandbox import isolation, pool\n"
        "from smelt.verify.sandbox.job import Job\n"
        "for level in isolation.LEVELS:\n"
        "    if isolation.available(level): continue\n"
        "    pair = pool.Pair(level)\n"
        "    assert pair.judge(Job('def f(x): return 2 * x', ('f',), 'assert f(4) == 8'))[0]\n"
        "    assert not pair.judge(Job('def f(x): return x', ('f',), 'assert f(4) == 8'))[0]\n"
        '    write = \'def f(path): return open(path, "w").write("x")\'\n'
        "    for path in ('/x', '/dev/x', '/dev/shm/x', '/usr/x') if level != 'process' else ():\n"
        "        assert pair.judge(Job(write, ('f',), f'f({path!r})')) == (False, 'error'), path\n"
        "    print(level)\n    pair.close()\n"
    )
    environment = {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}

    def probe(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), "-c", text], user=12345, group=12345, extra_groups=[], cwd="/",
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    if not python.exists() or probe("import tomllib, smelt.verify").returncode:
        pytest.skip("no Python 3.11 that any user can run this source with")
    done = probe(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "process"


def test_a_box_that_can_not_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for command in (["/no/such/program"], ["/bin/sh", "-c", "echo why not >&2; exit 3"]):
        monkeypatch.setattr(isolation, "command", lambda *given, command=command: command)
        with pytest.raises(UserError, match=r"no/such/program|why not"):
            Pair("namespaces").judge(SOUND)
        assert isolation.available("namespaces")
    assert list(tmp_path.iterdir()) == []


def test_order_is_kept_and_no_box_is_left(isolated: None) -> None:
    before = below(os.getpid())
    jobs = [
        Job(f"import time\ntime.sleep({(7 * n) % 5 / 100})\ndef f(): return {n % 3}", ("f",),
            "assert f() == 0")
        for n in range(12)
    ]  # fmt: skip
    verdicts = code.run(jobs, workers=3)
    assert verdicts == [(n % 3 == 0, "wrong_answer" if n % 3 else "right") for n in range(12)]
    assert below(os.getpid()) == before
    assert code.run([]) == []


def test_an_interrupted_run_ends_at_once(isolated: None) -> None:
    before, begun = below(os.getpid()), time.monotonic()
    slow = Job("import time\ntime.sleep(60)", (), "", 30.0)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            code.run([slow] * 6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert time.monotonic() - begun < 20
    assert below(os.getpid()) == before
