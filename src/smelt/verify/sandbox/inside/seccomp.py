"""A second layer: system calls that no generated program needs are refused (EPERM)."""

import ctypes
import os
import struct

# name, number on x86-64, number on arm64 (uapi/asm-generic/unistd.h and syscall_64.tbl)
_REFUSED = """
ptrace 101 117,process_vm_readv 310 270,process_vm_writev 311 271,pidfd_getfd 438 438
mount 165 40,umount2 166 39,pivot_root 155 41,chroot 161 51,unshare 272 97,setns 308 268
fsopen 430 430,move_mount 429 429,open_tree 428 428,fsconfig 431 431,mount_setattr 442 442
bpf 321 280,perf_event_open 298 241,userfaultfd 323 282,io_uring_setup 425 425
keyctl 250 219,add_key 248 217,request_key 249 218,memfd_create 319 279
shmget 29 194,msgget 68 186,semget 64 190,open_by_handle_at 304 265,personality 135 92
swapon 167 224,reboot 169 142,kexec_load 246 104,init_module 175 105,finit_module 313 273
delete_module 176 106,acct 163 89,socket 41 198
settimeofday 164 170,sethostname 170 161,syslog 103 116,mq_open 240 180
setpriority 141 140,sched_setparam 142 118,sched_setscheduler 144 119,sched_setaffinity 203 122
sched_setattr 314 274,ioprio_set 251 30
"""
# audit architecture, column of the table, numbers of clone and prlimit64
_MACHINES = {"x86_64": (0xC000003E, 1, 56, 302), "aarch64": (0xC00000B7, 2, 220, 261)}
_CLONE3 = 435
_NEW_USER = 0x10000000
_ALLOW, _REFUSE, _NO_SUCH = 0x7FFF0000, 0x00050001, 0x00050026
_LOAD, _EQUAL, _SET, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_SET_SECCOMP, _FILTER = 22, 2


def filter_program(machine: str) -> bytes:
    """The filter in classic BPF; empty for a machine whose numbers are not known here."""
    if machine not in _MACHINES:
        return b""
    architecture, column, clone, limits = _MACHINES[machine]
    entries = _REFUSED.replace("\n", ",").split(",")
    numbers = sorted(int(entry.split()[column]) for entry in entries if entry)
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _REFUSE)]
    lines.append((_LOAD, 0, 0, 0))
    # x86-64 has a second numbering (x32) above this bit.
    lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)]
    # clone3 takes its flags by pointer: "no such call" makes libc use clone, whose flags show.
    lines += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _NO_SUCH)]
    # Each jumps over the rest of the list and seven lines more, to the last.
    lines += [(_EQUAL, len(numbers) - i + 6, 0, number) for i, number in enumerate(numbers)]
    # Limits may be set of the caller (0) alone: the server of its user is not to be starved.
    lines += [(_EQUAL, 0, 2, limits), (_LOAD, 0, 0, 16), (_EQUAL, 3, 4, 0)]
    lines += [(_EQUAL, 0, 2, clone), (_LOAD, 0, 0, 16), (_SET, 1, 0, _NEW_USER)]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def install() -> bool:
    """Refuse them for this process and all that it starts; False: not possible here."""
    code = filter_program(os.uname().machine)
    if not code:
        return False
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    held = ctypes.create_string_buffer(program, len(program))
    return bool(ctypes.CDLL(None).prctl(_SET_SECCOMP, _FILTER, held, 0, 0) == 0)
