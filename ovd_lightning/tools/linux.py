"""Linux's ways to confine a process that Python's standard library lacks: namespaces, Landlock, seccomp.

Imported only by the sandbox's helper process. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_NEW_NAMESPACES = 0x7E020080
"""Every CLONE_NEW flag, time (0x80) and cgroup (0x02000000) included."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
_MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_SECCOMP = 1, 24, 22
_PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 38, 36

MACHINE = platform.machine()
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(MACHINE)
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _syscall(name: str, number: int | None, *arguments: object) -> int:
    if number is None:
        raise OSError(errno.ENOSYS, f"{name}: not known on {MACHINE}")
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *given))


def _prctl(name: str, option: int, *arguments: object) -> int:
    given = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    given += [ctypes.c_ulong(0)] * (4 - len(given))
    return _checked(name, _libc.prctl(ctypes.c_int(option), *given))


# ------------------------------------------------------------------ privileges


def die_with_parent() -> None:
    """SIGKILL as soon as the parent is gone."""
    _prctl("prctl(PDEATHSIG)", _PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process."""
    _prctl("prctl(CHILD_SUBREAPER)", _PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    """Permanently, for this process and its descendants: no execve gives a privilege."""
    _prctl("prctl(NO_NEW_PRIVS)", _PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding_set() -> None:
    """A capability that is dropped cannot be regained. Has an effect only with CAP_SETPCAP."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # past the last one that the kernel has


def drop_capabilities() -> None:
    """Drop all capabilities of the superuser (or of a user namespace) permanently."""
    drop_bounding_set()
    header = struct.pack("=Ii", 0x20080522, 0)
    _checked("capset", _libc.capset(header, bytes(24)))


# ------------------------------------------------------------------ namespaces


def unshare(flags: int) -> None:
    _checked("unshare", _libc.unshare(ctypes.c_int(flags)))


def setns(descriptor: int, kind: int) -> None:
    _checked("setns", _libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)))


def new_user_namespace() -> None:
    """Enter a user namespace in which this process is the superuser; outside of it nothing changes."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    arguments = [None if a is None else a.encode() for a in (source, target, kind)]
    data = None if options is None else options.encode()
    _checked(f"mount {target}", _libc.mount(*arguments, ctypes.c_ulong(flags), data))


def unmount(target: str) -> None:
    """Detach at once; files that are open in it stay usable."""
    _checked(f"umount {target}", _libc.umount2(target.encode(), ctypes.c_int(_MNT_DETACH)))


def keep_mounts_private() -> None:
    """Later mounts are visible in this namespace only."""
    mount("none", "/", None, MS_REC | MS_SLAVE)


def bind_readonly(source: str, target: str) -> None:
    """Mount ``source``, with the mounts below it, read-only at ``target``."""
    mount(source, target, None, MS_BIND | MS_REC)
    locked = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC | 1024 | 2048 | 4096)
    kept = sum(new for old, new in ((1024, 1 << 10), (2048, 1 << 11), (4096, 1 << 21)) if locked & old)
    kept |= locked & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | kept)


def enter_new_root(shown: Iterable[str], devices: Iterable[str], workspace: str) -> None:
    """Replace the file system by one with ``shown`` (files and folders, read-only, at their paths), ``devices`` and an
    empty folder ``workspace``. Requires :func:`keep_mounts_private`."""
    base = "/tmp"  # any existing folder: the mount over it is visible in this namespace only
    mount("tmpfs", base, "tmpfs", MS_NOSUID, "mode=0755,size=1m")
    old = f"{base}/.old"
    os.mkdir(old)
    _syscall("pivot_root", _PIVOT_ROOT, base.encode(), old.encode())
    os.chdir("/")
    os.makedirs(workspace, mode=0o755, exist_ok=True)
    for path in [*shown, *devices]:
        source = Path("/.old" + path)
        if source.is_dir():
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(path).touch()
        if path in devices:
            mount(str(source), path, None, MS_BIND)
        else:
            bind_readonly(str(source), path)
    unmount("/.old")
    os.rmdir("/.old")
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID)


# -------------------------------------------------------------------- Landlock

_FS_EXECUTE, _FS_WRITE_FILE, _FS_READ_FILE, _FS_READ_DIR = 1, 2, 4, 8
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that each version of the interface knows."""
_FS_ON_FILES = _FS_EXECUTE | _FS_WRITE_FILE | _FS_READ_FILE | 1 << 14 | 1 << 15
_NET_RIGHTS = 3
"""Bind and connect, TCP."""
_SCOPES = 3
"""Abstract unix sockets, signals."""


def landlock_version() -> int:
    """0: the kernel has none, or it is switched off."""
    try:
        return _syscall("landlock", _LANDLOCK_CREATE, None, 0, 1)
    except OSError:
        return 0


