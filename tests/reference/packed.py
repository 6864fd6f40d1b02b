"""Packed Shamir sharing modulo 2^31 - 1 with Python's integers: the naive twin of ``mpc.packed``."""

import itertools
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PRIME = 2**31 - 1
MASKS = 5

Row = list[int]


def keystream(key: bytes, size: int) -> bytes:
    """AES-256-CTR from a counter of zero."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def numbers(stream: bytes, count: int) -> Row:
    """The first ``count`` words of 31 bits that are below the prime."""
    words = [int.from_bytes(stream[i : i + 4], "little") % 2**31 for i in range(0, len(stream), 4)]
    return [word for word in words if word != PRIME][:count]


def lagrange(points: Sequence[int], at: int) -> Row:
    """The weight of each point in the value at ``at``."""
    weights = []
    for i in points:
        numerator = denominator = 1
        for j in points:
            if j != i:
                numerator *= at - j
                denominator *= i - j
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return weights


def interpolate(points: Sequence[int], rows: Sequence[Row], at: int) -> Row:
    """The values at ``at`` of the polynomials through the rows, one column each."""
    weights = lagrange(points, at)
    return [
        sum(w * value for w, value in zip(weights, column, strict=True)) % PRIME
        for column in zip(*rows, strict=True)
    ]


def base(members: int, corrupt: int) -> tuple[Row, int]:
    """The points that fix a polynomial, and how many of them are those of secrets."""
    k = max(1, members - 3 * corrupt)
    return [*range(-1, -1 - k, -1), *range(1, 1 + corrupt)], k


def rows_of(
    members: int, corrupt: int, secret: Sequence[int], seeds: Sequence[bytes], mask_key: bytes
) -> list[Row]:
    """The values of all columns, masks last, at the points of :func:`base`."""
    _, k = base(members, corrupt)
    columns = -(-len(secret) // k)
    padded = [*secret, *[0] * (k * columns - len(secret))]
    masks = numbers(keystream(mask_key, 4 * k * MASKS + 64), k * MASKS)
    rows = [
        [
            *(number % PRIME for number in padded[t * columns : (t + 1) * columns]),
            *masks[t * MASKS : (t + 1) * MASKS],
        ]
        for t in range(k)
    ]
    width = columns + MASKS
    return [*rows, *(numbers(keystream(seed, 4 * width + 64), width) for seed in seeds)]


def share(members: int, corrupt: int, rows: Sequence[Row], place: int) -> Row:
    """The numbers of the share at ``place``."""
    return interpolate(base(members, corrupt)[0], rows, place + 1)


def challenge(key: bytes, columns: int) -> list[Row]:
    """Five random combinations."""
    drawn = numbers(keystream(key, 4 * MASKS * columns + 64), MASKS * columns)
    return [drawn[i * columns : (i + 1) * columns] for i in range(MASKS)]


def combined(row: Row, combinations: Sequence[Row]) -> Row:
    """Each combination of a row, plus one of the masks at the row's end."""
    return [
        (sum(a * b for a, b in zip(rho, row, strict=False)) + row[len(rho) + i]) % PRIME
        for i, rho in enumerate(combinations)
    ]


def prove(rows: Sequence[Row], key: bytes) -> list[Row]:
    """The proof: five rows of the values at the points of :func:`base`."""
    combinations = challenge(key, len(rows[0]) - MASKS)
    return [list(column) for column in zip(*(combined(row, combinations) for row in rows), strict=True)]


def fits(members: int, corrupt: int, place: int, row: Row, key: bytes, proof: Sequence[Row]) -> bool:
    """Whether the share at ``place`` fits the proof."""
    points, _ = base(members, corrupt)
    columns = [list(column) for column in zip(*proof, strict=True)]
    return combined(row, challenge(key, len(row) - MASKS)) == interpolate(points, columns, place + 1)


def candidates(members: int, corrupt: int, answers: Mapping[int, Row]) -> dict[frozenset[int], Row]:
    """For each set of places that agree: the sum in the order of the secret, with whatever pads it."""
    _, k = base(members, corrupt)
    sums: dict[frozenset[int], Row] = {}
    for places in itertools.combinations(sorted(answers), k + corrupt):
        points, rows = [place + 1 for place in places], [answers[place] for place in places]
        agreeing = frozenset(
            place for place, answer in answers.items() if interpolate(points, rows, place + 1) == answer
        )
        if agreeing not in sums:
            found = [number for t in range(k) for number in interpolate(points, rows, -1 - t)]
            sums[agreeing] = [number - PRIME * (number > PRIME // 2) for number in found]
    return sums


def rank(matrix: Sequence[Sequence[int]]) -> int:
    """The rank modulo the prime, by Gauss's elimination."""
    rows, rank = [[number % PRIME for number in row] for row in matrix], 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = pow(rows[rank][column], -1, PRIME)
        for i in range(len(rows)):
            if i != rank and (factor := rows[i][column] * inverse % PRIME):
                rows[i] = [(a - factor * b) % PRIME for a, b in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


def solve(matrix: Sequence[Sequence[int]], right: Sequence[int]) -> Row:
    """The one solution, as numbers about zero, of equations of full column rank."""
    width = len(matrix[0])
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    rows = [[number % PRIME for number in row] for row in rows]
    for column in range(width):
        pivot = next(i for i in range(column, len(rows)) if rows[i][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, PRIME)
        rows[column] = [inverse * number % PRIME for number in rows[column]]
        for i in range(len(rows)):
            if i != column:
                factor = rows[i][column]
                rows[i] = [(a - factor * b) % PRIME for a, b in zip(rows[i], rows[column], strict=True)]
    return [row[-1] - PRIME * (row[-1] > PRIME // 2) for row in rows[:width]]
