"""Random networks compile by the hundred: programs are dropped between tests, too."""

from collections.abc import Iterator

import pytest

from tests.conftest import drop_programs


@pytest.fixture(autouse=True)
def few_programs_each() -> Iterator[None]:
    """Drops programs once there are many."""
    drop_programs()
    yield
