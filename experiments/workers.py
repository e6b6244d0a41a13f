"""Processes that share a sweep, joined by jax.distributed."""

import os
import socket
import subprocess
import sys
import threading

import jax

PATIENCE = 7 * 24 * 3600  # seconds that a process which is done, or at work, is waited for
PARENT = "LINJAX_SWEEP_PARENT"


def start(count: int) -> int:
    """Starts the processes on this machine and waits for them; returns their exit status.

    They share the host's cores. If this process dies, however it does, they end, too.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    read, write = os.pipe()
    cores = max(1, (os.cpu_count() or count) // count)
    environment = {**os.environ, PARENT: str(read), "OMP_NUM_THREADS": str(cores)}
    command = [sys.executable, "-m", "experiments.sweep", *sys.argv[1:], f"--coordinator={address}"]
    children = [
        subprocess.Popen([*command, f"--process_id={i}"], env=environment, pass_fds=[read])
        for i in range(count)
    ]
    os.close(read)
    try:
        return max(abs(child.wait()) for child in children)
    finally:
        os.close(write)
        for child in children:
            child.terminate()


def join(coordinator: str | None, count: int, index: int) -> None:
    """Joins the other processes, before anything else is done with JAX."""
    if PARENT in os.environ:
        threading.Thread(target=_follow, args=(int(os.environ[PARENT]),), daemon=True).start()
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            # Nobody needs another's results: a process that dies must not take the others along.
            heartbeat_timeout_seconds=PATIENCE,
            shutdown_timeout_seconds=PATIENCE,
        )


def _follow(pipe: int) -> None:
    """Ends this process when its parent has closed the pipe."""
    os.read(pipe, 1)
    os._exit(1)
