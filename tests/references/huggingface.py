"""Hugging Face's ViT, GPT-2 and Llama beside ours with the same weights: pairs (theirs, ours)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from bench.types import TaskSpec
from methods.backbone.transformer import Transformer

Weights = Mapping[str, Tensor]
Pair = tuple[nn.Module, nn.Module]


def vit(shape: Transformer, image_size: int, num_classes: int) -> Pair:
    """A ViT with a class token: `shape` with stem=patch and pool=class."""
    config = ViTConfig(
        hidden_size=shape.dim,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.hidden,
        image_size=image_size,
        patch_size=shape.image_stride,
        layer_norm_eps=shape.norm_eps,
        num_labels=num_classes,
    )
    spec = TaskSpec("images", "image", (3, image_size, image_size), num_classes)
    return _pair(ViTForImageClassification(config), shape, spec, _vit)


def gpt2(shape: Transformer, vocab_size: int, length: int) -> Pair:
    """A GPT-2: `shape` with gelu_tanh and a tied output layer."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=length,
        n_embd=shape.dim,
        n_layer=shape.depth,
        n_head=shape.num_heads,
        n_inner=shape.hidden,
        layer_norm_epsilon=shape.norm_eps,
        bos_token_id=None,  # no symbol is special here
        eos_token_id=None,
    )
    return _pair(GPT2LMHeadModel(config), shape, _text(vocab_size, length), _gpt2)


def llama(shape: Transformer, vocab_size: int, length: int) -> Pair:
    """A Llama: `shape` with RMSNorm, rotary positions, SwiGLU and no biases."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        max_position_embeddings=length,
        hidden_size=shape.dim,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads or shape.num_heads,
        intermediate_size=shape.hidden,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        bos_token_id=None,
        eos_token_id=None,
    )
    return _pair(LlamaForCausalLM(config), shape, _text(vocab_size, length), _llama)


def _text(vocab_size: int, length: int) -> TaskSpec:
    return TaskSpec("text", "tokens", (length,), vocab_size, vocab_size=vocab_size, causal=True)


def _pair(
    theirs: nn.Module, shape: Transformer, spec: TaskSpec, read: Callable[[Weights, int], Weights]
) -> Pair:
    """Random weights large enough to matter, biases and norms too, the same in both."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in theirs.named_parameters():
        is_scale = weight.dim() == 1 and name.endswith("weight")
        nn.init.normal_(weight, 1.0 if is_scale else 0.0, 0.05, generator=generator)
    ours = shape.build(spec)
    ours.load_state_dict(dict(read(theirs.state_dict(), shape.depth)))
    return theirs.eval(), ours.eval()


def _vit(given: Weights, depth: int) -> Weights:
    made = {
        "stem.class_token": given["vit.embeddings.cls_token"],
        "stem.positions": given["vit.embeddings.position_embeddings"][0],
    }
    renamed = {
        "stem.layers": "vit.embeddings.patch_embeddings.projection",
        "head.norm": "vit.layernorm",
        "head.linear": "classifier",
    }
    for i in range(depth):
        block, layer = f"blocks.{i}", f"vit.layers.{i}"
        renamed |= {
            f"{block}.norm_mix": f"{layer}.layernorm_before",
            f"{block}.norm_feed": f"{layer}.layernorm_after",
            f"{block}.attention.out": f"{layer}.attention.o_proj",
            f"{block}.ffn.up": f"{layer}.mlp.fc1",
            f"{block}.ffn.down": f"{layer}.mlp.fc2",
        }
        for kind in ("weight", "bias"):
            parts = [given[f"{layer}.attention.{each}_proj.{kind}"] for each in "qkv"]
            made[f"{block}.attention.qkv.{kind}"] = torch.cat(parts)
    return made | _renamed(given, renamed, ("weight", "bias"))


def _gpt2(given: Weights, depth: int) -> Weights:
    made = {
        "stem.embedding.weight": given["transformer.wte.weight"],
        "stem.positions": given["transformer.wpe.weight"],
        "head.linear.weight": given["lm_head.weight"],
    }
    renamed = {"head.norm": "transformer.ln_f"}
    for i in range(depth):
        block, layer = f"blocks.{i}", f"transformer.h.{i}"
        renamed |= {f"{block}.norm_mix": f"{layer}.ln_1", f"{block}.norm_feed": f"{layer}.ln_2"}
        for ours, theirs in {
            "attention.qkv": "attn.c_attn",
            "attention.out": "attn.c_proj",
            "ffn.up": "mlp.c_fc",
            "ffn.down": "mlp.c_proj",
        }.items():  # their matrices lie as [inputs, outputs]
            made[f"{block}.{ours}.weight"] = given[f"{layer}.{theirs}.weight"].T.contiguous()
            made[f"{block}.{ours}.bias"] = given[f"{layer}.{theirs}.bias"]
    return made | _renamed(given, renamed, ("weight", "bias"))


def _llama(given: Weights, depth: int) -> Weights:
    made = {}
    renamed = {
        "stem.embedding": "model.embed_tokens",
        "head.norm": "model.norm",
        "head.linear": "lm_head",
    }
    for i in range(depth):
        block, layer = f"blocks.{i}", f"model.layers.{i}"
        renamed |= {
            f"{block}.norm_mix": f"{layer}.input_layernorm",
            f"{block}.norm_feed": f"{layer}.post_attention_layernorm",
            f"{block}.attention.out": f"{layer}.self_attn.o_proj",
            f"{block}.ffn.gate": f"{layer}.mlp.gate_proj",
            f"{block}.ffn.up": f"{layer}.mlp.up_proj",
            f"{block}.ffn.down": f"{layer}.mlp.down_proj",
        }
        parts = [given[f"{layer}.self_attn.{each}_proj.weight"] for each in "qkv"]
        made[f"{block}.attention.qkv.weight"] = torch.cat(parts)
    return made | _renamed(given, renamed, ("weight",))


def _renamed(given: Weights, names: Mapping[str, str], kinds: tuple[str, ...]) -> Weights:
    return {f"{n}.{kind}": given[f"{old}.{kind}"] for n, old in names.items() for kind in kinds}
