"""Several processes, on one machine or on many, as one training or one campaign; process 0 does the rest alone.

Each process is started with the same command and `--distributed`. They meet at the coordinator, load the data each for
itself, wait until all have it and process 0 has opened the run's folder (which all of them must see), train over all
their devices, and run the campaign's trials, each its share on devices of its own. Then they part: the others end, and
process 0 writes the rows, measures and reports.

In a program of your own, a campaign is `threats.run_campaign(..., store=store, shard=shard(), together=together)`.

No process waits for ever for one that has failed. At the next meeting a vote or a lost connection says so. JAX itself
notices some 100 s later that a process has died, at once that process 0 has, and aborts the others; `join` sees to it
that they then end with one line and exit code 2 too.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from mamba_jax import training, tuning

STOPPED = "another process has stopped, see what it said"
_START = "give --coordinator_address=HOST:PORT, --num_processes and --process_id, and start as many processes"
_LAST_WORDS = 2.0  # seconds
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handlers = []  # a handler that C knows must not be collected


class Cluster(NamedTuple):
    """How the processes find each other; what is None is taken from the environment, where JAX knows it.

    coordinator_address: host:port of process 0. num_processes: how many there are. process_id: of this one, from 0.
    """

    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None


def join(cluster: Cluster) -> None:
    """Meets the other processes; before any computation. Where they do not come, this one ends after five minutes.

    Raises:
      ValueError: the environment does not say what `cluster` leaves open, or the processes do not meet.
    """
    # By default a meeting fails where a process comes half an hour after another.
    tuning.add_flags({"xla_cpu_collective_timeout_seconds": "100000000"})
    _on_abort(f"the processes did not meet: {_START}")
    try:
        jax.distributed.initialize(**cluster._asdict())
        with together():  # connected from here on, so that the end of another is noticed at once
            pass
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the processes did not meet ({reason}): {_START}") from error
    _on_abort(STOPPED)


def joined() -> bool:
    """Whether this is one of several processes that have met, or are about to, and have not parted."""
    return jax.distributed.is_initialized()


def is_main() -> bool:
    """Whether this process is the one that writes and speaks; a single process is."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Nobody goes on from this block before everybody has come through theirs; where one fails, all stop.

    Raises:
      ValueError: another process has failed.
    """
    ready = False
    try:
        yield
        ready = True
    finally:
        all_ready = jax.process_count() == 1 or _all(ready)
    if not all_ready:
        raise ValueError(STOPPED)


def _all(ready: bool) -> bool:
    """Whether every process says so; one that has died does not. (JAX ends this one too, about 100 s later.)"""
    try:
        return bool(np.all(multihost_utils.process_allgather(np.asarray(ready))))
    except (ValueError, RuntimeError):  # what JAX raises where the connection is lost
        return False


def shard() -> tuple[int, int]:
    """(i, n): which part of a campaign is this process's, from 1, of how many."""
    return jax.process_index() + 1, jax.process_count()


def leave() -> None:
    """Parts from the other processes when all have come here: from here on no process waits for another.

    Raises:
      ValueError: another process has failed.
    """
    with together():
        pass
    jax.distributed.shutdown()
    _on_abort(None)


def end(code: int) -> NoReturn:
    """Ends this process without a farewell, which one that is gone would not answer.

    The others lose their coordinator with process 0: it gives them time to say why they stop.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if is_main():
        time.sleep(_LAST_WORDS)
    os._exit(code)


def mesh(devices: int | None, rows: int) -> jax.sharding.Mesh:
    """The devices that train, the same number of every process.

    Args:
      devices: of each process. None takes, of a CPU, one; of an accelerator, as many as cut `rows` evenly, at most all.
      rows: images computed at once.

    Raises:
      ValueError: a process has fewer devices.
    """
    count, processes = jax.local_device_count(), jax.process_count()
    if devices is None:
        usable = range(1, 2 if jax.default_backend() == "cpu" else count + 1)
        devices = max((n for n in usable if rows % (n * processes) == 0), default=1)
    if not 1 <= devices <= count:
        raise ValueError(f"devices must be from 1 to {count}, as many as a process has here, got {devices}")
    taken = [d for i in range(processes) for d in [d for d in jax.devices() if d.process_index == i][:devices]]
    return training.make_mesh(taken)


def _on_abort(message: str | None) -> None:
    """Lets an `abort` of JAX end with the line `error: message` and exit code 2; without a message, as it does."""

    def stop(_: int) -> None:
        os.write(2, f"error: {message}\n".encode())
        os._exit(2)

    # A handler of Python's would only be called once this one, in C, has returned: abort() does not wait for that.
    _handlers.append(None if message is None else _HANDLER(stop))
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _handlers[-1])
