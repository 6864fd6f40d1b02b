"""A bar on the terminal for what moves: ``progress=True``."""

from __future__ import annotations

from dataclasses import replace

from secagg.errors import ConfigError
from secagg.remote.settings import Progress, Settings


def bar(settings: Settings) -> Settings:
    """The settings with a bar in the place of ``progress=True``."""
    if settings.progress is not True:
        return settings if settings.progress else replace(settings, progress=False)
    try:
        from rich.progress import BarColumn, DownloadColumn, Progress as Bars, TextColumn, TransferSpeedColumn
    except ImportError as error:
        raise ConfigError("got progress=True without rich: pip install rich, or pass a function") from error
    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), transient=True
    )
    shown: dict[str, object] = {}

    def show(progress: Progress) -> None:
        if not shown:
            bars.start()
        if progress.what not in shown:
            shown[progress.what] = bars.add_task(progress.what, total=progress.total)
        bars.update(shown[progress.what], completed=progress.done, total=progress.total)  # type: ignore[arg-type]
        if progress.done >= progress.total:
            bars.remove_task(shown.pop(progress.what))  # type: ignore[arg-type]
            if not shown:
                bars.stop()

    return replace(settings, progress=show)
