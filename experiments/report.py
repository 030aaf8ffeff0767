"""Rows to a report in Markdown, with its tables and figures in place; no model and no images are needed.

    python -m experiments.report RUN_FOLDER

draws the figures and writes the report of a run again, from what its folder holds.
"""

import pathlib
import sys
from typing import Any

from experiments.reporting import plots, sections, tables
from experiments.storage import folder

_DRAWN = "These images are drawn by a program. What is measured on them is evidence about software, not about medicine."
_OWN = (
    "A file of the user's own, filed under its own name. Its scores are not those of any official data set, even where "
    "the images resemble one."
)


def write(run: folder.RunFolder) -> pathlib.Path:
    """Draws the figures and writes `report.md`.

    Args:
      run: folder of a run; stages that are not finished are left out.

    Returns:
      The report's path.
    """
    about = run.about()
    folder.write_rows(run)
    rows, trials = run.rows(), run.faults()
    material = plots.Material(rows, trials, about["data"]["majority"], run.gallery)
    figures = plots.draw_all(material, run.figures)
    pictures = {name: path.relative_to(run.root).as_posix() for name, path in figures.items()}
    parts = [_heading(about), *(section(rows, pictures) for section in sections.SECTIONS), _made(run, about)]
    run.report.write_text("\n\n".join(part for part in parts if part) + "\n")
    return run.report


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m experiments.report RUN_FOLDER", file=sys.stderr)
        return 2
    try:
        print(write(folder.RunFolder(pathlib.Path(arguments[0]))))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _heading(about: dict[str, Any]) -> str:
    data = about["data"]
    counts = " / ".join(f"{count:,}" for count in data["images"].values())
    model, side, names = data["model"]["name"], data["image_size"], data["class_names"]
    lines = [
        f"# How reliable is {model} on {data['name']}?",
        f"{data['name']}: {counts} training / validation / test images of "
        f"{side} x {side} pixels, {len(names)} classes ({', '.join(names)}), task {data['task']}. "
        f"Source: {data['source']}. Licence: {data['licence'] or 'not stated'}.",
        f"{model}: {data['parameters']:,} parameters.",
        {"synthetic": _DRAWN, "file": _OWN}.get(data["source"].split()[0], ""),
        f"Every number has its 95 % interval{_other_confidence(about)} in brackets and the number of images or trials "
        "(n) that it rests on; accuracies are in percent. "
        f"Always giving the most frequent answer is right in {100 * data['majority']:.1f} %.",
        _sites_of_worst(about["identity"].get("fault", {})),
    ]
    return "\n\n".join(line for line in lines if line)


def _other_confidence(about: dict[str, Any]) -> str:
    confidence = (about["identity"].get("fault", {}).get("campaign") or {}).get("confidence", 0.95)
    return "" if confidence == 0.95 else f" (the fault campaign's: {100 * confidence:g} %)"


def _sites_of_worst(fault: dict[str, Any]) -> str:
    include, exclude = fault.get("worst_include"), fault.get("worst_exclude")
    if not include and not exclude:
        return ""
    without = f", without {', '.join(exclude)}" if exclude else ""
    sites = f"{', '.join(include or ['*'])}{without}"
    return f"The worst case, and the random flips beside it, are of some sites only: `{sites}`."


def _made(run: folder.RunFolder, about: dict[str, Any]) -> str:
    made, identity = about["made"], about["identity"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items() if version)
    lines = [
        ["command", f"`{made['command']}`"],
        ["code", f"commit {made['commit']}" if made["commit"] else "not a git checkout"],
        ["versions", f"Python {made['python']}, {versions}"],
        ["device", made["device"]],
        ["seed", str(identity["seed"])],
        ["data", f"SHA-256 of shapes, pixels and labels: {about['data']['sha256']}"],
        ["computed in", about["data"]["model"].get("dtype", "float32")],
        ["scan method", identity["model"]["scan_method"] or "none: this model has no selective scan"],
    ]
    stages = []
    for path in sorted((run.root / "finished").glob("*.json"), key=lambda path: path.stat().st_mtime):
        note = folder.finished(run, path.stem)
        stages.append([path.stem, f"{note['seconds']:.0f}", note["device"], _short(note["commit"])])
    return "\n\n".join([
        "## How this was made",
        tables.markdown(["what", "value"], lines),
        tables.markdown(["stage", "seconds", "device", "commit"], stages),
        "`config.json` holds the whole configuration, `rows.csv` every number above, `faults.csv` every fault trial. "
        "`python -m experiments.report FOLDER` draws this again.",
    ])  # fmt: skip


def _short(commit: str | None) -> str:
    head, _, changes = (commit or "").partition(" ")
    return f"{head[:12]} {changes}".strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
