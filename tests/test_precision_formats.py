"""The 4-bit formats are the published ones: their errors, their exact cases, and the nearest of sixteen values."""

import math

import pytest
import torch

from efficientllm.errors import UserError
from efficientllm.precision import _blocks, _int4_served, fp8, int4, int8, nf4
from efficientllm.precision._fp8_served import KIND, LARGEST
from efficientllm.precision._packed_product import quantised_rows


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(pack, weight, **options):
    return ((pack(weight, None, **options).weight - weight).norm() / weight.norm()).item()


def density_cells():
    """The standard normal on a fine grid: numbers and the chance of each cell."""
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    return x, torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])


def test_the_error_of_int4_is_that_of_a_uniform_step_over_the_range_of_a_group():
    x, chance = density_cells()
    below = chance.cumsum(0)
    for group in (64, 128):
        largest = below**group  # the distribution of the largest of a group
        mass = largest.diff(prepend=largest[:1])
        mean, square = (mass * x).sum(), (mass * x * x).sum()
        range_square = 2 * square + 2 * mean * mean  # the least is its mirror image, nearly independent
        expected = math.sqrt(range_square / (15 * 15 * 12) * (1 - 2 / group))  # its two ends have no error
        assert error(int4.pack, normal(512, 1024), group=group) == pytest.approx(expected, rel=0.01)


