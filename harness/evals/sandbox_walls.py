"""The walls of the sandbox: namespaces, a filter of system calls, limits. Standard library and the C library only.

Read by ``sandbox_guest`` in a fresh interpreter of its own; nothing here is meant for the process of the harness.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys

__all__ = ["apart", "dies_with_its_parent", "filtered", "limited", "powerless"]

_LIBC = ctypes.CDLL(None, use_errno=True)

# name: its number on x86_64 and on aarch64 (None: the architecture has no such call)
_NETWORK = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425),
}  # fmt: skip
_PROCESSES = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "setsid": (112, 157), "setpgid": (109, 154), "prlimit64": (302, 261), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122), "kcmp": (312, 272),
}  # fmt: skip
_KERNEL = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268),
    "mount_setattr": (442, 442), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
}  # fmt: skip
# Where the file system could not be made read-only: nothing is written by name at all.
_WRITES = {
    "creat": (85, None), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "link": (86, None), "linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35), "symlink": (88, None),
    "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "truncate": (76, 45), "mknod": (133, None), "mknodat": (259, 33),
    "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "openat2": (437, 437),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE, _CLONE3, _OPENAT = (56, 220), 435, (257, 56)
_LOAD, _EQUAL, _AT_LEAST, _ANY_OF, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of the kernel's packet-filter language
_THREAD, _WRITE_FLAGS = 0x10000, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEW = 0x10000000 | 0x40000000 | 0x00020000 | 0x20000000 | 0x08000000  # user, network, mount, process, IPC namespaces


def filtered(strict: bool) -> bool:
    """A seccomp filter on system calls: no network, no processes, no kernel interfaces; ``strict``: no writing by name either.

    False where the kernel or the architecture has none.
    """
    place, audit = _ARCHITECTURES.get(platform.machine(), (0, 0))
    if not audit or sys.platform != "linux":
        return False
    names: dict[str, tuple[int, int | None]] = {**_NETWORK, **_PROCESSES, **_KERNEL, **(_WRITES if strict else {})}
    refused, allowed = (_RETURN, 0, 0, 0x50000 | errno.EPERM), (_RETURN, 0, 0, 0x7FFF0000)
    program = [
        (_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, 0x80000000),  # of another architecture: the process is killed
        (_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, 0x40000000), refused,  # x32
    ]  # fmt: skip
    for numbers in names.values():
        number = numbers[place]
        program += [(_EQUAL, 0, 1, number), refused] if number is not None else []
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, 0x50000 | errno.ENOSYS)]  # its flags cannot be read: libc then takes clone
    program += [(_EQUAL, 0, 4, _CLONE[place]), (_LOAD, 0, 0, 16), (_ANY_OF, 1, 0, _THREAD), refused, allowed]
    if strict:  # open and openat for reading only
        program += [] if place else [(_EQUAL, 0, 4, 2), (_LOAD, 0, 0, 24), (_ANY_OF, 0, 1, _WRITE_FLAGS), refused, allowed]
        program += [(_EQUAL, 0, 4, _OPENAT[place]), (_LOAD, 0, 0, 32), (_ANY_OF, 0, 1, _WRITE_FLAGS), refused, allowed]
    program.append(allowed)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    head = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    return bool(_LIBC.prctl(38, 1, 0, 0, 0) == 0 and _LIBC.prctl(22, 2, head, 0, 0) == 0)


def apart(folder: str) -> bool:
    """Own user, network, process, IPC and mount namespaces, whose root holds Python's library and an empty /work.

    False where the kernel does not allow it: then nothing, or not all of it, is in force.
    """
    owner, group = os.getuid(), os.getgid()
    if sys.platform != "linux" or _LIBC.unshare(_NEW) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {owner} 1"), ("gid_map", f"65534 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        _mount("none", "/", "", 0x4000 | 0x40000)  # what is mounted below stays here (recursive, private)
        _mount("tmpfs", folder, "tmpfs", 2 | 4, "size=16m,nr_inodes=1000,mode=755")  # nosuid, nodev
        for path in _libraries():
            _shown(path, folder)
        os.mkdir(folder + "/work", 0o777)
        _mount("tmpfs", folder + "/work", "tmpfs", 2 | 4 | 8, "size=16m,nr_inodes=1000,mode=777")
        _read_only(folder, recursive=False)
        os.chroot(folder)
        os.chdir("/work")
    except OSError:
        return False
    return True


def _libraries() -> list[str]:
    own = [os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    paths = sorted({p for p in (*own, *system) if os.path.lexists(p)})
    return [p for p in paths if not any(p.startswith(other + "/") for other in paths)]


def _shown(path: str, folder: str) -> None:
    """The same path below ``folder``, read-only; a symbolic link as one."""
    target = folder + path
    os.makedirs(os.path.dirname(target) if os.path.islink(path) else target, exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    _mount(path, target, "", 0x1000 | 0x4000)  # bind, recursive
    _read_only(target, recursive=True)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    if _LIBC.mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _read_only(target: str, recursive: bool) -> None:
    wanted = ctypes.create_string_buffer(struct.pack("QQQQ", 1, 0, 0, 0))
    if _LIBC.syscall(442, -100, target.encode(), 0x8000 if recursive else 0, wanted, 32) != 0:  # mount_setattr, Linux 5.12
        raise OSError(ctypes.get_errno(), f"mount_setattr {target}")


def powerless() -> None:
    """No capability is left, of root or of a namespace, and none can be gained."""
    if sys.platform == "linux":
        _LIBC.prctl(38, 1, 0, 0, 0)
        _LIBC.capset(ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0)), ctypes.create_string_buffer(24))


def limited(memory: int, seconds: int, file_bytes: int, processes: bool) -> None:
    wanted = {"AS": memory, "CPU": seconds, "FSIZE": file_bytes, "CORE": 0, "NOFILE": 64}
    if processes:  # counted in the namespace; outside of it all that the user runs would count
        wanted["NPROC"] = 16
    for name, value in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (least, least))


def dies_with_its_parent() -> None:
    """Killed by the kernel as soon as the process that forked it is gone."""
    if sys.platform == "linux":
        _LIBC.prctl(1, 9, 0, 0, 0)
