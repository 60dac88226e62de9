"""Locks the calling process in: no network, no files but a read-only Python, no privileges.

Needs Linux ≥ 4.8 with namespaces (as root, or with user namespaces allowed) and seccomp. Only the
standard library, only `ctypes`: this runs in a process of its own that starts in 30 ms.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import struct

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
NAMESPACES = {
    "mount": CLONE_NEWNS,
    "process": 0x20000000,
    "network": 0x40000000,
    "ipc": 0x08000000,
    "host-name": 0x04000000,
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 32, 4096
MS_REC, MS_PRIVATE, MNT_DETACH = 16384, 1 << 18, 2
# statvfs flags that a remount in a user namespace must keep, with the mount flags they stand for
KEPT_FLAGS = {2: MS_NOSUID, 4: MS_NODEV, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
NEW_ROOT = "/sys"  # exists everywhere and holds nothing the code may see: a mount point
SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)


class IsolationError(Exception):
    """This machine does not provide a kind of isolation; the message names it."""


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise IsolationError(f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode())
    _check(result, f"mount {source} on {target}")


def enter_namespaces() -> None:
    """Moves into new namespaces. Children are in the new process namespace, the caller is not."""
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWUSER if uid != 0 else 0
    for flag in NAMESPACES.values():
        flags |= flag
    needed = ", ".join(NAMESPACES)
    hint = "" if uid == 0 else " (as an ordinary user this needs unprivileged user namespaces)"
    _check(libc.unshare(flags), f"{needed} namespaces{hint}")
    if uid != 0:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"65534 {uid} 1"),
            ("gid_map", f"65534 {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def enter_root(scratch_mb: int, prefixes: list[str]) -> None:
    """A root that holds the system's libraries and a Python, read-only, and a small /tmp.

    `prefixes`: the folders of the Python installation (and of its virtual environment).
    """
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("tmpfs", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755")
    # Before the rest: a Python that lies below /tmp is shown inside the small one.
    os.makedirs(f"{NEW_ROOT}/tmp")
    options = f"size={scratch_mb}m,nr_inodes=1000,mode=1777"
    _mount("tmpfs", f"{NEW_ROOT}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options)
    real = [os.path.realpath(prefix) for prefix in prefixes]
    for path in [*SYSTEM, *DEVICES, *real, *prefixes]:
        _show(path)
    os.makedirs(f"{NEW_ROOT}/old")
    pivot = libc.syscall(_number("pivot_root"), NEW_ROOT.encode(), f"{NEW_ROOT}/old".encode())
    _check(pivot, "pivot_root")
    os.chdir("/")
    _check(libc.umount2(b"/old", MNT_DETACH), "leaving the old root")
    os.rmdir("/old")
    _mount("none", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _show(path: str) -> None:
    """Makes a path of the old root visible in the new one, read-only."""
    target = NEW_ROOT + path
    if os.path.lexists(target) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target)
    else:
        with open(target, "w"):
            pass
    _mount(path, target, "", MS_BIND)
    kept = sum(flag for bit, flag in KEPT_FLAGS.items() if os.statvfs(path).f_flag & bit)
    device = path.startswith("/dev/")
    flags = MS_REMOUNT | MS_BIND | MS_NOSUID | kept | (0 if device else MS_RDONLY | MS_NODEV)
    _mount("none", target, "", flags)


def drop_privileges() -> None:
    """Becomes nobody, for good, with the system-call filter on.

    Root becomes a random unused user: the limit on processes counts per user, so that sandboxes
    side by side do not share it.
    """
    libc.prctl(PR_SET_PDEATHSIG, 9)
    if os.geteuid() == 0:
        user = random.SystemRandom().randrange(1 << 20, 1 << 30)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _filter_system_calls()


# ------------------------------------------------------------ system-call filter

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
EPERM, ENOSYS = 1, 38
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
CLONE_NEW_ANY = 0x7E020080  # every CLONE_NEW… flag
# (x86_64, aarch64) numbers; None where the machine has no such call
CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "shmget": (29, 194),
    "ptrace": (101, 117),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "finit_module": (313, 273),
    "kexec_file_load": (320, 294),
    "memfd_create": (319, 279),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435


def _number(name: str) -> int:
    machine = platform.machine()
    if machine not in MACHINES:
        raise IsolationError(f"system-call filter: no table for a {machine} machine")
    number = CALLS[name][list(MACHINES).index(machine)]
    assert number is not None
    return number


def filter_program() -> bytes:
    """The BPF program: known dangerous calls fail with EPERM, the rest is allowed.

    `clone3` does not exist as far as the program can tell, because its flags lie in memory that a
    filter cannot read; the C library then uses `clone`, whose flags are checked.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise IsolationError(f"system-call filter: no table for a {machine} machine")
    column = list(MACHINES).index(machine)
    denied = [numbers[column] for numbers in CALLS.values() if numbers[column] is not None]
    body: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, 4),  # architecture
        (JUMP_EQUAL, 1, 0, MACHINES[machine]),
        (RETURN, 0, 0, ERRNO | EPERM),
        (LOAD, 0, 0, 0),  # call number
        (JUMP_GREATER_EQUAL, 0, 1, 0x40000000),  # the x32 form of calls
        (RETURN, 0, 0, ERRNO | EPERM),
        (JUMP_EQUAL, 0, 1, CLONE3),
        (RETURN, 0, 0, ERRNO | ENOSYS),
    ]
    for index, number in enumerate(denied):
        assert number is not None
        body.append((JUMP_EQUAL, len(denied) - index + 3, 0, number))
    body += [
        (JUMP_EQUAL, 0, 2, CLONE[machine]),
        (LOAD, 0, 0, 16),  # clone's flags
        (JUMP_SET, 1, 0, CLONE_NEW_ANY),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, ERRNO | EPERM),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in body)


def _filter_system_calls() -> None:
    program = filter_program()
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    result = libc.prctl(PR_SET_SECCOMP, 2, ctypes.create_string_buffer(header), 0, 0)
    _check(result, "system-call filter (seccomp)")
