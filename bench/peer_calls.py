"""The comparisons with peers: the work, the peer, and how many times as fast we claim to be.

``peer_mpc``, ``peer_he`` and ``peer_dp`` call the peers; ``docs/benchmarks.md`` says what each comparison leaves
out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

from bench import peer_dp, peer_he, peer_mpc, peer_upload
from bench.peers import Absent, Comparison, Pair, Peer
from secagg import BFV, OneShot, SecAgg
from secagg.protocols.base import AggregationProtocol

FLOWER = Peer("flwr", "flwr")
PHE = Peer("phe", "phe")
PYPAILLIER = Peer("pypaillier", "paillier")
TENSEAL = Peer("tenseal", "tenseal")
NVFLARE = Peer("nvflare", "nvflare")
FATE = Peer("fate_utils", "fate_utils")
OPENDP = Peer("opendp", "opendp")
ACCOUNTING = Peer("dp-accounting", "dp_accounting")

LARGE_UNMASKING = partial(peer_mpc.unmask, clients=100, gone=10, threshold=67, size=10**6)

TENSORS, TENSOR = 20, 50_000


def nvflare_round(protocol: Callable[[], AggregationProtocol]) -> Pair:
    """A round of three sites through NVFlare's own homomorphic path; see :mod:`bench.peer_nvflare`."""
    if find_spec("tenseal") is None:
        raise Absent("NVFlare's encryption needs tenseal: pip install tenseal")
    from bench import peer_nvflare

    return peer_nvflare.round_pair(protocol(), TENSORS, TENSOR)


def nvflare(name: str, protocol: Callable[[], AggregationProtocol], most_bytes: float) -> Comparison:
    """A round of NVFlare's encryption, and one of ``protocol``."""
    work = f"round of 3 sites, {TENSORS} tensors of {TENSOR:,}, {name}"
    return Comparison(work, "value", NVFLARE, partial(nvflare_round, protocol), most_bytes=most_bytes)


COMPARISONS = (
    Comparison("quantize 10^6 float32, stochastic", "call", FLOWER, peer_mpc.quantize, claim=10),
    Comparison("split 32 bytes, t = 67 of 100", "secret", FLOWER, peer_mpc.split, claim=500),
    Comparison("combine 67 shares at new points", "secret", FLOWER, peer_mpc.combine, claim=200),
    Comparison("add a mask to 10^6 lanes", "mask", FLOWER, peer_mpc.mask, claim=5),
    Comparison("unmask 40 clients, 4 gone, 10^5 coordinates", "session", FLOWER, peer_mpc.unmask, claim=50),
    Comparison("unmask 100 clients, 10 gone, 10^6 coordinates", "session", FLOWER, LARGE_UNMASKING, claim=100),
    Comparison("masked input among 100, 10^6 coordinates", "client", FLOWER, peer_upload.masked_input, claim=8),
    Comparison("SecAgg+ round, 16 clients, 10^6 coordinates", "round", FLOWER, peer_mpc.whole_round, claim=5),
    Comparison("encrypt at 3072 bits", "value", PHE, peer_he.phe_encrypt, claim=1000),
    Comparison("open at 3072 bits", "value", PHE, peer_he.phe_decrypt, claim=100),
    Comparison("encrypt integers at 3072 bits", "ciphertext", PYPAILLIER, peer_he.pypaillier_encrypt, claim=1),
    Comparison("encrypt 10 tensors as NVFlare does", "value", TENSEAL, peer_he.nvflare_encrypt, claim=1),
    Comparison("add one client's 10 tensors", "value", TENSEAL, peer_he.nvflare_add, claim=1),
    Comparison("open a sum of 10 tensors", "value", TENSEAL, peer_he.nvflare_decrypt, claim=1),
    nvflare("BFV", partial(BFV, holder="decryptor"), 0.15),
    nvflare("OneShot", OneShot, 0.05),
    nvflare("SecAgg", SecAgg, 0.04),
    Comparison("encrypt at 3072 bits", "value", FATE, peer_he.fate_encrypt, claim=1000),
    Comparison("mask 10^5 values among 20", "value", FATE, peer_mpc.fate_mix, claim=5),
    Comparison("discrete Gaussian, sigma 4", "draw", OPENDP, partial(peer_dp.gaussian, 4.0), claim=100),
    Comparison("discrete Gaussian, sigma 1000", "draw", OPENDP, partial(peer_dp.gaussian, 1000.0), claim=100),
    Comparison("epsilon of 1000 sampled Gaussian steps", "run", ACCOUNTING, peer_dp.accounts),
)
