"""Rows to Markdown tables: every number with its 95 % interval in brackets, and how many observations it rests on."""

from collections.abc import Sequence

import pandas as pd

from experiments.storage import records

# What is a share is printed in percent.
_SHARES = (
    "accuracy",
    "exact_match",
    "balanced_accuracy",
    "success_rate",
    "unmoved",
    "nonfinite",
    "sdc",
    "critical_1",
    "critical_5",
    "critical_10",
    "clean_accuracy",
    "sdc_trial",
    "due_trial",
    "recall",
)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [list(header), ["---"] * len(header), *map(list, lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def cell(rows: pd.DataFrame) -> str:
    """The number of the first row with its interval: `81.2 [79.0, 83.3]`; a dash where there is no row."""
    if rows.empty:
        return "-"
    row = rows.iloc[0]
    return records.interval_text(row.value, row.low, row.high, percent=row.metric in _SHARES)


def grid(rows: pd.DataFrame, *, metric: str, strengths: str) -> str:
    """A line per method and a column per strength; n is a range where the strengths rest on different numbers.

    Args:
      rows: of one threat.
      metric: which of its metrics.
      strengths: what the columns are, for the table's corner.
    """
    rows = records.select(rows, metric=metric)
    columns = sorted(set(rows["strength"]))
    lines = []
    for method, part in rows.groupby("method", sort=False):
        cells = [cell(part[part["strength"] == strength]) for strength in columns]
        lines.append([words(method), *cells, counts(part)])
    return markdown([strengths, *(f"{strength:g}" for strength in columns), "n"], lines)


def metrics(rows: pd.DataFrame) -> str:
    """A line per metric of the same images."""
    lines = [
        [
            words(row.metric) + (" (%)" if row.metric in _SHARES else ""),
            cell(rows.iloc[[place]]),
            f"{int(row['count']):,}",
        ]
        for place, (_, row) in enumerate(rows.iterrows())
    ]
    return markdown(["metric", "value [95 % interval]", "n"], lines)


def faults(rows: pd.DataFrame) -> str:
    """A line per campaign of random faults."""
    rows = rows[rows["method"].str.startswith("random_") & (rows["method"] != "random_control")]
    names = ("accuracy", "critical_1", "critical_5", "critical_10", "sdc", "nonfinite")
    lines = []
    for (target, method, flips), part in rows.groupby(["threat", "method", "strength"], sort=False):
        cells = [cell(records.select(part, metric=name)) for name in names]
        drawing = f"uniform over {method.removeprefix('random_')}"
        lines.append([target, drawing, f"{flips:g}", *cells, counts(part)])
    header = ["target", "drawing", "bits", "mean accuracy (%)", "lose > 1 point (% of trials)", "> 5", "> 10"]
    return markdown([*header, "changed decisions (% of images)", "non-finite (% of images)", "trials"], lines)


def layers(rows: pd.DataFrame, target: str, count: int = 10) -> str:
    """The layers and bit fields that cost most when one bit flips.

    Args:
      rows: of the fault stage.
      target: weights or activations.
      count: how many lines.
    """
    rows = rows[
        rows["method"].str.startswith("layerwise/") & (rows["metric"] == "accuracy_loss") & (rows["threat"] == target)
    ]
    rows = rows.sort_values("value", ascending=False).head(count)
    lines = []
    for place, row in enumerate(rows.itertuples()):
        _, field, layer = row.method.split("/", 2)
        lines.append([f"`{layer}`", field, points(rows.iloc[[place]]), f"{int(row.count):,}"])
    return markdown(["layer", "bit field", "mean accuracy lost (points)", "trials"], lines)


def campaign(rows: pd.DataFrame) -> str:
    """A line per number format of a campaign."""
    names = (
        "clean_accuracy",
        "accuracy",
        "auc",
        "sdc",
        "sdc_trial",
        "critical_1",
        "critical_5",
        "critical_10",
        "due_trial",
    )
    lines = []
    for method in dict.fromkeys(records.select(rows, metric="clean_accuracy")["method"]):
        part = records.select(rows, method=method)
        cells = [cell(records.select(part, metric=name)) for name in names]
        lines.append([method, *cells, counts(records.select(part, metric="accuracy"))])
    header = [
        "weights held in",
        "accuracy without a fault (%)",
        "with (%)",
        "AUC with",
        "changed decisions (% of images)",
    ]
    header += ["trials with one (%)", "lose > 1 point (% of trials)", "> 5", "> 10", "non-finite outputs (% of trials)"]
    return markdown([*header, "trials"], lines)


def campaign_groups(rows: pd.DataFrame, group: str, count: int = 12) -> str:
    """What of a group costs most: a line each, at most `count` for every number format.

    Args:
      rows: of a campaign, with the columns that `campaign_plots.lost` adds for this group.
      group: what the lines are of, such as kind or layer, for the table's corner.
      count: how many lines.
    """
    lines = []
    for number_format, part in rows.groupby("format", sort=False):
        for row in part.sort_values("lost", ascending=False, kind="stable").head(count).itertuples():
            text = records.interval_text(row.lost / 100, row.least / 100, row.most / 100, percent=True)
            lines.append([number_format, f"`{row.name}`", text, f"{int(row.count):,}"])
    return markdown(["weights held in", group, "mean accuracy lost (points)", "trials"], lines)


def points(rows: pd.DataFrame) -> str:
    """A loss of accuracy with its interval, in points of a hundred."""
    row = rows.iloc[0]
    return records.interval_text(row.value, row.low, row.high, percent=True)


def counts(rows: pd.DataFrame) -> str:
    """How many observations the rows rest on: `256`, or `32 to 256`."""
    least, most = int(rows["count"].min()), int(rows["count"].max())
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def words(name: str) -> str:
    """A name as prose: `gaussian_noise` as `gaussian noise`."""
    known = {
        "auc": "AUC",
        "ece": "calibration error (ECE)",
        "nonfinite": "non-finite outputs",
        "any_of_linf": "worst of these attacks",
        "any_of_l2": "worst of these attacks",
        "fgsm": "FGSM",
        "r_fgsm": "R+FGSM",
        "mi_fgsm": "MI-FGSM",
        "bim": "BIM",
        "pgd": "PGD",
        "apgd_ce": "APGD, cross-entropy",
        "apgd_dlr": "APGD, logit ratio",
        "apgd_t": "APGD, targeted",
        "square": "Square Attack",
        "spsa": "SPSA",
        "hop_skip_jump": "HopSkipJump",
        "deepfool": "DeepFool",
        "cw": "Carlini-Wagner",
        "fab": "FAB",
        "autoattack": "AutoAttack",
    }
    # Tables are of one norm.
    return known.get(name) or known.get(name.removesuffix("_l2")) or name.replace("_", " ")
