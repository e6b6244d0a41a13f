"""Transformers' Flax classes (up to 4.57), from configurations, with random weights."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.coverage.zoo.registry import Built, filled, models, normal, tokens


def sizes(names: str, *values: Any) -> dict[str, Any]:
    """Options of a configuration, by names that classes give to the same sizes."""
    return dict(zip(names.split(), values, strict=True))


LAYERS = sizes("hidden_size num_hidden_layers num_attention_heads intermediate_size", 32, 2, 4, 64)
TEXT = LAYERS | sizes("vocab_size max_position_embeddings", 64, 32)
PICTURE = LAYERS | sizes("image_size patch_size", 16, 4)
STAGES = sizes("embedding_size hidden_sizes depths", 16, [16, 32, 48], [1, 2, 1])
GPT = sizes("vocab_size n_positions n_embd n_layer n_head", 64, 32, 32, 2, 4)
SIDES = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in sizes("layers attention_heads ffn_dim", 2, 4, 64).items()
} | sizes(
    "vocab_size d_model max_position_embeddings pad_token_id decoder_start_token_id",
    *(64, 32, 32, 0, 2),
)
SPEECH = sizes("num_mel_bins max_source_positions max_target_positions pad_token_id", 8, 8, 16, 0)


def built(
    family: str, kind: str, inputs: dict, *options: dict, shape: Any = None, **more: Any
) -> Built:
    """The function of the class `Flax{family}{kind}`; its arguments by name become positions."""
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()  # each class says that it is deprecated
    for part in options:
        more = part | more
    config = getattr(transformers, f"{family}Config")(**more)
    sized = {} if shape is None else {"input_shape": shape}
    net = getattr(transformers, f"Flax{family}{kind}")(config, _do_init=False, **sized)
    shapes = jax.eval_shape(lambda key: net.init_weights(key, net.input_shape), jax.random.key(0))
    names = list(inputs)

    def apply(params: Any, *values: jax.Array) -> Any:
        out = net(**dict(zip(names, values, strict=True)), params=params)
        for name in ("logits", "logits_per_image", "pooler_output", "last_hidden_state"):
            if (value := getattr(out, name, None)) is not None:
                return value
        raise ValueError(f"{family} gives none of the outputs that are known")

    return apply, filled(dict(shapes)), tuple(inputs.values())


def text(
    family: str, *options: dict, kind: str = "ForSequenceClassification", **more: Any
) -> Built:
    """A class that reads short texts."""
    return built(family, kind, {"input_ids": tokens(2, 8)}, *options, **more)


def decoder(family: str, *options: dict, **more: Any) -> Built:
    """A class that continues short texts."""
    return text(family, *options, kind="ForCausalLM", **more)


def masked(family: str, kind: str, hidden: int, *options: dict, **more: Any) -> Built:
    """A class that reads short texts, whose last words may be hidden."""
    mask = jnp.ones((2, 8), jnp.int32).at[0, 8 - hidden :].set(0)
    inputs = {"input_ids": tokens(2, 8), "attention_mask": mask}
    return built(family, kind, inputs, *options, **more)


def picture(family: str, *options: dict, side: int = 16, **more: Any) -> Built:
    """A class that reads small pictures, channels first as these classes want them."""
    inputs = {"pixel_values": normal(2, 3, side, side)}
    return built(family, "ForImageClassification", inputs, *options, **more)


def both(family: str, *options: dict, inputs: dict | None = None, **more: Any) -> Built:
    """A class whose decoder reads what an encoder made of something."""
    inputs = inputs or {"input_ids": tokens(2, 8)}
    inputs = inputs | {"decoder_input_ids": tokens(2, 6, seed=2)}
    return built(family, "ForConditionalGeneration", inputs, *options, **more)


class Older:
    """`jax.numpy` as T5's code knew it: `clip` takes `a_max`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def clip(x: Any, a_min: Any = None, a_max: Any = None) -> Any:
        return jnp.clip(x, a_min, a_max)