def test_the_error_of_nf4_is_that_of_the_nearest_value_at_the_largest_of_a_block():
    weight = normal(512, 1024)
    blocks = weight.view(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    values = torch.tensor(nf4.VALUES)
    nearest = values[(blocks / largest).flatten()[:, None].sub(values).abs().argmin(1)].view_as(blocks) * largest
    expected = ((nearest - blocks).norm() / blocks.norm()).item()
    assert 0.090 < expected < 0.093
    assert error(nf4.pack, weight, double=False) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(nf4.pack(weight, None, double=False).weight, nearest.view_as(weight))
    assert error(nf4.pack, weight) == pytest.approx(expected, rel=5e-3), "8 bits for the scales cost more than 0.5 %"


def test_the_values_of_nf4_are_quantiles_of_the_normal_distribution():
    """As the paper makes them: eight quantiles below and nine from zero on, both up to the same edge, over the edge."""
    edge, quantile = 1 - (1 / 32 + 1 / 30) / 2, torch.distributions.Normal(0.0, 1.0).icdf
    above = quantile(torch.linspace(edge, 0.5, 9)[:-1])
    below = -quantile(torch.linspace(edge, 0.5, 8)[:-1])
    expected = torch.cat((above, below, torch.zeros(1))).sort().values / above.max()
    torch.testing.assert_close(torch.tensor(nf4.VALUES), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("double", [True, False])
def test_numbers_on_nf4s_values_come_back_exactly(double):
    codes = torch.randint(16, (32, 256), generator=torch.Generator().manual_seed(1))
    codes.view(-1, 64)[:, 5] = 15
    weight = torch.tensor(nf4.VALUES)[codes] * 0.625
    assert torch.equal(nf4.pack(weight, None, double=double).weight, weight)


def test_numbers_on_int4s_steps_come_back_exactly():
    codes = torch.randint(16, (32, 256), generator=torch.Generator().manual_seed(1))
    codes.view(-1, 128)[:, 5], codes.view(-1, 128)[:, 6] = 15, 0
    low = torch.randint(-8, 8, (64, 1), generator=torch.Generator().manual_seed(2)) / 16
    weight = (codes.view(-1, 128) * 0.125 + low).view_as(codes)
    assert torch.equal(int4.pack(weight, None).weight, weight)


def test_int4_shifted_far_from_zero_loses_no_more_than_a_bfloat16_does():
    weight = 100 + 0.01 * normal(64, 256)
    assert error(int4.pack, weight) < 2**-8


def test_one_outlier_costs_its_neighbours_scales_nothing():
    """A mean over all scales would follow it, and eight bits of the distance from there spoil every other scale."""
    weight = normal(64, 256)
    calm = (nf4.pack(weight, None).weight - weight)[1:].norm()
    weight[0, 0] = 3000.0
    assert (nf4.pack(weight, None).weight - weight)[1:].norm() < 1.02 * calm


@pytest.mark.parametrize("pack", [nf4.pack, int4.pack])
def test_a_matrix_coded_in_pieces_is_the_matrix_coded_at_once(pack, monkeypatch):
    weight = normal(300, 1024).bfloat16()
    whole = pack(weight, None).weight
    monkeypatch.setattr("efficientllm.precision._layer._CODED_AT_ONCE", 256 * 1024 // 2)
    assert torch.equal(pack(weight, None).weight, whole)


def test_scales_in_eight_bits_are_within_a_sixteenth_of_their_distance_from_the_median():
    scales = 2.4 + 0.4 * normal(1000)
    small, offsets, factors = _blocks.shrink_scales(scales)
    packed = _blocks.Blocks(torch.empty(0), torch.empty(0), small, None, offsets, factors)
    apart = (scales - offsets.repeat_interleave(256)[:1000]).abs()
    assert small.dtype == torch.uint8 and len(offsets) == len(factors) == 4
    assert ((_blocks.scales_of(packed) - scales).abs() <= apart / 16 + 1e-5).all()


@pytest.mark.parametrize(("pack", "option"), [(nf4.pack, "block"), (int4.pack, "group")])
def test_a_size_that_no_block_can_have_is_refused_with_those_it_can(pack, option):
    for size in (0, 48, 2048):
        with pytest.raises(UserError, match=rf"{option} {size}: choose from 16, 32, 64, 128, 256, 512, 1024\."):
            pack(normal(4, 64), None, **{option: size})


def test_the_error_of_int8_is_that_of_a_uniform_step_up_to_the_largest_of_a_row():
    weight = normal(512, 1024)
    steps = weight.abs().amax(1) / 127
    expected = (steps.square().mean() / 12).sqrt().item()
    assert expected < error(int8.pack, weight) < 1.004 * 1.004 * expected, "scales in bfloat16 cost more than they must"


def test_numbers_on_int8s_steps_come_back_exactly():
    codes = torch.randint(-127, 128, (32, 256), generator=torch.Generator().manual_seed(1))
    codes[:, 5] = -127
    weight = codes * torch.logspace(-6, 3, 32, base=2).bfloat16().float()[:, None]
    assert torch.equal(int8.pack(weight, None).weight, weight)


def test_fp8_rounds_to_three_bits_below_the_largest_of_a_row():
    weight = normal(64, 512) * torch.logspace(-3, 3, 64)[:, None]
    got = fp8.pack(weight, None).weight
    largest = weight.abs().amax(1, keepdim=True)
    normal_sized = weight.abs() >= largest * 2**-6 / LARGEST
    assert ((got - weight).abs() <= weight.abs() * (2**-4 + 1e-6))[normal_sized].all()
    assert 0.02 < error(fp8.pack, weight) < 0.03
    torch.testing.assert_close(got.abs().amax(1), largest[:, 0], rtol=1e-6, atol=0)


def test_activations_in_fp8_use_the_whole_range_of_each_row_and_zeros_stay_zeros():
    x = normal(5, 64).bfloat16() * torch.tensor([0.0, 1e-38, 1e-3, 1.0, 1e30])[:, None].bfloat16()
    codes, scales = quantised_rows(x, KIND)
    assert codes.float().isfinite().all() and not codes[0].float().any()
    assert codes[2:].float().abs().amax(1).tolist() == [LARGEST] * 3
    torch.testing.assert_close((codes.float() * scales)[2:], x[2:].float(), rtol=2**-4, atol=1e-38)


def test_half_bytes_are_found_wherever_a_packing_puts_them():
    """Whatever order a processor's kernel has: it is learned from panels of known numbers."""
    shuffled = torch.randperm(8 * 16, generator=torch.Generator().manual_seed(3))

    def pack(codes):
        return _blocks.join_codes(codes.flatten()[shuffled]).view(4, -1)

    assert torch.equal(_int4_served.nibble_places(pack, 8, 16, torch.device("cpu")).long(), shuffled)


@pytest.mark.parametrize("rows", [16, 48, 64, 80, 208])
def test_a_processors_layout_of_int4_is_read_back_whatever_rows_are_left_over(rows):
    layer = int4.pack(normal(rows, 96), None, group=32)
    assert torch.equal(layer.served().weight, layer.weight)
