"""The detector: the model, its heads, and the loss when there are labels.

Built in chapter 12.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.heads import build_heads, refine_boxes
from ddetr_lab.losses import DetectionLoss
from ddetr_lab.model import DeformableDetrModel, DeformableDetrPreTrainedModel
from ddetr_lab.outputs import (
    DeformableDetrModelOutput,
    DeformableDetrObjectDetectionOutput,
    EncoderOutput,
)

__all__ = ["DeformableDetrForObjectDetection"]


class DeformableDetrForObjectDetection(DeformableDetrPreTrainedModel):
    """The detector: the model with a class head and a box head on every decoder layer.

    Args:
        config: what to build; ``num_labels`` decides the classes.
    """

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__(config)
        class_embed, bbox_embed = build_heads(config)
        self.model = DeformableDetrModel(config, class_embed=class_embed, bbox_embed=bbox_embed)
        self.class_embed = class_embed
        self.bbox_embed = bbox_embed

    def freeze_backbone(self) -> None:
        """Stop training the backbone's parameters."""
        self.model.freeze_backbone()

    def unfreeze_backbone(self) -> None:
        """Train all of the backbone's parameters; its batch norms are buffers and stay frozen."""
        self.model.unfreeze_backbone()

    def replace_head(self, num_labels: int, id2label: dict[int, str] | None = None) -> None:
        """Swap the class heads, in place, for fresh ones of ``num_labels`` classes with their prior; boxes stay.

        Args:
            num_labels: how many classes the new data have.
            id2label: their names; "LABEL_0", "LABEL_1" ... where it is None.

        Raises:
            ValueError: if ``num_labels`` is not positive or differs from the number of names.
        """
        if num_labels < 1:
            raise ValueError(f"num_labels = {num_labels}, expected at least 1")
        if id2label is not None and sorted(id2label) != list(range(num_labels)):
            raise ValueError(f"id2label has the ids {sorted(id2label)}, expected 0 to {num_labels - 1}, one a label")
        names = {index: f"LABEL_{index}" for index in range(num_labels)} if id2label is None else dict(id2label)
        self.config.id2label = names
        self.config.label2id = {name: index for index, name in names.items()}
        fresh, _ = build_heads(self.config)
        self.class_embed = fresh.to(device=self.device, dtype=self.dtype)
        if self.config.two_stage:
            self.model.decoder.class_embed = self.class_embed

    def predictions(self, outputs: DeformableDetrModelOutput) -> list[dict[str, Tensor]]:
        """Apply each layer's heads: for each decoder layer ``logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) in _norm.

        Layer l moves the reference that it looked from, which layer l - 1 refined.
        """
        states, references = outputs.intermediate_hidden_states, outputs.intermediate_reference_points
        reference = outputs.init_reference_points
        if states is None or references is None or reference is None:
            raise ValueError("outputs lack intermediate states or reference points: pass what the model returned")
        logits, boxes = [], []
        for index in range(states.shape[1]):
            hidden = states[:, index]
            logits.append(self.class_embed[index](hidden))
            boxes.append(refine_boxes(self.bbox_embed[index](hidden), reference))
            reference = references[:, index]
        # Stacked, so that a layer that no loss reads has gradients of zero, as in the reference, rather than none:
        # processes that train together wait for every gradient.
        layers = zip(torch.stack(logits), torch.stack(boxes), strict=True)
        return [{"logits": of_class, "pred_boxes": of_box} for of_class, of_box in layers]

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | tuple[Any, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DeformableDetrObjectDetectionOutput | tuple[Any, ...]:
        """Detect, and with labels compute the loss.

        Args:
            labels: one dict a picture: ``class_labels`` (N,) int64 in 0 to K - 1 and ``boxes`` (N, 4) cxcywh in _norm,
                relative to the picture before padding. The processor makes them from COCO annotations.

        The other arguments are those of :class:`DeformableDetrModel`.

        Returns:
            A :class:`~ddetr_lab.outputs.DeformableDetrObjectDetectionOutput`, or its set fields as a tuple.

        Raises:
            ValueError, TypeError, KeyError: if pictures, mask or labels are off; the message names the picture.
        """
        outputs = self.model(
            pixel_values,
            pixel_mask,
            decoder_attention_mask,
            encoder_outputs,
            inputs_embeds,
            decoder_inputs_embeds,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        *earlier, last = self.predictions(outputs)
        loss, loss_dict, auxiliary_outputs = None, None, None
        if labels is not None:
            auxiliary_outputs = earlier if self.config.auxiliary_loss else None
            proposals = None
            if self.config.two_stage:
                boxes = outputs.enc_outputs_coord_logits.sigmoid()
                proposals = {"logits": outputs.enc_outputs_class, "pred_boxes": boxes}
            loss, loss_dict = DetectionLoss(self.config)(last, labels, auxiliary_outputs or (), proposals)
        result = DeformableDetrObjectDetectionOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=last["logits"],
            pred_boxes=last["pred_boxes"],
            auxiliary_outputs=auxiliary_outputs,
            **dict(outputs.items()),
        )
        as_record = self.config.use_return_dict if return_dict is None else return_dict
        return result if as_record else result.to_tuple()
