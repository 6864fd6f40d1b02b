"""A job of NVFlare in its simulator, in a temporary folder, and all that left its sites.

A job runs in processes of its own, because NVFlare changes the folder, the logging and the signals of its process.
``startup`` keeps every frame that a process sends. The training script notes what its site has to hide.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import secagg
from secagg.integrations._shared.metrics import metric_key
from tests.flare.processes import Processes
from tests.integrations.encoded import integers, rows

SECONDS = 300  # a job takes some twenty; a busy machine more
FLOATS = [">f4", "<f4", ">f8", "<f8"]


@dataclass
class Note:
    """What one site had to hide in one round."""

    site: str
    round: int
    before: dict[str, Any]
    after: dict[str, Any]
    steps: int
    loss: float

    @property
    def update(self) -> dict[str, Any]:
        return {name: self.after[name] - array.astype(np.float64) for name, array in self.before.items()}

    def is_in(self, data: bytes) -> bool:
        """Whether some secret is in these bytes."""
        return any(secret in data for _, secret in self.secrets())

    def secrets(self, task: secagg.Task | None = None) -> Iterator[tuple[str, bytes]]:
        """What nobody else may see, in every form that a leak might give it; ``task`` encodes the update."""
        for what, arrays in (("update", self.update), ("model", self.after)):
            for array in arrays.values():
                yield from ((what, values.astype(form).tobytes()) for values in rows(array) for form in FLOATS)
                yield from ((what, form) for values in itertools.islice(rows(array), 3) for form in forms(values))
        yield from (("metric", form) for form in (*number(self.loss), *texts(self.loss)))
        whole = [
            b"\xce" + self.steps.to_bytes(4, "big"),  # MessagePack's mark, and its integer
            *(self.steps.to_bytes(8, order) for order in ("big", "little")),
        ]
        yield from (("weight", form) for form in (*whole, *number(float(self.steps)), *texts(self.steps)))
        if task is not None:
            riding = {metric_key("loss"): self.loss}
            yield from (("integers", form) for form in integers(task, self.update | riding, self.steps))


def forms(values: Any) -> Iterator[bytes]:
    """Some values in a row in Base64, in hexadecimals and as texts.

    Base64 has groups of three bytes, and one of three rows begins where a group does.
    """
    for form in FLOATS:
        data = values.astype(form).tobytes()
        yield from (base64.b64encode(data)[: len(data) // 3 * 4], data.hex().encode())
    for typed in (values.astype(np.float32), values.astype(np.float64)):
        listed = [float(str(value)) for value in typed]
        yield from (
            text[1:-1].encode() for text in (str(listed), json.dumps(listed, separators=(",", ":")), str(typed))
        )


def number(value: float) -> Iterator[bytes]:
    """A single number, with MessagePack's mark for the shorter ones."""
    yield from (np.array(value, form).tobytes() for form in (">f8", "<f8"))
    yield b"\xca" + np.array(value, ">f4").tobytes()


def texts(value: float) -> Iterator[bytes]:
    """The first nine digits of a single number, behind the marks that stand before numbers in logs and JSON."""
    return (mark.encode() + str(value)[:10].encode() for mark in " :\"'=([,")


@dataclass
class Job:
    """A job that was played, and what it left behind; ``servers`` are the folders that the server's machine has."""

    folder: Path
    returncode: int
    servers: list[Path]

    @cached_property
    def notes(self) -> list[Note]:
        return [read_note(path) for path in sorted((self.folder / "notes").glob("*.npz"))]

    @property
    def log(self) -> str:
        """The output of the process that played the job; in the simulator also what the sites logged."""
        return (self.folder / "job.log").read_text(errors="replace")

    @property
    def model(self) -> Any:
        """The last model."""
        (path,) = (path for folder in self.servers[-1:] for path in folder.rglob("models/server.npy"))
        return np.load(path)

    def left(self) -> Iterator[tuple[str, bytes]]:
        """All that left a site or lies in the server's folders: which file it is in, and its bytes."""
        for path in sorted((self.folder / "frames").iterdir()):
            if path.name.startswith("site-"):
                yield "frames", path.read_bytes()
        for folder in self.servers:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    yield str(path.relative_to(folder)), path.read_bytes()

    def sent_by_script(self, site: str) -> bytes:
        """All that a script in a process of its own has sent to its site's process."""
        return b"".join(path.read_bytes() for path in (self.folder / "frames").glob(f"script-of-{site}+*"))

    def finds(self, task: secagg.Task | None = None) -> dict[str, set[str]]:
        """Which secrets of which sites and rounds were found, by kind, and where."""
        result: dict[str, set[str]] = {}
        left = list(self.left())
        for note in self.notes:
            for what, secret in note.secrets(task):
                for where, data in left:
                    if secret in data:
                        result.setdefault(what, set()).add(f"{note.site}, round {note.round}, in {where}")
        return result

    def mean(self, number: int, sites: set[str]) -> dict[str, Any]:
        """The model after a round, computed from the notes of these sites."""
        notes = [note for note in self.notes if note.round == number and note.site in sites]
        total = sum(note.steps for note in notes)
        return {
            name: array + sum(note.steps * note.update[name] for note in notes) / total
            for name, array in notes[0].before.items()
        }


def read_note(path: Path) -> Note:
    site, number, _ = path.name.split(".")
    with np.load(path) as file:
        arrays: dict[str, dict[str, Any]] = {"before": {}, "after": {}}
        for name in file.files:
            kind, _, leaf = name.partition("/")
            if kind in arrays:
                arrays[kind][leaf] = file[name]
        return Note(site, int(number), **arrays, steps=int(file["steps"]), loss=float(file["loss"]))


def play(folder: Path, maker: str, *, kill: str = "", torch: bool = False, **options: Any) -> Job:
    """Play the job whose recipe ``maker`` ("module:function") makes from folder and options, in the simulator.

    With ``kill="site-4:3"`` this site's process dies before its third answer in the protocol. With ``torch`` the
    job can import PyTorch.
    """
    environment = {"SECAGG_SITE": f"{folder}/sites", "FLARE_WITHOUT": "" if torch else "torch"}
    if kill:
        environment["FLARE_KILL"] = kill.replace(":", "+simulate_job:")
    returncode = run(folder, "tests.flare.simulate", maker, options, environment)
    return Job(folder, returncode, [folder / "workspace" / "job" / "server"])


def deploy(folder: Path, *makers: str, **options: Any) -> Job:
    """Play jobs with provisioned processes; ``privacy`` is what some sites have in their ``privacy.json``."""
    returncode = run(folder, "tests.flare.deploy", ",".join(makers), options)
    return Job(folder, returncode, [folder / "poc" / "example_project" / "prod_00" / "server", folder / "results"])


def run(
    folder: Path, module: str, maker: str, options: dict[str, Any], environment: dict[str, str] | None = None
) -> int:
    """The return code of a process that plays a job; ``RuntimeError`` if it does not end in time."""
    for name in ("notes", "frames"):
        (folder / name).mkdir()
    with Processes(folder, {"FLARE_FRAMES": f"{folder}/frames"} | (environment or {})) as processes:
        try:
            return processes.start(
                "job", sys.executable, "-m", module, maker, str(folder), json.dumps(options)
            ).wait(SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"the job didn't end:\n{processes.log('job')[-4000:]}") from error
