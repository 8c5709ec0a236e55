"""What one call of the image processor asks for, and what that makes of a picture.

A call's arguments count, and the processor's settings where it leaves them out.

Built in chapter 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddetr_lab.advice import warn_once
from ddetr_lab.annotations import AnnotionFormat
from ddetr_lab.image_inputs import ChannelDimension, Picture, named_picture
from ddetr_lab.image_transforms import colour, output_size, size_dict
from ddetr_lab.processor_config import check_switches
from ddetr_lab.resampling import resize_and_colour

__all__ = ["CallOptions", "call_options"]


@dataclass(frozen=True)
class CallOptions:
    """The settings of one call, and the steps that follow from them.

    Attributes:
        size: what pictures are resized to, see :func:`~ddetr_lab.image_transforms.output_size`; None: they are not.
        resample: Pillow's filter.
        factor: what pixels are multiplied by; None: they are not.
        mean: with ``std``, one number or one a channel; None: pixels are not normalised.
        std: see ``mean``.
        do_pad: whether to pad.
        pad_size: ``height`` and ``width`` to pad to, if there is one.
        format: of the annotations.
    """

    size: dict[str, int] | None
    resample: int
    factor: float | None
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    do_pad: bool
    pad_size: Mapping[str, int] | None
    format: AnnotionFormat

    @property
    def channels(self) -> int | None:
        """How many channels ``mean`` and ``std`` are for; None: any number."""
        values = (self.mean, self.std)
        return max((len(value) for value in values if isinstance(value, (Sequence, np.ndarray))), default=None)

    @property
    def coloured(self) -> bool:
        """Whether pixels are rescaled or normalised."""
        return self.factor is not None or self.mean is not None

    def sizes_after(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the (height, width) in pixels that pictures of these sizes are resized to.

        Raises:
            ValueError: names the picture that ``size`` leaves nothing of.
        """
        if self.size is None:
            return list(sizes)
        after = []
        for i, (height, width) in enumerate(sizes):
            with named_picture(i):
                after.append(output_size(height, width, self.size))
        return after

    def pixels(
        self,
        picture: Picture,
        layout: ChannelDimension,
        size: tuple[int, int],
        output_layout: ChannelDimension,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Resize, rescale and normalise one picture, each if asked for.

        Args:
            picture: a Pillow picture, or an array in ``layout``.
            layout: where the array's channels stand.
            size: its entry of :meth:`sizes_after`.
            output_layout: layout of the result.
            out: where to write if it is resized, see :func:`~ddetr_lab.resampling.resize_and_colour`.
        """
        steps = (self.factor, self.mean, self.std, output_layout)
        if self.size is None:
            return colour(picture, layout, *steps)
        return resize_and_colour(picture, layout, size, self.resample, *steps, out)


def call_options(processor: Any, others: dict[str, Any], **given: Any) -> CallOptions:
    """Put the arguments of a call and the settings of a processor together.

    Args:
        processor: whose attribute counts where an argument is None.
        others: further arguments of the call: ``pad_size``, and ``pad_and_return_pixel_mask`` and ``max_size``, old
            names of ``do_pad`` and ``size``. These and any that are unknown are mentioned in the log.
        **given: the arguments that the constructor has too.

    Raises:
        ValueError, TypeError: for a size, a format or a ``do_`` switch that is none.
    """
    if "pad_and_return_pixel_mask" in others:
        given["do_pad"] = others.pop("pad_and_return_pixel_mask")
        warn_once(__name__, "pad_and_return_pixel_mask is deprecated: pass do_pad")
    if "max_size" in others:
        given["size"] = others.pop("max_size")
        warn_once(__name__, "max_size is deprecated: pass size={'shortest_edge': ..., 'longest_edge': ...}")
    given["pad_size"] = others.pop("pad_size", None)
    if others:
        warn_once(__name__, f"preprocess() ignores {sorted(others)}: it knows no such argument")
    check_switches(**given)
    # Only pad_size may be no attribute: it is one where the constructor was given it.
    chosen: dict[str, Any] = {
        key: getattr(processor, key, None) if value is None else value for key, value in given.items()
    }
    size = size_dict(chosen["size"])
    return CallOptions(
        size=size if chosen["do_resize"] else None,
        resample=chosen["resample"],
        factor=chosen["rescale_factor"] if chosen["do_rescale"] else None,
        mean=chosen["image_mean"] if chosen["do_normalize"] else None,
        std=chosen["image_std"] if chosen["do_normalize"] else None,
        do_pad=chosen["do_pad"],
        pad_size=chosen["pad_size"],
        format=AnnotionFormat(chosen["format"]),
    )
