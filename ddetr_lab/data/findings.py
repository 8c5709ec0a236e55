"""What is wrong with a data set, said so that it can be mended: the kinds of findings, and the report of them.

Each kind has one severity and one remedy, in the table below. An *error* stops training, or teaches the detector
something false; a *warning* is legal but seldom meant; a *note* is worth knowing.

Built in chapter 18.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ddetr_lab.data.coco_table import short

__all__ = ["KINDS", "Finding", "ValidationReport"]

ERROR, WARNING, NOTE = SEVERITIES = ("error", "warning", "note")

# kind: (severity, remedy)
KINDS: dict[str, tuple[str, str]] = {
    # the file
    "no-coco-file": (ERROR, "give the COCO file itself, or a folder that holds one under a usual name"),
    "not-json": (ERROR, "export the file again: it is cut short, or was edited by hand"),
    "json-key-twice": (ERROR, "keep one of them, or give the entries objects of their own: only the last is read"),
    "not-coco": (ERROR, "export as 'COCO detection': the file needs the lists images, annotations and categories"),
    "no-pictures": (ERROR, "export with pictures"),
    "no-boxes": (ERROR, "export with annotations: nothing can be learnt without boxes"),
    "no-categories": (ERROR, "export with categories"),
    # categories
    "category-entry": (ERROR, "make it an object with id and name"),
    "category-id": (ERROR, "give each category a whole number as id, not a string"),
    "category-twice": (ERROR, "give each category an id of its own"),
    "category-name": (WARNING, "name the category: detections are shown by name"),
    "category-same-name": (WARNING, "merge the two: a detector cannot tell them apart"),
    "category-holes": (NOTE, "nothing to do here: LabelMap numbers them without holes; elsewhere take care"),
    "category-unused": (WARNING, "remove it, or mark examples: a class without boxes is never detected"),
    "categories-differ": (ERROR, "give the files of all splits the same list of categories"),
    # entries of pictures
    "image-entry": (ERROR, "make it an object with id, file_name, width and height"),
    "image-id": (ERROR, "give each picture a whole number as id, not a string"),
    "image-twice": (ERROR, "give each picture an id of its own"),
    "file-name": (ERROR, "give each picture its file_name, a string"),
    "file-name-twice": (WARNING, "merge the two entries: the boxes of one are missing in the other"),
    "file-name-path": (WARNING, "write file names relative to the folder, with / between its parts"),
    "image-size": (ERROR, "write width and height of the picture, whole numbers of pixels above 0"),
    "image-size-missing": (NOTE, "write width and height: without them every picture must be opened to know them"),
    # entries of boxes
    "annotation-entry": (ERROR, "make it an object with id, image_id, category_id and bbox"),
    "annotation-id": (WARNING, "give each annotation a whole number as id"),
    "annotation-twice": (ERROR, "give each annotation an id of its own"),
    "annotation-image": (ERROR, "correct its image_id, or remove it: no picture has this id"),
    "annotation-category": (
        ERROR,
        "correct its category_id, or add the category; COCO ids often start at 1, labels at 0",
    ),
    "box-form": (ERROR, "write bbox as four numbers [x, y, width, height] in pixels"),
    "box-not-finite": (ERROR, "remove it or mark it again: NaN or infinity makes the loss NaN"),
    "box-reversed": (ERROR, "exchange the corners, so that width and height are above 0"),
    "box-empty": (ERROR, "remove it: a box without area cannot be found, and divides by zero"),
    "box-tiny": (WARNING, "remove it if it is a slip of the mouse: it is under a pixel wide or high"),
    "box-outside": (ERROR, "remove it, or correct the picture that it belongs to"),
    "box-overhang": (WARNING, "cut it at the edge of the picture"),
    "box-twice": (WARNING, "remove one: the same box of the same class stands twice in the picture"),
    "area-form": (ERROR, "write area as a number of square pixels, or leave it out"),
    "area": (WARNING, "leave area out, or write that of the object: AP by size goes by it"),
    "crowd-flag": (ERROR, "write iscrowd as 0 or 1"),
    "crowd": (NOTE, "nothing to do: crowds are left out of training, and what lies in them out of the score"),
    # all boxes together
    "boxes-normalised": (ERROR, "multiply x and width by the picture's width, y and height by its height"),
    "boxes-xyxy": (ERROR, "write bbox as [x, y, width, height]: subtract the first corner from the second"),
    "boxes-maybe-xyxy": (WARNING, "look at the contact sheet (--figures): are these two corners, not corner and size?"),
    "boxes-cxcywh": (ERROR, "write bbox as [x, y, width, height]: subtract half the size from the middle"),
    # pictures
    "picture-missing": (ERROR, "copy the file into the folder, correct file_name, or give the folder of the pictures"),
    "picture-empty": (ERROR, "copy the file again: it has 0 bytes"),
    "picture-unreadable": (ERROR, "allow reading it (chmod), or copy it again"),
    "picture-no-picture": (ERROR, "save it as PNG or JPEG: it is no picture that Pillow knows"),
    "picture-damaged": (ERROR, "copy the file again: it is cut short or damaged"),
    "picture-huge": (ERROR, "cut it into tiles: it has more pixels than Pillow opens by default"),
    "picture-large": (WARNING, "cut it into tiles: it takes gigabytes to decode, and its objects vanish when shrunk"),
    "picture-no-rgb": (ERROR, "save it as 8-bit RGB with a contrast that you chose: no rule brings it there"),
    "picture-link": (NOTE, "copy the file into the folder: a link out of its folder does not travel with it"),
    "picture-size": (ERROR, "export again for these files: the boxes were drawn on a picture of another size"),
    "picture-turned": (WARNING, "save it upright without the EXIF mark, and look whether its boxes fit"),
    "picture-deep": (WARNING, "save it in 8 bits with a contrast that you chose: it is scaled by a fixed rule"),
    "picture-cmyk": (WARNING, "save it as RGB: its colours are meant for print"),
    "picture-mode": (WARNING, "save it as RGB"),
    "picture-alpha": (WARNING, "lay it on the ground that is meant: transparency is dropped, hidden colours show"),
    "picture-animated": (WARNING, "save the frame that the boxes belong to: only the first is read"),
    "picture-grey": (NOTE, "nothing to do: grey is repeated in three channels"),
    "picture-palette": (NOTE, "nothing to do: its colours are looked up"),
    "picture-small": (WARNING, "leave it out: under 16 pixels there is nothing to see"),
    "picture-extension": (WARNING, "rename it: some programs go by the ending"),
    "picture-no-boxes": (NOTE, "nothing to do if it shows no object: it teaches silence; else mark it"),
    "picture-unlisted": (WARNING, "add it to the file, or move it away: it is never read"),
    "picture-twice": (WARNING, "remove one: the same pixels stand under two ids"),
    "leakage": (ERROR, "remove it from one of the two: a detector that has seen it knows the answer"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, and where.

    Args:
        kind: a key of ``KINDS``.
        message: what came and what was expected.
        file: the COCO file, or the picture that no entry lists.
        image_id: of the picture, or its place in the file where it has no id of its own.
        annotation_id: of the annotation, or its place in the file.
    """

    kind: str
    message: str
    file: str = ""
    image_id: int | str | None = None
    annotation_id: int | str | None = None

    @property
    def severity(self) -> str:
        """Return "error", "warning" or "note"."""
        return KINDS[self.kind][0]

    @property
    def remedy(self) -> str:
        """Return what to do."""
        return KINDS[self.kind][1]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {
            "severity": self.severity,
            "kind": self.kind,
            "file": self.file,
            "image_id": self.image_id,
            "annotation_id": self.annotation_id,
            "message": self.message,
            "remedy": self.remedy,
        }

    def line(self) -> str:
        """Return where and what, in one line."""
        where = [self.file] if self.file else []
        where += [f"picture {self.image_id}"] if self.image_id is not None else []
        where += [f"annotation {self.annotation_id}"] if self.annotation_id is not None else []
        return f"{', '.join(where)}: {self.message}" if where else self.message


