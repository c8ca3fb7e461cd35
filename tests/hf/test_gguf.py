"""GGUF files of every architecture that is supported, written here, and what is refused."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase, Qwen2Config

from sharedllm.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from sharedllm.hf import gguf_conversion, loading
from sharedllm.hf.gguf_tokenizer import make_tokenizer as tokenizer_of
from tests.models import SIZES, SPECIAL, TEMPLATE, VOCABULARY, make_model, make_tokenizer, rope

CPU = torch.device("cpu")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
LLAMA_3 = {
    **rope("llama3"),
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
MODULES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Quantise = Callable[[str], gguf.GGMLQuantizationType]


def float32(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType.F32


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{MODULES[rest]}.{kind}"


def in_pairs(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a head's two halves by turns, as llama.cpp has them."""
    out, at = np.empty_like(weight), 0
    half = len(weight) // heads // 2
    for head in range(heads):
        for dim in range(half):
            for part in range(2):
                out[at] = weight[(2 * head + part) * half + dim]
                at += 1
    return out


def write(
    path: Path, model: Any, kind: str, *, stored: Quantise = float32, **more: Any
) -> dict[str, torch.Tensor]:
    """Write `model` as a GGUF file of architecture `kind`; what its weights are then.

    `more` are further keys, with ``__`` for a dot.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for key, value in more.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
        add[type(value)](f"{kind}.{key.replace('__', '.')}", value)
    vocabulary(writer)
    written: dict[str, torch.Tensor] = {}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.numpy()
        module = name.split(".")[-2]
        if kind == "llama" and module in heads:
            array = in_pairs(array, heads[module])
        how = stored(name)
        data = gguf.quantize(array, how)
        writer.add_tensor(gguf_name(name), data, raw_dtype=how)
        written[name] = torch.from_numpy(np.ascontiguousarray(gguf.dequantize(data, how)))
    for name, factors in extra_tensors(config, kind).items():
        writer.add_tensor(name, factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def extra_tensors(config: Any, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """What GGUF has as tensors and transformers as configuration."""
    given = config.rope_parameters
    if given["rope_type"] == "longrope":
        return {
            f"rope_factors_{x}.weight": np.asarray(given[f"{x}_factor"], np.float32)
            for x in ("long", "short")
        }
    if given["rope_type"] == "llama3":
        model = AutoModelForCausalLM.from_config(config)
        scaled = model.model.rotary_emb.inv_freq.numpy()
        dims = 2 * len(scaled)
        plain = 1 / given["rope_theta"] ** (np.arange(0, dims, 2) / dims)
        return {"rope_freqs.weight": (plain / scaled).astype(np.float32)}
    return {}


def vocabulary(writer: gguf.GGUFWriter, pre: str = "default") -> None:
    """The tokenizer of tests/models.py, and one merge: a list in GGUF is not empty."""
    tokenizer = make_tokenizer()
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    given = [tokens.get(i, f"[PAD{i}]") for i in range(VOCABULARY - 1)] + ["zz"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(given)
    writer.add_token_types(
        [CONTROL if x in SPECIAL else UNUSED if x.startswith("[PAD") else NORMAL for x in given]
    )
    writer.add_token_merges(["z z"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(TEMPLATE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHAREDLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read(path: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    return loading.load(path, device=CPU, dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "kind", "more"),
    [
        ("llama", "llama", {}),
        ("llama-linear", "llama", {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}),
        (
            "llama-yarn",
            "llama",
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 128,
            },
        ),
        (LlamaConfig(**SIZES, rope_parameters=LLAMA_3), "llama", {}),
        (LlamaConfig(**SIZES, tie_word_embeddings=True), "llama", {}),
        (LlamaConfig(**SIZES, head_dim=16), "llama", {"attention__key_length": 16}),
        (LlamaConfig(**SIZES, head_dim=16), "llama", {"rope__dimension_count": 16}),
        (Qwen2Config(**SIZES), "qwen2", {}),
        ("qwen3", "qwen3", {"attention__key_length": 16}),
        ("phi3-partial", "phi3", {"rope__dimension_count": 4}),
        (
            "phi3-longrope",
            "phi3",
            {"rope__scaling__original_context_length": 256, "attention__sliding_window": 8},
        ),
    ],
)
def test_a_model_written_as_gguf_computes_the_same(
    family: Any, kind: str, more: dict[str, Any], tmp_path: Path
) -> None:
    if isinstance(family, str):
        model = make_model(family)
    else:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(family, attn_implementation="eager").eval()
    if "rope__dimension_count" not in more and "attention__key_length" not in more:
        more = {**more, "rope__dimension_count": 8}
    write(tmp_path / "tiny.gguf", model, kind, **more)
    found, _ = read(tmp_path / "tiny.gguf")
    ids = torch.arange(0, 300)[None] % 256
    found.set_attn_implementation("eager")
    torch.testing.assert_close(found(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_quantised_and_half_weights_are_those_of_the_file(tmp_path: Path) -> None:
    kinds = gguf.GGMLQuantizationType
    model = make_model("llama", hidden_size=64)

    def stored(name: str) -> gguf.GGMLQuantizationType:
        if "norm" in name:
            return kinds.F32
        return {"q_proj": kinds.Q8_0, "v_proj": kinds.Q4_1, "o_proj": kinds.F16}.get(
            name.split(".")[-2], kinds.BF16
        )

    written = write(tmp_path / "tiny.gguf", model, "llama", stored=stored)
    found = read(tmp_path / "tiny.gguf")[0].state_dict()
    assert found.keys() == model.state_dict().keys()
    for name, weight in written.items():
        ours = found[name].numpy()
        if name.split(".")[-2] in ("q_proj", "k_proj"):
            ours = in_pairs(ours, 4 if "q_proj" in name else 2)
        assert np.array_equal(ours, weight.numpy()), name


def test_the_tokenizer_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", make_model("llama"), "llama")
    found, expected = read(tmp_path / "tiny.gguf")[1], make_tokenizer()
    text = "na\u00efve <|turn|>user\n\u27e6 1,000<|end|>"
    assert found(text)["input_ids"] == expected(text)["input_ids"]
    assert found.decode(found(text)["input_ids"]) == text
    assert found.chat_template == TEMPLATE
    assert (found.eos_token, found.bos_token) == (SPECIAL[0], None)


def test_a_large_model_is_written_in_parts(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_conversion, "SHARD_BYTES", 10_000)
    model = make_model("llama")
    write(tmp_path / "tiny.gguf", model, "llama", rope__dimension_count=8)
    found, _ = read(tmp_path / "tiny.gguf")
    assert len(list(cache.glob("*/*.safetensors"))) > 3
    for name, weight in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight)


def test_a_file_is_converted_once_and_again_when_it_changed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, made = tmp_path / "tiny.gguf", []
    convert = loading.convert
    monkeypatch.setattr(loading, "convert", lambda *x: (made.append(x), convert(*x)))
    write(path, make_model("llama"), "llama")
    for _ in range(2):
        read(path)
    assert len(made) == 1
    write(path, make_model("llama", seed=1), "llama")
    os.utime(path, ns=(1, 1))
    model, _ = read(path)
    assert len(made) == len(list(cache.iterdir())) == 2
    expected = make_model("llama", seed=1).state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(model.state_dict()["model.layers.0.mlp.up_proj.weight"], expected)


# -- what is refused ------------------------------------------------------------------------------


def rewritten(path: Path, kind: str = "llama", **more: Any) -> None:
    write(path, make_model("llama"), kind, **more)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: rewritten(p, "gemma2"), r"architecture 'gemma2'; supported: llama, qwen2"),
        (lambda p: rewritten(p, rope__scaling__type="su"), "rotary positions by 'su'"),
        (lambda p: rewritten(p, rope__dimension_count=4, attention__key_length=8), "rotates 4 of"),
        (lambda p: write(p, make_model("qwen3"), "qwen2"), r"tensor 'blk\.0\.attn_[qk]_norm"),
        (lambda p: write(p, make_model("llama-llama3"), "llama"), "not those of Llama 3"),
        (lambda p: rewritten(p, rope__scaling__type="yarn"), r"llama\.rope\.scaling\.factor"),
    ],
)
def test_what_is_not_understood_is_refused(
    spoil: Callable[[Path], Any], message: str, tmp_path: Path, cache: Path
) -> None:
    spoil(tmp_path / "tiny.gguf")
    with pytest.raises(UnsupportedModelError, match=message):
        read(tmp_path / "tiny.gguf")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 3, 40, 5_000, 60_000])
def test_a_damaged_file(keep: int, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "tiny.gguf"
    rewritten(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelNotFoundError, match="cannot be read as a GGUF file"):
        read(path)
    assert list(cache.iterdir()) == []


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten(tmp_path / "tiny.gguf")
    usage = namedtuple("usage", "total used free")(10, 0, 10)
    monkeypatch.setattr(gguf_conversion.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ModelError, match=r"set SHAREDLLM_CACHE to a folder with more"):
        read(tmp_path / "tiny.gguf")


# -- tokenizers -----------------------------------------------------------------------------------


def metadata(
    model: str, tokens: Sequence[str], kinds: Sequence[int], kind: str = "llama", **more: Any
) -> dict[str, Any]:
    given = {"model": model, "tokens": list(tokens), "token_type": list(kinds), **more}
    named = {f"tokenizer.ggml.{name}": value for name, value in given.items()}
    return {"general.architecture": kind, **named}


def sentencepiece(**more: Any) -> PreTrainedTokenizerBase:
    """SentencePiece's BPE: letters, bytes, a few words, and what they are made of."""
    letters = [*"\u2581helowrd", "he", "ll", "hell", "hello", "\u2581hello", "wo", "\u2581w"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters, "[INST]"]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(letters), USER_DEFINED]
    scores = [0.0] * 259 + [-float(i) for i in range(len(letters))] + [0.0]
    ends = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return tokenizer_of(metadata("llama", tokens, kinds, scores=scores, **ends, **more), "x.gguf")


