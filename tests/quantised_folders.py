"""Small Llama folders in the formats of quantised checkpoints, each with the dense weights that it stands for.

GPTQ and AWQ are written here as their files are laid out; compressed-tensors and bitsandbytes write their own.
"""

import json

import torch
from safetensors.torch import load_file, save_file

BASE = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
GROUP = 32
#: In which order AWQ lays eight numbers into one of 32 bits.
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def plain_model(family="llama"):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **BASE)).eval()


def rounded(weight_OI, dtype=torch.float32):
    """Return whole numbers -8 … 7 and scales of groups along the inputs, and the matrix that they stand for."""
    grouped_OGg = weight_OI.unflatten(1, (-1, GROUP))
    scale_OG1 = (grouped_OGg.abs().amax(-1, keepdim=True) / 7).to(dtype).float()
    whole_OGg = (grouped_OGg / scale_OG1).round().clamp(-8, 7)
    return whole_OGg.flatten(1).int(), scale_OG1.squeeze(-1).to(dtype), (whole_OGg * scale_OG1).flatten(1)


def packed(values, dim, order=range(8)):
    """Lay eight numbers 0 … 15 along a dimension into one of 32 bits."""
    parts = values.long().unflatten(dim, (-1, 8)).unbind(dim + 1 if dim >= 0 else dim)
    joined = sum(parts[take] << (4 * place) for place, take in enumerate(order))
    return torch.where(joined >= 2**31, joined - 2**32, joined).int()


def gptq_layer(whole_OI, scale_OG):
    """Return the tensors of one layer, zero point 8, which the format's first version stores as 7."""
    outputs, inputs = whole_OI.shape
    zeros_GO = torch.full((inputs // GROUP, outputs), 7)
    return {
        "qweight": packed(whole_OI.T + 8, 0),
        "qzeros": packed(zeros_GO, 1),
        "scales": scale_OG.T,
        "g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }


def awq_layer(whole_OI, scale_OG):
    """Return the tensors of one layer, zero point 8."""
    outputs, inputs = whole_OI.shape
    zeros_GO = torch.full((inputs // GROUP, outputs), 8)
    return {
        "qweight": packed(whole_OI.T + 8, 1, _AWQ_ORDER),
        "qzeros": packed(zeros_GO, 1, _AWQ_ORDER),
        "scales": scale_OG.T,
    }


def by_hand(folder, layer, config):
    """Write a folder whose block matrices are tensors of `layer`; return the state dict that it stands for."""
    model = plain_model().to(torch.float16)
    model.save_pretrained(folder)
    dense, stored = {k: v.float() for k, v in model.state_dict().items()}, load_file(folder / "model.safetensors")
    for name in [name for name in stored if name.endswith("_proj.weight")]:
        whole_OI, scale_OG, dense[name] = rounded(stored.pop(name).float(), torch.float16)
        parts = layer(whole_OI, scale_OG)
        stored |= {name.replace("weight", part): value.contiguous() for part, value in parts.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    configure(folder, {"bits": 4, "group_size": GROUP, **config})
    return dense


def gptq(folder):
    more = {"quant_method": "gptq", "desc_act": False, "sym": True, "checkpoint_format": "gptq"}
    return by_hand(folder, gptq_layer, more)


def awq(folder):
    return by_hand(folder, awq_layer, {"quant_method": "awq", "zero_point": True, "version": "gemm"})


def compressed_tensors(folder, family="llama"):
    """Let the library pack groups of four bits."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    model = plain_model(family)
    weights = QuantizationArgs(num_bits=4, strategy="group", group_size=GROUP)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"], quantization_status="frozen")
    apply_quantization_config(model, config)
    dense = {}
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            _, scale_OG, dense[f"{name}.weight"] = rounded(module.weight.detach())
            module.weight_scale.data.copy_(scale_OG)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return {**plain_model(family).state_dict(), **dense}


def bitsandbytes(folder, bits):
    """Let the library round to nf4 or to eight bits a row."""
    import bitsandbytes as bnb
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    made = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, bnb_4bit_quant_type="nf4")
    plain_model().save_pretrained(folder / "plain")
    model = AutoModelForCausalLM.from_pretrained(folder / "plain", quantization_config=made, dtype=torch.float32)
    dense = plain_model().state_dict()
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            dense[f"{name}.weight"] = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            dense[f"{name}.weight"] = module.weight.data.float() * module.weight.SCB[:, None] / 127
    model.save_pretrained(folder)
    return dense


def configure(folder, said):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": said}))
