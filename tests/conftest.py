"""Fixtures for all tests."""

import gc
import os
import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

# Random networks compile a program each: quick compilation matters more than quick programs.
# LLVM's own loops compile twice as fast as XLA's newer ones by MLIR (versions that have those
# alone ignore the option), and a program in one piece twice as fast as one cut up for threads.
# Eight virtual devices let the sharded paths run anywhere.
FLAGS = (
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_force_host_platform_device_count=8",
)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))


# Traced programs are made of very many objects, hardly any of which are garbage.
gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests run in one process: networks and programs that they share are made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Of the cases of a test marked ``quick(n)`` n are; the others are slow."""
    families: dict[tuple[pathlib.Path, str], list[Any]] = {}
    for item in items:
        if item.get_closest_marker("quick"):
            families.setdefault((item.path, item.originalname), []).append(item)
    for cases in families.values():
        met = Counter[tuple[int, str]]()
        for _ in range(min(cases[0].get_closest_marker("quick").args[0], len(cases))):
            # Values met least: each of every parameter has its turn.
            case = min(cases, key=lambda own: sum(met[value] for value in _values(own)))
            met.update(_values(case))
            cases.remove(case)
        for case in cases:
            case.add_marker(pytest.mark.slow)


def _values(case: Any) -> list[tuple[int, str]]:
    return list(enumerate(case.callspec.id.split("-")))


# Every example compiles programs of its own. What a commit's tests say doesn't depend on chance:
# `pytest --hypothesis-profile=thorough` draws anew each time, and takes longer.
settings.register_profile(
    "quick",
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a smaller example takes minutes
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "thorough",
    settings.get_profile("quick"),
    max_examples=500,
    derandomize=False,
    phases=tuple(Phase),
)
settings.load_profile("quick")


MAPPINGS = 30_000
"""Memory mappings of a process from which compiled programs are dropped."""


def drop_programs() -> None:
    """Every program holds some mappings; past Linux's limit of 65,530 the compiler crashes."""
    import jax  # not before the settings above

    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MAPPINGS:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Drops programs between modules."""
    yield
    drop_programs()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Folder of data sets and reference networks that are too large for the repository.

    It is named by ``LINJAX_SHARED``, or lies next to the repository under the name
    ``shared``. Tests that need it are skipped where it is absent.
    """
    beside = pathlib.Path(__file__).resolve().parents[2] / "shared"
    folder = pathlib.Path(os.environ.get("LINJAX_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"needs reference data: {folder} is absent; name it by LINJAX_SHARED")
    return folder
