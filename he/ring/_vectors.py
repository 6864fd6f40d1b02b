"""Steps on eight residues at once, one for each lane, that Numba compiles to vector instructions.

A *row* is eight 64-bit words in a line: one coefficient of eight polynomials. There are two kinds of arithmetic:

- :class:`Ifma`, for primes p < 2^50, multiplies 52 bits by 52 bits in one instruction (AVX-512 IFMA);
- :class:`Word`, for primes p < 2^62, needs 64-bit multiplication only, and runs on every CPU.

In both, a factor w is known beforehand and comes with its quotient floor(w * 2^b / p), b being 52 or 64.
Then w y - floor(quotient * y / 2^b) * p is w y modulo p, below 2p, for every y < 2^b: a product costs
three multiplications and no division (V. Shoup's method, in D. Harvey, *Faster arithmetic for
number-theoretic transforms*, 2014). Between steps residues are below 4p on the way forward, and below
2p on the way back. No branch and no memory address depends on a residue.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from he import _rows
from he._rows import I64, constant, primitive


class Ifma(NamedTuple):
    """Arithmetic modulo ``prime`` < 2^50 by 52-bit products."""

    prime: np.uint64


class Word(NamedTuple):
    """Arithmetic modulo ``prime`` < 2^62 by 64-bit products."""

    prime: np.uint64


class _Writer:
    """Writes instructions on rows."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def spread(self, word: Any) -> Any:
        """A row with ``word`` in each lane."""
        return _rows.spread(self.builder, word)

    def call(self, name: str, *rows: Any) -> Any:
        """The row that an instruction of LLVM returns for ``rows``."""
        return self.builder.call(_rows.instruction(self.builder, name, len(rows)), rows)


class _Arithmetic(_Writer):
    """Writes the instructions of an arithmetic for one prime."""

    def __init__(self, builder: Any, prime: Any) -> None:
        super().__init__(builder)
        self.prime = self.spread(prime)
        self.twice = builder.add(self.prime, self.prime)

    def below(self, row: Any, limit: Any) -> Any:
        """``row`` in [0, 2 * limit), below ``limit``. A negative difference wraps, so the minimum is right."""
        return self.call("llvm.umin.v8i64", row, self.builder.sub(row, limit))

    def times(self, row: Any, factor: tuple[Any, Any]) -> Any:
        """``row`` times a factor with its quotient, below 2p."""
        raise NotImplementedError

    def apart(self, x: Any, y: Any, factor: tuple[Any, Any]) -> tuple[Any, Any]:
        """x + w y and x - w y, below 4p, of rows below 4p."""
        b = self.builder
        x, y = self.below(x, self.twice), self.times(y, factor)
        return b.add(x, y), b.sub(b.add(x, self.twice), y)

    def together(self, x: Any, y: Any, factor: tuple[Any, Any]) -> tuple[Any, Any]:
        """x + y and w (x - y), below 2p, of rows below 2p."""
        b = self.builder
        difference = b.sub(b.add(x, self.twice), y)
        return self.below(b.add(x, y), self.twice), self.times(difference, factor)


class _IfmaArithmetic(_Arithmetic):
    def times(self, row: Any, factor: tuple[Any, Any]) -> Any:
        b, value, quotient = self.builder, *factor
        low, high = _rows.multiply_and_add(b)
        whole = b.call(high, [constant(0), row, quotient])
        negative = b.sub(constant(1 << 52), self.prime)  # the low halves are added modulo 2^52
        product = b.call(low, [b.call(low, [constant(0), row, value]), whole, negative])
        return b.and_(product, constant((1 << 52) - 1))


class _WordArithmetic(_Arithmetic):
    def times(self, row: Any, factor: tuple[Any, Any]) -> Any:
        b, value, quotient = self.builder, *factor
        return b.sub(b.mul(row, value), b.mul(self._high(row, quotient), self.prime))

    def _high(self, x: Any, y: Any) -> Any:
        """The upper 64 bits of each product, from four products of 32 bits."""
        b, half, mask = self.builder, constant(32), constant(0xFFFFFFFF)
        x_low, x_high = b.and_(x, mask), b.lshr(x, half)
        y_low, y_high = b.and_(y, mask), b.lshr(y, half)
        first = b.add(b.mul(x_high, y_low), b.lshr(b.mul(x_low, y_low), half))
        second = b.add(b.mul(x_low, y_high), b.and_(first, mask))
        return b.add(b.mul(x_high, y_high), b.add(b.lshr(first, half), b.lshr(second, half)))


_ARITHMETICS = {Ifma: _IfmaArithmetic, Word: _WordArithmetic}


