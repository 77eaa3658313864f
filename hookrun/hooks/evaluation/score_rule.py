"""Finds out from the name of a score whether a greater or a smaller value is better."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

GREATER = "greater"
LESS = "less"

# Whole words in lower case; with an underscore, two words in a row. They include EvalHook's default
# keys with their usual spellings.
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
# Words that invert the meaning of a greater word, as in "acc_drop".
_INVERTING_WORDS = """
    drop drops gap miss missed fail failed failure failures false minus penalty forgetting
    degradation uncertainty entropy latency std var variance
""".split()  # noqa: SIM905 (shorter to read)
# Compounds such as "valloss" and "lossmap", but not other words such as "lossless" and "terror".
_LESS_COMPOUNDS = re.compile(r"(?!lossy|lossless|gloss|floss|terror)(loss.*|.*loss(es)?|.*errors?)")
_NO_WORD = re.compile(r"(?!)")
_PREFIXES = frozenset({"train", "val", "valid", "validation", "test", "eval", "dev", "avg", "mean"})


def rule_of(
    score: str,
    greater_keys: Sequence[str] = (),
    less_keys: Sequence[str] = (),
    caller: str = "EvalHook",
) -> str:
    """``'greater'`` if a greater score is better, ``'less'`` if a smaller one is.

    The keys of the user decide first: a key that is the name, then keys that are words of it, then
    keys that are any part of it. Without such a key the words of the name decide, such as
    ``accuracy``, ``mAP`` or ``loss``. A name is split into words at every character that is neither
    a letter nor a digit, between letters and digits, and before capitals. A name that contains a
    loss or an error is never ``'greater'``, unless a key is that name or a word of it.

    Args:
        score: the name.
        greater_keys, less_keys: keys of the user; upper and lower case are the same.
        caller: the class that needs the rule, for the error message.

    Raises:
        ValueError: the name says nothing about it, or both.
    """
    for keys, rule in ((greater_keys, GREATER), (less_keys, LESS)):
        if score.lower() in (key.lower() for key in keys):
            return rule
    name = _Name(score)
    by_word = _rules(name.last(greater_keys) >= 0, name.last(less_keys) >= 0)
    if by_word:
        return _single_rule(by_word, score, caller)
    greater, less = name.last(_GREATER_WORDS), name.last(_LESS_WORDS, _LESS_COMPOUNDS)
    by_part = _rules(_is_part(greater_keys, score) and less < 0, _is_part(less_keys, score))
    if by_part:
        return _single_rule(by_part, score, caller)
    # A name with words of both kinds is a loss or an error if it begins with "loss"
    # ("loss_bbox_map") or ends in such a word ("top5_error"); any other is refused.
    if less > greater or (less >= 0 and name.begins_as_loss):
        greater = -1
    elif name.last(_INVERTING_WORDS) >= 0:
        less = max(less, greater)
    return _single_rule(_rules(greater >= 0, less >= 0), score, caller)


def _rules(greater: bool, less: bool) -> set[str]:
    return {rule for rule, applies in ((GREATER, greater), (LESS, less)) if applies}


def _single_rule(rules: set[str], score: str, caller: str) -> str:
    """The rule, if there is exactly one; else a ValueError."""
    if len(rules) != 1:
        why = "suggests both" if rules else "does not say"
        raise ValueError(
            f"{caller}: is a greater or a smaller {score!r} better? The name {why}: "
            "give rule='greater' or rule='less'"
        )
    return next(iter(rules))


def _is_part(keys: Iterable[str], score: str) -> bool:
    return any(key.lower() in score.lower() for key in keys)


class _Name:
    """The name of a score, split into words in each of the usual ways."""

    # Split at other characters than letters and digits; also between letters and digits; also
    # before capitals.
    _PATTERNS = (
        r"[A-Za-z0-9]+",
        r"[A-Za-z]+|[0-9]+",
        r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+",
    )

    def __init__(self, score: str) -> None:
        found = [list(re.finditer(pattern, score)) for pattern in self._PATTERNS]
        # For each way of splitting, the words with their positions in the name.
        self._splits = [[(each[0].lower(), each.start()) for each in words] for words in found]
        for each in found[-1]:
            if each[0] == "AR":  # average recall; "ar" in lower case may mean anything
                self._splits.append([("recall", each.start())])
        last_part = _words(re.split(r"[/.:]", score)[-1])
        own = [word for word in last_part if word not in _PREFIXES]
        self.begins_as_loss = own[:1] in (["loss"], ["losses"])

    def last(self, keys: Iterable[str], pattern: re.Pattern[str] = _NO_WORD) -> int:
        """The position in the name at which the last of these keys begins; -1 if none is in it.

        Args:
            keys: each of them a word, or several words in a row; case does not matter.
            pattern: words that match it count as keys too.
        """
        wanted = list(filter(None, map(_words, keys)))
        last = -1
        for split in self._splits:
            words = [word for word, _ in split]
            for index, (word, start) in enumerate(split):
                is_key = any(words[index : index + len(key)] == key for key in wanted)
                if is_key or pattern.fullmatch(word):
                    last = max(last, start)
        return last


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
