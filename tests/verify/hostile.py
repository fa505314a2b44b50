"""Programs that attack: each is right only where its attack succeeds.

Each defines `attack`, which the tests call and want True of, or does its harm before. The words in
capitals are filled in by the test. With each stand the reasons that it may end with.
"""

# What a program may try against its verdict; the tests want attack() to be [4, "x"].
FORGERIES = {
    "exit": ("import sys\ndef attack(): sys.exit(0)", {"error"}),
    "exit at once": ("raise SystemExit(0)", {"error"}),
    "os exit": ("import os\ndef attack(): os._exit(0)", {"died"}),
    "os exit at once": ("import os\nos._exit(0)", {"died"}),
    "keyboard interrupt": ("def attack(): raise KeyboardInterrupt", {"error"}),
    "equal to all": (
        "class E:\n    def __eq__(self, other): return True\ndef attack(): return E()",
        {"wrong_answer"},
    ),
    "list equal to all": (
        "class E(list):\n    def __eq__(self, other): return True\ndef attack(): return E()",
        {"wrong_answer"},
    ),
    "string equal to all": (
        "class E(str):\n    __eq__ = lambda self, other: True\n    __hash__ = str.__hash__\n"
        "def attack(): return [4, E('y')]",
        {"wrong_answer"},
    ),
    "number equal to all": (
        "class E(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
        "def attack(): return [E(5), 'x']",
        {"wrong_answer"},
    ),
    "builtins": (
        "import builtins\nfor name in ('AssertionError', 'compile', 'exec', 'len', 'isinstance'):\n"
        "    setattr(builtins, name, lambda *a, **k: True)\ndef attack(): return 5",
        {"wrong_answer", "error", "died"},
    ),
    "exception that is an assertion": ("def attack(): raise AssertionError", {"error"}),
    "exception that is no error": ("def attack(): raise StopIteration", {"error"}),
    "exception group": ("def attack(): raise ExceptionGroup('x', [ValueError()])", {"error"}),
    "own exception": (
        "class E(BaseException): pass\ndef attack(): raise E()", {"error"},
    ),
    "every descriptor": (
        "import os\nbody = b'[\"verdict\", \"right\"]'\n"
        "for n in range(64):\n    for text in (b'right\\n', len(body).to_bytes(4, 'big') + body,\n"
        "                 (len(body) + 1).to_bytes(4, 'big') + b'E' + body):\n"
        "        try: os.write(n, text)\n        except OSError: pass\ndef attack(): return 5",
        {"error", "wrong_answer", "output_limit"},
    ),
    "a true verdict as the answer": (
        "import os\nbody = b'[\"ready\"]'\nos.write(3, len(body).to_bytes(4, 'big') + body)\n"
        "body = b'[\"verdict\", \"right\"]'\nos.write(3, len(body).to_bytes(4, 'big') + body)\n"
        "def attack(): return 5",
        {"error", "wrong_answer"},
    ),
    "a value of no kind": (
        "import os\nbody = b'[\"ready\"]'\nos.write(3, len(body).to_bytes(4, 'big') + body)\n"
        "body = b'[\"value\", [\"eval\", \"[4]\"]]'\n"
        "os.write(3, len(body).to_bytes(4, 'big') + body)\ndef attack(): return 5",
        {"error"},
    ),
    "nested beyond measure": (
        "import os\nbody = b'[\"ready\"]'\nos.write(3, len(body).to_bytes(4, 'big') + body)\n"
        "body = b'[' * 1000000\nos.write(3, len(body).to_bytes(4, 'big') + body)\n"
        "def attack(): return 5",
        {"error"},
    ),
    "a length of 4 GB": (
        "import os\nos.write(3, b'\\xff' * 400)\ndef attack(): return 5", {"output_limit"},
    ),
    "closed descriptors": ("import os\nos.closerange(0, 64)\ndef attack(): return 5", {"died"}),
    "frames": (
        "import sys, gc\ndef attack():\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in (*frame.f_locals.values(), *frame.f_globals.values()):\n"
        "            if isinstance(value, str) and 'attack() =' + '= [' in value: return [4, 'x']\n"
        "        frame = frame.f_back\n    for thing in gc.get_objects():\n"
        "        if isinstance(thing, dict) and any(isinstance(v, str)\n"
        "                and 'attack() =' + '= [' in v for v in list(thing.values())):\n"
        "            return [4, 'x']\n    return 5",
        {"wrong_answer"},
    ),
    "pickle": (
        "class E:\n    def __reduce__(self): return (list, ([4, 'x'],))\n"
        "def attack(): return E()",
        {"wrong_answer"},
    ),
    "attributes that lie": (
        "class E:\n    __class__ = list\n    def __getattr__(self, name): return [4, 'x']\n"
        "def attack(): return E()",
        {"wrong_answer", "error"},
    ),
}  # fmt: skip

