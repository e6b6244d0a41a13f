"""Commands that tests start share the programs they compile."""

import os
from collections.abc import Iterator

import jax  # noqa: F401, what this process itself does is settled when JAX is imported
import pytest


@pytest.fixture(autouse=True, scope="session")
def programs_of_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A run that was killed and goes on compiles nothing anew.

    In this process it would save nothing: its programs are all different, and kept in memory.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("programs")))
            patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
            patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        yield
