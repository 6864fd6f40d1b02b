"""Which functions parse what others or the disk hold, and which of them the fuzzer calls.

A function parses if it calls one of :data:`PRIMITIVES`, or if its name says so (:data:`NAMES`). Each must be called
while the decoders and the sessions run, or be listed in :data:`NOT_FUZZED` with a reason.
"""

from __future__ import annotations

import ast
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[3]
PACKAGES = ("secagg", "he", "mpc", "dp", "bench")

PRIMITIVES = frozenset({
    "json.loads", "json.load", "tomllib.loads", "tomllib.load", "jwt.decode", "ast.literal_eval", "msgspec.convert",
    "msgspec.json.decode", "msgspec.msgpack.decode", "msgspec.json.Decoder", "msgspec.msgpack.Decoder",
    "np.load", "np.loadtxt", "np.frombuffer", "np.unpackbits", "np.lib.format.read_magic", "struct.unpack",
    "struct.unpack_from", "int.from_bytes", "mpz.from_bytes", "bytes.fromhex", "bytearray.fromhex",
    "base64.b64decode", "load_pem_private_key", "load_pem_public_key", "load_pem_x509_certificates",
    "zstandard.decompress",
})  # fmt: skip
_METHODS = frozenset({"read_text", "read_bytes", "unpack_from"})
NAMES = re.compile(
    r"_?(from_(bytes|json|plain|state_dict|tenseal|frames|bitmap)|(load|read|parse|restore|decode)(_\w+)?)\Z"
)

_NEEDS_FLOWER = "secagg/integrations/_flower_"

#: ``FILE FUNCTION`` of what is not called, by the reason.
NOT_FUZZED: Mapping[str, tuple[str, ...]] = {
    "its bytes are random, drawn by this process": (
        "dp/_encoding.py round_within",
        "dp/rotation.py _signs",
        "dp/sampling.py _Stream.bits",
        "dp/sampling.py _Stream.words",
        "he/_paillier_encryption.py Encryptor._units",
        "he/_primes.py _confirmed",
        "he/_primes.py _residues",
        "he/_primes.py _window",
        "he/_seal_generator.py stream",
        "he/paillier_keys.py _seed",
        "mpc/masks.py _pieces",
        "secagg/federated/clients.py PoissonBatches.draw",
    ),
    "what it reads was made by this process, or by SEAL in it": (
        "he/_powers.py Ring.leave",
        "he/_rlwe_seal.py SealEngine.second",
        "he/_seal.py Channel.read",
        "he/_seal.py Scratch.read",
        "he/_seal.py _members",
        "he/_seal.py _plain_rows",
        "he/_seal.py ciphertext_rows",
        "secagg/remote/line.py Caller.headers",
        "secagg/store.py _number",
        "secagg/testing/_session.py Session.restore_server",
    ),
    "it generates machine code": ("he/ring/_vectors.py _Rows.load",),
    "it gets integers, not bytes": (
        "dp/_distributed.py Distributed.decode",
        "dp/central.py CentralGaussian.decode",
        "dp/central.py _Opening.decode",
        "dp/clipping.py AdaptiveClip.decode",
        "secagg/testing/_material.py Integers.decode",
    ),
    "it calls what is fuzzed, and reads nothing itself": (
        "secagg/remote/core.py ClientCore.restore",
        "secagg/remote/offers.py BaseOffer._read_model",
        "secagg/roles/receiving.py Receiving._read_each",
        "secagg/roles/receiving.py Receiving.read_all",
        "secagg/service/files.py SessionFiles.restore_relays",
        "secagg/service/guard.py read_body",
        "secagg/service/run.py Run.read",
        "secagg/service/states.py SessionStore.load",
        "secagg/service/states.py States.load",
        "secagg/service/worker.py Worker.restore",
        "secagg/task.py Task.restore_aggregator",
        "secagg/task.py Task.restore_client",
        "secagg/task.py Task.restore_decryptor",
    ),
    "its text has passed a regular expression or a signature": (
        "secagg/_enrolment_commands.py roster_sign",
        "secagg/_enrolment_commands.py roster_verify",
        "secagg/registrar.py _newest",
        "secagg/service/handlers.py Handlers._expected",
        "secagg/service/handlers.py Handlers.accepted",
        "secagg/service/handlers.py Handlers.model",
    ),
    "it reads a row or a file of the service's own folder, whose damage ends the service": (
        "secagg/service/database.py _session",
        "secagg/service/outcomes.py describe_outcome",
        "secagg/service/service.py Service._resume",
    ),
    "it reads the operating system's answers or this package's files": (
        "secagg/service/deadline.py acknowledged",
        "secagg/service/deadline.py unread",
        "secagg/service/folder.py check_local",
        "secagg/service/operator.py _static",
    ),
    "it looks for a text in a file of the site's operator, and parses nothing": (
        "secagg/integrations/_flare_ways_out.py check_shell",
    ),
    "it imports the user's own code": ("secagg/_loading.py load_function",),
    "it belongs to the demo, which plays all parties": (
        "secagg/demo/claim.py _read",
        "secagg/demo/digits.py load",
        "secagg/demo/hospitals.py load",
        "secagg/demo/problems.py load",
        "secagg/demo/served.py Processes.tail",
        "secagg/demo/served.py load",
        "secagg/demo/served.py play",
    ),
    "it measures, and reads its own child processes or the system": (
        "bench/apart.py _status",
        "bench/cold.py child",
        "bench/crowd.py played",
        "bench/crowd_round.py main",
        "bench/kahe_calls.py calls",
        "bench/masks.py calls",
        "bench/memory.py peaks",
        "bench/peer_he.py _read",
        "bench/report.py machine",
        "bench/ring.py Elsewhere._answer",
        "bench/rlwe_calls.py main",
        "bench/service_line.py Line._read",
        "bench/service_process.py _status",
        "bench/spending.py measured",
        "bench/workloads.py memory_free",
    ),
}