# What a program may try against the machine; the tests want attack() to be True.
ATTACKS = {
    "infinite loop": ("while True: pass", {"timeout"}),
    "loop that ignores the signal": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        {"timeout"},
    ),
    "sleep": ("import time\ntime.sleep(1000)", {"timeout"}),
    "endless generator": (
        "def attack():\n    while True: yield 1", {"wrong_answer"},
    ),
    "memory": ("held = [bytearray(1 << 28) for _ in range(64)]", {"memory"}),
    "memory of many processes": (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        held = bytearray(b'x' * (1 << 28))\n        time.sleep(100)\ntime.sleep(100)",
        {"memory", "timeout", "died"},
    ),
    "huge number": ("def attack(): return 1 << (1 << 28)", {"output_limit", "memory"}),
    "huge list": ("def attack(): return [1000] * (1 << 23)", {"output_limit", "memory", "timeout"}),
    "list in itself": (
        "def attack():\n    held = []\n    held.append(held)\n    return held", {"error"},
    ),
    "list of itself twice, 60 deep": (
        "def attack():\n    held = [1]\n    for _ in range(60): held = [held, held]\n"
        "    return held",
        {"memory", "timeout"},
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef attack(n=0): return attack(n + 1) + 1",
        {"died", "memory", "error", "timeout"},
    ),
    "endless output": ("while True: print('x' * 9999)", {"output_limit"}),
    "endless errors": (
        "import sys\nwhile True: sys.stderr.write('x' * 9999)", {"output_limit"},
    ),
    "fork bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        {"timeout", "died"},
    ),
    "threads": (
        "import threading, time\ndef attack():\n    for _ in range(1000):\n"
        "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "    return True",
        {"error"},
    ),
    "daemon": (
        "import os, time\ndef attack():\n    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork() == 0: time.sleep(1000)\n        os._exit(0)\n    return 0",
        {"wrong_answer"},
    ),
    "signal to the parent": (
        "import os, signal\ndef attack():\n    for pid in (PARENT, os.getppid()):\n"
        "        os.kill(pid, signal.SIGUSR1)\n    return False",
        {"error", "died", "wrong_answer"},
    ),
    "kill everything": (
        "import os\nos.kill(-1, 9)\ndef attack(): return os.getppid() == 0",
        {"error"},
    ),
    "write outside": (
        "import os\ndef attack():\n    for folder in ('/', '/usr', '/work', '/root', '/var/tmp',\n"
        "            '/dev', '/packages', '/box', os.path.dirname(os.__file__), FOLDER):\n"
        "        try:\n            open(folder + '/smelt-hostile', 'w').write('x')\n"
        "            return True\n        except OSError: pass\n    return False",
        {"wrong_answer"},
    ),
    "change what is installed": (
        "import os\ndef attack():\n    os.chmod(os.__file__, 0o777)\n    return True", {"error"},
    ),
    "large file": (
        "def attack():\n    with open('large', 'wb') as file:\n"
        "        for _ in range(64): file.write(bytes(1 << 20)); file.flush()\n    return True",
        {"error", "died"},
    ),
    "many files": (
        "def attack():\n    for n in range(10**7): open(str(n), 'w').close()\n    return True",
        {"error", "timeout"},
    ),
    "files that hide": (
        "import os\nfor _ in range(30):\n    os.makedirs('a' * 200)\n"
        "    open('file', 'w').close()\n    os.chmod('file', 0)\n    os.chdir('a' * 200)\n"
        "os.chmod('/tmp/' + 'a' * 200, 0)\n"
        "def attack(): return False",
        {"wrong_answer"},
    ),
    "TCP": (
        "import socket\ndef attack():\n    socket.create_connection(('127.0.0.1', TCP_PORT), 1)\n"
        "    return True",
        {"error"},
    ),
    "UDP": (
        "import socket\ndef attack():\n"
        "    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        "        s.sendto(b'x', ('127.0.0.1', UDP_PORT))\n    return True",
        {"error"},
    ),
    "DNS": (
        "import socket\ndef attack(): return bool(socket.gethostbyname('example.org'))", {"error"},
    ),
    "unix socket": (
        "import socket\ndef attack():\n    for path in (SOCKET_PATH, '\\0smelt-hostile'):\n"
        "        with socket.socket(socket.AF_UNIX) as s:\n            s.connect(path)\n"
        "    return True",
        {"error"},
    ),
    "passwords": ("def attack(): return bool(open('/etc/passwd').read())", {"error"}),
    "shadow": ("def attack(): return bool(open('/etc/shadow').read())", {"error"}),
    "home": (
        "import os\ndef attack():\n    return any(os.path.exists(p) for p in\n"
        "        ('/home', '/root/.bashrc', '/root/.ssh', '/etc/hostname', '/work'))",
        {"wrong_answer"},
    ),
    "the secret of the parent": (
        "import glob, os\ndef attack():\n    found = str(dict(os.environ))\n"
        "    for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline'):\n"
        "        try: found += open(path).read()\n        except OSError: pass\n"
        "    return 'sesame' in found or len(glob.glob('/proc/[0-9]*')) > 3",
        {"wrong_answer"},
    ),
    "ptrace": (
        "import ctypes, os\ndef attack():\n"
        "    return any(ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0 for pid in (PARENT, 1))",
        {"wrong_answer"},
    ),
    "memory of the server": (
        "import os\ndef attack():\n    return bool(open(f'/proc/{os.getppid()}/mem', 'rb'))",
        {"error"},
    ),
    "setuid": ("import os\ndef attack():\n    os.setuid(0)\n    return True", {"error"}),
    "chroot": ("import os\ndef attack():\n    os.chroot('/tmp')\n    return True", {"error"}),
    "mount": (
        "import ctypes\ndef attack():\n"
        "    return ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0",
        {"wrong_answer"},
    ),
    "a user namespace": (
        "import ctypes\ndef attack(): return ctypes.CDLL(None).unshare(0x10000000) == 0",
        {"wrong_answer"},
    ),
    "limits": (
        "import resource\ndef attack():\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    return True",
        {"error"},
    ),
    "limits of the server": (
        "import os, resource\nfor name in ('CPU', 'FSIZE', 'NPROC', 'NOFILE', 'AS'):\n"
        "    limit = getattr(resource, 'RLIMIT_' + name)\n"
        "    resource.prlimit(os.getppid(), limit, (0, 0))\ndef attack(): return True",
        {"error"},
    ),
    "rank of the server": (
        "import os\ndef attack():\n    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)\n"
        "    return True",
        {"error"},
    ),
    "idle server": (
        "import os\ndef attack():\n    os.sched_setscheduler(os.getppid(), os.SCHED_IDLE,\n"
        "        os.sched_param(0))\n    return True",
        {"error"},
    ),
    "interrupt of the server": (
        "import os, signal\ndef attack():\n    while True: os.kill(os.getppid(), signal.SIGINT)",
        {"died"},
    ),
    "message queue": (
        "import ctypes\ndef attack():\n"
        "    return ctypes.CDLL(None).mq_open(b'/x', 0o102, 0o600, None) >= 0",
        {"wrong_answer"},
    ),
    "closed folder": (
        "import os\nos.chmod('/tmp', 0o500)\ndef attack(): return False", {"wrong_answer", "error"},
    ),
    "memory in a file descriptor": (
        "import os\ndef attack(): return os.memfd_create('x') > 0", {"error"},
    ),
    "crash": ("import ctypes\nctypes.string_at(0)", {"died"}),
    "nested source": ("x = " + "(" * 5000 + ")" * 5000, {"syntax_error"}),
    "source of minus signs": ("x = " + "-" * 100000 + "1", {"syntax_error", "died", "error"}),
    "a null byte": ("x = 1\0", {"syntax_error"}),
    "half a character": ("x = '\ud800'", {"syntax_error"}),
    "input": ("x = input()", {"error"}),
}  # fmt: skip
