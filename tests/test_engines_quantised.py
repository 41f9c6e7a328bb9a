"""Checkpoints that are quantised already: served as their library serves them, held as the record says, or refused."""

import functools
import importlib.util

import pytest
import torch
from tests import quantised_folders

from efficientllm import registry
from efficientllm.engines._transformers_facts import held_bytes
from efficientllm.engines._transformers_quantised import held_tensors
from efficientllm.errors import Unsupported
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

X = torch.randint(96, (2, 30), generator=torch.Generator().manual_seed(7))
PLACES = [11, *range(23, 30)]
#: scheme -> who writes a folder of it, its packages, the dtype it is served in, the bound of the error, what is held.
SCHEMES = {
    "compressed-tensors": (
        quantised_folders.compressed_tensors, ("compressed_tensors",), "float32", 1e-5,
        "compressed-tensors 4 bits, unpacked at loading: held dense",
    ),
    "bitsandbytes-nf4": (
        functools.partial(quantised_folders.bitsandbytes, bits=4), ("bitsandbytes",), "float32", 0.03,
        "bitsandbytes nf4, held packed",
    ),
    "bitsandbytes-int8": (  # rounds what comes into a layer as well
        functools.partial(quantised_folders.bitsandbytes, bits=8), ("bitsandbytes",), "float32", 0.06,
        "bitsandbytes 8 bits, held packed",
    ),
    "gptq": (quantised_folders.gptq, ("gptqmodel", "optimum"), "float16", 0.01, "gptq 4 bits, held packed"),
    "awq": (quantised_folders.awq, ("gptqmodel",), "float16", 0.01, "awq 4 bits, held packed"),
}  # fmt: skip
ENGINES = ["transformers", "transformers_static"]


def serve(engine, folder, dtype, **options):
    chosen = Choice(name=engine, options=options)
    settings = InferenceSettings(model=str(folder), engine=chosen, dtype=dtype, sequence_tokens=16)
    return registry.load("engine", engine).open(
        settings, folder=folder, vocab_tokens=96, seed=0, device="cpu", threads=0
    )


def missing(scheme):
    return [module for module in SCHEMES[scheme][1] if importlib.util.find_spec(module) is None]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return what writes the folder of a scheme once: its path, and the logits of float32 on the dense weights."""

    @functools.cache
    def make(scheme):
        folder = tmp_path_factory.mktemp(scheme)
        dense = SCHEMES[scheme][0](folder)
        reference = quantised_folders.plain_model()
        assert any(not torch.equal(dense[name], value) for name, value in reference.state_dict().items())
        reference.load_state_dict(dense)
        with torch.no_grad():
            return folder, reference(X).logits[:, PLACES], sum(map(torch.Tensor.nbytes.__get__, dense.values()))

    return make


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_folder_gives_the_logits_of_its_dequantised_weights_or_names_the_package_it_needs(
    scheme, engine, made, tmp_path
):
    _, _, dtype, bound, held = SCHEMES[scheme]
    if missing(scheme):
        quantised_folders.plain_model().save_pretrained(tmp_path)
        quantised_folders.configure(tmp_path, {"quant_method": scheme.partition("-")[0], "bits": 4})
        with pytest.raises(Unsupported, match=f"quantised .* (is|are) missing: pip install .*{missing(scheme)[0]}"):
            serve(engine, tmp_path, dtype)
        return
    folder, expected, _ = made(scheme)
    served = serve(engine, folder, dtype)
    held_at_first = served.weight_bytes
    served.begin(2, 30)
    got = [served.prefill(X[:, :12]).clone(), served.prefill(X[:, 12:24]).clone()]
    served.mark()
    served.decode_work(2, 24), served.facts()  # what is asked between two windows changes nothing
    for _ in range(2):
        told = [*got, *(served.decode(X[:, place]).clone() for place in range(24, 30))]
        error = (torch.stack(told, 1).float() - expected).norm() / expected.norm()
        assert error < bound
        served.rewind(24)
    assert served.facts().implementations["weights"] == held
    assert served.weight_bytes == pytest.approx(held_at_first, rel=1e-3)


def test_compressed_tensors_are_small_on_disk_and_counted_as_dense_where_they_are_held_so(made):
    folder, _, dense_bytes = made("compressed-tensors")
    for engine in ENGINES:
        facts = serve(engine, folder, "float32").facts()
        assert facts.disk_bytes < dense_bytes / 3
        assert dense_bytes <= facts.weight_bytes < 1.05 * dense_bytes
        assert facts.parameters_total == dense_bytes / 4


def test_the_parameters_of_another_architecture_are_those_of_its_plain_model(tmp_path):
    quantised_folders.compressed_tensors(tmp_path, "olmo")
    plain = quantised_folders.plain_model("olmo")
    facts = serve("transformers", tmp_path, "float32").facts()
    assert facts.parameters_total == plain.num_parameters()
    assert facts.weight_bytes >= 4 * plain.num_parameters()


def test_what_a_layer_keeps_beside_its_weights_is_counted_without_a_state_dict():
    class Scales:
        def __init__(self):
            self.absmax, self.nested = torch.zeros(10), {"code": torch.zeros(3)}

    layer = torch.nn.Linear(4, 4, bias=False)
    layer.weight.quant_state = Scales()
    layer.state = Scales()
    layer.state.absmax = layer.weight.quant_state.absmax  # shared, so counted once
    layer.state_dict = None
    assert held_bytes(torch.nn.Sequential(layer)) == 4 * (16 + 10 + 3 + 3)
    assert len(list(held_tensors(torch.nn.Sequential(layer)))) == 5


def test_activations_of_another_format_than_asked_for_are_refused_with_the_format_to_ask_for(made, monkeypatch):
    folder, *_ = made("compressed-tensors")
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained

    def keeps_its_own(*args, **more):
        return load(*args, **{**more, "dtype": torch.float32})  # as schemes do that hold on to the folder's format

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", keeps_its_own)
    with pytest.raises(Unsupported, match=r"beside float32, whatever is asked\. Set dtype: float32"):
        serve("transformers", folder, "bfloat16")


def test_a_step_that_torch_cannot_compile_is_unsupported_in_one_line(made, monkeypatch):
    folder, *_ = made("compressed-tensors")
    served = serve("transformers_static", folder, "float32")
    forward = type(served._model).forward

    def breaks(self, *args, **more):
        torch._dynamo.graph_break()
        return forward(self, *args, **more)

    monkeypatch.setattr(type(served._model), "forward", breaks)
    served.begin(1, 8)
    served.prefill(X[:1, :4])
    with pytest.raises(Unsupported, match=r"llama model cannot be compiled: .*compiled: false") as caught:
        served.decode(X[:1, 4])
    assert "\n" not in str(caught.value)
