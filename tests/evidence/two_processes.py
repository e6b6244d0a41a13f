"""What one of two processes does in ``test_processes.py``; not a test itself."""

import os
import sys


def main() -> None:
    """Collects and folds as one of two processes, and writes what came out."""
    index, address, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

    import jax
    import numpy as np
    from jax.sharding import Mesh

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, index)

    import linjax
    from tests.evidence.test_processes import BATCHES, SIZE, apply, parameters, rows

    params, x = parameters(), rows()
    net = linjax.trace(apply, params, x[:2])
    mesh = Mesh(np.array(jax.devices()), ("data",))
    half = SIZE // 2
    mine = [x[i * SIZE :][index * half : (index + 1) * half] for i in range(BATCHES)]
    stats = linjax.collect(net, params, mine, mesh=mesh)
    known = linjax.frontier(params, stats, mesh=mesh)  # each process prices some of the sites
    small = linjax.fold(params, known, linjax.size(0.4))
    both = Mesh(mesh.devices.reshape(4, 2), ("data", "model"))
    blocks = linjax.collect(net, params, mine, mesh=both, limits=linjax.Limits(bytes=20_000))
    np.savez(file, *map(np.asarray, jax.tree.leaves((stats, small, blocks))))

    across = Mesh(mesh.devices.reshape(2, 4).T, ("data", "model"))
    try:
        linjax.collect(net, params, mine, mesh=across)
    except linjax.EvidenceError as error:
        assert "several processes" in str(error), error
    else:
        raise AssertionError("not refused: an axis over two processes")

    for batches, says in (([mine[0][:-1]], "divide"), (mine[: 1 + index], "as many")):
        try:
            linjax.collect(net, params, batches, mesh=mesh)
        except linjax.EvidenceError as error:
            assert says in str(error), error
        else:
            raise AssertionError(f"not refused: {says}")


if __name__ == "__main__":
    main()