def parsers_in(source: str) -> set[str]:
    """The functions in ``source`` that parse, as ``Class.function``; a function inside another is that other's."""
    found: set[str] = set()

    def look(node: ast.AST, path: tuple[str, ...], function: str) -> None:
        if isinstance(node, ast.ClassDef) and not function:
            path = (*path, node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not function:
            function = ".".join((*path, node.name))
            if NAMES.match(node.name) and not _is_empty(node):
                found.add(function)
        if isinstance(node, ast.Call) and function and _parses(node):
            found.add(function)
        for child in ast.iter_child_nodes(node):
            look(child, path, function)

    look(ast.parse(source), (), "")
    return found


def _parses(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    return name in PRIMITIVES or (isinstance(call.func, ast.Attribute) and call.func.attr in _METHODS)


def _is_empty(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether there is nothing but a docstring and an ellipsis, as in a protocol of ``typing``."""
    return all(isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in function.body)


def parsers() -> set[str]:
    """All that parse, as ``FILE FUNCTION``."""
    return {
        f"{path.relative_to(ROOT)} {function}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        # Numba loads a kernel once in a process, so what is called depends on the tests before.
        if not path.name.startswith("test_") and path.name != "_compiling.py"
        for function in parsers_in(path.read_text(encoding="utf-8"))
    }


@contextmanager
def watching() -> Iterator[set[str]]:
    """The functions of this repository that are called inside the block; the set is filled at its end."""
    called: set[str] = set()
    codes: set[CodeType] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            codes.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        for code in codes:
            path = Path(code.co_filename)
            if path.is_relative_to(ROOT):
                called.add(f"{path.relative_to(ROOT)} {code.co_qualname.partition('.<locals>')[0]}")


def unreached(called: set[str]) -> list[str]:
    """The parsers that are neither among the ``called`` nor listed with a reason, and entries of no use."""
    listed = {name for names in NOT_FUZZED.values() for name in names}
    every = parsers()
    if find_spec("flwr") is None:  # the fuzzer in Flower's own environment reaches these
        every = {name for name in every if not name.startswith(_NEEDS_FLOWER)}
    missing = [f"{name} is not fuzzed" for name in sorted(every - called - listed)]
    return missing + [f"{name} needs no entry in NOT_FUZZED" for name in sorted(listed & called | listed - every)]
