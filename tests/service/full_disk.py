"""``python -m tests.service.full_disk FOLDER``: use a service's folder on a small disk that is full.

Before each use the disk is filled, all but a few pages, one more each time. Whatever fails must be an
``OSError`` and leave all as it was before that call. Prints how many calls failed, by name.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from secagg.service.database import Database
from secagg.service.spool import Record

TASK, KEY = b"t" * 32, "a" * 64
PAGE, STEPS = 4096, 30


def fill(path: Path, free: int) -> None:
    """Fill the disk, all but ``free`` bytes."""
    with path.open("wb", buffering=0) as file:
        disk = os.statvfs(path)
        left = disk.f_bavail * disk.f_frsize
        file.write(bytes(max(left - free, 0)))


def main(root: Path) -> None:
    """Everything in one session."""
    failed: Counter[str] = Counter()
    database = Database.open(root / "service")
    database.add_task(TASK, b"task", "open")
    database.open_round(TASK, 1, bytes(32), "{}")
    database.begin_session(KEY, TASK, 1, 1, b"name", ["c1"])
    database.store(KEY)(1, b"state 1")
    spool, relays = database.spool(KEY, 0), database.relays(KEY)
    acknowledged, relayed, number = 0, 0, 1

    def tried(name: str, call: Callable[..., object], *arguments: object) -> bool:
        try:
            call(*arguments)
        except OSError:
            failed[name] += 1
            return False
        return True

    for step in range(STEPS):
        filler = root / "filler"
        fill(filler, step * PAGE)
        body = bytes([step]) * 6000
        acknowledged += tried("spool", spool.append, [Record("c1", bytes(32), body)])
        relayed += tried("relays", relays.append, "agg1", 0, body)
        number += tried("state", database.store(KEY), number + 1, b"state %d " % (number + 1) * 800)
        tried("row", database.add_token, TASK, f"c{step}", bytes([step]) * 5000)
        tried("model", database.add_model, body)
        assert len(spool) == len(list(spool.replay())) == acknowledged
        assert relays.count("agg1") == len(relays.read("agg1", 0, 99, 1 << 30)) == relayed
        assert (database.store(KEY).load() or b"").startswith(b"state %d" % number)
        assert database.session(KEY).number == number
        assert os.listdir(root / "service" / "states") == [database.session(KEY).file]
        models = os.listdir(root / "service" / "models")
        assert all((root / "service" / "models" / one).stat().st_size == 6000 for one in models)
        filler.unlink()
    spool.close()
    relays.close()
    database.close()
    with Database.open(root / "service") as database, database.spool(KEY, 0) as spool:
        assert len(spool) == acknowledged
        database.store(KEY)(number + 1, b"goes on")
        spool.append([Record("c1", bytes(32), b"goes on")])
        assert [bytes(one.data) for one in spool.replay()][-1] == b"goes on"
    print(json.dumps(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
