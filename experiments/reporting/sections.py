"""The sections of a report, each a function of rows and of the figures that were drawn from them.

A section whose rows are not there is an empty string.
"""

from collections.abc import Callable

import pandas as pd

from experiments.reporting import by_class, by_fill, campaign_plots, tables
from experiments.storage import records

# Attacks that climb the gradient from the clean image on.
_CLIMBING = ("fgsm", "r_fgsm", "bim", "mi_fgsm", "pgd", "apgd")
_FGSM = (
    "FGSM takes one step from the clean image, and the clean image is kept where that step is no better for the "
    "attacker: the figures are of the best of the two."
)
# As many corruptions as the brief names.
_FEW = 5

# Name of a figure (`plots.FIGURES`) -> its place relative to the report.
Figures = dict[str, str]


def _brief(rows: pd.DataFrame, figures: Figures) -> str:
    accuracy = records.select(rows, metric="accuracy")
    lines = []

    def add(what: str, part: pd.DataFrame) -> None:
        if len(part):
            lines.append([what, tables.cell(part), f"{int(part.iloc[0]['count']):,}"])

    add("clean test images", records.select(accuracy, stage="clean", method="test"))
    attacks = records.select(accuracy, stage="adversarial", threat="linf")
    for method in (name for name in dict.fromkeys(attacks["method"]) if name != "uniform_noise"):
        for epsilon in (1.0, 8.0):
            add(
                f"{tables.words(method)}, epsilon {epsilon:g}/255",
                records.select(attacks, method=method, strength=epsilon),
            )
    for fill, part in list(by_fill.split(records.select(accuracy, stage="occlusion", strength=0.5)).items())[:1]:
        how = "" if fill == "zero" else f", {by_fill.TITLES[fill]}"
        for method in ("random", "salient"):
            add(f"half of the patches dropped, {method}{how}", records.select(part, method=method))
    damaged = records.select(accuracy, stage="corruption", strength=5.0)
    few = len(damaged) <= _FEW
    for method in (damaged if few else damaged.sort_values("value").head(_FEW))["method"]:
        among = "" if few else f", of {len(damaged)} corruptions among the worst {_FEW}"
        add(f"{tables.words(method)}, severity 5{among}", records.select(damaged, method=method))
    random = records.select(accuracy, stage="fault", method="random_bits", strength=1.0)
    worst = records.select(accuracy, stage="fault", method="worst", strength=1.0)
    for target in dict.fromkeys(records.select(accuracy, stage="fault")["threat"]):
        add(f"one random bit flipped in {target}, mean over trials", records.select(random, threat=target))
        add(f"the worst bit found flipped in {target}", records.select(worst, threat=target))
    return "## In brief\n\n" + tables.markdown(["images and model", "accuracy (%)", "n"], lines) if lines else ""


def _training(rows: pd.DataFrame, figures: Figures) -> str:
    rows = records.select(rows, stage="train")
    chosen = rows[rows["method"].str.startswith("chosen_by_")]
    if chosen.empty:
        return ""
    epochs = len(records.select(rows, method="val", metric="accuracy"))
    epoch, selected_by = int(chosen.iloc[0].strength), chosen.iloc[0].method.removeprefix("chosen_by_")
    text = (
        f"The weights are those of epoch {epoch} of {epochs}, chosen by the validation {tables.words(selected_by)}; "
        "of equals, the one of lower loss. On the validation images they reach:"
    )
    return "\n\n".join(["## Training", text, tables.metrics(chosen), _figure(figures, "training")])


def _clean(rows: pd.DataFrame, figures: Figures) -> str:
    rows = records.select(rows, stage="clean", method="test")
    return f"## Clean test images\n\n{tables.metrics(rows)}" if len(rows) else ""


def _adversarial(rows: pd.DataFrame, figures: Figures) -> str:
    rows = records.select(rows, stage="adversarial")
    if rows.empty:
        return ""
    methods = set(rows["method"])
    # Others give the clean image back by design where nothing lies within the radius.
    climbing = tuple(name for name in methods if name.startswith(_CLIMBING))
    unmoved = records.select(rows, metric="unmoved", method=climbing).sort_values("value").tail(1)
    parts = [
        "## Adversarial attacks",
        "Accuracy after the attack, in percent. An image counts as robust to several attacks if none succeeds at that "
        "radius or a smaller one; uniform noise of the same size is the control.",
        _FGSM if methods & {"fgsm", "fgsm_l2"} else "",
        "An attack up a gradient that finds no step worth taking says little: "
        f"at most {tables.cell(unmoved)} % of the images that were right were left as they were."
        if len(unmoved)
        else "",
        _figure(figures, "adversarial"),
    ]
    for norm, strengths in (("linf", "L-inf, epsilon x 255"), ("l2", "L2, epsilon")):
        part = records.select(rows, threat=norm)
        for metric in ("accuracy", "exact_match") if len(part) else ():
            if len(records.select(part, metric=metric)):
                title = "Accuracy" if metric == "accuracy" else "Every label right"
                parts += [f"{title}:", tables.grid(part, metric=metric, strengths=strengths)]
        if len(part):
            parts += [
                "Success rate among the images that were right before:",
                tables.grid(part, metric="success_rate", strengths=strengths),
            ]
        if len(records.select(part, metric="ece")):
            parts += ["Calibration error (ECE):", tables.grid(part, metric="ece", strengths=strengths)]
        strongest, recall = by_class.recall(rows, norm)
        if recall:
            title = f"Right in each class (%), by {strengths}, under {tables.words(strongest)}:"
            parts += [title, recall]
    parts.append(_figure(figures, "confusion"))
    return "\n\n".join(part for part in parts if part)


