"""The clip of each leaf of a layout: one for all leaves, or chosen by names and patterns."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from secagg import _warnings
from secagg._numbers import is_a, real
from secagg._reading import MAX_NODES
from secagg.errors import ConfigError, EncodingError, blaming, shown
from secagg.layout import AnyFloat, Layout

Clips = tuple[tuple[str, float], ...]

_MIN, _MAX = 1e-100, 1e100  # no step, scale or sum leaves float64's range
_WILD = "*"
_MOST_PATTERNS = 256
_MOST_WILD = 16  # '*' in one pattern
_RECENT = 4  # layouts whose clips are kept
_MOST_SAMPLES = 4096  # updates that clips are suggested from

_log = logging.getLogger("secagg")


def check_clip(clip: object, name: str | None = None) -> float:
    """``clip`` as a float; ``ConfigError`` unless it is a number from 1e-100 to 1e100."""
    number = real(clip)
    if not _MIN <= number <= _MAX:
        of = "" if name is None else f" for {shown(name)}"
        raise ConfigError(f"got clip={shown(clip)}{of}; expected a number from {_MIN} to {_MAX}")
    return number


def check_pairs(pairs: Iterable[Any]) -> Clips:
    """Sorted pairs of a name (or pattern) and its clip; ``ConfigError`` for anything else, or a name twice."""
    clips: dict[str, float] = {}
    with blaming(ConfigError, "got clips that can't be read; expected a dict of leaf names and numbers"):
        for _, pair in zip(range(MAX_NODES), pairs, strict=False):
            if not is_a(pair, tuple) or len(pair) != 2 or not is_a(pair[0], str):
                raise ConfigError(f"got {shown(pair)} in clip; expected a leaf's name, or a pattern, and a number")
            name = str.__str__(pair[0])
            if name in clips:
                raise ConfigError(f"got two clips for {shown(name)}; expected one")
            clips[name] = check_clip(pair[1], name)
    patterns = [name for name in clips if _WILD in name]
    wildest = max((name.count(_WILD) for name in patterns), default=0)
    if len(patterns) > _MOST_PATTERNS or wildest > _MOST_WILD:
        raise ConfigError(
            f"got {len(patterns)} patterns in clip, with up to {wildest} '*' in one; expected at most "
            f"{_MOST_PATTERNS} patterns of at most {_MOST_WILD} '*': name the other leaves"
        )
    return tuple(sorted(clips.items()))


def resolve(clip: float | Clips, layout: Layout) -> tuple[float, ...]:
    """The clip of every leaf, in the layout's order.

    A leaf's own name takes precedence, then the pattern with the most characters other than ``*``. ``ConfigError``
    for a leaf without a match or with two such patterns, and for a name or pattern that matches no leaf.
    """
    if not is_a(layout, Layout):
        raise ConfigError(f"got {shown(layout)} as layout; expected secagg.Layout.of(update)")
    if isinstance(clip, float):
        return (clip,) * len(layout.leaves)
    # A task asks many times. Compared by identity, since comparing two layouts takes as long as resolving.
    for known_clip, known_layout, known in tuple(_known):
        if known_clip is clip and known_layout is layout:
            return known
    clips = _resolve(clip, layout)
    _known[:] = [(clip, layout, clips), *_known[: _RECENT - 1]]
    return clips


_known: list[tuple[Clips, Layout, tuple[float, ...]]] = []  # the newest first


def _resolve(clip: Clips, layout: Layout) -> tuple[float, ...]:
    clips = dict(clip)
    patterns = _Patterns(name for name in clips if _WILD in name)
    resolved: list[float] = []
    missing: list[str] = []
    used: set[str] = {_WILD}
    for leaf in layout.leaves:
        name = leaf.name
        matching = patterns.matching(name)
        used.update(pattern for _, pattern in matching)
        longest = max(matching, default=(0, ""))[0]
        best = [pattern for length, pattern in matching if length == longest]
        if name in clips:
            best = [name]
            used.add(name)
        if len(best) > 1:
            raise ConfigError(
                f"got the patterns {shown(best[0])} and {shown(best[1])}, as long as each other, for leaf "
                f"{shown(name)}; expected one that is longer, or the leaf's own name"
            )
        if best:
            resolved.append(clips[best[0]])
        else:
            missing.append(name)
    for problem, names in (
        ("no clip for the leaves", missing),
        ("a clip for leaves that the layout lacks:", sorted(set(clips) - used)),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ConfigError(
                f"got {problem} {', '.join(map(shown, names[:5]))}{more}; expected one for each leaf of the "
                "layout: by its name, by a pattern such as '*.bias', or by '*' for all others"
            )
    return tuple(resolved)


class _Patterns:
    """Patterns, indexed by the text before their first ``*`` and after their last: a name is compared with few."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._by_ends: dict[tuple[int, int], dict[tuple[str, str], list[tuple[int, str, list[str]]]]] = {}
        for pattern in patterns:
            first, *middle, last = pattern.split(_WILD)
            parts = [part for part in middle if part]
            entry = len(pattern) - pattern.count(_WILD), pattern, parts
            ends = self._by_ends.setdefault((len(first), len(last)), {})
            ends.setdefault((first, last), []).append(entry)

    def matching(self, name: str) -> list[tuple[int, str]]:
        """The patterns that match ``name``, as sorted pairs (number of characters other than ``*``, pattern)."""
        matches = []
        for (before, after), patterns in self._by_ends.items():
            end = len(name) - after
            if before <= end:
                for length, pattern, parts in patterns.get((name[:before], name[end:]), ()):
                    if _holds_in_order(parts, name, before, end):
                        matches.append((length, pattern))
        return sorted(matches)