@dataclass
class ValidationReport:
    """All findings, and what was looked at.

    Attributes:
        findings: in the order in which they were met.
        pictures, boxes: how many entries there are.
        boxes_of: class name to number of boxes.
        sizes: width and height of each usable box in _px.
        seconds: how long it took.
        decoded: how many picture files were decoded.
        decoding: seconds of it that this took.
    """

    findings: list[Finding] = field(default_factory=list)
    pictures: int = 0
    boxes: int = 0
    boxes_of: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0
    decoded: int = 0
    decoding: float = 0.0

    def add(self, kind: str, message: str, file: str = "", image_id: Any = None, annotation_id: Any = None) -> None:
        """Note a finding; the ids may be whatever the file holds."""
        ids = [id_ if id_ is None or type(id_) is int else _id_text(id_) for id_ in (image_id, annotation_id)]
        self.findings.append(Finding(kind, _printable(message), _printable(file), *ids))

    def count(self, severity: str) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Tell whether there is no error."""
        return self.count(ERROR) == 0

    def of(self, kind: str) -> list[Finding]:
        """Return the findings of a kind."""
        if kind not in KINDS:
            raise KeyError(f"kind = {kind!r}, expected one of {', '.join(KINDS)}")
        return [finding for finding in self.findings if finding.kind == kind]

    def summary(self) -> str:
        """Return the counts in one line."""
        rate = f", {self.decoded / self.decoding:.0f} pictures/s" if self.decoding else ""
        counts = ", ".join(f"{self.count(severity)} {severity}s" for severity in SEVERITIES)
        return f"{counts} in {self.pictures} pictures and {self.boxes} boxes ({self.seconds:.1f} s{rate})"

    def lines(self, most: int | None = 5) -> Iterator[str]:
        """Yield the findings by kind, errors first, at most so many of a kind, each kind with its remedy."""
        by_kind: dict[str, list[Finding]] = {}
        for finding in self.findings:
            by_kind.setdefault(finding.kind, []).append(finding)
        for kind in sorted(by_kind, key=lambda kind: SEVERITIES.index(KINDS[kind][0])):
            severity, remedy = KINDS[kind]
            yield f"{severity} {kind} ({len(by_kind[kind])}): {remedy}"
            shown = by_kind[kind][:most]
            yield from (f"  {finding.line()}" for finding in shown)
            if len(shown) < len(by_kind[kind]):
                yield f"  ... and {len(by_kind[kind]) - len(shown)} more"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {
            "ok": self.ok,
            "pictures": self.pictures,
            "boxes": self.boxes,
            "classes": dict(self.boxes_of),
            "seconds": round(self.seconds, 3),
            "decoded": self.decoded,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def _id_text(value: Any) -> str:
    return _printable(value if isinstance(value, str) else short(value))[:60]


def _printable(text: str) -> str:
    """Escape what a terminal cannot show or would obey: half characters, ends of lines, control sequences."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
