"""Makes the database's tables and upgrades older ones: one module for each version, run by alembic."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from secagg.errors import ConfigError

VERSIONS: Final = Path(__file__).parent / "versions"


def version(connection: Connection) -> str | None:
    """The version of the tables; None in a new database."""
    return MigrationContext.configure(connection).get_current_revision()


def newest(*folders: Path) -> str:
    """The version of the tables that this package works with; ``folders`` hold further versions."""
    return str(_scripts(folders).get_current_head())


def upgrade(connection: Connection, *folders: Path) -> None:
    """Bring the tables to the newest version, within the open transaction.

    ``ConfigError`` if this package does not know their version.
    """
    scripts = _scripts(folders)
    here, head = version(connection), str(scripts.get_current_head())
    if here is not None and here not in {one.revision for one in scripts.walk_revisions()}:
        raise ConfigError(
            f"got a database of version {here}, which this secagg does not know; its newest is {head}. Install the "
            "secagg that wrote it or a newer one, or restore a backup from before the upgrade"
        )
    if here == head:
        return
    with EnvironmentContext(Config(), scripts, fn=lambda at, _: scripts._upgrade_revs(head, at)) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()


def _scripts(folders: tuple[Path, ...]) -> ScriptDirectory:
    return ScriptDirectory(str(VERSIONS.parent), version_locations=[str(one) for one in (VERSIONS, *folders)])
