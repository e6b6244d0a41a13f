"""Text that every Python installation carries, as rows of characters."""

import pydoc_data.topics
from typing import Any

import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.registry import DATASETS

FIRST, LAST = 32, 126  # printable ASCII; a line break and everything else have symbols of their own
SYMBOLS = LAST - FIRST + 3


@DATASETS.add("documentation")
def documentation(config: Any, data_dir: str | None) -> Dataset:
    """Returns the language reference that ``help()`` shows, in rows of ``length`` characters.

    What to predict for each character is the next one. The rows are in the text's order; the
    last tenth is to test on, the tenth before it to validate.
    """
    length = config.length
    topics = pydoc_data.topics.topics
    codes = symbols("\n\n".join(topics[name] for name in sorted(topics)))
    rows = (len(codes) - 1) // length
    x, y = (codes[i : i + rows * length].reshape(rows, length) for i in (0, 1))
    cuts = rows * 8 // 10, rows * 9 // 10
    parts = (slice(cuts[0]), slice(*cuts), slice(cuts[1], None))
    train, valid, test = (Split(x[part], y[part]) for part in parts)
    order = np.random.default_rng(0).permutation(len(train.y))  # calibration sees all topics
    return Dataset("Python's documentation", train.take(order), valid, test, SYMBOLS)


def symbols(text: str) -> np.ndarray:
    """Returns the number of every character.

    >>> symbols("a b\\n").tolist()
    [65, 0, 66, 95]
    """
    number = np.full(128, SYMBOLS - 1, np.int32)
    number[ord("\n")], number[FIRST : LAST + 1] = SYMBOLS - 2, np.arange(LAST + 1 - FIRST)
    return number[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]
