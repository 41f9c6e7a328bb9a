"""The named sizes: what differs from the defaults of `Shape`.

`tiny` and `small` are for a laptop; the others are the shapes of Qwen2.5, which arXiv 2505.13840 pretrains (0.5b to 3b)
and serves (7b to 72b).

Each also has forms with experts: `0.5bx8` (or `0.5b×8`) is the shape of 0.5b with a mixture of 8 experts as its mlp,
unless the recipe names another mlp.
"""

from __future__ import annotations

from efficientllm.records.choice import Scalar


def _size(
    num_layers: int, width: int, num_heads: int, num_kv_heads: int, mlp_width: int, **more: Scalar
) -> dict[str, Scalar]:
    return {
        "num_layers": num_layers,
        "width": width,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "mlp_width": mlp_width,
        **more,
    }


def _qwen(
    num_layers: int, width: int, num_heads: int, num_kv_heads: int, mlp_width: int, *, tie_embeddings: bool
) -> dict[str, Scalar]:
    more = {"qkv_bias": True, "rope_theta": 1e6, "tie_embeddings": tie_embeddings}
    return _size(num_layers, width, num_heads, num_kv_heads, mlp_width, **more)


#: name -> fields of `Shape`; those not named have the defaults of `Shape`.
SIZES: dict[str, dict[str, Scalar]] = {
    "tiny": _size(4, 256, 4, 2, 704),
    "small": _size(12, 512, 8, 2, 1408),
    "0.5b": _qwen(24, 896, 14, 2, 4864, tie_embeddings=True),
    "1.5b": _qwen(28, 1536, 12, 2, 8960, tie_embeddings=True),
    "3b": _qwen(36, 2048, 16, 2, 11008, tie_embeddings=True),
    "7b": _qwen(28, 3584, 28, 4, 18944, tie_embeddings=False),
    "14b": _qwen(48, 5120, 40, 8, 13824, tie_embeddings=False),
    "32b": _qwen(64, 5120, 40, 8, 27648, tie_embeddings=False),
    "72b": _qwen(80, 8192, 64, 8, 29568, tie_embeddings=False),
}
