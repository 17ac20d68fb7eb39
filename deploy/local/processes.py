"""One process of the local stack: started, its lines shown with its name before them, and stopped for good."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Self

STOP_SECONDS = 30.0
"""What a worker that finishes its jobs may take; after that it is killed."""

Show = Callable[[str, str], None]
"""Takes a process' name and one line that it wrote."""


def show(name: str, line: str) -> None:
    print(f"{name:>9} | {line}", flush=True)


def quiet(_: str, __: str) -> None:
    """Shows nothing."""


class Process:
    """In a session of its own, so that a Ctrl-C reaches it as an orderly stop from us and not from the terminal."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, show: Show) -> None:
        self.name = name
        self._process = process
        self._first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
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
            limit=2**20,
        )
        return cls(name, process, show)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    async def first_line(self) -> str:
        """The first line it writes; of the emulator, where it listens. Raises ProcessEnded when it ends before."""
        return await self._first

    async def wait(self) -> int:
        await asyncio.shield(self._reading)  # which others may await too
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            self._process.send_signal(number)

    async def stop(self) -> int:
        """Ask, wait, and kill what does not listen; the exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self.wait()
        except TimeoutError:
            print(f"{self.name} did not stop within {STOP_SECONDS:.0f} s: killed", file=sys.stderr)
            return await self.kill()

    async def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return await self.wait()

    async def _read(self, show: Show) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if not self._first.done():
                self._first.set_result(line)
            show(self.name, line)
        if not self._first.done():
            self._first.set_exception(ProcessEnded(f"{self.name} ended before it said anything"))
            self._first.exception()  # nobody may have asked


class ProcessEnded(Exception):
    """A process of the stack ended that should go on."""
