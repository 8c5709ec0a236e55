"""The faults that `make fault-check` plants in copies of the package, and the chapters that ought to notice each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One wrong line.

    Attributes:
        says: what is wrong, in words.
        path: of the file below ddetr_lab/.
        old: text that stands in the file exactly once.
        new: what replaces it.
        chapters: whose notebooks ought to notice.
    """

    says: str
    path: str
    old: str
    new: str
    chapters: tuple[int, ...]

    def apply(self, source: str) -> str:
        """Return the source with the fault in it.

        Raises:
            ValueError: if the text to replace does not stand in the source exactly once.
        """
        if (count := source.count(self.old)) != 1:
            raise ValueError(
                f"fault {self.says!r}: {self.old!r} stands {count} times in ddetr_lab/{self.path}, expected once. "
                "The package has changed: write the fault anew in tests/book/fault_list.py"
            )
        return source.replace(self.old, self.new)


FAULTS = [
    Fault(
        "pictures: the mask is 1 on padding and 0 on real pixels",
        "padding.py",
        "slot[:height, :width] = 1\n        slot[:height, width:] = 0\n        slot[height:] = 0",
        "slot[:height, :width] = 0\n        slot[:height, width:] = 1\n        slot[height:] = 1",
        (2,),
    ),
    Fault(
        "pictures: boxes are divided by (h, w, h, w)",
        "annotations.py",
        "np.asarray([width, height, width, height], dtype=np.float32)",
        "np.asarray([height, width, height, width], dtype=np.float32)",
        (2,),
    ),
    Fault(
        "boxes: the centre is the left edge plus the whole width",
        "boxes.py",
        "torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), dim=-1)",
        "torch.stack((x1, y1, x1 - x0, y1 - y0), dim=-1)",
        (0, 2),
    ),
    Fault(
        "backbone: a frozen norm drops the activation that it carried",
        "frozen_norm.py",
        "frozen = cls(norm.num_features, norm.eps, nn.Sequential(*modules) if modules else None)",
        "frozen = cls(norm.num_features, norm.eps, None)",
        (3,),
    ),
    Fault(
        "backbone: a mask is shrunk to its opposite",
        "backbone.py",
        "return F.interpolate(pixel_mask[:, None].float(), size=size)[:, 0].to(torch.bool)",
        "return ~F.interpolate(pixel_mask[:, None].float(), size=size)[:, 0].to(torch.bool)",
        (4,),
    ),
    Fault(
        "positions: the sines count padded cells instead of real ones",
        "position_encoding.py",
        "y = mask.cumsum(1, dtype=torch.float32)",
        "mask = ~mask\n        y = mask.cumsum(1, dtype=torch.float32)",
        (4,),
    ),
    Fault(
        "positions: padded cells count as real ones",
        "position_encoding.py",
        "y = mask.cumsum(1, dtype=torch.float32)",
        "mask = torch.ones_like(mask)\n        y = mask.cumsum(1, dtype=torch.float32)",
        (4,),
    ),
    Fault(
        "positions: no level embedding",
        "model.py",
        "+ self.level_embed[level]",
        "+ 0 * self.level_embed[level]",
        (4, 12),
    ),
    Fault(
        "sampling: pixel = u * W, without the half pixel, in the loops",
        "ops/reference.py",
        "x, y = u * width - 0.5, v * height - 0.5",
        "x, y = u * width, v * height",
        (5, 6),
    ),
    Fault(
        "sampling: align_corners=True in grid_sample",
        "ops/reference.py",
        'padding_mode="zeros", align_corners=False',
        'padding_mode="zeros", align_corners=True',
        (5, 6, 7),
    ),
    Fault(
        "attention: offsets are divided by (H, W), x and y swapped",
        "ops/reference.py",
        "device=reference.device).flip(-1)  # (L, 2)",
        "device=reference.device)  # (L, 2)",
        (6, 10),
    ),
    Fault(
        "attention: softmax over the points of each level only",
        "attention.py",
        "weights = logits.flatten(-2).softmax(-1).view(grid)",
        "weights = logits.softmax(-1).view(grid)",
        (6, 10),
    ),
    Fault(
        "attention: padded cells keep their values",
        "attention.py",
        "value = value.masked_fill(~attention_mask[..., None], 0.0)",
        "pass",
        (10, 6),
    ),
    Fault(
        "attention: around a box, offsets count whole sides, not half",
        "ops/reference.py",
        "sampling_offsets / points * reference[..., 2:] * 0.5",
        "sampling_offsets / points * reference[..., 2:]",
        (11, 6),
    ),
    Fault(
        "encoder: valid ratios forgotten in the reference points",
        "encoder.py",
        "return torch.cat(points, dim=1)[:, :, None] * ratios[:, None]",
        "return torch.cat(points, dim=1)[:, :, None] * torch.ones_like(ratios[:, None])",
        (10,),
    ),
    Fault(
        "decoder: boxes off by the padding, since reference points stay in fractions of the picture",
        "decoder.py",
        "ratios = valid_ratios.repeat(1, 1, reference_points.shape[-1] // 2)",
        "ratios = torch.ones_like(valid_ratios).repeat(1, 1, reference_points.shape[-1] // 2)",
        (11,),
    ),
    Fault(
        "decoder: refinement adds to the box itself, not to its inverse sigmoid",
        "heads.py",
        "return (offsets + reference).sigmoid()",
        "return (offsets + reference.sigmoid()).clamp(0, 1)",
        (11,),
    ),
    Fault(
        "decoder: boxes are not detached between the layers",
        "decoder.py",
        "with torch.no_grad():",
        "with torch.enable_grad():",
        (11,),
    ),
    Fault(
        "decoder: the class bias starts at 0 instead of -4.6",
        "heads.py",
        "PRIOR_PROBABILITY = 0.01",
        "PRIOR_PROBABILITY = 0.5",
        (11, 14),
    ),
    Fault(
        "two stages: the proposals' boxes are as large on every level",
        "proposals.py",
        "BASE_SIZE * 2.0**level",
        "BASE_SIZE",
        (11,),
    ),
    Fault(
        "matcher: the overlap is a cost instead of a gain",
        "matcher.py",
        "- self.giou_cost * overlap",
        "+ self.giou_cost * overlap",
        (13,),
    ),
    Fault(
        "matcher: the class cost is minus the probability, as in DETR",
        "matcher.py",
        "return positive - negative",
        "return -probability",
        (13,),
    ),
    Fault(
        "losses: IoU instead of generalised IoU",
        "boxes.py",
        "return iou - _ratio_or_zero(hull - union, hull)",
        "return iou",
        (13, 14),
    ),
    Fault(
        "losses: focal loss ignores gamma",
        "losses.py",
        "loss = entropy * (1 - right) ** gamma",
        "loss = entropy",
        (13, 14),
    ),
    Fault(
        "losses: no auxiliary losses",
        "losses.py",
        'parts += [(f"_{index}", layer, targets) for index, layer in enumerate(auxiliary_outputs)]',
        "pass",
        (14,),
    ),
    Fault(
        "losses: divided by the number of pictures, not of boxes",
        "losses.py",
        'count = float(sum(len(target["class_labels"]) for target in targets))',
        "count = float(len(targets))",
        (14,),
    ),
    Fault(
        "pictures out: query and label of a detection are exchanged",
        "post_processing.py",
        "(index // labels_in_all, index % labels_in_all)",
        "(index % labels_in_all, index // labels_in_all)",
        (15, 1),
    ),
    Fault(
        "pictures out: boxes are scaled by (h, w, h, w)",
        "post_processing.py",
        "torch.stack([widths, heights, widths, heights], dim=1)",
        "torch.stack([heights, widths, heights, widths], dim=1)",
        (15, 1),
    ),
    Fault(
        "evaluation: corners are handed to COCO as corner and size",
        "evaluation.py",
        '"bbox": [x0, y0, x1 - x0, y1 - y0]',
        '"bbox": [x0, y0, x1, y1]',
        (15,),
    ),
    Fault(
        "training: the backbone trains at the full rate",
        "training/groups.py",
        'if ".conv_encoder." in name:',
        'if ".convolution_encoder." in name:',
        (16,),
    ),
    Fault(
        "training: the rate does not fall after its warm-up",
        "training/schedule.py",
        "return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))",
        "return 1.0",
        (16,),
    ),
    Fault(
        "training: Muon's steps are not as long as those of AdamW",
        "training/optimizers.py",
        'torch.optim.Muon(by_muon, adjust_lr_fn="match_rms_adamw")',
        "torch.optim.Muon(by_muon)",
        (16,),
    ),
    Fault(
        "dense DETR: the cells' positions enter the values, too",
        "dense_detr.py",
        "key, value = query, hidden_states",
        "key, value = query, query",
        (17,),
    ),
    Fault(
        "trees: a tile's boxes are moved by (top, left)",
        "data/trees.py",
        "inside = (boxes - [left, top, left, top]).clip(0, self.tile)",
        "inside = (boxes - [top, left, top, left]).clip(0, self.tile)",
        (18,),
    ),
    Fault(
        "data check: corners that are written as sizes pass",
        "data/validate_boxes.py",
        "if outside.mean() >= _MANY_OUTSIDE and as_corners.mean() >= _NEARLY_ALL:",
        "if False:",
        (19,),
    ),
    Fault(
        "diagnosis: a score without classes still counts them",
        "diagnosis/overfit.py",
        'return only, [{**found, "category_id": 0} for found in detections]',
        "return truth, detections",
        (19,),
    ),
]
