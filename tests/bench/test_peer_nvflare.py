"""The comparison with NVFlare's encryption runs NVFlare's own code. ``make test-stacks`` installs NVFlare."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

import secagg
from bench import peer_calls, peer_he
from bench.measure import WrongSum
from bench.peers import Laps

pytest.importorskip("nvflare", reason="make test-stacks installs nvflare")
tenseal = pytest.importorskip("tenseal")
nvflare = importlib.import_module("bench.peer_nvflare")

SITE = "site-2"
ROWS = [one for one in peer_calls.COMPARISONS if one.peer == peer_calls.NVFLARE]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    return nvflare.Federation(tmp_path_factory.mktemp("provisioned"))


@pytest.fixture(scope="module")
def models():
    return nvflare.updates(tensors=3, size=4200)  # two ciphertexts each


@pytest.fixture(scope="module")
def upload(federation, models):
    laps = Laps()
    laps.start()
    return federation.upload(SITE, models[SITE], laps)


def key_of(federation, site):
    return tenseal.context_from((federation.kits[site] / "client_context.tenseal").read_bytes())


def contents(vector):
    return vector.serialize(), vector.context().serialize()


def opened(vector, context):
    with peer_he.quiet():
        return np.array(tenseal.ckks_vector_from(context, vector.serialize()).decrypt())


def vectors_of(upload):
    return nvflare.from_shareable(nvflare.received(upload)).data


def test_a_site_sends_ciphertexts_that_the_key_of_every_other_site_opens(federation, models, upload):
    vectors = vectors_of(upload)
    assert set(vectors) == set(models[SITE])
    for name, vector in vectors.items():
        with pytest.raises(ValueError, match="secret_key"):
            vector.decrypt()
        for site in nvflare.SITES:
            weighted = models[SITE][name] * np.float64(nvflare.STEPS[SITE])
            assert np.abs(opened(vector, key_of(federation, site)) - weighted).max() < 1e-3


def test_control_a_key_of_another_federation_opens_nothing(models, upload, tmp_path):
    other = key_of(nvflare.Federation(tmp_path), SITE)
    name, vector = next(iter(vectors_of(upload).items()))
    weighted = models[SITE][name] * np.float64(nvflare.STEPS[SITE])
    assert np.count_nonzero(np.abs(opened(vector, other) - weighted) < 1e-3) < 10


def test_the_server_has_no_secret_key(federation):
    server = tenseal.context_from((federation.kits["server"] / "server_context.tenseal").read_bytes())
    assert not server.has_secret_key()
    assert key_of(federation, SITE).has_secret_key()


def test_every_vector_of_an_upload_brings_a_context_with_relinearisation_keys(upload):
    contexts = [vector.context() for vector in vectors_of(upload).values()]
    assert len({id(context) for context in contexts}) == 3
    assert all(context.has_relin_keys() and not context.has_secret_key() for context in contexts)
    assert len(upload) > sum(len(context.serialize()) for context in contexts) > len(upload) / 3


def test_a_round_gives_every_site_the_weighted_mean(federation, models):
    laps = Laps()
    mean, uploads, down = federation.round(models, laps)
    assert nvflare.most_off(mean, models) < nvflare.PRECISION
    assert len(uploads) == 3
    assert down < min(uploads)  # one level less, and no contexts
    parts = [part.what for part in laps.parts("theirs", 1)]
    assert parts == [
        "encrypt", "serialise", "parse the upload", "add and average", "parse the aggregate", "decrypt"
    ]  # fmt: skip


def test_both_sides_of_a_small_round_are_right_and_timed_in_parts():
    pair = nvflare.round_pair(secagg.BFV(), tensors=2, size=300)
    assert pair.theirs.seconds() > pair.ours.seconds() > 0
    parts = {(part.side, part.what): part for part in pair.parts()}
    assert parts["ours", "sites"].seconds > 0
    assert parts["theirs", "decrypt"].seconds > 0
    assert parts["theirs", "upload of all values in one tensor"].bytes < pair.their_bytes


def test_control_a_wrong_answer_of_either_side_is_noticed(monkeypatch):
    decompose = "nvflare.app_opt.he.decomposers.CKKSVectorDecomposer.decompose"
    with monkeypatch.context() as patched:
        patched.setattr(decompose, lambda self, vector, manager: contents(vector + 1.0))
        with pytest.raises(WrongSum, match="nvflare gave"):
            nvflare.round_pair(secagg.SecAgg(), tensors=2, size=300)
    task_for, low = nvflare.task_for, secagg.FixedPoint(clip=nvflare.CLIP / 2, bits=nvflare.BITS)
    monkeypatch.setattr(nvflare, "task_for", lambda *arguments: replace(task_for(*arguments), encoding=low))
    with pytest.raises(WrongSum, match="SecAgg"):
        nvflare.round_pair(secagg.SecAgg(), tensors=2, size=300)


@pytest.fixture(scope="module")
def full_upload(federation):
    models = nvflare.updates(peer_calls.TENSORS, peer_calls.TENSOR)
    laps = Laps()
    laps.start()
    return models, len(federation.upload(SITE, models[SITE], laps))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.work)
def test_the_claimed_shares_of_bytes_hold_at_the_size_of_the_row(row, full_upload):
    models, their_bytes = full_upload
    protocol = row.build.args[0]()
    task = nvflare.task_for(protocol, models)
    assert sum(protocol.cost(task).up.values()) <= row.most_bytes * their_bytes