class _Rows(_Writer):
    """The operands of a function: arrays (rows, lanes)."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        super().__init__(builder)
        self._context, self._kinds, self._values = context, signature.args, arguments

    def pointer(self, array: int, index: Any, width: int) -> Any:
        """A pointer to word ``index`` times ``width`` of an argument."""
        return self.builder.gep(self._data(array), [self.builder.mul(index, ir.Constant(I64, width))])

    def at(self, array: int, row: Any) -> Any:
        """A pointer to a row of an argument."""
        return _rows.row_at(self.builder, self._data(array), row)

    def load(self, array: int, row: Any) -> Any:
        """A row of an argument."""
        return self.builder.load(self.at(array, row), align=8)

    def _data(self, array: int) -> Any:
        return _rows.pointer(self._context, self.builder, self._kinds[array], self._values[array])


class _Step(_Rows):
    """The operands of one step: rows of an array, and factors with their quotients."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        super().__init__(context, builder, signature, arguments)
        prime = builder.extract_value(arguments[-1], 0)
        self.arithmetic = _ARITHMETICS[signature.args[-1].instance_class](builder, prime)

    def places(self, first: Any, step: Any, count: int) -> list[Any]:
        """Pointers to ``count`` rows of argument 0, from row ``first`` on, ``step`` apart."""
        pointers = []
        for _ in range(count):
            pointers.append(self.at(0, first))
            first = self.builder.add(first, step)
        return pointers

    def loaded(self, pointers: list[Any]) -> list[Any]:
        """The rows at ``pointers``."""
        return [self.builder.load(pointer, align=8) for pointer in pointers]

    def store(self, rows: list[Any], pointers: list[Any]) -> None:
        """Write ``rows`` to ``pointers``."""
        for row, pointer in zip(rows, pointers, strict=True):
            self.builder.store(row, pointer, align=8)

    def factor(self, array: int, index: Any) -> tuple[Any, Any]:
        """Factor ``index`` of an argument of shape (n, 2), and its quotient."""
        pointer = self.pointer(array, index, 2)
        after = self.builder.gep(pointer, [ir.Constant(I64, 1)])
        value, quotient = (self.builder.load(p) for p in (pointer, after))
        return self.arithmetic.spread(value), self.arithmetic.spread(quotient)

    def children(self, node: Any) -> list[tuple[Any, Any]]:
        """The roots of both halves below ``node`` in argument 3."""
        first = self.builder.shl(node, ir.Constant(I64, 1))
        return [self.factor(3, self.builder.add(first, ir.Constant(I64, k))) for k in (0, 1)]


