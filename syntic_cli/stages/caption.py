"""caption: describe real photos with a trained captioner, and store what was said."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from .. import console
from ..artifacts.making import Earlier, making
from ..artifacts.reading import Artifact, Values
from ..artifacts.recipe import Input, Recipe
from ..artifacts.records import Caption, path_text, read_captions, reopen
from ..artifacts.workspace import begun, open_input
from ..captioner import Captioner
from ..errors import Interrupted, MissingError, shown
from ..models.identity import identity
from ..passes import Mapper, Opened, map_work
from ..presets import SHIPPED, SHIPPED_PRESET
from ..schema import CAPTION, TRAIN
from ..settings import DECODER, CaptionSettings, DetectSettings, Run
from ..sidecars import Sidecars

NOT_THERE = "not there"
# A machine that has none of the first so many photos has none.
PROBED_PHOTOS = 8
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
    objects: DetectSettings | None = None,
    sidecars: Sidecars | None = None,
    output: Path | None = None,
) -> Path:
    """Caption photos and store the result.

    Rows of photos that have not changed since are taken over from captions that are there.

    Args:
        photos: image files, from `syntic_cli.photos.find_photos`.
        workspace: the folder of the run.
        settings: beam, lengths and temperature.
        run: how the stage runs.
        captioner: the captioner, if not the workspace's own or the shipped one.
        support: a features file whose text features replace the support set.
        clip, detector: other places of the frozen models than those it was trained with.
        objects: a detector of objects to be shown, for a captioner that uses none; `detector` means
            one, too, for such a captioner.
        sidecars: write each caption to a text file, too, and leave photos out that have one; where
            all have one, no artifact is made.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact, with a row for every photo in the order given.

    Raises:
        SynticError: where there is no captioner, a model is not the one it was trained with,
            another artifact is in the way, or the output cannot be written.
    """
    run = run or Run()
    plan = _plan(
        photos,
        workspace,
        settings,
        run,
        sidecars,
        output,
        captioner=captioner,
        support=support,
        clip=clip,
        detector=detector,
        objects=objects,
    )
    if plan.work.photos:
        _make(plan, run, sidecars)
    return plan.path


def caption_and_read(
    photos: Sequence[Path],
    workspace: Path,
    settings: CaptionSettings,
    run: Run,
    *,
    sidecars: Sidecars | None = None,
    output: Path | None = None,
    keep: bool = False,
    **models: Any,
) -> list[Caption]:
    """Caption photos and return the rows.

    Where there is no workspace (nor `keep` to begin one) and no output is named, as with photos to
    be captioned by the way, nothing but text files is left on the disk.
    """
    if output is not None or keep or begun(workspace):
        plan = _plan(photos, workspace, settings, run, sidecars, output, **models)
        if not plan.work.photos:
            return []
        _make(plan, run, sidecars)
        return _read(plan.path)
    with tempfile.TemporaryDirectory(prefix="syntic-") as folder:
        target = Path(folder) / CAPTION.file
        plan = _plan(photos, workspace, settings, run, sidecars, target, **models)
        if not plan.work.photos:
            return []
        # They are all that stays of a run that is stopped, so they are written as it goes.
        plan = replace(plan, work=replace(plan.work, sidecars=sidecars))
        try:
            _make(plan, run, None)
        except Interrupted as interrupted:
            raise Interrupted(interrupted.signal_number, kept=sidecars is not None) from None
        return _read(plan.path)


@dataclass(frozen=True)
class _Plan:
    """What is to be made where; named: whether the artifact is one that an option names."""

    path: Path
    recipe: Recipe
    work: Describing
    named: bool


def _plan(
    photos: Sequence[Path],
    workspace: str | Path,
    settings: CaptionSettings,
    run: Run,
    sidecars: Sidecars | None,
    output: Path | None,
    *,
    captioner: Path | None = None,
    support: Path | None = None,
    clip: str | None = None,
    detector: str | None = None,
    objects: DetectSettings | None = None,
) -> _Plan:
    folder = Path(workspace)
    path = output or folder / CAPTION.file
    with open_captioner(folder, captioner, quiet=run.quiet) as source:
        given = {"captioner": source.as_input(path)}
        if support is not None:
            with open_input(folder, "encode", "optimize", "select", given=support) as texts:
                given["support"] = texts.as_input(path)
        if source.recipe.settings.get("objects", True):
            objects = None
        elif detector is not None:
            objects = replace(objects or DetectSettings(detector), model=detector)
            detector = None
        chosen = _chosen(settings)
        named = {"clip": clip, "detector": detector}
        chosen.update({role: name for role, name in named.items() if name})
        if objects is not None:
            shown = identity(objects.model, objects.revision)
            chosen["objects"] = f"{shown}, {objects.threshold}, {objects.max_objects}"
        chosen.update(run.chosen_dtype())
        recipe = Recipe(CAPTION.name, chosen, given, source.recipe.models)
        if sidecars is not None:
            known = _photos_there(path, recipe)
            photos = sidecars.choose(photos, known, quiet=run.quiet)
        states = [photo_state(photo) for photo in photos]
        counted = console.count(len(photos), "photo")
        inputs = {"photos": Input("photos", _digest(photos, states), counted), **given}
        work = Describing(
            photos, states, source.path, source.state, settings, support, clip, detector, objects
        )
        return _Plan(path, replace(recipe, inputs=inputs), work, named=output is not None)


def _chosen(settings: CaptionSettings) -> dict[str, Any]:
    """What of the settings changes the captions; the decoder's own are as before there was any
    other."""
    chosen = {name: value for name, value in asdict(settings).items() if value is not None}
    revision = chosen.pop("language_revision", None)
    if settings.language_model:
        chosen["language_model"] = identity(settings.language_model, revision)
    if settings.decoding == DECODER:
        del chosen["decoding"]
    if not settings.consensus:
        chosen.pop("shorten", None)
        del chosen["consensus"]
    if not (settings.consensus and settings.evidence):
        del chosen["evidence"]
    return chosen


def _make(plan: _Plan, run: Run, sidecars: Sidecars | None) -> None:
    """Make the artifact, and then the text files that photos lack."""
    photos, states = plan.work.photos, plan.work.states

    def earlier(existing: Artifact) -> Earlier | None:
        return _take_over(existing, plan.recipe, photos, states, named=plan.named)

    with making(plan.path, plan.recipe, run, earlier=earlier) as draft:
        if not draft.up_to_date:
            map_work(draft, len(photos), plan.work, run)
    with Artifact(plan.path, CAPTION.name) as made:
        errors = made.texts("error")
        console.failures(CAPTION.name, errors, "photo")
        cut = sum(map(bool, made.column("note")))
        if sidecars is not None:
            sidecars.write(photos, made.texts("caption"), errors)
    if cut:
        console.warn(
            f"{CAPTION.name}: {console.count(cut, 'photo')} whose file lacks its end, captioned "
            "from what is there"
        )


def _photos_there(path: Path, recipe: Recipe) -> set[Path]:
    """The unchanged photos of which captions by this recipe are there."""
    if not path.exists():
        return set()
    with Artifact(path, CAPTION.name) as existing:
        if not _same_but_photos(existing.recipe, recipe):
            return set()
        rows = zip(map(Path, existing.texts("path")), existing.column("state"), strict=True)
        return {photo for photo, state in rows if photo_state(photo) == state}


def _read(path: Path) -> list[Caption]:
    with Artifact(path, CAPTION.name) as artifact:
        return read_captions(artifact)


@dataclass(frozen=True)
class Describing:
    """The work of captioning photos with the captioner at `source` while it is in this state."""

    photos: Sequence[Path]
    states: Sequence[str]
    source: Path
    state: str
    settings: CaptionSettings
    support: Path | None
    clip: str | None
    detector: str | None
    objects: DetectSettings | None
    sidecars: Sidecars | None = None
    title: ClassVar[str] = CAPTION.name
    unit: ClassVar[str] = "photos"

    @contextmanager
    def open(self, run: Run) -> Iterator[Opened]:
        """Load the captioner and its frozen models; see `passes.Work`."""
        _refuse_other_disk(self.photos, self.states)
        with reopen(self.source, self.state, TRAIN.name) as source:
            model = Captioner.from_artifact(
                source,
                settings=self.settings,
                support=self.support,
                clip=self.clip,
                detector=self.detector,
                objects=self.objects,
                device=run.device,
                dtype=run.dtype,
                openvino=run.openvino,
            )
        yield Opened(
            self._with_sidecars(model.mapper(self.photos, self.states)),
            run.batch_size or BATCH_SIZE[model.device.type],
            model.device,
            model.dtype,
            {"vocabulary": model.vocabulary},
            runtime=model.runtime,
        )

    def _with_sidecars(self, mapper: Mapper[Any, Any]) -> Mapper[Any, Any]:
        """The mapper, which writes the text files of rows as they are packed."""
        sidecars = self.sidecars
        if sidecars is None:
            return mapper

        def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
            columns = mapper.pack(first, results)
            photos = self.photos[first : first + len(results)]
            sidecars.write(photos, *([str(v) for v in columns[n]] for n in ("caption", "error")))
            return columns

        return replace(mapper, pack=pack)


def shipped_preset(workspace: Path, captioner: Path | None) -> str | None:
    """The preset by which the captioner that is used decodes, where it is the shipped one."""
    shipped = captioner is None and not (workspace / TRAIN.file).exists()
    return SHIPPED_PRESET if shipped else None


def open_captioner(workspace: Path, given: Path | None, *, quiet: bool = False) -> Artifact:
    """The captioner to use, open: the one named, the workspace's own, or the one that ships.

    Raises:
        MissingError: where there is none.
        StaleError: where the workspace's own is stale.
    """
    if given is None and not (workspace / TRAIN.file).exists() and SHIPPED.exists():
        console.note(
            f"no captioner in {workspace}: using the small one that ships with syntic", quiet=quiet
        )
        given = SHIPPED
    return open_input(workspace, TRAIN.name, given=given)


def photo_state(photo: Path) -> str:
    """What tells a photo from a changed one of its name: size in bytes and time of change."""
    try:
        status = photo.stat()
    except OSError:
        return NOT_THERE
    return f"{status.st_size} {status.st_mtime_ns}"


def _refuse_other_disk(photos: Sequence[Path], states: Sequence[str]) -> None:
    """Refuse a machine that lacks the photos: else each of them would become a failed row."""
    there = [photo for photo, state in zip(photos, states, strict=True) if state != NOT_THERE]
    if there and all(photo_state(photo) == NOT_THERE for photo in there[:PROBED_PHOTOS]):
        raise MissingError(f"{shown(there[0])}: no such file; the photos must be there, too")


def _digest(photos: Sequence[Path], states: Sequence[str]) -> str:
    """sha256 over the photos' paths and states, in their order."""
    digest = hashlib.sha256()
    for photo, state in zip(photos, states, strict=True):
        digest.update(f"{photo}\0{state}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _take_over(
    existing: Artifact,
    recipe: Recipe,
    photos: Sequence[Path],
    states: Sequence[str],
    *,
    named: bool,
) -> Earlier | None:
    """What becomes of captions that are there, of other photos or by another recipe.

    Those of the same recipe give the rows of photos that have not changed. What would be lost with
    them is kept under another name; a file that was `named` is not renamed for another.
    """
    same = _same_but_photos(existing.recipe, recipe)
    if existing.recipe.inputs["photos"].fingerprint == recipe.inputs["photos"].fingerprint:
        return None
    paths = existing.texts("path")
    rows = dict(
        zip(zip(paths, existing.column("state"), strict=True), range(existing.rows), strict=True)
    )
    names = [path_text(photo) for photo in photos]
    known = [rows.get(key, -1) if same else -1 for key in zip(names, states, strict=True)]
    lost = not same or not set(paths) <= set(names)
    if named and lost:
        return None
    return Earlier(known, keep=lost)


def _same_but_photos(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes caption a photo alike."""
    inputs = [
        {role: given for role, given in recipe.inputs.items() if role != "photos"}
        for recipe in (one, other)
    ]
    return one.settings == other.settings and inputs[0] == inputs[1]
