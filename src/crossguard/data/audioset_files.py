"""The lists of AudioSet: segments, class names and the ontology."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from crossguard.core.errors import DataError
from crossguard.data.lists import open_list


@dataclass(frozen=True)
class Vocabulary:
    """The classes that are asked for, in official order, and by id (mid) which of them it counts as."""

    classes: tuple[str, ...]
    counts_as: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Segment:
    """Some seconds of a video and the classes that are heard in them."""

    video: str
    start: float
    end: float
    labels: tuple[str, ...]
    evaluation: bool

    @property
    def id(self) -> str:
        return f"{self.video}_{self.start:g}"

    @property
    def names(self) -> list[str]:
        """What tools that fetch clips call this one."""
        v, a, b = self.video, self.start, self.end
        plain = [
            *(v, f"{v}_{a:g}", f"{v}_{a:.3f}", f"{v}_{1000 * a:.0f}", f"{v}_{a:g}_{b:g}"),
            *(f"{v}_{a:.3f}_{b:.3f}", f"{v}_{1000 * a:.0f}_{1000 * b:.0f}", f"{v}_{int(a):06d}_{int(b):06d}"),
        ]
        return plain + [f"Y{name}" for name in plain]


def read_vocabulary(path: Path, chosen: Sequence[str]) -> Vocabulary:
    """The classes of class_labels_indices.csv, or the `chosen` ones; raises DataError for what is not among them."""
    file = path / "class_labels_indices.csv"
    lines = [line for _, line in _lines(file)][1:]
    if not lines or any(len(line) != 3 for line in lines):
        raise DataError(f"{file}: expected the columns index, mid, display_name and a line a class")
    name_of = {mid: name for _, mid, name in lines}
    if not chosen:
        return Vocabulary(tuple(name_of.values()), {mid: (name,) for mid, name in name_of.items()})
    below = _ontology(path / "ontology.json") if (path / "ontology.json").is_file() else {}
    nodes = {**{mid: (name, frozenset({mid})) for mid, name in name_of.items()}, **below}
    by_name = {name: mid for mid, (name, _) in nodes.items()}
    counts: dict[str, list[str]] = {}
    names: list[str] = []
    for wish in chosen:
        mid = wish if wish in nodes else by_name.get(wish)
        if mid is None:
            near = get_close_matches(wish, by_name, 1)
            raise DataError(f"{path}: no class {wish!r}{f'; did you mean {near[0]!r}?' if near else ''}")
        name, under = nodes[mid]
        names.append(name)
        for one in under:
            counts.setdefault(one, []).append(name)
    if len(set(names)) != len(names):
        raise DataError(f"classes are {list(chosen)}; expected each once")
    return Vocabulary(tuple(names), {mid: tuple(several) for mid, several in counts.items()})


def _ontology(file: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Id -> name, and the ids of it and of all below it."""
    with open_list(file, "fetch it again") as stream:
        text = stream.read()
    try:
        children = {node["id"]: (node["name"], node["child_ids"]) for node in json.loads(text)}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: no ontology that can be read ({error!r}); fetch it again") from error

    def under(mid: str, above: frozenset[str]) -> Iterator[str]:
        if mid in above or mid not in children:
            return
        yield mid
        for child in children[mid][1]:
            yield from under(child, above | {mid})

    return {mid: (name, frozenset(under(mid, frozenset()))) for mid, (name, _) in children.items()}


def read_segments(file: Path, vocabulary: Vocabulary) -> list[Segment]:
    """The segments of a list that have a class of the vocabulary; raises DataError, naming the line."""
    found: dict[str, Segment] = {}
    for number, line in _lines(file):
        try:
            video, start, end, mids = line
            labels = {name: None for mid in mids.split(",") for name in vocabulary.counts_as.get(mid.strip(), ())}
            segment = Segment(video, float(start), float(end), tuple(labels), file.name.startswith("eval"))
        except ValueError as error:
            raise DataError(f"{file}, line {number}: found {line}, expected YTID, start, end, labels") from error
        if segment.id in found:
            raise DataError(f"{file}, line {number}: the segment {segment.id} occurs twice")
        if labels:
            found[segment.id] = segment
    return list(found.values())


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbered lines of a CSV file that are no comment; raises DataError where it cannot be read."""
    with open_list(file, "fetch it again") as stream:
        reader = csv.reader(stream, skipinitialspace=True, strict=True)
        for line in reader:
            if line and not line[0].startswith("#"):
                yield reader.line_num, line