def _butterfly(write: Callable[[_Step, list[Any], Any], list[Any]], count: int) -> Callable[..., Any]:
    """A step on ``count`` rows of ``a``, from ``first`` on, ``step`` apart, with the roots at ``node``."""

    def typed(typing: Any, a: Any, first: Any, step: Any, roots: Any, node: Any, modulus: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            todo = _Step(context, builder, signature, arguments)
            pointers = todo.places(arguments[1], arguments[2], count)
            todo.store(write(todo, todo.loaded(pointers), arguments[4]), pointers)
            return context.get_dummy_value()

        return types.void(a, types.int64, types.int64, roots, types.int64, modulus), generate

    typed.__name__ = write.__name__
    return primitive(typed)


def _spread2(todo: _Step, rows: list[Any], node: Any) -> list[Any]:
    return list(todo.arithmetic.apart(rows[0], rows[1], todo.factor(3, node)))


def _spread4(todo: _Step, rows: list[Any], node: Any) -> list[Any]:
    a, root = todo.arithmetic, todo.factor(3, node)
    (x, z), (y, t) = a.apart(rows[0], rows[2], root), a.apart(rows[1], rows[3], root)
    left, right = todo.children(node)
    return [*a.apart(x, y, left), *a.apart(z, t, right)]


def _gather2(todo: _Step, rows: list[Any], node: Any) -> list[Any]:
    return list(todo.arithmetic.together(rows[0], rows[1], todo.factor(3, node)))


def _gather4(todo: _Step, rows: list[Any], node: Any) -> list[Any]:
    a, root = todo.arithmetic, todo.factor(3, node)
    left, right = todo.children(node)
    (x, y), (z, t) = a.together(rows[0], rows[1], left), a.together(rows[2], rows[3], right)
    (x, z), (y, t) = a.together(x, z, root), a.together(y, t, root)
    return [x, y, z, t]


spread2, spread4 = _butterfly(_spread2, 2), _butterfly(_spread4, 4)
gather2, gather4 = _butterfly(_gather2, 2), _butterfly(_gather4, 4)


@primitive
def settle(typing: Any, a: Any, row: Any, modulus: Any) -> Any:
    """Bring row ``row`` of ``a`` from [0, 4p) into [0, p)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        todo = _Step(context, builder, signature, arguments)
        pointers = todo.places(arguments[1], ir.Constant(I64, 0), 1)
        (value,) = todo.loaded(pointers)
        by = todo.arithmetic
        todo.store([by.below(by.below(value, by.twice), by.prime)], pointers)
        return context.get_dummy_value()

    return types.void(a, types.int64, modulus), generate


@primitive
def times(typing: Any, a: Any, row: Any, factors: Any, index: Any, modulus: Any) -> Any:
    """Multiply row ``row`` of ``a``, words below 2^b, by factor ``index`` of ``factors`` (n, 2); below p."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        todo = _Step(context, builder, signature, arguments)
        pointers = todo.places(arguments[1], ir.Constant(I64, 0), 1)
        (value,) = todo.loaded(pointers)
        by = todo.arithmetic
        todo.store([by.below(by.times(value, todo.factor(2, arguments[3])), by.prime)], pointers)
        return context.get_dummy_value()

    return types.void(a, types.int64, factors, types.int64, modulus), generate


@primitive
def add_times(typing: Any, a: Any, row: Any, factors: Any, others: Any, modulus: Any) -> Any:
    """Add row ``row`` of ``others``, words below 2^b, times its factor, to row ``row`` of ``a``, below p."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        todo = _Step(context, builder, signature, arguments)
        by, here = todo.arithmetic, todo.at(0, arguments[1])
        product = by.times(todo.load(3, arguments[1]), todo.factor(2, arguments[1]))
        total = builder.add(builder.load(here, align=8), by.below(product, by.prime))
        builder.store(by.below(total, by.prime), here, align=8)
        return context.get_dummy_value()

    return types.void(a, types.int64, factors, others, modulus), generate


@primitive
def pack_row(typing: Any, a: Any, row: Any, out: Any, word: Any, shift: Any) -> Any:
    """Add row ``row`` of ``a``, shifted up by ``shift`` < 64 bits, to row ``word`` of ``out``, by a bitwise or."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)
        here = rows.at(2, arguments[3])
        up = builder.shl(rows.load(0, arguments[1]), rows.spread(arguments[4]))
        builder.store(builder.or_(builder.load(here, align=8), up), here, align=8)
        return context.get_dummy_value()

    return types.void(a, types.int64, out, types.int64, types.int64), generate


@primitive
def shift_row(typing: Any, a: Any, row: Any, out: Any, word: Any, shift: Any) -> Any:
    """Write row ``row`` of ``a``, shifted down by ``shift`` < 64 bits, to row ``word`` of ``out``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)
        down = builder.lshr(rows.load(0, arguments[1]), rows.spread(arguments[4]))
        builder.store(down, rows.at(2, arguments[3]), align=8)
        return context.get_dummy_value()

    return types.void(a, types.int64, out, types.int64, types.int64), generate


def _residues(rows: _Rows, arguments: Any) -> Any:
    """The row of residues of argument 0 that takes the bits from ``start`` on, ``bits`` of them."""
    b, start, bits = rows.builder, arguments[1], arguments[2]
    six, ones = ir.Constant(I64, 6), ir.Constant(I64, 63)
    end = b.add(start, b.sub(bits, ir.Constant(I64, 1)))
    shift = b.and_(start, ones)
    low = b.lshr(rows.load(0, b.lshr(start, six)), rows.spread(shift))
    # A shift by 64 bits has no meaning, so there are two. In one word, the upper part is cut off again.
    high = b.shl(b.shl(rows.load(0, b.lshr(end, six)), constant(1)), rows.spread(b.sub(ones, shift)))
    mask = b.sub(b.shl(ir.Constant(I64, 1), bits), ir.Constant(I64, 1))
    return b.and_(b.or_(low, high), rows.spread(mask))


@primitive
def unpack_row(typing: Any, words: Any, start: Any, bits: Any, out: Any, row: Any) -> Any:
    """Write the residues that begin at bit ``start`` of ``words`` to row ``row`` of ``out``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)
        builder.store(_residues(rows, arguments), rows.at(3, arguments[4]), align=8)
        return context.get_dummy_value()

    return types.void(words, types.int64, types.int64, out, types.int64), generate


@primitive
def fold_row(typing: Any, words: Any, start: Any, bits: Any, out: Any, row: Any, prime: Any) -> Any:
    """Add the residues that begin at bit ``start`` of ``words`` to row ``row`` of ``out``, modulo ``prime``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)
        here = rows.at(3, arguments[4])
        total = builder.add(builder.load(here, align=8), _residues(rows, arguments))
        less = builder.sub(total, rows.spread(arguments[5]))
        builder.store(rows.call("llvm.umin.v8i64", total, less), here, align=8)
        return context.get_dummy_value()

    return types.void(words, types.int64, types.int64, out, types.int64, types.uint64), generate


@primitive
def largest_row(typing: Any, words: Any, start: Any, bits: Any, out: Any) -> Any:
    """Raise row 0 of ``out`` to the residues that begin at bit ``start`` of ``words``, where they are larger."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = _Rows(context, builder, signature, arguments)
        here = rows.at(3, ir.Constant(I64, 0))
        residues = _residues(rows, arguments)
        builder.store(rows.call("llvm.umax.v8i64", builder.load(here, align=8), residues), here, align=8)
        return context.get_dummy_value()

    return types.void(words, types.int64, types.int64, out), generate
