"""Writes docs/claims.md, the map of the source by claim: ``python -m docs.claims``.

The claims are listed here, each with the files that keep it, the tests that show it and the controls without which
those tests would show nothing. A test checks that all of these exist, and that the page is what this module writes.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "claims.md"
INTRODUCTION = """\
# Claims, and where each is tested

`make docs` writes this page; don't edit it. It is for reviewers: what the library claims, which
files keep the claim, which tests show it, and the *controls*. A control removes one defence, or
breaks one thing, and shows that the test then fails or that the attacker then has what it wanted.
A test without one may pass for no reason.

To check one claim, read its source, then its control, which a link in the last column opens at its
line. Then run both in a checkout, where `make test` has installed what the tests need. The rows of
Flower and NVFlare need `make test-flower` and `make test-nvflare`, which have environments of their
own:

<!-- not run: it stands for any row of the tables; make test runs all of them -->
```console
$ .venv/bin/pytest -p no:benchmark tests/he/test_ckks.py
$ .venv/bin/pytest -p no:benchmark tests/he/test_ckks.py -k without_rounding
```

The attacks on protocols and on the service have a page of their own, [attacks](attacks.md):
there each row has its test and its control. What is *not* claimed is in
[limitations](limitations.md) and in the [threat model](threat-model.md).
"""


@dataclass(frozen=True)
class Claim:
    """What is claimed; the files or folders that keep it; tests and controls, as ``file`` or ``file::function``."""

    text: str
    source: tuple[str, ...]
    tests: tuple[str, ...]
    controls: tuple[str, ...]


GROUPS: dict[str, tuple[Claim, ...]] = {
    "Protocols": (
        Claim(
            "No attacker in the stated model learns an update or a sum of too few, or has a wrong sum accepted",
            ("secagg/protocols", "secagg/roles", "secagg/session.py"),
            ("tests/secagg/adversary", "tests/test_attacks_table.py"),
            ("docs/attacks.md",),
        ),
        Claim(
            "The bytes of each protocol are those of an independent naive implementation",
            ("secagg/wire.py", "secagg/protocols"),
            ("tests/secagg/test_transcript.py", "tests/reference"),
            ("tests/secagg/test_transcript.py::test_control_any_changed_message_is_noticed",),
        ),
        Claim(
            "A role that was killed goes on from its state, and never says two things in one session",
            ("secagg/store.py", "secagg/folder.py", "secagg/roles/state.py"),
            ("tests/secagg/test_restore.py", "tests/secagg/test_store.py"),
            (
                "tests/secagg/test_restore.py::test_control_without_ledgers_two_openings_give_the_victim_away",
                "tests/secagg/test_store.py::test_control_without_the_check_two_ledgers_tell_two_stories",
                "tests/secagg/test_folder.py::test_control_without_the_first_save_the_client_has_lost_its_session",
            ),
        ),
        Claim(
            "Rounding is unbiased, and encoded sums never wrap",
            ("secagg/fixed_point.py", "secagg/encoding.py", "secagg/lanes.py"),
            ("tests/secagg/test_encoding.py", "tests/secagg/test_packing.py"),
            (
                "tests/secagg/test_encoding.py::test_control_truncation_is_found_to_be_biased",
                "tests/secagg/test_encoding.py::test_control_with_one_bit_less_the_sum_wraps",
            ),
        ),
        Claim(
            "The work for one message does not grow with the messages before it",
            ("secagg/roles", "secagg/_rows.py"),
            ("tests/secagg/test_work_per_message.py", "tests/secagg/test_scaling.py"),
            (
                "tests/secagg/test_work_per_message.py::test_control_a_dict_that_is_copied_for_each_message_is_seen",
                "tests/secagg/test_scaling.py::test_control_a_server_that_is_quadratic_is_seen",
            ),
        ),
    ),
    "Multi-party computation": (
        Claim(
            "Fewer shares than the threshold say nothing about a secret",
            ("mpc/shamir.py", "mpc/packed.py"),
            ("tests/mpc/test_shamir.py", "tests/mpc/test_packed.py"),
            (
                "tests/mpc/test_shamir.py::test_control_constant_coefficients_leak",
                "tests/mpc/test_packed.py::test_control_with_one_secret_in_a_column_c_plus_1_members_rebuild",
            ),
        ),
        Claim(
            "A bad dealing of packed shares is refused, and a member that lies is named",
            ("mpc/packed.py",),
            ("tests/mpc/test_packed.py", "tests/mpc/test_packed_recovery.py"),
            (
                "tests/mpc/test_packed.py::test_control_who_knows_the_challenge_before_dealing_passes_with_a_bad_dealing",
                "tests/mpc/test_packed_recovery.py::"
                "test_control_combinations_known_before_the_last_answer_hide_a_liar",
            ),
        ),
        Claim(
            "The sparse graph isolates nobody and stays connected, with the stated probability",
            ("mpc/graph.py",),
            ("tests/mpc/test_graph.py",),
            (
                "tests/mpc/test_graph.py::test_control_a_degree_that_is_too_low_falls_apart",
                "tests/mpc/test_graph.py::test_control_drawn_from_all_of_them_the_odds_are_over_the_limit",
            ),
        ),
        Claim(
            "HPKE, AES-CTR masks and keys agree with published vectors",
            ("mpc/hpke.py", "mpc/masks.py", "mpc/keys.py"),
            ("tests/mpc/test_hpke.py", "tests/mpc/test_masks.py", "tests/mpc/test_keys.py", "tests/vectors"),
            (
                "tests/mpc/test_aes.py::test_a_wrong_kernel_is_noticed_at_its_first_use",
                "tests/mpc/test_hpke.py::test_another_info_or_key_does_not_open",
                "tests/mpc/test_keys.py::test_one_flipped_bit_anywhere_is_refused",
            ),
        ),
    ),
    "Homomorphic encryption": (
        Claim(
            "CKKS and BFV parameters have at least the stated security, and sums open within the proven error",
            ("he/security.py", "he/params.py", "he/bfv.py", "he/ckks.py"),
            ("tests/he/test_security.py", "tests/he/test_params.py", "tests/he/test_ckks_and_bfv.py"),
            (
                "tests/he/test_ckks_and_bfv.py::test_control_more_than_was_allowed_for_does_not_open",
                "tests/he/test_ckks_and_bfv.py::test_control_another_key_opens_nothing",
            ),
        ),
        Claim(
            "A malformed ciphertext that a lying client sends does not give the key away",
            ("he/bfv.py", "he/ckks.py"),
            ("tests/he/test_malformed_rlwe.py",),
            (
                "tests/he/test_malformed_rlwe.py::test_control_unchecked_bfv_slots_give_away_the_key",
                "tests/he/test_malformed_rlwe.py::test_control_unchecked_ckks_slots_give_away_the_key",
            ),
        ),
        Claim(
            "Opened CKKS sums are rounded, so they don't give the key away",
            ("he/ckks.py",),
            ("tests/he/test_ckks.py",),
            ("tests/he/test_ckks.py::test_control_without_rounding_the_key_is_out",),
        ),
        Claim(
            "Paillier: keys and ciphertexts are validated, packed values don't carry into their neighbours",
            ("he/paillier.py", "he/paillier_keys.py", "he/packing.py"),
            ("tests/he/test_paillier.py", "tests/he/test_paillier_keys.py", "tests/he/test_packing.py"),
            (
                "tests/he/test_paillier.py::test_control_without_validation_one_upload_spoils_the_sum",
                "tests/he/test_paillier_keys.py::test_control_one_obfuscator_twice_gives_the_difference_away",
                "tests/he/test_packing.py::"
                "test_control_one_more_addend_than_there_is_room_for_carries_into_the_neighbour",
            ),
        ),
        Claim(
            "A vector under a one-time key is read with its key alone, and seeds are never used twice",
            ("he/kahe.py",),
            ("tests/he/test_kahe.py", "tests/he/test_kahe_twin.py"),
            (
                "tests/he/test_kahe.py::test_control_without_a_an_upload_is_read_without_a_key",
                "tests/he/test_kahe.py::test_control_a_secret_seed_used_twice_shows_the_difference_of_two_vectors",
            ),
        ),
    ),
    "Differential privacy": (
        Claim(
            "Noise is exactly that of the stated law, on integers",
            ("dp/sampling.py",),
            ("tests/dp/test_sampling.py", "tests/dp/test_tables.py"),
            (
                "tests/dp/test_sampling.py::test_control_half_the_noise_is_caught",
                "tests/dp/test_sampling.py::test_control_a_rounded_float_gaussian_is_told_from_the_discrete_one",
                "tests/dp/test_tables.py::test_control_without_the_slack_they_are_wrong",
            ),
        ),
        Claim(
            "The sums over the integers that a decryptor opens are as private as the encoding says",
            ("secagg/protocols/encrypted/digits.py", "dp/distributed.py"),
            ("tests/secagg/test_integer_sums.py",),
            ("tests/secagg/test_integer_sums.py::test_control_terms_reduced_before_a_sum_over_the_integers",),
        ),
        Claim(
            "The stated ε holds: audits of runs find no more than the accountant promises",
            ("dp/accounting.py", "dp/distributed.py", "dp/central.py"),
            ("tests/dp/test_audit.py", "tests/dp/test_accounting.py"),
            (
                "tests/dp/test_audit.py::test_control_runs_with_half_the_noise_show_more",
                "tests/dp/test_audit.py::test_control_noise_for_everyone_where_fewer_are_honest",
                "tests/dp/test_accounting.py::test_control_below_a_half_the_bound_claims_what_is_not_so",
            ),
        ),
        Claim(
            "A privacy ledger charges before noise leaves, once, also after a crash, a fork or a copied file",
            ("dp/ledger.py",),
            ("tests/dp/test_ledger.py",),
            (
                "tests/dp/test_ledger.py::test_control_an_older_file_that_is_taken_is_spent_twice",
                "tests/dp/test_ledger.py::test_control_a_budget_in_memory_that_a_fork_copies_is_spent_twice",
                "tests/dp/test_ledger.py::test_control_without_the_lock_two_threads_get_it",
            ),
        ),
    ),
    "The service and the adapters": (
        Claim(
            "What the service has acknowledged is on the disk, and a service that was killed goes on",
            ("secagg/service/spool.py", "secagg/service/database.py"),
            (
                "tests/service/test_killed_folder.py",
                "tests/service/test_spool.py",
                "tests/service/test_database.py",
            ),
            (
                "tests/service/test_killed_folder.py::"
                "test_control_without_one_write_in_its_place_a_message_or_a_state_is_lost",
                "tests/service/test_spool.py::test_control_without_the_tag_a_damaged_message_is_replayed",
                "tests/service/test_database.py::test_control_without_the_comparison_both_servers_save",
            ),
        ),
        Claim(
            "Logs hold no key, token or message",
            ("secagg/service/logs.py",),
            ("tests/service/test_log_secrets.py",),
            ("tests/service/test_log_secrets.py::test_control_a_key_a_token_and_bytes_are_noticed",),
        ),
        Claim(
            "The status page is read on its own machine only, and it asks no other host for anything",
            ("secagg/service/operator.py",),
            ("tests/service/test_operator.py", "tests/service/test_page.py"),
            (
                "tests/service/test_operator.py::test_control_without_the_guard_a_foreign_host_reads_the_document",
                "tests/service/test_page.py::test_control_a_request_to_another_host_is_noticed",
            ),
        ),
        Claim(
            "With Flower, no update leaves a node unprotected",
            (
                "secagg/integrations/flower.py",
                "secagg/integrations/_flower_client.py",
                "secagg/integrations/_shared",
            ),
            ("tests/integrations/test_flower_wire.py", "tests/integrations/test_flower_attacks.py"),
            (
                "tests/integrations/test_flower_wire.py::test_control_without_the_mod_everything_is_found",
                "tests/integrations/test_flower_wire.py::test_control_in_the_clear_the_integers_are_found",
            ),
        ),
        Claim(
            "With NVFlare, no update, weight or metric leaves a site unprotected, and a site can enforce it",
            (
                "secagg/integrations/flare.py",
                "secagg/integrations/_flare_site.py",
                "secagg/integrations/_flare_ways_out.py",
                "secagg/integrations/_shared",
            ),
            (
                "tests/flare/test_wire.py",
                "tests/flare/test_flare_attacks.py",
                "tests/flare/test_filter.py",
                "tests/flare/test_privacy.py",
                "tests/flare/test_rounds.py",
            ),
            (
                "tests/flare/test_wire.py::test_control_in_the_plain_job_everything_is_found",
                "tests/flare/test_wire.py::test_control_in_the_clear_the_integers_are_found",
                "tests/flare/test_rounds.py::test_control_uncounted_a_third_upload_leaves",
            ),
        ),
    ),
    "The code": (
        Claim(
            "No branch, address or time of a kernel depends on a secret, but where the list says why",
            ("mpc/kernels.py", "he/ring", "secagg/_kernels.py"),
            ("tests/constant_time", "tests/test_constant_time.py"),
            ("tests/test_constant_time.py::test_a_run_fails_without_its_controls",),
        ),
        Claim(
            "Packages of others that are named `he`, `mpc` or `dp` are noticed, and never run in their place",
            ("secagg/_cores.py",),
            ("tests/test_strangers.py",),
            ("tests/test_strangers.py::test_control_without_the_check_the_stranger_runs",),
        ),
        Claim(
            "Tests notice changes: mutants of the source that they let pass are counted",
            ("secagg", "he", "mpc", "dp"),
            ("tests/mutants.py",),
            ("tests/test_mutants.py",),
        ),
    ),
}


def named() -> Iterator[str]:
    """Every file, and every ``file::function``, that the claims name."""
    for claims in GROUPS.values():
        for claim in claims:
            yield from (*claim.source, *claim.tests, *claim.controls)


def exists(name: str) -> bool:
    """Whether there is such a file or folder, with such a function in it if one is named."""
    path, _, function = name.partition("::")
    if not (ROOT / path).exists() or not function:
        return (ROOT / path).exists()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(tree))


def page() -> str:
    """The whole of docs/claims.md."""
    parts = [INTRODUCTION]
    for title, claims in GROUPS.items():
        rows = [
            f"| {claim.text} | {' '.join(map(_link, claim.source))} | {' '.join(map(_link, claim.tests))} "
            f"| {'<br>'.join(map(_link, claim.controls))} |"
            for claim in claims
        ]
        parts.append(
            "\n".join([f"## {title}", "", "| Claim | Source | Tests | Controls |", "|---|---|---|---|", *rows, ""])
        )
    return "\n".join(parts)


def _link(name: str) -> str:
    path, _, function = name.partition("::")
    shown = function.removeprefix("test_control_").replace("_", " ") if function else f"`{path}`"
    return f"[{shown}]({os.path.relpath(ROOT / path, DOCUMENT.parent)}{f'#{function}' * bool(function)})"


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
