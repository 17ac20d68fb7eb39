"""Processes of the local stack. Each line of output is shown with the name of its process."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Self

STOP_SECONDS = 30.0
"""Time that a process gets to stop, for example a worker to finish its jobs. After that it is killed."""

_PR_SET_PDEATHSIG = 1
"""Option of Linux' prctl(2): the kernel signals this process when its parent dies."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

Show = Callable[[str, str], None]
"""Called with the name of a process and one line of its output."""


def show(name: str, line: str) -> None:
    print(f"{name:>9} | {line}", flush=True)


def show_nothing(_: str, __: str) -> None:
    pass


def _die_with_parent() -> None:
    """Let the kernel kill this process when its parent is killed, which leaves the parent no time to stop it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A process in its own session, so that Ctrl-C does not reach it. The stack stops its processes in order."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, show: Show) -> None:
        self.name = name
        self._last_line = ""
        self._process = process
        self._first_line: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(show), name=f"read {name}")

    @classmethod
    async def start(cls, name: str, command: Sequence[str], environment: Mapping[str, str], show: Show) -> Self:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=_die_with_parent,
            limit=2**20,
        )
        return cls(name, process, show)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    @property
    def ending(self) -> str:
        """The exit code and the last line of output, which usually names the cause."""
        return f" with exit code {self.exit_code}" + (f": {self._last_line}" if self._last_line else "")

    async def first_line(self) -> str:
        """Return the first line of output, which is the address for the emulator.

        Raises:
            ProcessEnded: the process ended without any output.
        """
        return await self._first_line

    async def wait(self) -> int:
        await asyncio.shield(self._reading)  # other tasks may await it too
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            self._process.send_signal(number)

    async def stop(self) -> int:
        """Terminate the process, kill it after STOP_SECONDS, and return its exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self.wait()
        except TimeoutError:
            print(f"{self.name} did not stop within {STOP_SECONDS:.0f} s; killing it", file=sys.stderr)
            return await self.kill()

    async def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return await self.wait()

    async def _read(self, show: Show) -> None:
        assert self._process.stdout is not None  # noqa: S101 - `start` opens a pipe
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if not self._first_line.done():
                self._first_line.set_result(line)
            self._last_line = line or self._last_line
            show(self.name, line)
        if not self._first_line.done():
            self._first_line.set_exception(ProcessEnded(f"{self.name} ended without any output"))
            self._first_line.exception()  # silences asyncio if no caller awaits the line


class ProcessEnded(Exception):
    """Raised when a process of the stack ends by itself."""
