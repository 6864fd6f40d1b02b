"""Valgrind's client requests, written by LLVM: no C compiler is needed.

A request is a sequence of instructions that does nothing on a CPU. Valgrind recognises it, reads the six
words that RAX points to, and leaves its answer in RDX (``valgrind.h`` and ``memcheck.h``).
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

_RUNNING_ON_VALGRIND, _COUNT_ERRORS = 0x1001, 0x1201
_MEMCHECK = (ord("M") << 24 | ord("C") << 16) + 1
_MAKE_MEM_UNDEFINED, _MAKE_MEM_DEFINED, _GET_VBITS = _MEMCHECK, _MEMCHECK + 1, _MEMCHECK + 7

# A multiple of 64 in all: RDI ends as it began.
_MAGIC = "rolq $$3, %rdi; rolq $$13, %rdi; rolq $$61, %rdi; rolq $$51, %rdi; xchgq %rbx, %rbx"

binding.initialize_native_asmparser()  # LLVM reads the sequence as text

_primitive = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)
_compiled = cast(Callable[[Callable[..., Any]], Callable[..., Any]], njit(cache=True))


@_primitive
def _ask(typing: Any, address: Any) -> Any:
    """What Valgrind answers to the six words at ``address``; 0 where it does not run."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, word])
        places = "={rdx},{rax},0,~{memory},~{cc},~{dirflag},~{fpsr},~{flags}"
        return builder.call(ir.InlineAsm(kind, _MAGIC, places, side_effect=True), [arguments[0], word(0)])

    return types.uint64(types.uint64), generate


@_compiled
def _send(address: int) -> int:
    return int(_ask(np.uint64(address)))


def _request(code: int, *arguments: int) -> int:
    words = np.zeros(6, np.uint64)
    words[: 1 + len(arguments)] = [code, *arguments]
    return _send(words.ctypes.data)


def runs() -> bool:
    """Whether this process runs under Valgrind."""
    return _request(_RUNNING_ON_VALGRIND) > 0


def errors() -> int:
    """How many errors Valgrind has counted so far, repeated ones included."""
    return _request(_COUNT_ERRORS)


def hide(array: NDArray[Any]) -> None:
    """Mark the bytes of a contiguous array undefined: a branch or an address that depends on them is an error."""
    _request(_MAKE_MEM_UNDEFINED, array.ctypes.data, array.nbytes)


def reveal(array: NDArray[Any]) -> None:
    """Mark the bytes of a contiguous array defined."""
    _request(_MAKE_MEM_DEFINED, array.ctypes.data, array.nbytes)


def undefined_bytes(array: NDArray[Any]) -> int:
    """How many bytes of a contiguous array have a bit that is undefined."""
    bits = np.zeros(array.nbytes, np.uint8)
    if _request(_GET_VBITS, array.ctypes.data, bits.ctypes.data, array.nbytes) != 1:
        raise RuntimeError("Valgrind did not say which bits of an array are defined")
    return int(np.count_nonzero(bits))
