"""caption: describe real photos with a trained captioner, and store what was said."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import console
from ..artifacts import Artifact, Input, Recipe
from ..errors import Interrupted, SynticError
from ..settings import CaptionSettings, Run
from ..workspace import FILES, as_input, begun, find_input
from .captioner import SHIPPED, Caption, Captioner, named_objects
from .rows import making, map_rows, report_failures

STAGE = "caption"
BATCH_SIZE = {"cpu": 32, "cuda": 128, "mps": 32}


def caption(
    photos: Sequence[Path],
    workspace: str | Path,
    settings: CaptionSettings,
    run: Run | None = None,
    *,
    captioner: Path | None = None,
    support: Path | None = None,
    clip: str | None = None,
    detector: str | None = None,
    output: Path | None = None,
) -> Path:
    """Caption photos and store the result.

    Args:
        photos: image files, from `syntic_cli.photos.find_photos`.
        workspace: the folder of the run.
        settings: beam, lengths and temperature.
        run: how the stage runs.
        captioner: the captioner, if not the workspace's own or the shipped one.
        support: a features file whose text features replace the support set.
        clip, detector: other places of the frozen models than those it was trained with.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact, with a row for every photo in the order given.

    Raises:
        SynticError: see the message.
    """
    run = run or Run()
    path = output or Path(workspace) / FILES[STAGE]
    source = find_captioner(Path(workspace), captioner, quiet=run.quiet)
    recipe = _recipe(photos, source, path, settings, run, support, (clip, detector))
    # A file that was named is not renamed for another.
    unrelated = _of_other_photos if output is None else None
    with making(path, recipe, run, unrelated=unrelated) as making_output:
        if making_output is None:
            return path
        model = Captioner.load(
            source,
            settings=settings,
            support=support,
            clip=clip,
            detector=detector,
            device=run.device,
            dtype=run.dtype,
        )
        making_output.begin()
        map_rows(
            making_output,
            len(photos),
            model.mapper(photos),
            title=STAGE,
            unit="photos",
            batch_size=run.batch_size or BATCH_SIZE[model.device_type],
            run=run,
        )
        making_output.finish(columns={"vocabulary": model.vocabulary})
    with Artifact(path, STAGE) as made:
        report_failures(STAGE, made.texts("error"), "photos")
    return path


def caption_and_read(
    photos: Sequence[Path],
    workspace: Path,
    settings: CaptionSettings,
    run: Run,
    *,
    output: Path | None = None,
    **models: Any,
) -> list[Caption]:
    """Caption photos and return the rows.

    Where there is no workspace and no output is named, as with photos to be captioned by the way,
    nothing is left on the disk.
    """
    if output is not None or begun(workspace):
        return read_captions(caption(photos, workspace, settings, run, output=output, **models))
    with tempfile.TemporaryDirectory(prefix="syntic-") as folder:
        target = Path(folder) / FILES[STAGE]
        try:
            return read_captions(caption(photos, workspace, settings, run, output=target, **models))
        except Interrupted as interrupted:
            raise Interrupted(interrupted.signal_number, kept=False) from None


def _of_other_photos(earlier: Recipe, recipe: Recipe) -> bool:
    return earlier.inputs["photos"] != recipe.inputs["photos"]


def find_captioner(workspace: Path, given: Path | None, *, quiet: bool = False) -> Path:
    """The captioner to use: the one named, the workspace's own, or the one that ships.

    Raises:
        SynticError: where there is none, or where it is stale.
    """
    path = given or workspace / FILES["train"]
    if given is None and not path.exists():
        if not SHIPPED.exists():
            raise SynticError(f"{path}: no captioner; run the chain up to `syntic train` first")
        console.note(
            f"no captioner in {workspace}: using the small one that ships with syntic", quiet=quiet
        )
        return SHIPPED
    return find_input(workspace, "train", given=given)


def _recipe(
    photos: Sequence[Path],
    source: Path,
    path: Path,
    settings: CaptionSettings,
    run: Run,
    support: Path | None,
    models: tuple[str | None, str | None],
) -> Recipe:
    chosen: dict[str, Any] = {k: v for k, v in asdict(settings).items() if v is not None}
    chosen.update({k: v for k, v in zip(("clip", "detector"), models, strict=True) if v})
    chosen.update(run.chosen_dtype())
    inputs = {
        "photos": Input("photos", photos_digest(photos), f"{len(photos)} photos"),
        "captioner": as_input(source, path),
    }
    if support is not None:
        inputs["support"] = as_input(support, path)
    with Artifact(source, "train") as artifact:
        return Recipe(STAGE, chosen, inputs, artifact.recipe.models)


def photos_digest(photos: Sequence[Path]) -> str:
    """sha256 over the photos' paths, sizes and times of change, in their order."""
    digest = hashlib.sha256()
    for photo in photos:
        try:
            found = photo.stat()
            state = f"{found.st_size} {found.st_mtime_ns}"
        except OSError:
            state = "not there"
        digest.update(f"{photo}\0{state}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_captions(path: Path) -> list[Caption]:
    """The rows of a captions artifact.

    Raises:
        SynticError: where it cannot be read.
    """
    with Artifact(path, STAGE) as artifact:
        found = artifact.objects(0, artifact.rows)
        vocabulary = artifact.texts("vocabulary")
        cuts = found["offsets"]
        columns = zip(
            artifact.texts("path"),
            artifact.texts("caption"),
            artifact.numbers("log_probability").tolist(),
            artifact.texts("error"),
            strict=True,
        )
        return [
            Caption(
                photo,
                text,
                log_probability,
                named_objects(
                    found["label"][cuts[row] : cuts[row + 1]],
                    found["score"][cuts[row] : cuts[row + 1]],
                    found["box"][cuts[row] : cuts[row + 1]],
                    vocabulary,
                ),
                error,
            )
            for row, (photo, text, log_probability, error) in enumerate(columns)
        ]
