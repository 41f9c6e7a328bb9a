"""Runs the kernels for packed matrices in Triton's interpreter, on the processor, and holds them to the plain forms.

TRITON_INTERPRET=1 python interpret_packed.py

Prints a line a case: its name, and how far the kernel is from float64 arithmetic, relative to the largest number.
"""

import itertools

import torch

from efficientllm.precision import (
    _few_rows_kernel,
    _packed_product,
    _packed_rows_kernel,
    _table_rows_kernel,
    int4,
    int8,
    nf4,
)
from efficientllm.precision._int4_served import _OnCuda


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def apart(found, expected):
    return ((found.double() - expected.double()).abs().max() / expected.abs().max()).item()


@torch.inference_mode()
def main():
    for rows, outputs, inputs, group in ((1, 80, 1024, 32), (3, 64, 1536, 128), (20, 200, 512, 256), (70, 65, 512, 64)):
        x = numbers(rows, inputs).bfloat16()
        packed = int4.pack(numbers(outputs, inputs), None, group).packed()
        layer = _OnCuda(packed, group, (outputs, inputs), torch.bfloat16, None)
        exact = _packed_product.plain_int4_matrix(layer.codes, layer.pairs, torch.float32)
        assert torch.equal(exact, int4.pack(numbers(outputs, inputs), None, group).weight), "the layout has changed it"
        made = _packed_rows_kernel.int4_matrix(layer.codes, layer.pairs, torch.float32)
        print(f"int4_matrix {outputs} {inputs} {group}", apart(made, exact))
        for _ in range(2):  # the second time the counters must be as they were
            found = _few_rows_kernel.int4_rows(x.float(), layer.codes, layer.pairs)
            print(f"int4_rows {rows} {outputs} {inputs} {group}", apart(found, x.double() @ exact.double().t()))
    for rows, outputs, size, double in ((1, 80, 64, True), (3, 70, 32, False), (70, 64, 256, True)):
        x, layer = numbers(rows, 1024).bfloat16(), nf4.pack(numbers(outputs, 1024), None, size, double)
        found = _table_rows_kernel.table_rows(x.float(), layer.packed(), "", size, outputs)
        print(f"table_rows {rows} {outputs} {size} {double}", apart(found, x.double() @ layer.weight.double().t()))
    layer = int4.pack(numbers(80, 512), None, 64)
    found = _table_rows_kernel.table_rows(numbers(3, 512), layer.packed(), "", 64, 80)
    print("table_rows with lows", apart(found, numbers(3, 512).double() @ layer.weight.double().t()))
    for rows, (outputs, inputs) in itertools.product((1, 70), ((80, 1040), (130, 512))):
        x, weight = numbers(rows, inputs).bfloat16(), numbers(outputs, inputs)
        eight = int8.pack(weight, None).served()
        found = _few_rows_kernel.byte_rows(x, eight.codes, eight._scales(), None, torch.float32)
        print(f"byte_rows {rows} {outputs} {inputs}", apart(found, x.double() @ eight.matrix(torch.float64).t()))
    for rows, inputs in ((3, 96), (2, 9000)):
        x = numbers(rows, inputs).bfloat16()
        codes, scales = _packed_rows_kernel.quantised(x, torch.float8_e4m3fn)
        plain_codes, plain_scales = _packed_product.plain_quantised_rows(x, torch.float8_e4m3fn)
        assert torch.equal(scales, plain_scales)
        print(f"quantised {rows} {inputs}", apart(codes.float() * scales, plain_codes.float() * plain_scales))


if __name__ == "__main__":
    main()
