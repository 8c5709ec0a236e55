"""How long does a COCO file of COCO's size take to open, and how much memory? Write one, open it, and print both.

    python -m tests.faults.coco_size --pictures 118000 --boxes 860000

The file has COCO's own fields, outlines too, which make up most of it. It is opened in processes of their own: once by
Python's json alone, for comparison, once as a ``CocoDataset``, once by the checks of ``ddetr-lab validate`` (of the
entries; the pictures do not exist). Memory is the most that a process held, less what it held before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

OPENERS = {
    "json": "import json; found = json.loads(path.read_text())",
    "CocoDataset": "from ddetr_lab.data.coco import CocoDataset; found = CocoDataset(path)",
    "validate": (
        "from ddetr_lab.data.coco_table import read_json; from ddetr_lab.data.findings import ValidationReport; "
        "from ddetr_lab.data.validate_entries import check_content; "
        "found = check_content(read_json(path), 'f', ValidationReport())"
    ),
}
# Imports come first, so that they are not measured; what remains afterwards is the file's own.
MEASURE = """
import resource, sys, time
from pathlib import Path
import ddetr_lab.data.coco, ddetr_lab.data.validate
path = Path(sys.argv[1])
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, wall, own = most(), time.perf_counter(), time.process_time()
{opener}
print(f"{{time.perf_counter() - wall:.1f}} s, {{time.process_time() - own:.1f}} s of a processor, "
      f"{{most() - before:.0f}} MB")
"""


def write_instances(path: Path, pictures: int, boxes: int, seed: int = 0) -> None:
    """Write a COCO file entry by entry, so that it is never in memory as a whole."""
    draw = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"info": {}, "licenses": [], "images": [')
        for number in range(pictures):
            name = f"{number:012d}.jpg"
            entry = {"license": 3, "file_name": name, "coco_url": f"http://images.example/train2017/{name}"}
            entry |= {"height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", "id": number}
            stream.write((", " if number else "") + json.dumps(entry))
        stream.write('], "annotations": [')
        for number in range(boxes):
            x, y, width, height = (draw.random(4) * (320, 240, 300, 220) + 1).round(2).tolist()
            outline = (draw.random(2 * int(draw.integers(8, 40))) * 400).round(2).tolist()
            entry = {"segmentation": [outline], "area": round(width * height * 0.6, 4), "iscrowd": 0}
            entry |= {"image_id": int(draw.integers(pictures)), "bbox": [x, y, width, height]}
            entry |= {"category_id": int(draw.integers(1, 81)), "id": number + 1}
            stream.write((", " if number else "") + json.dumps(entry))
        categories = [{"supercategory": "thing", "id": number, "name": f"class {number}"} for number in range(1, 81)]
        stream.write(f'], "categories": {json.dumps(categories)}}}')


def main() -> None:
    """Read the arguments, write the file, and print a line for each way of opening it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_instances(path, arguments.pictures, arguments.boxes)
        print(f"{arguments.pictures} pictures, {arguments.boxes} boxes, {path.stat().st_size / 1e6:.0f} MB", flush=True)
        for name, opener in OPENERS.items():
            code = MEASURE.format(opener=opener)
            done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
            print(f"{name:12s} {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
