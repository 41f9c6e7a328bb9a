"""What autograd keeps of a layer, counted by storage, and what a training step holds, counted as it runs."""

import weakref

import torch
from functorch.compile import make_boxed_func
from msgspec.structs import replace
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from efficientllm.models.build import build_decoder
from efficientllm.models.mixers._probe import position_with
from efficientllm.planner.predict import forward_pass
from efficientllm.records.choice import Choice
from efficientllm.records.settings import PretrainSettings


def settings_of(mixer="gqa", mlp="dense", position=None, mlp_options=None, mixer_options=None, **more):
    return PretrainSettings(
        **{"size": "tiny", "micro_batch": 2, "sequence_tokens": 96, "dtype": "bfloat16", **more},
        mixer=Choice(name=mixer, options=mixer_options or {}),
        mlp=Choice(name=mlp, options=mlp_options or {}),
        position=Choice(name=position or position_with(mixer)),
    )


def layer_of(settings):
    """A decoder of one layer."""
    shape = {**settings.shape, "num_layers": 1}
    return build_decoder(
        replace(settings, shape=shape), vocab_tokens=64, seed=0, device="cpu", dtype=dtype_of(settings)
    )


def dtype_of(settings):
    return getattr(torch, settings.weights_dtype)


def saved_by_formula(settings, **changed):
    decoder = layer_of(settings)
    ahead = replace_pass(forward_pass(decoder, settings, "cpu"), **changed)
    return decoder.block(0).saved_bytes(ahead)


def replace_pass(ahead, **changed):
    return type(ahead)(**{**{name: getattr(ahead, name) for name in ahead.__dataclass_fields__}, **changed})


def saved_by_autograd(settings):
    """Bytes that a layer's forward pass leaves for its backward pass; weights and what layers share are not counted."""
    decoder = layer_of(settings)
    block, dtype = decoder.block(0), dtype_of(settings)
    block.mlp.recomputes = settings.activation_checkpointing == "selective"
    x_BTD = torch.randn(settings.micro_batch, settings.sequence_tokens, decoder.shape.width, dtype=dtype)
    computing = getattr(torch, settings.dtype)
    positions = decoder.position.at(torch.arange(settings.sequence_tokens)[None], computing)
    run = block
    if settings.compile:
        torch._dynamo.reset()
        run = torch.compile(block, backend=_as_inductor_cuts(), dynamic=False)
    storages, held = {}, []
    known = {t.untyped_storage().data_ptr() for t in (*decoder.parameters(), *positions.prepared)}

    def keep(tensor):
        held.append(tensor)  # so that no later storage takes this one's address
        if tensor.untyped_storage().data_ptr() not in known:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    casts = computing != dtype
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=computing if casts else torch.bfloat16, enabled=casts),
    ):
        run(x_BTD.requires_grad_(), positions, None, None)
    masks = positions._made.values()
    shared = sum(storages.get(t.untyped_storage().data_ptr(), 0) for t in masks if t is not None)
    return sum(storages.values()) - shared


def _as_inductor_cuts():
    """A backend that cuts joint graphs as inductor does, after the same passes, and runs both halves as they are."""

    def cut(graph, joint_inputs, **more):
        joint_graph_passes(graph)
        return min_cut_rematerialization_partition(graph, joint_inputs, **more)

    def as_it_is(graph, _inputs):
        return make_boxed_func(graph.forward)

    return aot_autograd(
        fw_compiler=as_it_is, bw_compiler=as_it_is, partition_fn=cut, decompositions=select_decomp_table()
    )


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, as an allocator would; what an operator holds inside it is not.

    While it counts, torch adds gradients out of place that it adds in place otherwise: models of which the embedding
    is the head take one table more at the end of a step.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {}

    def see(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage._cdata)

    def _gone(self, key):
        self.now -= self._sizes.pop(key)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        return out
