"""What configs can name: networks, data sets and methods, each one function.

A network is ``build(config, inputs, classes) -> Network``, a data set is
``load(config.dataset, data_dir) -> Dataset``, a method is ``make(subject, amount) -> parameters``:

    @NETWORKS.add("perceptron")
    def perceptron(config, inputs, classes): ...

Then ``config.network.kind = "perceptron"`` names it; a data set is named by ``dataset.name``, a
method by ``rules.NAME``, a tuple of its amounts.
"""

from collections.abc import Callable
from typing import Any


class Registry(dict[str, Any]):
    """Functions by name."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self.field = field

    def add(self, name: str) -> Callable[[Any], Any]:
        """A decorator that registers a function under a name, a ``ValueError`` if it is taken."""

        def register(function: Any) -> Any:
            if name in self:
                raise ValueError(f"{self.field}: there are two called {name!r}")
            self[name] = function
            return function

        return register

    def find(self, name: str) -> Any:
        """Returns what has a name; a ``ValueError`` lists what there is if nothing has it."""
        if name not in self:
            raise ValueError(f"unknown {self.field} {name!r}; known: {', '.join(self)}")
        return self[name]


NETWORKS = Registry("network.kind")
DATASETS = Registry("dataset.name")
METHODS = Registry("rule")
STEPS = Registry("step")
"""What may follow a method: ``step(subject, params) -> parameters``, in names ``METHOD_STEP``."""
