"""Every mlp of the folder is held to the contract, serves in a decoder, and the contract's checks can fail."""

import msgspec
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from efficientllm import catalog, registry
from efficientllm.cli.main import build_app
from efficientllm.errors import Unsupported, UserError
from efficientllm.models import checkpoint
from efficientllm.models.build import build_decoder
from efficientllm.models.linear import Linear
from efficientllm.models.mlp._checks import CHECKS, check
from efficientllm.models.mlp._contract import Mlp, MlpEntry
from efficientllm.models.mlp.dense import GatedMlp
from efficientllm.models.mlp.moe import MixtureOfExperts
from efficientllm.records.card import Card
from efficientllm.records.choice import Choice
from efficientllm.records.settings import InferenceSettings

MLPS = catalog.names("mlp")
MIXTURES = [
    {"balance": "bias", "shared_experts": 1},
    {"num_experts": 5, "active_experts": 1, "z_loss": 0.001},
    {"num_experts": 3, "active_experts": 3, "expert_width": 24, "gate": "sigmoid"},
]
SMALL = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 96}


def entry_of(build):
    return MlpEntry(card=Card(title="", source=""), build=build)


@pytest.mark.parametrize("what", CHECKS)
@pytest.mark.parametrize("name", MLPS)
def test_the_mlp_passes(name, what):
    CHECKS[what](registry.load("mlp", name))


@pytest.mark.parametrize("what", CHECKS)
@pytest.mark.parametrize("options", MIXTURES, ids=str)
def test_a_mixture_passes_with_other_options(options, what):
    CHECKS[what](entry_of(lambda shape: MixtureOfExperts(shape, **options)))


@pytest.mark.parametrize("name", MLPS)
def test_an_mlps_card_has_title_source_and_claim(name):
    card = registry.load("mlp", name).card
    words = {"memory", "compute", "latency", "throughput", "energy", "compression", "quality"}
    assert card.title and card.source.startswith("arXiv:") and card.improves
    assert set(card.improves) | set(card.costs) <= words


class SeesItsNeighbour(GatedMlp):
    def forward(self, x_BTD):
        return super().forward(x_BTD) + 0.01 * x_BTD.mean(1, keepdim=True)

    def reference(self, x_BTD):
        return self(x_BTD)


class IsConstant(GatedMlp):
    def forward(self, x_BTD):
        return super().forward(torch.ones_like(x_BTD))


class ClaimsFewFlops(GatedMlp):
    def reference_flops(self, num_tokens):
        return 0.9 * super().reference_flops(num_tokens)


class CountsAllExperts(MixtureOfExperts):
    def model_flops(self, num_tokens):
        return 1.1 * self.reference_flops(num_tokens)


class CountsOneExpert(MixtureOfExperts):
    def model_flops(self, num_tokens):
        return super().model_flops(num_tokens) / 2


class ClaimsAllActive(MixtureOfExperts):
    def num_active_parameters(self):
        return self.num_parameters()


class ClaimsOneActive(MixtureOfExperts):
    def num_active_parameters(self):
        return super().num_active_parameters() - self._expert_size()


class ReadsEverything(MixtureOfExperts):
    def read_parameters(self, num_tokens):
        return self.num_parameters()


class DropsTokens(MixtureOfExperts):
    """What a capacity factor does: of each expert's tokens only the first are served."""

    def compute(self, x_MD, routing, path):
        weights = routing.weights_MA.clone()
        for expert in range(self.options.num_experts):
            places = (routing.chosen_MA == expert).nonzero()
            for token, choice in places[8:].tolist():
                weights[token, choice] = 0.0
        return super().compute(x_MD, routing._replace(weights_MA=weights), path)


class ForgetsTheWeights(MixtureOfExperts):
    def compute(self, x_MD, routing, path):
        return super().compute(x_MD, routing._replace(weights_MA=torch.full_like(routing.weights_MA, 0.5)), path)


class CutsTheRouterOff(MixtureOfExperts):
    def compute(self, x_MD, routing, path):
        return super().compute(x_MD, routing._replace(weights_MA=routing.weights_MA.detach()), path)


class SwapsGateAndUp(GatedMlp):
    def reference(self, x_BTD):
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, -1)
        return self.down(F.silu(up_BTF) * gate_BTF)


class AlwaysTheFirstExperts(MixtureOfExperts):
    def forward(self, x_BTD):
        with torch.no_grad():
            self.router.linear.weight.zero_()
        return super().forward(x_BTD)


class HasADeadParameter(GatedMlp):
    def __init__(self, shape):
        super().__init__(shape)
        self.unused = Linear(4, 4)


class KeepsItsLosses(MixtureOfExperts):
    def losses(self):
        return dict(self._losses)


class ComputesInFloat32(GatedMlp):
    def forward(self, x_BTD):
        return super().forward(x_BTD).float()


class RoundsItsRouter(MixtureOfExperts):
    def forward(self, x_BTD):
        return super().forward((x_BTD * 4).round() / 4 if x_BTD.dtype == torch.bfloat16 else x_BTD)


class Nothing(Mlp):
    def __init__(self, shape):
        super().__init__()
        self.linear = Linear(shape.width, shape.width)

    def forward(self, x_BTD):
        return x_BTD.new_zeros(1)


