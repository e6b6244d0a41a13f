"""Penzai's transformers, whose arrays have named axes."""

from typing import Any

import jax

from experiments.coverage.zoo.registry import Built, filled, models, tokens


def built(**options: Any) -> Built:
    """The function of a decoder; its parameters, unwrapped, are a dict by label."""
    from penzai import pz
    from penzai.models.transformer.variants import llamalike_common

    config = llamalike_common.LlamalikeTransformerConfig(
        query_head_multiplier=2,
        embedding_dim=32,
        projection_dim=8,
        mlp_hidden_dim=64,
        num_decoder_blocks=2,
        vocab_size=64,
        **options,
    )
    net = llamalike_common.build_llamalike_transformer(config, jax.random.key(0))
    empty, variables = pz.unbind_params(net, freeze=True)
    shapes, named = {}, {}
    for variable in variables:
        (shapes[variable.label],), named[variable.label] = jax.tree.flatten(variable)

    def apply(params: dict, words: jax.Array) -> jax.Array:
        values = [jax.tree.unflatten(named[k], [v]) for k, v in params.items()]
        now = pz.bind_variables(empty, values)
        return now(pz.nx.wrap(words).tag("batch", "seq")).unwrap("batch", "seq", "vocabulary")

    return apply, filled(shapes), (tokens(2, 8),)


models(
    "penzai",
    penzai_gemma=lambda: built(
        num_kv_heads=2,
        mlp_variant="geglu_approx",
        tie_embedder_and_logits=True,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        final_logit_softcap=30.0,
    ),
    penzai_llama=lambda: built(num_kv_heads=2, mlp_variant="swiglu", tie_embedder_and_logits=False),
    penzai_stacked_llama=lambda: built(
        num_kv_heads=2, mlp_variant="swiglu", tie_embedder_and_logits=False, use_layer_stack=True
    ),
)
