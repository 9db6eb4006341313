"""A file system that mirrors a folder and has neither hard links nor locks (flock), as with some
clusters and buckets: a server of Linux's FUSE protocol (linux/fuse.h, 7.31), in its own process.

    python -m tests.support.poor_file_system FOLDER MOUNTPOINT

Prints a line once it is mounted; ends when its stdin does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent
_HEADER, _REPLY = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<6Q10I")
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_FORGET, _BATCH_FORGET, _INTERRUPT, _DESTROY = 2, 42, 36, 38
_SILENT = (_FORGET, _BATCH_FORGET, _INTERRUPT)
_FLOCK_LOCKS = 1 << 10
"""The flag with which this server, and not the kernel, answers flock."""
_BUFFER_BYTES = (1 << 17) + 4096


class Server:
    """Answers the kernel's requests. A node is a path; the kernel knows it by its number."""

    def __init__(self, folder: str) -> None:
        self._paths = {1: folder}
        self._numbers = {folder: 1}
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: self._get_attributes,
            4: self._set_attributes,
            9: self._make_folder,
            10: lambda node, data: self._call(os.unlink, node, data),
            11: lambda node, data: self._call(os.rmdir, node, data),
            12: lambda node, data: self._rename(node, data, 8),
            14: self._open,
            15: self._read,
            16: self._write,
            17: lambda *_: struct.pack("<5Q4I24x", *(1 << 40,) * 5, 4096, 255, 4096, 0),
            18: self._release,
            20: lambda *_: b"",
            25: lambda *_: b"",
            26: lambda *_: struct.pack(
                "<IIIIHHI36x", 7, 31, 1 << 17, _FLOCK_LOCKS, 16, 12, 1 << 17
            ),
            27: lambda *_: struct.pack("<QII", 0, 0, 0),
            28: self._read_folder,
            29: lambda *_: b"",
            30: lambda *_: b"",
            35: self._create,
            _DESTROY: lambda *_: b"",
        }

    def serve(self, device: int) -> None:
        """Answer until the file system is unmounted. What is not answered is not implemented:
        LINK, SETLK and SETLKW among them."""
        while True:
            try:
                request = os.read(device, _BUFFER_BYTES)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.EBADF):
                    return
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                raise
            _, kind, unique, node, *_ = _HEADER.unpack_from(request)
            if kind in _SILENT:
                continue
            answer, failure = b"", 0
            try:
                answer = self._answers[kind](node, request[_HEADER.size :])
            except KeyError:
                failure = errno.ENOSYS
            except OSError as error:
                failure = error.errno or errno.EIO
            os.write(device, _REPLY.pack(_REPLY.size + len(answer), -failure, unique) + answer)

    def _child(self, node: int, name: bytes) -> str:
        return os.path.join(self._paths[node], os.fsdecode(name.split(b"\0")[0]))

    def _entry(self, path: str) -> bytes:
        attributes = self._attributes(path)[16:]
        number = self._numbers.setdefault(path, len(self._paths) + 1)
        self._paths[number] = path
        return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + attributes

    def _get_attributes(self, node: int, data: bytes) -> bytes:
        by_handle, _, handle = struct.unpack_from("<IIQ", data)  # its file may be deleted already
        return self._attributes(handle if by_handle else self._paths[node])

    def _attributes(self, path: str | int) -> bytes:
        s = os.fstat(path) if isinstance(path, int) else os.lstat(path)
        times = (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)
        seconds, nanoseconds = [t // 10**9 for t in times], [t % 10**9 for t in times]
        packed = _ATTRIBUTES.pack(
            *(s.st_ino, s.st_size, s.st_blocks, *seconds, *nanoseconds, s.st_mode),
            *(s.st_nlink, s.st_uid, s.st_gid, 0, 4096, 0),
        )
        return struct.pack("<QII", 0, 0, 0) + packed

    def _lookup(self, node: int, data: bytes) -> bytes:
        return self._entry(self._child(node, data))

    def _set_attributes(self, node: int, data: bytes) -> bytes:
        fields, path = _SETATTR.unpack_from(data), self._paths[node]
        if fields[0] & 1:
            os.chmod(path, stat.S_IMODE(fields[11]))
        if fields[0] & 8:
            os.truncate(path, fields[3])
        if fields[0] & 32:
            os.utime(path, ns=(fields[5] * 10**9 + fields[8], fields[6] * 10**9 + fields[9]))
        return self._attributes(path)

    def _make_folder(self, node: int, data: bytes) -> bytes:
        path = self._child(node, data[8:])
        os.mkdir(path)
        return self._entry(path)

    def _call(self, call: Callable[[str], None], node: int, data: bytes) -> bytes:
        path = self._child(node, data)
        call(path)
        self._numbers.pop(path, None)
        return b""

    def _rename(self, node: int, data: bytes, start: int) -> bytes:
        (target_node,) = struct.unpack_from("<Q", data)
        name, target_name = data[start:].split(b"\0")[:2]
        path, target = self._child(node, name), self._child(target_node, target_name)
        os.rename(path, target)
        self._numbers.pop(target, None)
        number = self._numbers.pop(path, None)
        if number is not None:
            self._numbers[target], self._paths[number] = number, target
        return b""

    def _open(self, node: int, data: bytes) -> bytes:
        (flags,) = struct.unpack_from("<I", data)
        return struct.pack("<QII", os.open(self._paths[node], flags & ~os.O_APPEND), 0, 0)

    def _create(self, node: int, data: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", data)
        path = self._child(node, data[16:])
        handle = os.open(path, flags & ~os.O_APPEND | os.O_CREAT, mode)
        return self._entry(path) + struct.pack("<QII", handle, 0, 0)

    def _read(self, _: int, data: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", data)
        return os.pread(handle, size, offset)

    def _write(self, _: int, data: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", data)
        return struct.pack("<II", os.pwrite(handle, data[40 : 40 + size], offset), 0)

    def _release(self, _: int, data: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", data)[0])
        return b""

    def _read_folder(self, node: int, data: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", data)
        answer, names = b"", sorted(os.listdir(self._paths[node]))
        for number, name in enumerate(names[offset:], offset + 1):
            text = os.fsencode(name)
            entry = struct.pack("<QQII", 1 << 32, number, len(text), 0) + text
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer


@contextmanager
def mounted(folder: Path, mountpoint: Path) -> Iterator[bool]:
    """Mount the folder without hard links and locks; yields whether this machine allows that."""
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        yield False
        return
    for path in (folder, mountpoint):
        path.mkdir(exist_ok=True)
    command = [sys.executable, "-m", __name__, str(folder), str(mountpoint)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield bool(process.stdout.readline())
        finally:
            process.stdin.close()


def main(folder: str, mountpoint: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"poor", mountpoint.encode(), b"fuse.poor", 0, options.encode()):
        sys.exit(os.strerror(ctypes.get_errno()))
    threading.Thread(target=Server(folder).serve, args=(device,), daemon=True).start()
    try:
        print("mounted", flush=True)
        sys.stdin.read()
    finally:
        detach = 2
        libc.umount2(mountpoint.encode(), detach)


if __name__ == "__main__":
    main(*sys.argv[1:])
