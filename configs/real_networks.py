"""What the configs of networks that others trained share: methods, sizes, draws, what is measured.

The configs are ``real_resnet``, ``real_llama``, ``real_efficientnet`` and ``real_crepe``.
``--config.runtime=onnx`` exports every network and measures its latency in onnxruntime.
"""

from configs.common import base

OURS = ("size", "sequential", "compress")
OTHERS = (
    "refit", "refit_recalibrated", "balf", "balf_recalibrated", "whitened_svd", "alds", "modegpt",
    "slicegpt", "replaceme", "model_folding_recalibrated", "magnitude", "magnitude_recalibrated",
)  # fmt: skip


def real(kind, sizes, rows, batch):
    """Returns the config of a network.

    Args:
      kind: its name in ``experiments.pretrained.READERS``.
      sizes: shares of its parameters.
      rows: how many calibration rows each of three draws has.
      batch: how many of them are run at a time.
    """
    config = base()
    config.dataset.update({"drawn": True, "labels": True, "test_rows": 1000})
    config.network.kind = kind
    config.calibration = {"rows": rows, "batch": batch}
    config.rules_of = "whole"
    config.latency, config.runtime = (1, 32), "jax"
    config.rules = dict.fromkeys((*OURS, *OTHERS), sizes)
    # At equal bytes: int8 on top of half the parameters, four bits of all of them.
    config.rules.original_int8 = config.rules.original_int4 = (1.0,)
    for rule in ("compress", "refit", "balf"):
        config.rules[f"{rule}_int8"] = (0.5,)
    config.sweep = (("seed", (0, 1, 2)),)
    return config
