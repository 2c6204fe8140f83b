"""`duet memorisation`: does a model repeat clips of its training set?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Path as PathKind

from duet.cli.evaluate import progress_bar, read_model
from duet.cli.exit_status import FAILED, USAGE, fail
from duet.cli.options import DEVICES, DTYPES, option, within
from duet.cli.output import echo

MAX_CLIPS = 100_000
SHOWN = 16
"""Pairs on the page."""

HELD_OUT_SEED = 20_260_001
"""`bounce` clips that no run trained on."""


def memorisation(
    model: Annotated[str, Parameter(help="A model's folder, or the name of a model that ships with Duet.")],
    /,
    *,
    training: Annotated[
        Path | None, option("Folder of the training films; default: the data set bounce.", metavar="FOLDER")
    ] = None,
    held_out: Annotated[
        Path | None, option("Folder of films that were not trained on, with --training.", metavar="FOLDER")
    ] = None,
    data_seed: Annotated[
        int | None,
        option("data.seed of a training on bounce; default: that in the model's training record.", validator=within(0)),
    ] = None,
    clips: Annotated[int, option("Samples.", validator=within(2, MAX_CLIPS), show_default=True)] = 64,
    training_clips: Annotated[
        int, option("Training clips to compare with.", validator=within(2, MAX_CLIPS), show_default=True)
    ] = 4096,
    steps: Annotated[int, option("Steps of the sampler.", validator=within(1), show_default=True)] = 20,
    seed: Annotated[int, option("Seed of the samples.", validator=within(0), show_default=True)] = 0,
    out: Annotated[
        Path, option("Folder for pairs.html and nearest.json.", validator=PathKind(file_okay=False), show_default=True)
    ] = Path("memorisation"),
    device: Annotated[str, option("Device.", choices=DEVICES, show_default=True)] = "auto",
    dtype: Annotated[str, option("Type of numbers.", choices=("auto", *DTYPES), show_default=True)] = "auto",
) -> None:
    """Find the nearest training clip of each sample, and compare with held-out real clips."""
    from dataclasses import replace

    import torch

    from model.checkpoint.loading import CheckpointError
    from model.evaluation.generation import ClipGenerator, EvaluationRun, real_clips
    from model.evaluation.memorisation import CHANCE, OtherTrainingData, bounce_clips, film_clips, seed_of, write_pairs
    from model.evaluation.memorisation import memorisation as compare
    from model.evaluation.reference_clips import NoReference
    from model.request import RequestError, SamplingParams
    from model.runtime.pipeline import Pipeline

    if (training is None) != (held_out is None):
        raise fail(USAGE, "--training and --held-out go together: give both or neither")
    manifest = read_model(model)
    if not manifest.config.base.coupled:
        raise fail(USAGE, f"the model {manifest.name} has one modality only; pairs are compared by both")
    spec = manifest.config.clip
    try:
        if training is not None and held_out is not None:
            known = film_clips(training, spec, training_clips, seed)
            others = film_clips(held_out, spec, clips, seed)
        else:
            known = bounce_clips(spec, seed_of(manifest) if data_seed is None else data_seed, training_clips)
            others = bounce_clips(spec, HELD_OUT_SEED, max(clips, 256))
        base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
        generator = ClipGenerator(Pipeline.load(base_only, device, dtype))
        with progress_bar() as bar:
            task = bar.add_task("samples", total=clips)
            run = EvaluationRun("joint", None, "train")
            some = real_clips(spec, "train", 1).map(lambda value: value.expand(clips, *value.shape[1:]))
            made = generator.make(run, SamplingParams(seed, steps=steps), some, lambda: bar.advance(task))
        made = made.map(torch.Tensor.cpu)
        found = compare(made, known.clips, others.clips, spec)
        out.mkdir(parents=True, exist_ok=True)
        write_pairs(found, made, known, spec, out / "pairs.html", SHOWN)
        (out / "nearest.json").write_text(found.to_json(known), encoding="utf-8")
    except (NoReference, OtherTrainingData, RequestError) as error:
        raise fail(USAGE, str(error)) from error
    except (CheckpointError, MemoryError) as error:
        raise fail(FAILED, str(error)) from error
    except OSError as error:
        raise fail(FAILED, f"{error.filename or 'a file'}: {error.strerror or error}") from error
    echo(f"{clips} samples, {len(known.names)} training clips, {len(others.names)} held-out clips")
    echo(
        f"median distance to the nearest training clip: samples {float(found.distance.median()):.3f}, "
        f"held-out clips {float(found.held_out.median()):.3f}"
    )
    echo(
        f"{len(found.suspicious)} samples are nearer than {found.limit:.3f}, the {CHANCE:.0%} quantile of held-out "
        f"clips; by chance {found.chance * len(found.distance):.1f}"
    )
    echo(f"wrote pairs.html and nearest.json to {out}")