def landlock(readable: Iterable[str], writable: Iterable[str]) -> None:
    """For good, of this process and its descendants: no file but those below ``readable`` (read-only) and
    ``writable``, no TCP (version 4), no signal and no abstract socket to the outside (version 6)."""
    no_new_privileges()
    version = landlock_version()
    files = _FS_RIGHTS[min(version, 5)]
    attributes = struct.pack("=QQQ", files, _NET_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    attributes = attributes[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _syscall("landlock", _LANDLOCK_CREATE, attributes, len(attributes), 0)
    try:
        for paths, rights in ((readable, _FS_READ_FILE | _FS_READ_DIR), (writable, files & ~_FS_EXECUTE)):
            for path in paths:
                if not os.path.exists(path):
                    continue
                folder = os.path.isdir(path)
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    rule = struct.pack("=Qi", rights if folder else rights & _FS_ON_FILES, descriptor)
                    _syscall("landlock", _LANDLOCK_ADD, ruleset, 1, rule, 0)
                finally:
                    os.close(descriptor)
        _syscall("landlock", _LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


# --------------------------------------------------------------------- seccomp

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_REFUSED = {
    # name: (x86_64, aarch64)
    "socket": (41, 198), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "kcmp": (312, 272),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "setns": (308, 268), "unshare": (272, 97),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58),
    "personality": (135, 92), "lookup_dcookie": (212, 18), "fanotify_init": (300, 262),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "mknod": (133, None), "mknodat": (259, 33), "vmsplice": (278, 75),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "sched_setaffinity": (203, 122),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
"""System calls that fail with EPERM: sockets, starting programs, access to other processes, administration, and memory
that the limit on address space does not count."""
_REFUSED_IN_SIGHT = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
}  # fmt: skip
"""Where the machine's files are visible: what Landlock allows on files that it does not let a process open."""
_CLONE, _CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
_SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
_FCNTL, _F_SIGNALS = {"x86_64": 72, "aarch64": 25}, (8, 10, 15)
"""F_SETOWN, F_SETSIG and F_SETOWN_EX, which send signals indirectly."""
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_KILLS = {"x86_64": (62, 200, 234), "aarch64": (129, 130, 131)}
"""kill, tkill, tgkill."""
_X32 = 0x40000000

_LOAD, _EQUAL, _ANY, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16


def seccomp_known() -> bool:
    """Whether the kernel filters system calls and this architecture's numbers are known."""
    try:
        return MACHINE in _AUDIT_ARCH and struct.calcsize("P") == 8 and _prctl("seccomp", 21) >= 0
    except OSError:
        return False


Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, operand)"""


def _program(process: int, in_sight: bool) -> Iterator[Instruction]:
    """The filter."""
    column = list(_AUDIT_ARCH).index(MACHINE)
    refuse, missing = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    number = (_LOAD, 0, 0, _NUMBER_AT)
    yield _LOAD, 0, 0, _ARCH_AT
    yield _EQUAL, 1, 0, _AUDIT_ARCH[MACHINE]
    yield _RETURN, 0, 0, _KILL_PROCESS
    yield number
    if MACHINE == "x86_64":
        yield _AT_LEAST, 0, 1, _X32
        yield missing
    for numbers in (*_REFUSED.values(), *(_REFUSED_IN_SIGHT.values() if in_sight else ())):
        if (call := numbers[column]) is not None:
            yield _EQUAL, 0, 1, call
            yield refuse
    # clone3's flags are in memory, which a filter cannot read; the C library falls back to clone
    yield _EQUAL, 0, 1, _CLONE3
    yield missing

    def guarded(
        call: int, argument: int, test: int, operands: Sequence[int], refused_when: bool
    ) -> Iterator[Instruction]:
        """Refuse ``call`` when the test of an argument is true for any operand, or (not ``refused_when``) for none."""
        body = len(operands) + 3
        yield _EQUAL, 0, body, call
        yield _LOAD, 0, 0, _FIRST_ARGUMENT_AT + 8 * argument
        for i, operand in enumerate(operands):
            left = len(operands) - 1 - i
            yield test, left + (0 if refused_when else 1), (1 if refused_when else 0) if left == 0 else 0, operand
        yield refuse
        yield number

    yield from guarded(_CLONE[MACHINE], 0, _ANY, [_NEW_NAMESPACES], True)
    yield from guarded(_SOCKETPAIR[MACHINE], 0, _EQUAL, [1], False)
    yield from guarded(_FCNTL[MACHINE], 1, _EQUAL, _F_SIGNALS, True)
    yield from guarded(_PRLIMIT[MACHINE], 0, _EQUAL, [0, process], False)
    if in_sight:
        for call in _KILLS[MACHINE]:
            yield from guarded(call, 0, _EQUAL, [process], False)
    yield _RETURN, 0, 0, _ALLOW


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_void_p))


@cache
def seccomp_filter(process: int, in_sight: bool) -> bytes:
    """The filter that :func:`seccomp` installs; cached, so that it can be made before the process is forked."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _program(process, in_sight))


def seccomp(in_sight: bool) -> None:
    """Permanently refuse, to this process and its descendants, the system calls of ``_REFUSED``, new namespaces,
    signals through a descriptor, and limits of other processes.

    Args:
        in_sight: the machine's processes and files are visible: also refuse signals to other processes and changes of
            a file's owner, mode, times and attributes.
    """
    no_new_privileges()
    code = seccomp_filter(os.getpid(), in_sight)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Filter(len(code) // 8, ctypes.addressof(buffer))
    _prctl("prctl(SECCOMP)", _PR_SET_SECCOMP, 2, ctypes.byref(program))
