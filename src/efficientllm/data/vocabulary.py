"""Which bytes each token stands for, read from a tokenizer's file.

Bits per byte needs the exact bytes of the tokens that were judged. Two families of tokenizers can say: byte-level BPE
(GPT-2, Llama 3, Qwen; each character of a token is one byte) and BPE with byte fallback (Llama 2, Mistral, Gemma; `▁`
is a space, `<0x41>` a byte). Special tokens stand for no bytes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from efficientllm.errors import DataError


def byte_level_alphabet() -> dict[str, int]:
    """Return the byte of each character of GPT-2's byte-level alphabet.

    Printable Latin-1 characters stand for themselves; the other 68 bytes are shifted to U+0100 and up, in order.

    >>> alphabet = byte_level_alphabet()
    >>> len(alphabet), alphabet["A"], alphabet["Ġ"], alphabet["Ċ"]
    (256, 65, 32, 10)
    """
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in themselves]
    return {chr(byte): byte for byte in themselves} | {chr(256 + i): byte for i, byte in enumerate(shifted)}


def bytes_of_tokens(tokenizer_json: str, where: str) -> list[bytes]:
    """Return the bytes of each token id; ids that nothing uses and special tokens stand for none.

    Args:
        tokenizer_json: text of a `tokenizer.json`.
        where: the tokenizer's name for messages.

    Raises:
        DataError: a tokenizer whose tokens do not tell their bytes (WordPiece, Unigram without byte fallback).
    """
    described = json.loads(tokenizer_json)
    model = described["model"]
    vocabulary: dict[str, int] = model["vocab"] if isinstance(model.get("vocab"), dict) else {}
    added: list[dict[str, Any]] = described.get("added_tokens", [])
    if vocabulary and _uses(described, "ByteLevel"):
        alphabet = byte_level_alphabet()
        spelled = {i: _byte_level(token, alphabet) for token, i in vocabulary.items()}
    elif vocabulary and model.get("byte_fallback"):
        spelled = {i: _byte_fallback(token) for token, i in vocabulary.items()}
    else:
        raise DataError(
            f"tokenizer {where!r} ({model.get('type', 'unknown')}) is not byte-level: the bytes of its tokens cannot "
            "be counted, and bits per byte needs them. Use 'bpe', or a byte-level tokenizer (GPT-2, Llama, Qwen …)."
        )
    spelled |= {token["id"]: b"" if token["special"] else token["content"].encode() for token in added}
    return [spelled.get(i, b"") for i in range(max(spelled) + 1)]


def _uses(described: dict[str, Any], name: str) -> bool:
    """Whether the pre-tokenizer or the decoder is of this type, or a sequence with one."""
    parts = [described.get("pre_tokenizer") or {}, described.get("decoder") or {}]
    inner = [step for part in parts for step in (part.get("pretokenizers") or part.get("decoders") or [part])]
    return any(step.get("type") == name for step in inner)


def _byte_level(token: str, alphabet: dict[str, int]) -> bytes:
    # A token outside the alphabet is an added one that the vocabulary lists too; `added_tokens` overrules it.
    return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else token.encode()


def _byte_fallback(token: str) -> bytes:
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()
