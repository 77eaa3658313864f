"""Write the tables of measured figures into the documents that have markers for them.

    python -m benchmarks.report                 # the documents with tables, and their pictures
    python -m benchmarks.report --check         # fails where a document is not up to date

Between markers such as ``<!-- bench:start -->`` and ``<!-- bench:end -->`` goes a table: the few
headlines of ``bench-headlines`` (``bench-headlines-zh``: in Chinese), the summary and the promises
of ``bench``, and every system of every figure of ``bench-details``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for ``python -m benchmarks.report``

from headlines import HEADLINES, Headline, best_of_torch, times_hookrun, unit_of, with_sign
from peers import ALL_PEERS

FOLDER = Path(__file__).resolve().parent
DOCUMENTS = [
    FOLDER.parent / name for name in ("README.md", "docs/zh/README.md", "docs/benchmarks.md")
]
COMMAND = "make bench"
TIMES = "\N{MULTIPLICATION SIGN}"
DISTRIBUTION = {
    "MMCV": "mmcv",
    "MMEngine": "mmengine",
    "Ignite": "pytorch-ignite",
    "Lightning": "lightning",
    "HF Trainer": "transformers",
}


def newest_results(folder: Path = FOLDER / "results") -> dict[str, Any]:
    """The latest of each figure that was measured on a processor.

    Each says itself when it was measured; machine and versions are those of the latest file, but
    for peers that were not installed then.
    """
    files = sorted(folder.glob("*-????-??-??.json"), key=lambda path: path.stem[-10:])
    found = [json.loads(path.read_text()) for path in files]
    merged: dict[str, Any] = {"versions": {}, "figures": {}}
    for results in found:
        if "gpu" in results["machine"]:
            continue
        merged["machine"] = results["machine"]
        installed = {name: each for name, each in results["versions"].items() if each}
        merged["versions"] |= installed
        merged["figures"] |= results["figures"]
    if not merged["figures"]:
        raise SystemExit("there are no results yet: run the benchmarks first")
    merged["figures"] = dict(sorted(merged["figures"].items()))
    return merged


def read_results(given: Path | None) -> dict[str, Any]:
    """The results of a file; the newest if none is given."""
    return json.loads(given.read_text()) if given else newest_results()


def headlines(results: dict[str, Any]) -> str:
    """A table of the headlines, with the machine."""
    machine, versions = results["machine"], results["versions"]
    rows = [_headline_row(each, each.title, results) for each in HEADLINES]
    origin = (
        f"{machine['cpu']}, {machine['cores']} cores, torch {versions['torch']}, "
        f"{_origin_of(_figures_of_headlines(results))}; {TIMES} is times hookrun's time."
    )
    heads = ["", "hookrun", _with_version("MMCV", versions), "best of torch"]
    return _table(heads, rows) + "\n\n" + origin


def chinese_headlines(results: dict[str, Any]) -> str:
    """The same in Chinese."""
    machine, versions = results["machine"], results["versions"]
    rows = [_headline_row(each, each.chinese, results, "未测量") for each in HEADLINES]
    days, commits = _days_and_commits(_figures_of_headlines(results))
    origin = (
        f"{machine['cpu']}，{machine['cores']} 核，torch {versions['torch']}，{'、'.join(days)}，"
        f"提交 {'、'.join(commits)}，命令 `{COMMAND}`；{TIMES} 表示是 hookrun 用时的几倍。"
    )
    heads = ["", "hookrun", _with_version("MMCV", versions), "torch 最快的写法"]
    return _table(heads, rows) + "\n\n" + origin


def _figures_of_headlines(results: dict[str, Any]) -> list[dict[str, Any]]:
    figures = results["figures"]
    return [figures[each.key] for each in HEADLINES if each.key in figures]


def _headline_row(
    headline: Headline, title: str, results: dict[str, Any], missing: str = "not measured"
) -> list[str]:
    figure = results["figures"].get(headline.key)
    if figure is None:
        return [title, missing, "", ""]
    systems, unit = figure["systems"], unit_of(figure)
    row = [title, f"**{_number(systems[figure['subject']]['median'])} {unit}**"]
    for name in ("MMCV", best_of_torch(figure)):
        known = name is not None and name in systems
        row.append(
            f"{_number(systems[name]['median'])} {unit} ({_times(times_hookrun(figure, name))})"
            if known
            else ""
        )
    return row


def summary(results: dict[str, Any]) -> str:
    """hookrun against floor and peers, and against what was promised."""
    figures = _comparisons(results)
    peers = [name for name in ALL_PEERS if any(name in figure["systems"] for figure in figures)]
    heads = [_with_version(name, results["versions"]) for name in peers]
    rows = [_summary_row(figure, peers) for figure in figures]
    promises = [_promise_row(figure, target) for figure in figures for target in figure["targets"]]
    return "\n\n".join(
        [
            _origin(results),
            _table(["", "floor", "hookrun", *heads, "best of torch"], rows),
            _table(["promise", "measured", "promised", "", "at the floor"], promises),
            *_growth(results, "growth.png"),
        ]
    )


def details(results: dict[str, Any]) -> str:
    """Every system of every figure."""
    tables = map(_details_of, _comparisons(results))
    return "\n\n".join([_origin(results), *tables])


def _comparisons(results: dict[str, Any]) -> list[dict[str, Any]]:
    """All figures but those of how cost grows."""
    return [figure for figure in results["figures"].values() if "systems" in figure]


def _growth(results: dict[str, Any], picture: str) -> list[str]:
    """The table of straight lines and the picture of them, if any was measured."""
    rows = [
        [
            f"{figure['title']}: {name}",
            f"{line['points'][0][0]:,} to {line['points'][-1][0]:,}",
            f"{_number(line['intercept'])} {with_sign(figure['unit'])}",
            f"{_number(line['slope'])} {with_sign(figure['unit'])} per {figure['counted']}",
            f"{line['r_squared']:.3f}",
            f"{line['farthest']:.1%}",
        ]
        for figure in results["figures"].values()
        for name, line in figure.get("lines", {}).items()
    ]
    heads = ["how cost grows", "count", "without any", "for each", "R²", "farthest from the line"]
    return [_table(heads, rows), f"![How cost grows]({picture})"] if rows else []


def _summary_row(figure: dict[str, Any], peers: list[str]) -> list[str]:
    floor, systems = figure["floor"], figure["systems"]
    subject = systems[figure["subject"]]
    title = f"{figure['title']}, {with_sign(figure['unit'])}"
    form = figure["subject"].removeprefix("hookrun").removeprefix(", ")
    of_floor = ", ".join(filter(None, [form, _times(subject["times_floor"])]))
    row = [title, f"{_number(floor['median'])} ({floor['name']})"]
    row.append(f"**{_number(subject['median'])}** ({of_floor})")
    for name in [*peers, best_of_torch(figure)]:
        known = name is not None and name in systems
        row.append(
            f"{_number(systems[name]['median'])} ({_times(times_hookrun(figure, name))})"
            if known
            else ""
        )
    return row


def _promise_row(figure: dict[str, Any], target: dict[str, Any]) -> list[str]:
    at_floor = ""
    if target.get("at_least") is not None:
        unit = f"{TIMES} {target.get('than') or figure['subject']}"
        promised = f"at least {target['at_least']:.4g} {unit}"
        at_floor = _times(figure["systems"][target["system"]]["times_floor"])
    else:
        of = target["of"]
        unit = f"{TIMES} {figure['floor']['name']}" if of == "floor" else with_sign(of)
        promised = f"at most {target['at_most']:.4g} {unit}"
    return [
        f"{figure['title']}: {target['system']}",
        "lost in noise" if target["measured"] is None else f"{target['measured']:.2f} {unit}",
        promised,
        "kept" if target["met"] else "**not kept**",
        at_floor,
    ]


def _details_of(figure: dict[str, Any]) -> str:
    baseline, floor = figure["baseline"], figure["floor"]
    less = f", less {baseline['name']} ({_number(baseline['median'])})" if baseline else ""
    text = (
        f"**{figure['title']}**, {with_sign(figure['unit'])}: medians and minima of "
        f"{figure['rounds']} rounds at commit {figure['commit']}{less}. "
        f"The floor is {floor['name']}: {floor['is']}."
    )
    rows = [
        [
            name,
            _number(system["median"]),
            _number(system["min"]),
            _times(system["times_floor"]),
            _share(system["share_that_is_floor"]),
            _times(system[f"times_{figure['subject']}"]),
            f"{system['python_calls']:.0f}" if "python_calls" in system else "",
        ]
        for name, system in figure["systems"].items()
    ]
    rows.insert(0, [floor["name"], _number(floor["median"]), _number(floor["min"]), "", "", "", ""])
    rows += [[name, f"not measured: {why}", *[""] * 5] for name, why in figure["missing"].items()]
    heads = [
        "",
        "median",
        "min",
        f"{TIMES} floor",
        "of it floor",
        f"{TIMES} hookrun",
        "Python calls",
    ]
    return text + "\n\n" + _table(heads, rows)


def _origin(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    return (
        f"Measured on {machine['cpu']} with {machine['cores']} cores, Python {versions['python']}, "
        f"torch {versions['torch']}, {_origin_of(results['figures'].values())}. In brackets: "
        f"{TIMES} the floor for hookrun, {TIMES} hookrun for the others; for whole iterations and "
        "SyncBuffersHook, this is the median of the ratios of the single rounds, not the ratio of "
        "the medians. At the floor: what the ratio would be if "
        "hookrun took no longer than the floor, that is for an update, if it moved its bytes as "
        "fast as a plain torch operation does and did nothing else."
    )


def _origin_of(figures: Iterable[dict[str, Any]]) -> str:
    """When, from which commits and by which command."""
    days, commits = _days_and_commits(figures)
    several = "s" if len(commits) > 1 else ""
    return f"{' and '.join(days)}, commit{several} {' and '.join(commits)}, by `{COMMAND}`"


def _days_and_commits(figures: Iterable[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Without repetition, in order."""
    found = list(figures)
    days = sorted({figure["measured"][:10] for figure in found})
    return days, list(dict.fromkeys(figure["commit"] for figure in found))


