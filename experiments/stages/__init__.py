"""The stages of a run, in order: each takes the run's context and returns its rows.

A new stage is a file here with `run(context) -> list[records.Measurement]` and a line in `STAGES`.
"""

from experiments.stages import adversarial, clean, context, corruption, fault, occlusion, train

STAGES: dict[str, context.Stage] = {
    "train": train.run,
    "clean": clean.run,
    "adversarial": adversarial.run,
    "occlusion": occlusion.run,
    "corruption": corruption.run,
    "fault": fault.run,
}