def _holds_in_order(parts: list[str], name: str, at: int, end: int) -> bool:
    """Whether ``name`` has these parts in this order between ``at`` and ``end``, with any text between them."""
    for part in parts:  # the first match leaves the most room for the parts that follow
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def warn_of_lost_leaves(vector: AnyFloat, layout: Layout, clips: Sequence[float]) -> None:
    """Log a WARNING that names the leaves whose coordinates were all clipped, as happens to a counter."""
    lost = []
    for (name, part), clip in zip(layout.slices.items(), clips, strict=True):
        limit = np.float64(clip)  # not Python's float, which NumPy would compare in 32 bits
        # Nearly always the first coordinate is not clipped, and decides.
        if part.start < part.stop and np.abs(vector[part.start]) > limit and (np.abs(vector[part]) > limit).all():
            lost.append(name)
    if lost:
        _warnings.warn(
            f"every coordinate was clipped in {len(lost)} of {len(layout.leaves)} leaves: "
            f"{', '.join(map(shown, lost[:3]))}{', ...' if len(lost) > 3 else ''}; only the signs of their values "
            f"are left. Give them a larger clip: clip={{'*': ..., {shown(lost[0])}: ...}}"
        )


def suggest(
    updates: Mapping[str, object] | Iterable[object], quantile: object, headroom: object
) -> dict[str, float]:
    """Leaf name → clip; see :meth:`secagg.FixedPoint.suggest`."""
    share, factor = real(quantile), real(headroom)
    if not 0 < share <= 1 or not 1 <= factor <= 1e6:
        raise ConfigError(
            f"got quantile={shown(quantile)} and headroom={shown(headroom)}; expected above 0 to 1, and 1 to 1e6"
        )
    with blaming(ConfigError, "got updates that can't be read; expected a dict by client id, or a list"):
        source: Any = updates
        items = source.values() if is_a(source, (Mapping,)) else source
        sample = [update for _, update in zip(range(_MOST_SAMPLES + 1), items, strict=False)]
    if not sample:
        raise ConfigError("got no updates; expected at least one, by client id or in a list")
    if len(sample) > _MOST_SAMPLES:
        raise ConfigError(f"got more than {_MOST_SAMPLES} updates; expected at most that many: a sample is enough")
    layout = Layout.of(sample[0])
    vectors = [layout.flatten(update) for update in sample]
    clips: dict[str, float] = {}
    for name, part in layout.slices.items():
        sizes = np.abs(np.concatenate([vector[part] for vector in vectors]))
        if not np.isfinite(sizes).all():
            raise EncodingError(
                f"got coordinates that are not finite, in leaf {shown(name)}; leave this update out"
            )
        # One of the sizes, not a mean of two, so that the largest value of a counter is kept.
        clips[name] = factor * float(np.quantile(sizes, share, method="higher")) if sizes.size else 0.0
    largest = max(clips.values()) or 1.0
    if zeros := [leaf.name for leaf in layout.leaves if leaf.size and not clips[leaf.name]]:
        _log.warning(
            "%d of %d leaves, such as %s, are zero in every update, so no clip can be derived. They get %g, %s; "
            "suggest from updates of trained models, or set these clips yourself",
            len(zeros),
            len(clips),
            shown(zeros[0]),
            largest,
            "the largest of the other clips" if any(clips.values()) else "which is a guess",
        )
    return {name: max(clip, _MIN) if clip else largest for name, clip in clips.items()}