def _occlusion(rows: pd.DataFrame, figures: Figures) -> str:
    fills = by_fill.split(records.select(rows, stage="occlusion"))
    if not fills:
        return ""
    black = not set(fills) - {"zero"}
    parts = ["## Occlusion", *([] if black else [by_fill.EXPLANATION]), _figure(figures, "occlusion")]
    for fill, part in fills.items():
        parts.append("Accuracy (%):" if black else f"Accuracy (%), {by_fill.TITLES[fill]}:")
        parts.append(tables.grid(part, metric="accuracy", strengths="patches dropped (share)"))
    return "\n\n".join(parts)


def _corruption(rows: pd.DataFrame, figures: Figures) -> str:
    rows = records.select(rows, stage="corruption")
    if rows.empty:
        return ""
    by_source = rows.groupby("threat", sort=False)["method"].unique()
    named = {source.partition("/")[2]: ", ".join(map(tables.words, names)) for source, names in by_source.items()}
    sources = "; of ".join(f"{source}: {names}" for source, names in named.items())
    parts = ["## Corruptions", f"Published strengths of {sources}.", _figure(figures, "corruption")]
    titles = {"accuracy": "Accuracy (%):", "auc": "AUC:", "ece": "Calibration error (ECE):"}
    for metric, title in titles.items():
        if len(records.select(rows, metric=metric)):
            parts += [title, tables.grid(rows, metric=metric, strengths="severity")]
    return "\n\n".join(parts)


def _fault(rows: pd.DataFrame, figures: Figures) -> str:
    rows = records.select(rows, stage="fault")
    if rows.empty:
        return ""
    parts = ["## Flipped bits", *_campaign(rows, figures), *_random_faults(rows, figures)]
    for target in dict.fromkeys(rows["threat"]):
        part = records.select(rows, threat=target)
        if part["method"].str.startswith("layerwise/").any():
            parts += [
                f"### Layer by layer, {target}",
                _figure(figures, f"fault_layers_{target}"),
                "Where one flipped bit costs most:",
                tables.layers(rows, target),
            ]
    worst = records.select(rows, method=("worst", "random_control"), metric="accuracy")
    for target in dict.fromkeys(worst["threat"]):
        parts += [
            f"### Worst case, {target}",
            "Accuracy (%) on test images after so many flips: those that a gradient-ranked search on validation images "
            "found, and as many at random.",
            tables.grid(records.select(worst, threat=target), metric="accuracy", strengths="bits flipped"),
        ]
    return "\n\n".join([*parts, *([_figure(figures, "fault_worst")] if len(worst) else [])])


def _campaign(rows: pd.DataFrame, figures: Figures) -> list[str]:
    rows = records.select(rows, threat="campaign")
    if rows.empty:
        return []
    parts = [
        "### Campaign",
        "Every trial is one drawing of faults; `config.json` says where, what and how. Shares of trials have Wilson's "
        "interval; means one that counts on a few losses that were not seen, as faults are rare and grave; where the "
        "campaign stopped when the interval was narrow enough, that interval holds however often one looks.",
        tables.campaign(rows),
    ]
    pairs = rows[rows["method"].str.contains(" - ", regex=False)]
    for row in pairs[pairs["metric"] == "accuracy"].itertuples():
        text = records.interval_text(row.value, row.low, row.high, percent=True)
        parts.append(f"Accuracy under fault, {row.method}, in points, trial by trial: {text} (n = {int(row.count):,}).")
    for group in ("kind", "field", "stage", "branch", "part", "layer"):
        found = campaign_plots.lost(rows, group)
        if len(set(found["name"])) > 1:
            parts += [f"Where it costs most, by {group}:", tables.campaign_groups(found, group)]
    return [*parts, _figure(figures, "campaign_bits"), _figure(figures, "campaign_layers")]


def _random_faults(rows: pd.DataFrame, figures: Figures) -> list[str]:
    if not rows["method"].isin(("random_bits", "random_layers")).any():
        return []
    return [
        "### Random flips",
        "Uniform over bits is what errors of a memory are; uniform over layers, then over the bits of the layer, "
        "counts small layers as much as large ones. "
        "A fault in activations hits the same element for every image. "
        "Intervals of shares of trials are Wilson's, those of means over trials allow for rare, large losses.",
        tables.faults(rows),
        _figure(figures, "fault_losses"),
        _figure(figures, "fault_bits"),
    ]


def _gallery(rows: pd.DataFrame, figures: Figures) -> str:
    return f"## Gallery\n\n{_figure(figures, 'gallery')}" if "gallery" in figures else ""


def _figure(figures: Figures, name: str) -> str:
    return f"![{tables.words(name)}]({figures[name]})" if name in figures else ""


SECTIONS: tuple[Callable[[pd.DataFrame, Figures], str], ...] = (
    _brief, _training, _clean, _adversarial, _occlusion, _corruption, _fault, _gallery,
)  # fmt: skip
