"""Whether a greater score is better: whole words of its name decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun import EvalHook
from hookrun.hooks.evaluation.score_rule import rule_of
from tests.support import make_loader

GREATER = """
    acc ACC accuracy top1_acc accuracy_top-1 top_5 topk AR@100 AR bbox_AR_100 AUC/0-100 roc_auc
    precision mean_average_precision mAP bbox_mAP_50 coco/bbox_mAP mAP@0.5 AP50 map_50 mIoU mDice
    mAcc aAcc IoU.road mFscore mRecall f1_score MulticlassF1Score recall@5 r2_score PSNR val/acc
    eval.accuracy meanIoU pearsonr matthews_corrcoef cosine_similarity tpr
    PCKh@0.5 valAccuracy KITTI/Car_3D_AP11_easy
""".split()  # noqa: SIM905
LESS = """
    loss val_loss valLoss BCELoss valloss decode.loss_ce val_loss_heatmap accumulated_loss
    loss_bbox_map mAP_loss val/loss_iou top5_error top1_err error_rate depth_map_rmse MSE wer FID
    val_perplexity cross_entropy abs_rel P-MPJPE AR_loss test/error MeanSquaredError nll
    miss_rate false_positive_rate AEPE nrmse crossentropy chamfer_distance acc_drop_loss
""".split()  # noqa: SIM905
UNCLEAR = """
    score heatmap desktop stop mapping accumulated accident topology lossless gloss total area
    error_accuracy error_free_map misc - 3 acc_drop accuracyGap mAP_std top1/variance failed_hits
    recall-miss missRecall false_acc entropy_auc latency gap
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", GREATER)
def test_greater(name: str) -> None:
    assert EvalHook(make_loader(), save_best=name).rule == "greater"


@pytest.mark.parametrize("name", LESS)
def test_less(name: str) -> None:
    assert EvalHook(make_loader(), save_best=name).rule == "less"


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_stays_unclear_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"give rule='greater' or rule='less'"):
        EvalHook(make_loader(), save_best=name)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["acc", "mAP", "top1", "val", "bbox", "heatmap", "x"]), max_size=3),
    st.sampled_from(["loss", "Loss", "error", "err", "perplexity", "rmse", "wer"]),
    st.lists(st.sampled_from(["acc", "map", "AR@100", "mIoU", "50", "step"]), max_size=3),
    st.sampled_from(["_", "/", ".", "-", " "]),
)
def test_a_loss_is_never_greater(
    before: list[str], loss: str, behind: list[str], separator: str
) -> None:
    try:
        assert rule_of(separator.join([*before, loss, *behind])) == "less"
    except ValueError:
        assert before or behind


@pytest.mark.parametrize(
    ("name", "greater", "less", "rule"),
    [
        ("loss_of_enemy", ["loss"], [], "greater"),
        ("accumulated_loss", ["acc"], [], "less"),
        ("accuracy", [], ["acc"], "less"),
        ("acc_seg", [], ["acc"], "less"),
        ("gainful", ["gain"], [], "greater"),
        ("P-3DPCK", ["p-3dpck"], [], "greater"),
        ("AR_1000", ["AR@"], [], "greater"),
        ("error", ["error"], [], "greater"),
        ("acc", ["pck"], ["epe"], "greater"),
        ("val_loss", ["pck"], ["epe"], "less"),
    ],
)
def test_keys_that_are_given_count_more(
    name: str, greater: list[str], less: list[str], rule: str
) -> None:
    hook = EvalHook(make_loader(), save_best=name, greater_keys=greater, less_keys=less)
    assert hook.rule == rule


def test_keys_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"suggests both: give rule="):
        rule_of("gain_of_cost", ["gain"], ["cost"])


def test_the_keys_of_a_subclass_count_as_given() -> None:
    class PoseEvalHook(EvalHook):
        _default_greater_keys = ("pose",)
        _default_less_keys = ("acc",)

    assert PoseEvalHook(make_loader(), save_best="my_pose").rule == "greater"
    assert PoseEvalHook(make_loader(), save_best="accuracy").rule == "less"


def test_auto_refuses_what_it_knows_before_training() -> None:
    class Metrics(dict[str, Any]):
        def __call__(self, outputs: Any, targets: Any) -> dict[str, float]:
            return dict.fromkeys(self, 0.5)

    with pytest.raises(ValueError, match="'score'"):
        EvalHook(make_loader(), save_best="auto", metrics=Metrics(score=1, acc=2))
    EvalHook(make_loader(), save_best="auto", metrics=Metrics(score=1), rule="less")
    EvalHook(make_loader(), save_best="auto", metrics=Metrics(acc=1, score=2))


def test_auto_refuses_the_rest_at_the_first_evaluation(make_runner: Callable[..., Any]) -> None:
    runner = make_runner(max_epochs=2)
    runner.register_hook(EvalHook(make_loader(scores=[{"score": 1.0}]), save_best="auto"))
    with pytest.raises(ValueError, match=r"'score'.*rule='greater'"):
        runner.run([make_loader(1)], [("train", 1)])
    assert runner.epoch == 0
