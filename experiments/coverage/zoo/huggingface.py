"""Transformers' Flax classes (up to 4.57), from configurations, with random weights."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.coverage.zoo.registry import Built, filled, model, normal, tokens

NAME = "transformers"
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
PICTURE = {k: v for k, v in TEXT.items() if k not in ("vocab_size", "max_position_embeddings")}
PICTURE |= {"image_size": 16, "patch_size": 4}


def built(family: str, kind: str, options: dict, inputs: dict, **init: Any) -> Built:
    """The function of the class `Flax{family}{kind}`; its arguments by name become positions."""
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()  # each class says that it is deprecated
    config = getattr(transformers, f"{family}Config")(**options)
    net = getattr(transformers, f"Flax{family}{kind}")(config, _do_init=False, **init)
    shapes = jax.eval_shape(lambda key: net.init_weights(key, net.input_shape), jax.random.key(0))
    names = list(inputs)

    def apply(params: Any, *values: jax.Array) -> Any:
        out = net(**dict(zip(names, values, strict=True)), params=params)
        for name in ("logits", "logits_per_image", "pooler_output", "last_hidden_state"):
            if (value := getattr(out, name, None)) is not None:
                return value
        raise ValueError(f"{family} gives none of the outputs that are known")

    return apply, filled(dict(shapes)), tuple(inputs.values())


def words(**options: int) -> dict:
    """Short texts."""
    return {"input_ids": tokens(2, 8, **options)}


def pictures(size: int = 16) -> dict:
    """Small pictures, channels first as these classes want them."""
    return {"pixel_values": normal(2, 3, size, size)}


@model("hf_gpt2", NAME)
def gpt2() -> Built:
    options = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return built("GPT2", "LMHeadModel", options, words())


@model("hf_bert", NAME)
def bert() -> Built:
    return built("Bert", "ForSequenceClassification", TEXT, words())


@model("hf_bert_masked", NAME)
def bert_masked() -> Built:
    return built("Bert", "ForMaskedLM", TEXT, words())


@model("hf_albert", NAME)
def albert() -> Built:
    options = {**TEXT, "embedding_size": 16}
    return built("Albert", "ForSequenceClassification", options, words())


@model("hf_roberta", NAME)
def roberta() -> Built:
    mask = jnp.ones((2, 8), jnp.int32).at[0, 6:].set(0)
    inputs = words() | {"attention_mask": mask}
    return built("Roberta", "ForSequenceClassification", TEXT, inputs)


@model("hf_electra", NAME)
def electra() -> Built:
    options = {**TEXT, "embedding_size": 16}
    return built("Electra", "ForSequenceClassification", options, words())


@model("hf_distilbert", NAME)
def distilbert() -> Built:
    options = {
        "vocab_size": 64,
        "dim": 32,
        "hidden_dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": 32,
    }
    return built("DistilBert", "ForSequenceClassification", options, words())


@model("hf_llama", NAME)
def llama() -> Built:
    return built("Llama", "ForCausalLM", {**TEXT, "num_key_value_heads": 2}, words())


@model("hf_mistral", NAME)
def mistral() -> Built:
    options = {**TEXT, "num_key_value_heads": 2, "sliding_window": 4}
    return built("Mistral", "ForCausalLM", options, words())


@model("hf_gemma", NAME)
def gemma() -> Built:
    options = {**TEXT, "num_key_value_heads": 1, "head_dim": 8}
    return built("Gemma", "ForCausalLM", options, words())


@model("hf_opt", NAME)
def opt() -> Built:
    options = {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}
    return built("OPT", "ForCausalLM", options, words())


@model("hf_gptneo", NAME)
def gptneo() -> Built:
    options = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 32,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    }
    return built("GPTNeo", "ForCausalLM", options, words())


@model("hf_gptj", NAME)
def gptj() -> Built:
    options = {
        "vocab_size": 64,
        "n_positions": 32,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "rotary_dim": 4,
        "tie_word_embeddings": False,
    }
    return built("GPTJ", "ForCausalLM", options, words())


@model("hf_bloom", NAME)
def bloom() -> Built:
    options = {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    mask = {"attention_mask": jnp.ones((2, 8), jnp.int32)}
    return built("Bloom", "ForCausalLM", options, words() | mask)


class Older:
    """`jax.numpy` as T5's code knew it: `clip` takes `a_max`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def clip(x: Any, a_min: Any = None, a_max: Any = None) -> Any:
        return jnp.clip(x, a_min, a_max)


@model("hf_t5", NAME)
def t5() -> Built:
    from transformers.models.t5 import modeling_flax_t5

    modeling_flax_t5.jnp = Older()
    options = {
        "vocab_size": 64,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    }
    return built("T5", "ForConditionalGeneration", options, words() | target())


@model("hf_bart", NAME)
def bart() -> Built:
    return built("Bart", "ForConditionalGeneration", sides(), words() | target())


@model("hf_whisper", NAME)
def whisper() -> Built:
    options = {**sides(), "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16}
    inputs = {"input_features": normal(2, 8, 16)} | target()
    return built("Whisper", "ForConditionalGeneration", options, inputs, input_shape=(1, 8, 16))


@model("hf_vit", NAME)
def vit() -> Built:
    return built("ViT", "ForImageClassification", PICTURE, pictures())


@model("hf_beit", NAME)
def beit() -> Built:
    options = {**PICTURE, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}
    return built("Beit", "ForImageClassification", options, pictures())


@model("hf_dinov2", NAME)
def dinov2() -> Built:
    return built("Dinov2", "ForImageClassification", PICTURE, pictures())


@model("hf_clip", NAME)
def clip() -> Built:
    text = {**TEXT, "eos_token_id": 63}
    options = {"text_config": text, "vision_config": PICTURE, "projection_dim": 24}
    return built("CLIP", "Model", options, words() | pictures())


@model("hf_resnet", NAME)
def resnet() -> Built:
    options = {
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48],
        "depths": [1, 2, 1],
        "layer_type": "bottleneck",
    }
    return built("ResNet", "ForImageClassification", options, pictures(32))


@model("hf_regnet", NAME)
def regnet() -> Built:
    options = {
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48],
        "depths": [1, 2, 1],
        "groups_width": 8,
        "layer_type": "y",
    }
    return built("RegNet", "ForImageClassification", options, pictures(32))


@model("hf_wav2vec2", NAME)
def wav2vec2() -> Built:
    options = {
        **TEXT,
        "conv_dim": [16, 16, 24],
        "conv_kernel": [5, 3, 3],
        "conv_stride": [2, 2, 2],
        "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
    }
    sound = {"input_values": normal(2, 200)}
    return built("Wav2Vec2", "ForCTC", options, sound, input_shape=(1, 200))


def sides() -> dict:
    """An encoder and a decoder of the same size."""
    sizes = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
    both = {f"{s}_{k}": v for s in ("encoder", "decoder") for k, v in sizes.items()}
    return both | {
        "vocab_size": 64,
        "d_model": 32,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "decoder_start_token_id": 2,
    }


def target() -> dict:
    """What a decoder reads."""
    return {"decoder_input_ids": tokens(2, 6, seed=2)}
