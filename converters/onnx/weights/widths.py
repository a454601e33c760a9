"""Finds sizes for which a provider has no kernel for int8 and int4, so that every call dequantises a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from converters.onnx.form import OnnxForm
from seap_export.common.providers import PROVIDERS
from seap_export.model.families import Mlp, ModelSpec
from seap_export.model.families.names import PROJECTIONS
from seap_export.pruning.rounding.grid import BLOCK_SIZES, BlockQuantization

_HEAD = "lm_head"


def whole_blocks(form: OnnxForm) -> int:
    """The number that the inputs of a product must be a multiple of for a fast kernel; 1 where none is needed."""
    rounding, multiple = form.precision.quantization, _multiple(form)
    return rounding.block_size if rounding is not None and rounding.bits == 8 and multiple > 1 else multiple


def _multiple(form: OnnxForm) -> int:
    """The number that the outputs of a product must be a multiple of."""
    return 1 if form.precision.quantization is None else PROVIDERS[form.provider].product_multiple


def slow_products(spec: ModelSpec, form: OnnxForm) -> Mapping[str, Sequence[int]]:
    """The products for which the provider has no fast kernel, by name, each with its layers (none for `lm_head`)."""
    rounding, of_outputs, of_inputs = form.precision.quantization, _multiple(form), whole_blocks(form)
    if rounding is None:
        return {}

    def is_slow(outputs: int, inputs: int) -> bool:
        return bool(outputs % of_outputs or inputs % of_inputs)

    layers = range(len(spec.layers))
    slow: dict[str, Sequence[int]] = {
        name: [
            index
            for index in layers
            if name in spec.layers[index].projections and is_slow(*spec.projection_shape(name, index))
        ]
        for name in PROJECTIONS
    }
    slow = {name: indices for name, indices in slow.items() if indices}
    if rounding.takes_table(spec.hidden_size) and is_slow(spec.vocab_size, spec.hidden_size):
        slow[_HEAD] = ()
    return slow


def float_tables(spec: ModelSpec, form: OnnxForm) -> str | None:
    """One line that says that the embedding and the LM head stay as they are, although they should be quantised."""
    grid = form.precision.quantization
    if grid is None or not grid.embeddings or grid.takes_table(spec.hidden_size):
        return None
    return (
        f"{form.precision.name}: the embedding and the LM head stay in {form.precision.dtype}, because their rows of "
        f"{spec.hidden_size} are not whole blocks of {grid.block_size}"
    )


def width_warning(spec: ModelSpec, form: OnnxForm) -> str | None:
    """One line that names the products without a fast kernel and says how to get one; None: all have one."""
    slow, rounding = slow_products(spec, form), form.precision.quantization
    if not slow or rounding is None:
        return None
    products = [f"{name} of layers {_ranges(indices)}" if indices else name for name, indices in slow.items()]
    wanted = f"outputs in multiples of {_multiple(form)} and inputs in multiples of {whole_blocks(form)}"
    label = PROVIDERS[form.provider].label
    return (
        f"{label} has no fast {form.precision.name} kernel for {', '.join(products)}, since they need {wanted}; "
        + ", and ".join(_remedies(spec, form, rounding, slow))
    )


def _remedies(
    spec: ModelSpec, form: OnnxForm, rounding: BlockQuantization, slow: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    layers = slow.keys() - {_HEAD}
    if layers:
        yield f"use {_other_form(spec, form, rounding, layers)}"
    if _HEAD in slow:
        yield "leave the embedding and LM head unquantised (float embeddings)"


def _other_form(spec: ModelSpec, form: OnnxForm, rounding: BlockQuantization, layers: set[str]) -> str:
    """The form that has fast kernels for all layers: a smaller block, other numbers of neurons, or another
    precision.
    """
    for size in sorted(BLOCK_SIZES, reverse=True):
        if size < rounding.block_size and not _still_slow(spec, form, replace(rounding, block_size=size)):
            return f"block size {size}"
    if layers <= {projection for mlp in spec.all(Mlp) for projection in mlp.projections}:
        return f"a recipe whose align is a multiple of {max(_multiple(form), whole_blocks(form))}"
    return "int4" if not _still_slow(spec, form, replace(rounding, bits=4)) else "fp16 or bf16"


def _still_slow(spec: ModelSpec, form: OnnxForm, rounding: BlockQuantization) -> bool:
    other = replace(form, precision=replace(form.precision, quantization=rounding))
    return bool(slow_products(spec, other).keys() - {_HEAD})


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers with runs shortened: `0-3, 7` for 0, 1, 2, 3 and 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
