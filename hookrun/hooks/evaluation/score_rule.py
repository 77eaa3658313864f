"""Whether a greater or a smaller score is better, as far as its name says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

GREATER = "greater"
LESS = "less"

# Whole words, in lower case; a few are two words in a row. Those that EvalHook names as its default
# keys are among them, with their usual spellings.
_GREATER_WORDS = """
    acc accs accuracy accuracies aacc macc oacc top topk
    precision precisions prec mprecision recall recalls mrecall ap aps map maps
    auc auroc aucroc aupr auprc iou ious miou meaniou fwiou jaccard dice mdice
    f1 f2 f_1 f_2 fbeta fscore mfscore fmeasure f_score f_measure hmean
    sensitivity specificity exact_match hit hits ndcg mrr kappa mcc r2 r_2 pearson spearman
    spearmanr pearsonr correlation corr corrcoef similarity tpr tnr nmi
    psnr ssim msssim bleu rouge rougel meteor cider chrf
    pck pckh pq hota mota idf1 reward rewards
""".split()  # noqa: SIM905 (shorter to read)
_LESS_WORDS = """
    loss losses err errs error errors perplexity ppl nll bpb bpc bpd bce xent logloss
    cross_entropy crossentropy mse rmse nrmse msle rmsle mae mape smape rmsd silog
    absrel abs_rel sqrel sq_rel wer cer ter eer fpr fnr ece brier fid kid lpips
    divergence kl kld distance hd95 miss_rate false_positive_rate false_negative_rate chamfer
    hausdorff epe aepe nme mpjpe ade fde cost regret residual deviation
""".split()  # noqa: SIM905 (shorter to read)
# What can turn the meaning of a greater word round, as in "acc_drop".
_TURNING_WORDS = """
    drop drops gap miss missed fail failed failure failures false minus penalty forgetting
    degradation uncertainty entropy latency std var variance
""".split()  # noqa: SIM905 (shorter to read)
# Glued words, such as "valloss" and "lossmap", but nothing that only looks like one.
_GLUED_LESS = re.compile(r"(?!lossy|lossless|gloss|floss|terror)(loss.*|.*loss(es)?|.*errors?)")
_NO_WORD = re.compile(r"(?!)")
_PREFIXES = frozenset({"train", "val", "valid", "validation", "test", "eval", "dev", "avg", "mean"})


def rule_of(
    score: str,
    greater_keys: Sequence[str] = (),
    less_keys: Sequence[str] = (),
    asks: str = "EvalHook",
) -> str:
    """``'greater'`` or ``'less'``: which of a score is better.

    The keys decide first: as the whole name, as whole words of it, then as any part of it. Then its
    own words do, such as ``accuracy``, ``mAP`` or ``loss``; they are separated by anything that is
    no letter or digit, by digits and by capitals. A name with a loss or an error in it is never
    ``'greater'``, unless a key is that name or a word of it.

    Args:
        score: the name.
        greater_keys, less_keys: what the user gave, in any case.
        asks: who needs to know, for the error.

    Raises:
        ValueError: the name does not tell, or tells both.
    """
    for keys, rule in ((greater_keys, GREATER), (less_keys, LESS)):
        if score.lower() in (key.lower() for key in keys):
            return rule
    name = _Name(score)
    by_word = _rules(name.last(greater_keys) >= 0, name.last(less_keys) >= 0)
    if by_word:
        return _the_only(by_word, score, asks)
    greater, less = name.last(_GREATER_WORDS), name.last(_LESS_WORDS, _GLUED_LESS)
    by_part = _rules(_is_part(greater_keys, score) and less < 0, _is_part(less_keys, score))
    if by_part:
        return _the_only(by_part, score, asks)
    # Of a name with both, "loss_bbox_map" says by its first word and "top5_error" by its last one
    # which of the two it is.
    if less > greater or (less >= 0 and name.begins_as_loss):
        greater = -1
    elif name.last(_TURNING_WORDS) >= 0:
        less = max(less, greater)
    return _the_only(_rules(greater >= 0, less >= 0), score, asks)


def _rules(greater: bool, less: bool) -> set[str]:
    return {rule for rule, applies in ((GREATER, greater), (LESS, less)) if applies}


def _the_only(rules: set[str], score: str, asks: str) -> str:
    if len(rules) != 1:
        says = "says both" if rules else "does not tell"
        raise ValueError(
            f"{asks}: whether a greater {score!r} is better, its name {says}: "
            "give rule='greater' or rule='less'"
        )
    return next(iter(rules))


def _is_part(keys: Iterable[str], score: str) -> bool:
    return any(key.lower() in score.lower() for key in keys)


class _Name:
    """A score's name, taken apart into words in each way that is usual."""

    # Words between signs; letters and digits apart; words that begin with a capital.
    _READINGS = (
        r"[A-Za-z0-9]+",
        r"[A-Za-z]+|[0-9]+",
        r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+",
    )

    def __init__(self, score: str) -> None:
        found = [list(re.finditer(pattern, score)) for pattern in self._READINGS]
        # Per reading, each word with its place in the name.
        self._readings = [[(each[0].lower(), each.start()) for each in words] for words in found]
        for each in found[-1]:
            if each[0] == "AR":  # average recall; in small letters it may be many things
                self._readings.append([("recall", each.start())])
        last_part = _words(re.split(r"[/.:]", score)[-1])
        own = [word for word in last_part if word not in _PREFIXES]
        self.begins_as_loss = own[:1] in (["loss"], ["losses"])

    def last(self, keys: Iterable[str], pattern: re.Pattern[str] = _NO_WORD) -> int:
        """Where the last of these keys begins, of which each is a word or some words in a row.

        Args:
            keys: the keys, in any case.
            pattern: what else a word may look like.

        Returns:
            The place in the name; -1 where there is none.
        """
        wanted = list(filter(None, map(_words, keys)))
        last = -1
        for reading in self._readings:
            words = [word for word, _ in reading]
            for index, (word, start) in enumerate(reading):
                is_key = any(words[index : index + len(key)] == key for key in wanted)
                if is_key or pattern.fullmatch(word):
                    last = max(last, start)
        return last


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
