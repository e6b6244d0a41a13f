"""Coverage-guided fuzzing of the loader: ``make fuzz``, or ``python -m tests.store.fuzz``.

Needs the extra ``fuzz`` (atheris); arguments are libFuzzer's, ``-max_total_time=60`` say. Inputs
are whole files, or descriptions that are put into a file with the right checksum, as an
attacker would. What is found is written to ``crash-…``.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["linjax.store"]):
    import linjax
    from linjax.store.manifest import digest

from tests.store.test_hostile import taken_apart

GOLDEN = Path(__file__).parent / "golden" / "folded_1.safetensors"
WHOLE = GOLDEN.read_bytes()
HEADER, _, DATA = taken_apart(WHOLE)
LENGTH = int.from_bytes(WHOLE[:8], "little")
LARGEST = 200  # parameters in the golden file


def sealed(text: bytes) -> bytes:
    """A file with any description, in JSON's escapes, and the checksum that belongs to it."""
    import json

    manifest = text.decode("latin-1")
    own = {"format": "linjax", "manifest": manifest, "sha256": digest(manifest, [DATA])}
    head = json.dumps(HEADER | {"__metadata__": own}).encode()
    return len(head).to_bytes(8, "little") + head + DATA


def one_input(data: bytes) -> None:
    """Any error of ours is right; so is a network that isn't larger than the file."""
    file = sealed(data[1:]) if data[:1] == b"m" else data[1:]
    PATH.write_bytes(file)
    try:
        _, params = linjax.load(PATH)
    except linjax.LinjaxError:
        return
    assert linjax.count(params) <= LARGEST


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        global PATH
        PATH = Path(folder) / "net"
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        (corpus / "file").write_bytes(b"f" + WHOLE)
        manifest = HEADER["__metadata__"]["manifest"]
        (corpus / "manifest").write_bytes(b"m" + manifest.encode("latin-1", "replace"))
        options = ["-max_len=20000", "-timeout=20", "-rss_limit_mb=4096", str(corpus)]
        atheris.Setup([*sys.argv, *options], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