def _with_version(name: str, versions: dict[str, str | None]) -> str:
    return f"{name} {versions.get(DISTRIBUTION[name]) or ''}".strip()


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if abs(amount) >= 100 else f"{amount:.3g}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{_number(ratio)} {TIMES}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


RENDERERS = {
    "bench-headlines": headlines,
    "bench-headlines-zh": chinese_headlines,
    "bench": summary,
    "bench-details": details,
}


def filled_in(text: str, results: dict[str, Any]) -> str:
    """The document with the tables between its markers replaced."""
    for marker, render in RENDERERS.items():
        start, end = f"<!-- {marker}:start -->", f"<!-- {marker}:end -->"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        if pattern.search(text):
            table = f"{start}\n{render(results)}\n{end}"
            text = pattern.sub(lambda _, table=table: table, text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", nargs="*", type=Path, help="all that have tables by default")
    parser.add_argument("--results", type=Path, help="the results file; the newest by default")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where it would")
    arguments = parser.parse_args()
    results = read_results(arguments.results)
    stale = []
    for document in arguments.documents or DOCUMENTS:
        before = document.read_text()
        after = filled_in(before, results)
        if after != before:
            stale.append(str(document))
            if not arguments.check:
                document.write_text(after)
    if arguments.check and stale:
        sys.exit(f"not up to date with the results, run benchmarks/report.py: {', '.join(stale)}")
    if not arguments.check and not arguments.documents:
        draw(results)


def draw(results: dict[str, Any]) -> None:
    """The documents' pictures, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("the pictures stay as they are: matplotlib is not installed", file=sys.stderr)
        return
    import plot_growth
    import plot_headlines

    plot_growth.save(results, plot_growth.OUTPUT)
    plot_headlines.save(results, plot_headlines.OUTPUT)


if __name__ == "__main__":
    main()