def test_sentencepiece_merges_by_score() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.tokenize("hello world") == ["\u2581hello", "\u2581", "wo", "r", "l", "d"]
    assert tokenizer("hello")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.tokenize("[INST]hell\u00fc")[0] == "[INST]"
    text = "hello \u00fc world"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("\u00fc")["input_ids"])[-2:] == [
        "<0xC3>",
        "<0xBC>",
    ]


def test_a_space_at_the_beginning() -> None:
    parts = "hello</s>hell"
    assert sentencepiece().tokenize(parts) == ["\u2581hello", "</s>", "hell"]
    assert sentencepiece(kind="phi3").tokenize(parts) == [
        "\u2581hello",
        "</s>",
        "\u2581",
        "hell",
    ]
    assert sentencepiece(add_space_prefix=False).tokenize(parts) == ["hello", "</s>", "hell"]


def test_a_file_says_how_a_text_begins_and_ends() -> None:
    tokenizer = sentencepiece(add_bos_token=False, add_eos_token=True, add_space_prefix=False)
    assert tokenizer.convert_ids_to_tokens(tokenizer("hello")["input_ids"]) == ["hello", "</s>"]


def byte_level(pre: str) -> PreTrainedTokenizerBase:
    letters = [*"abcdefghijklmnopqrstuvwxyzABC0123456789'!\u0120", "12", "123", "\u00fcber", "cat"]
    kinds = [NORMAL] * len(letters)
    kinds[-2] = USER_DEFINED
    merges = ["1 2", "12 3"]
    return tokenizer_of(metadata("gpt2", letters, kinds, merges=merges, pre=pre), "x.gguf")


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("default", ["123", "4", "'", "s", "\u0120", "A", "b"]),
        ("qwen2", ["1", "2", "3", "4", "'", "s", "\u0120", "A", "b"]),
        ("llama-bpe", ["123", "4", "'", "s", "\u0120", "A", "b"]),
        ("tekken", ["1", "2", "3", "4", "'", "s", "\u0120", "A", "b"]),
    ],
)
def test_numbers_are_cut_as_the_vocabulary_asks(pre: str, pieces: list[str]) -> None:
    assert byte_level(pre).tokenize("1234's Ab") == pieces


def test_whole_words_stay_whole() -> None:
    """Of a vocabulary's own words only where it says that merges are ignored; added ones always."""
    assert byte_level("llama-bpe").tokenize("cat") == ["cat"]
    assert byte_level("qwen2").tokenize("cat") == ["c", "a", "t"]
    assert byte_level("qwen2").tokenize("a\u00fcberb") == ["a", "\u00fcber", "b"]


def test_a_split_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="splits text as 'poro-chat'; supported"):
        byte_level("poro-chat")
    with pytest.raises(UnsupportedModelError, match="of kind 'bert'"):
        tokenizer_of(metadata("bert", ["a"], [NORMAL]), "x.gguf")
