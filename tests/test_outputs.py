"""Records that read like an object, like a dict and like a tuple."""

import pytest
import torch

from ddetr_lab.outputs import (
    DecoderOutput,
    DeformableDetrModelOutput,
    DeformableDetrObjectDetectionOutput,
    EncoderOutput,
    ModelOutput,
)


@pytest.fixture
def record() -> DeformableDetrObjectDetectionOutput:
    return DeformableDetrObjectDetectionOutput(pred_boxes=torch.ones(1, 2, 4), logits=torch.zeros(1, 2, 3))


def test_three_ways_to_read_one_field(record: DeformableDetrObjectDetectionOutput) -> None:
    assert record.logits is record["logits"] is record[0]
    assert record[-1] is record.pred_boxes
    assert record[:1] == (record.logits,)


def test_unset_fields_are_skipped_and_the_order_is_that_of_the_class(
    record: DeformableDetrObjectDetectionOutput,
) -> None:
    assert record.loss is None and "loss" not in record
    assert list(record) == record.keys() == ["logits", "pred_boxes"]
    assert len(record) == 2 and list(reversed(record)) == ["pred_boxes", "logits"]
    assert record.to_tuple() == tuple(record.values()) == (record.logits, record.pred_boxes)
    assert record.items() == [("logits", record.logits), ("pred_boxes", record.pred_boxes)]
    assert dict(record) == {"logits": record.logits, "pred_boxes": record.pred_boxes}


def test_a_key_that_is_not_set_says_which_are(record: DeformableDetrObjectDetectionOutput) -> None:
    with pytest.raises(KeyError, match="'loss' is not set; this DeformableDetr.* has logits, pred_boxes"):
        record["loss"]
    with pytest.raises(IndexError):
        record[2]
    assert record.get("loss") is None
    assert record.get("loss", 3) == 3
    assert record.get("logits") is record.logits


def test_a_method_is_no_key(record: DeformableDetrObjectDetectionOutput) -> None:
    with pytest.raises(KeyError):
        record["to_tuple"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (EncoderOutput, "last_hidden_state hidden_states attentions"),
        (
            DecoderOutput,
            "last_hidden_state intermediate_hidden_states intermediate_reference_points hidden_states attentions "
            "cross_attentions",
        ),
        (
            DeformableDetrModelOutput,
            "init_reference_points last_hidden_state intermediate_hidden_states intermediate_reference_points "
            "decoder_hidden_states decoder_attentions cross_attentions encoder_last_hidden_state encoder_hidden_states "
            "encoder_attentions enc_outputs_class enc_outputs_coord_logits",
        ),
        (
            DeformableDetrObjectDetectionOutput,
            "loss loss_dict logits pred_boxes auxiliary_outputs init_reference_points last_hidden_state "
            "intermediate_hidden_states intermediate_reference_points decoder_hidden_states decoder_attentions "
            "cross_attentions encoder_last_hidden_state encoder_hidden_states encoder_attentions enc_outputs_class "
            "enc_outputs_coord_logits",
        ),
    ],
)
def test_fields_stand_in_the_order_that_tuples_have(kind: type[ModelOutput], fields: str) -> None:
    names = fields.split()
    assert kind(**{name: torch.zeros(1) for name in names}).keys() == names
