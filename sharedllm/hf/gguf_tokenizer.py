"""Conversion of a GGUF file's vocabulary into a transformers tokenizer.

A file names one of two kinds: ``gpt2``, byte-level BPE with merges, and ``llama``, SentencePiece's
BPE, whose merges follow from scores. The expression that splits text into words is not in the file;
it is looked up in :data:`SPLITS` by the name that the file gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sharedllm.errors import UnsupportedModelError

CONTROL, USER_DEFINED = 3, 4  # llama.cpp's kinds of tokens: special ones, and whole words
SPACE = "\u2581"  # SentencePiece's
NEEDED = {"gpt2": ("tokens", "token_type", "merges"), "llama": ("tokens", "token_type", "scores")}
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{SHORT}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{SHORT}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = GPT_4O.replace(SHORT, "").replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class Split:
    """A rule that splits text into words before BPE.

    Attributes
    ----------
    pattern : expression of one word; None is GPT-2's
    ignore_merges : keep a word that is in the vocabulary as one token, without merges
    """

    pattern: str | None = None
    ignore_merges: bool = False


SPLITS = {
    "default": Split(),
    "gpt-2": Split(),
    # SmolLM2's own tokenizer cuts numbers into digits besides. transformers reads its GGUF files
    # without that (5.23), and the shipped adapter was trained so.
    "smollm": Split(),
    "llama-bpe": Split(LLAMA_3, ignore_merges=True),
    "llama3": Split(LLAMA_3, ignore_merges=True),
    "llama-v3": Split(LLAMA_3, ignore_merges=True),
    "dbrx": Split(LLAMA_3),  # Phi-4
    "gpt-4o": Split(GPT_4O),  # Phi-4-mini
    "tekken": Split(TEKKEN, ignore_merges=True),
    "qwen2": Split(QWEN_2),
    "deepseek-r1-qwen": Split(QWEN_2),
}


def make_tokenizer(metadata: Mapping[str, Any], name: str) -> PreTrainedTokenizerBase:
    """Build the tokenizer described by the `metadata` of the file called `name`.

    Raises
    ------
    UnsupportedModelError
        If the tokenizer is of another kind, or its rule to split text is unknown.
    """
    given = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    kind = given.get("model")
    if kind not in NEEDED:
        raise UnsupportedModelError(
            f"{name} has a tokenizer of kind {kind!r}; supported in GGUF files: {', '.join(NEEDED)}"
        )
    missing = [key for key in NEEDED[kind] if key not in given]
    if missing:
        raise UnsupportedModelError(
            f"{name} does not say tokenizer.ggml.{missing[0]}; convert the model to GGUF again"
        )
    tokens: list[str] = given["tokens"]
    if kind == "gpt2":
        tokenizer = _byte_level(given, name)
    else:
        tokenizer = _sentencepiece(given, metadata.get("general.architecture") == "phi3")
    _add_whole_tokens(tokenizer, tokens, given["token_type"])
    _add_ends(tokenizer, given, tokens, bos=kind == "llama")
    named = {
        role: tokens[given[f"{key}_token_id"]]
        for role, key in NAMED.items()
        if f"{key}_token_id" in given
    }
    out = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    out.chat_template = metadata.get("tokenizer.chat_template")
    return out


def _byte_level(given: Mapping[str, Any], name: str) -> Tokenizer:
    split = SPLITS.get(given.get("pre", "default"))
    if split is None:
        raise UnsupportedModelError(
            f"{name} splits text as {given['pre']!r}; supported in GGUF files: "
            f"{', '.join(SPLITS)}. Give the model as a folder with its tokenizer.json, or by its "
            "hub name"
        )
    vocabulary = {token: index for index, token in enumerate(given["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in given["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            ignore_merges=split.ignore_merges,
            continuing_subword_prefix="",
            end_of_word_suffix="",
        )
    )
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None)
    if split.pattern is None:
        tokenizer.pre_tokenizer = words
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"), words]
        )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(given: Mapping[str, Any], every_part: bool) -> Tokenizer:
    """Build SentencePiece's BPE.

    It puts a space before a text, as Llama's tokenizer does, or before `every_part` between special
    tokens, as Phi-3's does. GGUF files do not tell the two apart.
    """
    tokens: list[str] = given["tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = _merges(tokens, given["scores"], vocabulary)
    unknown = given.get("unknown_token_id")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = given.get("add_space_prefix", True)
    if every_part and prefix:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=SPACE, prepend_scheme="first" if prefix else "never", split=False
        )
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        back.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def _merges(
    tokens: Sequence[str], scores: Sequence[float], vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return every pair of tokens that forms a third, in falling order of the third's score."""
    found = [
        (-score, vocabulary[left], vocabulary[right], left, right)
        for token, score in zip(tokens, scores, strict=True)
        for left, right in ((token[:at], token[at:]) for at in range(1, len(token)))
        if left in vocabulary and right in vocabulary
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _add_whole_tokens(tokenizer: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Register control tokens and added words, so that they are never split."""
    added = [
        AddedToken(token, normalized=False, special=kind == CONTROL)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])


def _add_ends(
    tokenizer: Tokenizer, given: Mapping[str, Any], tokens: Sequence[str], *, bos: bool
) -> None:
    """Add the begin and end tokens that the file asks for.

    `bos` is the default for a file without ``add_bos_token``.
    """
    first = [given["bos_token_id"]] if given.get("add_bos_token", bos) else []
    last = [given["eos_token_id"]] if given.get("add_eos_token", False) else []
    if not first and not last:
        return
    text = [*(tokens[i] for i in first), "$A", *(tokens[i] for i in last)]
    second = [f"{tokens[i]}:1" for i in first] + ["$B:1"] + [f"{tokens[i]}:1" for i in last]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=text, pair=[*text, *second], special_tokens=[(tokens[i], i) for i in {*first, *last}]
    )