FAULTS = [
    (SeesItsNeighbour, "each token on its own"),
    (IsConstant, "each token on its own"),
    (DropsTokens, "each token on its own"),
    (DropsTokens, "odd counts"),
    (ForgetsTheWeights, "fast path equals the reference"),
    (CutsTheRouterOff, "fast path equals the reference"),
    (SwapsGateAndUp, "fast path equals the reference"),
    (SwapsGateAndUp, "odd counts"),
    (Nothing, "odd counts"),
    (ClaimsAllActive, "parameters as it says"),
    (ClaimsOneActive, "parameters as it says"),
    (ReadsEverything, "parameters as it says"),
    (ClaimsFewFlops, "FLOPs as it says"),
    (CountsAllExperts, "FLOPs as it says"),
    (CountsOneExpert, "FLOPs as it says"),
    (AlwaysTheFirstExperts, "trains"),
    (HasADeadParameter, "trains"),
    (KeepsItsLosses, "auxiliary losses"),
    (ComputesInFloat32, "bfloat16"),
    (RoundsItsRouter, "bfloat16"),
]


@pytest.mark.parametrize(("broken", "what"), FAULTS)
def test_a_fault_is_found_by_its_check(broken, what):
    with pytest.raises(AssertionError, match=" "):
        CHECKS[what](entry_of(broken))


def test_every_check_has_a_fault_that_it_finds():
    assert {what for _, what in FAULTS} == set(CHECKS)


@pytest.mark.parametrize("name", MLPS)
def test_the_command_checks_an_mlp_by_name(name):
    done = CliRunner().invoke(build_app(), ["check", name])
    assert done.exit_code == 0, done.output
    assert done.output.count("✓") == len(CHECKS)


OUTSIDE = '''"""Two experts of a user's own."""
from dataclasses import replace
from efficientllm import registry
MOE = registry.load("mlp", "moe")
def build(shape, {arguments}):
    mlp = MOE.build(shape, num_experts={experts})
    {fault}
    return mlp
ENTRY = replace(MOE, build=build)
'''


def test_the_command_checks_a_users_own_mlp_and_finds_its_fault(tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(OUTSIDE.format(arguments="experts=3", experts="experts", fault=""))
    fault = "mlp.num_active_parameters = mlp.num_parameters"
    bad.write_text(OUTSIDE.format(arguments="experts=8", experts="experts", fault=fault))
    done = CliRunner().invoke(build_app(), ["check", str(good)])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(build_app(), ["check", str(bad)])
    assert done.exit_code == 1
    assert "✗ parameters as it says" in done.output and "✓ trains" in done.output


def test_the_command_says_what_it_has_no_checks_for(tmp_path):
    (tmp_path / "strange.py").write_text('"""Strange."""\nENTRY = 3\n')
    done = CliRunner().invoke(build_app(), ["check", str(tmp_path / "strange.py")])
    assert isinstance(done.exception, UserError)  # which the command line prints as one line
    assert "is a int, for which there are no checks" in str(done.exception)


def test_check_reports_an_mlp_that_cannot_be_built():
    def build(shape):
        raise UserError("no such thing. Try another.")

    assert {error for _, error in check(entry_of(build))} == {"no such thing. Try another."}


def test_a_shape_that_an_mlp_cannot_serve_is_refused_with_its_reason(tmp_path):
    (tmp_path / "picky.py").write_text(
        '"""Picky."""\nfrom dataclasses import replace\nfrom efficientllm import registry\n'
        "from efficientllm.errors import Unsupported\n"
        "def supports(shape):\n    raise Unsupported(f'picky wants no width {shape.width}')\n"
        'ENTRY = replace(registry.load("mlp", "dense"), supports=supports)\n'
    )
    settings = InferenceSettings(shape=SMALL, mlp=Choice(name="picky", path=str(tmp_path / "picky.py")))
    with pytest.raises(Unsupported, match="picky wants no width 64"):
        build_decoder(settings, vocab_tokens=96, seed=0, device="cpu")


@pytest.mark.parametrize("mlp", MLPS)
def test_the_engine_decodes_token_by_token_what_all_at_once_gives(mlp, tmp_path):
    settings = InferenceSettings(shape=SMALL, mlp=Choice(name=mlp), sequence_tokens=32)
    decoder = build_decoder(settings, vocab_tokens=96, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    checkpoint.save(decoder, settings, tmp_path / "model")
    for number in range(2):
        layer = decoder.block(number).mlp
        layer.forward = layer.reference if type(layer).reference is not Mlp.reference else layer.forward
    for batch in (1, 3):
        x = torch.randint(96, (batch, 29), generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            expected = decoder(x)
        served = registry.load("engine", "native").open(
            settings, folder=tmp_path / "model", vocab_tokens=96, seed=0, device="cpu", threads=0
        )
        served.begin(batch, 29)
        got = [served.prefill(x[:, :17]).clone()] + [served.decode(x[:, place]).clone() for place in range(17, 29)]
        torch.testing.assert_close(torch.stack(got, 1), expected[:, 16:], atol=1e-4, rtol=1e-4)
        assert served.score(x)[0] == pytest.approx(
            F.cross_entropy(expected[:, :-1].flatten(0, 1), x[:, 1:].flatten(), reduction="sum").item(), rel=1e-5
        )


@pytest.mark.prove
@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
@pytest.mark.parametrize("mlp", MLPS)
def test_the_compiled_engine_decodes_what_all_at_once_gives(mlp, device):
    settings = InferenceSettings(shape=SMALL, mlp=Choice(name=mlp), sequence_tokens=32)
    x = torch.randint(96, (2, 29), generator=torch.Generator().manual_seed(7))
    results = []
    for compiled in (False, True):
        served = registry.load("engine", "native").open(
            msgspec.structs.replace(settings, compile=compiled),
            folder=None, vocab_tokens=96, seed=0, device=device, threads=0,
        )  # fmt: skip
        served.begin(2, 29)
        got = [served.prefill(x[:, :17]).clone()] + [served.decode(x[:, place]).clone() for place in range(17, 29)]
        results.append(torch.stack(got, 1).cpu())
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)