def t5() -> Built:
    """T5 with gated units, and a `jax.numpy` that its code knows."""
    from transformers.models.t5 import modeling_flax_t5

    modeling_flax_t5.jnp = Older()
    options = sizes("vocab_size d_model d_kv d_ff num_layers num_heads", 64, 32, 8, 64, 2, 4)
    return both("T5", options, feed_forward_proj="gated-gelu")


def clip() -> Built:
    """Two towers."""
    inputs = {"input_ids": tokens(2, 8), "pixel_values": normal(2, 3, 16, 16)}
    options = {"text_config": {**TEXT, "eos_token_id": 63}, "vision_config": PICTURE}
    return built("CLIP", "Model", inputs, options, projection_dim=24)


def wav2vec2() -> Built:
    """Convolutions over a sound, then layers with their norms in front."""
    convolutions = sizes("conv_dim conv_kernel conv_stride", [16, 16, 24], [5, 3, 3], [2, 2, 2])
    places = sizes("num_conv_pos_embeddings num_conv_pos_embedding_groups", 8, 4)
    norms = sizes("do_stable_layer_norm feat_extract_norm", True, "layer")
    return built(
        "Wav2Vec2", "ForCTC", {"input_values": normal(2, 200)}, TEXT, convolutions, places, norms,
        num_feat_extract_layers=3, shape=(1, 200),
    )  # fmt: skip


models(
    "transformers",
    hf_gpt2=lambda: text("GPT2", GPT, kind="LMHeadModel"),
    hf_bert=lambda: text("Bert", TEXT),
    hf_bert_masked=lambda: text("Bert", TEXT, kind="ForMaskedLM"),
    hf_albert=lambda: text("Albert", TEXT, embedding_size=16),
    hf_roberta=lambda: masked("Roberta", "ForSequenceClassification", 2, TEXT),
    hf_electra=lambda: text("Electra", TEXT, embedding_size=16),
    hf_distilbert=lambda: text(
        "DistilBert",
        sizes("vocab_size max_position_embeddings dim hidden_dim", 64, 32, 32, 64),
        sizes("n_layers n_heads", 2, 4),
    ),
    hf_llama=lambda: decoder("Llama", TEXT, num_key_value_heads=2),
    hf_mistral=lambda: decoder("Mistral", TEXT, num_key_value_heads=2, sliding_window=4),
    hf_gemma=lambda: decoder("Gemma", TEXT, num_key_value_heads=1, head_dim=8),
    hf_opt=lambda: decoder("OPT", TEXT, ffn_dim=64, word_embed_proj_dim=32),
    hf_gptneo=lambda: decoder(
        "GPTNeo",
        sizes("vocab_size max_position_embeddings hidden_size num_layers", 64, 32, 32, 2),
        sizes("num_heads attention_types window_size", 4, [[["global", "local"], 1]], 4),
    ),
    hf_gptj=lambda: decoder("GPTJ", GPT, rotary_dim=4, tie_word_embeddings=False),
    hf_bloom=lambda: masked(
        *("Bloom", "ForCausalLM", 0), sizes("vocab_size hidden_size n_layer n_head", 64, 32, 2, 4)
    ),
    hf_t5=t5,
    hf_bart=lambda: both("Bart", SIDES),
    hf_whisper=lambda: both(
        "Whisper", SIDES, SPEECH, inputs={"input_features": normal(2, 8, 16)}, shape=(1, 8, 16)
    ),
    hf_vit=lambda: picture("ViT", PICTURE),
    hf_beit=lambda: picture(
        "Beit", PICTURE, use_relative_position_bias=True, layer_scale_init_value=0.1
    ),
    hf_dinov2=lambda: picture("Dinov2", PICTURE),
    hf_clip=clip,
    hf_resnet=lambda: picture("ResNet", STAGES, side=32, layer_type="bottleneck"),
    hf_regnet=lambda: picture("RegNet", STAGES, side=32, layer_type="y", groups_width=8),
    hf_wav2vec2=wav2vec2,
)
