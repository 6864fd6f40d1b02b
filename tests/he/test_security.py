"""How hard ciphertexts are to read: the estimate against published figures, and against its definition."""

import math

import pytest

from he import params, security
from he.errors import HEError
from tests.reference import security as twin

TERNARY, ERROR = math.sqrt(2 / 3), math.sqrt(21 / 2)
KYBER = math.log2(3329)

#: Ring degree, log2 q, deviations of secret and errors; the block and the classical bits that were published.
PUBLISHED = {
    # The lattice estimator's rough estimates, in its documentation and its authors' talks.
    "Kyber512": (512, KYBER, math.sqrt(1.5), math.sqrt(1.5), 406, 118.6),
    "Kyber768": (768, KYBER, 1.0, 1.0, 624, 182.2),
}

#: N, log2 q, and the bits, classical and with the quantum sieve of 2015, for secrets and errors of deviation 4.
DEVIATION_4 = [
    (2048, 47, 129.6, 117.7),
    (2048, 53, 108.6, 98.6),
    (2048, 55, 102.8, 93.3),
    (4096, 91, 129.1, 117.1),
    (4096, 100, 112.4, 102.0),
    (4096, 104, 106.3, 96.5),
    (4096, 108, 100.4, 91.2),
    (8192, 179, 128.8, 116.9),
    (8192, 180, 127.9, 116.1),
    (8192, 196, 113.0, 102.6),
    (8192, 200, 109.8, 99.6),
    (8192, 214, 99.3, 90.1),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_estimate_is_the_one_that_others_publish(name: str) -> None:
    degree, bits, secret, error, block, classical = PUBLISHED[name]
    cost = security.core_svp(degree, bits, secret, error)
    assert cost.block == block
    assert round(cost.classical, 1) == classical


@pytest.mark.parametrize(("degree", "bits", "classical", "quantum"), DEVIATION_4)
def test_the_estimate_with_wider_secrets(degree: int, bits: int, classical: float, quantum: float) -> None:
    cost = security.core_svp(degree, bits, 4.0, 4.0)
    assert (round(cost.classical, 1), round(cost.quantum, 1)) == (classical, quantum)


@pytest.mark.parametrize(
    ("secret", "published"),
    [(TERNARY, (20, 40, 80, 161, 322, 644)), (3.19, (22, 42, 83, 163, 324, 646))],
    ids=["ternary", "normal"],
)
def test_longest_moduli_without_polynomial_factors(secret: float, published: tuple[int, ...]) -> None:
    """The script of eprint 2024/463 prints these for 128 quantum bits; it also tries a dual attack."""
    for degree, allowed in zip((1024, 2048, 4096, 8192, 16384, 32768), published, strict=True):
        ours = [
            bits
            for bits in range(allowed - 3, allowed + 4)
            if security.core_svp(degree, bits, secret, 3.19).quantum_walks >= 128
        ]
        assert allowed <= max(ours) <= allowed + 1


@pytest.mark.parametrize(
    ("degree", "bits", "secret", "error"),
    [
        (256, 10.0, 1.0, 1.0),
        (512, KYBER, math.sqrt(1.5), math.sqrt(1.5)),
        (512, 13.5, 2.0, 2.0),
        (1024, 27.0, TERNARY, ERROR),
        (1024, 22.3, 4.0, 3.2),
    ],
)
def test_the_estimate_is_its_definition(degree: int, bits: float, secret: float, error: float) -> None:
    ours = security.core_svp(degree, bits, secret, error).block
    assert ours == twin.block(degree, bits, secret, error, start=max(60, ours - 4))


def test_what_makes_an_attack_harder() -> None:
    block = security.core_svp(2048, 50, TERNARY, ERROR).block
    assert security.core_svp(4096, 50, TERNARY, ERROR).block > block
    assert security.core_svp(2048, 49, TERNARY, ERROR).block > block
    assert security.core_svp(2048, 50, 4.0, ERROR).block > block
    assert security.core_svp(2048, 50, TERNARY, 4.0).block > block
    assert security.core_svp(64, 50, TERNARY, ERROR).block == 60, "as good as open"


def test_tables_are_as_published_and_rings_keep_to_all() -> None:
    newer, older = security.TABLES
    assert newer.classical == {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430}
    assert older.classical == {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438}
    assert older.quantum == {1024: 25, 2048: 51, 4096: 101, 8192: 202, 16384: 411}
    assert security.RING_BITS == {1024: 25, 2048: 50, 4096: 101, 8192: 202, 16384: 409}
    assert params.RING_BITS is security.RING_BITS


def test_figures_that_the_documents_name() -> None:
    """In he.security, he.params and docs/protocols.md: core-SVP where the tables say 128 bits, and in our rings."""
    classical = [
        security.core_svp(degree, bits, TERNARY, ERROR).classical
        for table in security.TABLES
        for degree, bits in table.classical.items()
    ]
    quantum = [
        security.core_svp(degree, bits, TERNARY, ERROR).quantum_walks
        for table in security.TABLES
        for degree, bits in table.quantum.items()
    ]
    assert (round(min(classical)), round(max(classical))) == (94, 107)
    assert (round(min(quantum)), round(max(quantum))) == (91, 99)
    ours = [security.core_svp(n, params.RING_BITS[n], TERNARY, ERROR) for n in params.SUM_DEGREES]
    assert [round(cost.classical) for cost in ours] == [110, 107]
    assert [round(cost.quantum) for cost in ours] == [100, 97]
    assert [round(cost.quantum_walks) for cost in ours] == [97, 94]


def test_rings_beyond_the_tables_do_not_pass_for_secure() -> None:
    assert "no published 128 bits" in security.summary(2048, 51, TERNARY, ERROR)
    assert "128 bits of security by published tables" in security.summary(2048, 50, TERNARY, ERROR)
    text = "\n".join(security.describe(2048, 53.5, TERNARY, ERROR))
    assert text.count("EXCEEDED") == 3
    assert "classical up to 54 bits of q (kept)" in text
    odd = "\n".join(security.describe(512, 10, TERNARY, ERROR))
    assert odd.count("no row for ring degree 512") == 2
    assert "no published 128 bits" in security.summary(512, 10, TERNARY, ERROR)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 50, 1, 1),
        (2048.5, 50, 1, 1),
        (2048, 0, 1, 1),
        (2048, 50, -1, 1),
        (2048, 50, 1, math.inf),
        ("a", 50, 1, 1),
    ],
)
def test_nonsense_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(HEError, match="expected an integer of at least 1 and three positive numbers"):
        security.core_svp(*arguments)  # type: ignore[arg-type]
