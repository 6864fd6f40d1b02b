"""What :mod:`he.ring._vectors` and :mod:`he._strips` have in common: rows of eight 64-bit words in LLVM's terms.

A row is one vector of AVX-512. LLVM splits it into shorter vectors on other CPUs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba import config
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 8
"""Words in a row: polynomials of a group, or numbers of a batch, side by side."""

I64 = ir.IntType(64)
ROW = ir.VectorType(I64, LANES)
_PLACES = ir.VectorType(ir.IntType(32), LANES)

#: The decorator of a function that writes its own instructions.
primitive = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)


@cache
def has_ifma() -> bool:
    """Whether kernels are compiled here, for a CPU with AVX-512 IFMA."""
    if config.DISABLE_JIT:
        return False
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith("x86_64") and {"+avx512f", "+avx512ifma"} <= set(features.split(","))


def constant(number: int) -> ir.Constant:
    """A row with ``number`` in each lane."""
    return ir.Constant(ROW, [number] * LANES)


def spread(builder: Any, word: Any) -> Any:
    """A row with ``word`` in each lane."""
    undefined = ir.Constant(ROW, ir.Undefined)
    one = builder.insert_element(undefined, word, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_PLACES, [0] * LANES))


def instruction(builder: Any, name: str, operands: int) -> Any:
    """LLVM's instruction ``name``, from rows to a row."""
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(ROW, [ROW] * operands), name)


def multiply_and_add(builder: Any) -> tuple[Any, Any]:
    """AVX-512 IFMA: a sum plus the low, and a sum plus the high 52 bits of the product of two 52-bit numbers."""
    low, high = (f"llvm.x86.avx512.vpmadd52{half}.uq.512" for half in "lh")
    return instruction(builder, low, 3), instruction(builder, high, 3)


def pointer(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """A pointer to the first word of an array of the type ``kind``."""
    return context.make_array(kind)(context, builder, array).data


def row_at(builder: Any, words: Any, row: Any) -> Any:
    """A pointer to row ``row`` of the memory that ``words`` points to."""
    word = builder.mul(row, ir.Constant(I64, LANES))
    return builder.bitcast(builder.gep(words, [word]), ROW.as_pointer())
