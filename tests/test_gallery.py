"""The gallery's pictures: small, described, drawn by a command, and those of the committed results."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from docs import gallery_plots


def test_the_pictures_of_the_gallery_are_small_described_and_drawn_by_a_command() -> None:
    """Each picture of docs/gallery/pictures.md, and none lies beside it that the page does not show."""
    page = gallery_plots.PICTURES / "pictures.md"
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)
    for described, name in shown:
        assert len(described) > 40, name
        assert (page.parent / name).stat().st_size < 150_000, name
    assert {path.name for path in page.parent.glob("*.svg")} == {name for _, name in shown if name.endswith(".svg")}
    for section in text.split("\n## ")[1:]:
        assert re.search(r"`(python -m|secagg demo)", section), section
    assert gallery_plots.redraw(text) == text, "run make docs"
    other = text.replace("were measured on 20", "were measured on 19")
    assert gallery_plots.redraw(other) == text != other, "control: another date"


def drawn(picture: str) -> tuple[list[str], list[float]]:
    """The texts of an SVG, and the places of its markers and bars; ids depend on the version of Matplotlib."""
    words = re.findall(r">([^<>\s][^<>]*)</text>", picture)
    places = re.findall(r'<use [^>]*\bx="([\d.-]+)" y="([\d.-]+)"|^[ML] ([\d.-]+) ([\d.-]+)', picture, re.MULTILINE)
    return words, [float(number) for place in places for number in place if number]


def same(one: str, other: str) -> bool:
    """Whether two pictures show the same, to half a pixel."""
    (words, places), (words2, places2) = drawn(one), drawn(other)
    return (
        words == words2 and len(places) == len(places2) and bool(np.allclose(places, places2, rtol=1e-3, atol=0.5))
    )


def test_the_pictures_are_those_of_the_saved_results(tmp_path: Path) -> None:
    for name, figure in gallery_plots.pictures().items():
        gallery_plots.save(figure, tmp_path / name)
        new, kept = ((folder / name).read_text("utf-8") for folder in (tmp_path, gallery_plots.PICTURES))
        assert same(new, kept), f"{name}: run make docs"
        assert len(drawn(kept)[1]) > 100
        assert not same(new, kept.replace(f">{drawn(kept)[0][0]}<", ">other<", 1)), "control: another word"
        x = re.search(r'<use [^>]*\bx="([\d.]+)"', kept)
        assert x is not None
        assert not same(new, kept.replace(f'x="{x[1]}"', f'x="{float(x[1]) + 2}"', 1)), "control: another place"
