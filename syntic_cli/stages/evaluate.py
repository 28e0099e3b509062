"""evaluate: score captions against references, and one captioner's against another's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py

from .. import console
from ..artifacts.making import Earlier, making
from ..artifacts.reading import Artifact
from ..artifacts.recipe import Input, Recipe
from ..artifacts.records import read_captions
from ..artifacts.workspace import open_input
from ..errors import ConflictError, MissingError, SynticError, shown
from ..metrics import (
    PHOTO_METRICS,
    PROMPT,
    Difference,
    Features,
    Scores,
    comparability,
    compare,
    corenlp,
    resolve,
    score_files,
)
from ..metrics.references import Candidates, Matched, load_candidates, load_references, match
from ..models.identity import identity, same_model
from ..schema import EVALUATE
from ..settings import EncodeSettings, Run

DEFAULT_METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
BATCH_SIZE = {"cpu": 16, "cuda": 256, "mps": 64}


@dataclass(frozen=True)
class Other:
    """Scores × 100 of a further file of captions, and how much better than the first it is."""

    captions: str
    metrics: dict[str, float]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: scores × 100 of each file, and the photos left out on any side.

    encoder names the dual encoder of CLIPScore, RefCLIPScore and R@k, where one was used.
    """

    n: int
    metrics: dict[str, float]
    missing: list[str]
    extra: list[str]
    notes: list[str] = field(default_factory=list)
    captions: str = ""
    others: list[Other] = field(default_factory=list)
    encoder: str = ""


def evaluate(
    references: Path,
    workspace: str | Path,
    metrics: Sequence[str] = DEFAULT_METRICS,
    run: Run | None = None,
    *,
    captions: Path | Sequence[Path] | None = None,
    photos: Sequence[Path] | None = None,
    split: str | None = None,
    encoding: str = "utf-8",
    clip: EncodeSettings | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    output: Path | None = None,
) -> Evaluation:
    """Score captions against references.

    Args:
        references: any format of texts that names a photo for each.
        workspace: the folder of the run.
        metrics: names from `syntic_cli.metrics.METRICS`.
        run: how the stage runs; the dual encoder computes in float32 unless it names a dtype.
        captions: captions.h5, a COCO results JSON, or what `syntic caption` printed, if not the
            workspace's own captions; of several, the others are compared with the first on the
            photos that all of them caption.
        photos: the photos of a plain text file of captions, in its order; where a dual encoder
            looks at photos, those that captions and references name without their folders.
        split: the part of the references to score on.
        encoding: of the references and of captions that are text.
        clip: the dual encoder of CLIPScore, RefCLIPScore and R@k, if not that of the captions' run.
        bootstrap: samples of the paired bootstrap of several files.
        seed: of these samples.
        output: the artifact, if not the workspace's own.

    Returns:
        The scores; they are stored in the artifact, too, with those of each photo.

    Raises:
        SynticError: where captions or references cannot be read or do not belong together, a metric
            fails, another artifact is in the way, or the output cannot be written.
    """
    run = run or Run()
    metrics = resolve(metrics)
    path = output or Path(workspace) / EVALUATE.file
    looks = any(name in PHOTO_METRICS for name in metrics)

    def in_order(captions: Path | None) -> Sequence[Path] | None:
        # Where a dual encoder looks for photos, only captions without names are of them in order.
        return None if looks and captions and captions.suffix not in ("", ".txt") else photos

    given = [captions] if captions is None or isinstance(captions, Path) else captions
    sources = [_source(one, Path(workspace), path, in_order(one), encoding) for one in given]
    inputs = {"captions": sources[0].origin, "references": _file_input("references", references)}
    for source in sources:
        if source.origin.fingerprint == inputs["references"].fingerprint:
            raise SynticError(
                f"{references}: is the same as the captions {source.origin.file}; name references"
            )
    inputs |= {f"captions {row}": source.origin for row, source in enumerate(sources[1:], 2)}
    settings: dict[str, Any] = {"metrics": list(metrics), "split": split}
    models = sources[0].models
    if len(sources) > 1:
        settings |= {"bootstrap": bootstrap, "seed": seed}
    if "SPICE" in metrics and corenlp.find():
        settings["corenlp"] = corenlp.VERSION
    encoder = None
    if looks:
        encoder = clip or _encoder_of(sources[0])
        name = identity(encoder.model, encoder.revision, encoder.pretrained)
        settings |= {"clip": name, **run.chosen_dtype()}
        models = {**models, "clip": {**asdict(encoder), "identity": name}}
    recipe = Recipe(EVALUATE.name, settings, inputs, models)

    def earlier(there: Artifact) -> Earlier | None:
        if _lacked_spice(there.recipe, recipe):
            return Earlier((), keep=False)
        # A file that was named is not renamed for another.
        files, others = ({r: i.file for r, i in x.inputs.items()} for x in (recipe, there.recipe))
        return Earlier((), keep=True) if files != others and output is None else None

    with making(path, recipe, run, earlier=earlier) as draft:
        if not draft.up_to_date:
            expected = load_references(references, split, encoding=encoding)
            matched = _common(
                [match(source.candidates, expected) for source in sources], references
            )
            texts = [one.captions for one in matched]
            found = None
            if encoder is not None:
                paths = _photo_files(matched[0], photos or ())
                found = _features(encoder, paths, texts, matched[0].references, run)
            scores = score_files(texts, matched[0].references, metrics, found)
            differences = [compare(scores[0], other, bootstrap, seed) for other in scores[1:]]
            draft.finish(
                columns={"path": matched[0].ids},
                groups={_group(row): one.per_item for row, one in enumerate(scores)},
                attributes={
                    **scores[0].corpus,
                    "items": len(matched[0].ids),
                    "missing": json.dumps(matched[0].missing),
                    "extra": json.dumps(matched[0].extra),
                    "notes": json.dumps([*expected.notes, *_notes(sources, scores, encoder)]),
                    "others": json.dumps(_others(sources[1:], scores[1:], differences)),
                },
            )
    return read_evaluation(path)


def read_evaluation(path: Path) -> Evaluation:
    """The scores of an artifact of `evaluate`.

    Raises:
        SynticError: where it cannot be read.
    """
    with Artifact(path, EVALUATE.name) as artifact:
        found = artifact.attributes
        names = artifact.recipe.settings["metrics"]
        others = [
            Other(
                other["captions"],
                other["metrics"],
                {name: Difference(*values) for name, values in other["differences"].items()},
            )
            for other in json.loads(found.get("others", "[]"))
        ]
        return Evaluation(
            int(found["items"]),
            {name: float(found[name]) for name in names if name in found},
            json.loads(found["missing"]),
            json.loads(found["extra"]),
            json.loads(found["notes"]),
            artifact.recipe.inputs["captions"].file,
            others,
            _encoder_name(artifact.recipe),
        )


@dataclass(frozen=True)
class _Source:
    """A file of captions: (photo, caption) of every photo that has one, what they came from, the
    frozen models of their run."""

    candidates: Candidates
    origin: Input
    models: Mapping[str, Any]


def _source(
    given: Path | None,
    workspace: Path,
    path: Path,
    photos: Sequence[Path] | None,
    encoding: str,
) -> _Source:
    if given is not None and _is_text(given):
        found = load_candidates(given, photos=photos, encoding=encoding)
        return _Source(found, _file_input("captions", given), {})
    if given is not None:
        _refuse_stream("captions", given)
    with open_input(workspace, "caption", given=given) as artifact:
        rows, as_input = read_captions(artifact), artifact.as_input(path)
        where, models = artifact.path, artifact.recipe.models
    failed = [row for row in rows if row.error]
    notes = [f"{console.count(len(failed), 'photo')} without a caption (see `error` in {where})"]
    good = [(row.path, row.caption) for row in rows if not row.error]
    if not good:
        raise MissingError(f"{where}: no photo in it has a caption")
    return _Source(Candidates(good, notes if failed else []), as_input, models)


def _common(matched: Sequence[Matched], references: Path) -> list[Matched]:
    """The photos that every file captions, in the first one's order; the rest is left out."""
    shared = set[str].intersection(*(set(one.keys) for one in matched))
    keys = [key for key in matched[0].keys if key in shared]
    if not keys:
        which = "all files of captions have" if len(matched) > 1 else "have a caption"
        raise MissingError(
            f"{references}: describes none of the photos that {which}; photos are matched by file"
            " name or id"
        )
    missing = list(dict.fromkeys(photo for one in matched for photo in one.missing))
    extra = list(dict.fromkeys(photo for one in matched for photo in one.extra))
    aligned = []
    for one in matched:
        row = {key: index for index, key in enumerate(one.keys)}
        rows = [row[key] for key in keys]
        ids, captions = [one.ids[i] for i in rows], [one.captions[i] for i in rows]
        texts = [one.references[i] for i in rows]
        aligned.append(Matched(ids, captions, texts, missing, extra, keys))
    return aligned


def _lacked_spice(there: Recipe, wanted: Recipe) -> bool:
    """Whether what is there would be what is wanted, had SPICE had its jars."""
    settings = {"corenlp": corenlp.VERSION, **there.settings}
    return settings == wanted.settings and there.inputs == wanted.inputs


def _encoder_of(source: _Source) -> EncodeSettings:
    """The dual encoder of the run that the captions are of, if it is what it was."""
    stored = dict(source.models.get("clip", {}))
    if not stored:
        raise MissingError(
            f"{source.origin.file}: does not say which dual encoder to score with; name one:"
            " --clip ViT-B-32 --pretrained openai"
        )
    trained_with = stored.pop("identity")
    encoder = EncodeSettings(**stored)
    found = identity(encoder.model, encoder.revision, encoder.pretrained)
    if not same_model(found, trained_with):
        raise ConflictError(
            f"{encoder.model}: is no longer the dual encoder of {source.origin.file}; say with"
            " --clip where that is"
        )
    return encoder


def _encoder_name(recipe: Recipe) -> str:
    if "clip" not in recipe.settings:
        return ""
    used = recipe.models["clip"]
    parts = (used.get(name) for name in ("model", "pretrained", "revision"))
    return " ".join(part for part in parts if part)


def _photo_files(matched: Matched, photos: Sequence[Path]) -> list[Path]:
    """The file of each photo: what the captions or references call it, or a named one so called."""
    by_name: dict[str, list[Path]] = {}
    for photo in photos:
        by_name.setdefault(photo.name, []).append(photo)
    files = []
    for names in zip(matched.ids, matched.keys, strict=True):
        there = [Path(name) for name in names if Path(name).is_file()]
        there += [photo for name in names for photo in by_name.get(Path(name).name, ())]
        if not there:
            raise MissingError(
                f"{shown(names[0])}: no such photo; name the photos, or their folder, with --photos"
            )
        files.append(there[0])
    return files


def _features(
    encoder: EncodeSettings,
    photos: Sequence[Path],
    files: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    run: Run,
) -> list[Features]:
    import torch

    from ..models.clip import load_clip
    from ..models.encoding import photo_features, text_features
    from ..models.loading import find_device, find_dtype

    device = find_device(run.device)
    dtype = torch.float32 if run.dtype == "auto" else find_dtype(run.dtype, device)
    model = load_clip(encoder, device, dtype)
    batch_size = run.batch_size or BATCH_SIZE[device.type]
    with console.progress(EVALUATE.name, len(photos), unit="photos", quiet=run.quiet) as advance:
        images = photo_features(model, photos, batch_size, advance, console.warn)
    groups = [*files, [text for texts in references for text in texts]]
    texts = [PROMPT + text for group in groups for text in group]
    cuts = [len(photos) * row for row in range(1, len(files) + 1)]
    found = text_features(model, texts, 4 * batch_size, console.warn)
    parts = [found[a:b] for a, b in zip([0, *cuts], [*cuts, len(texts)], strict=True)]
    counts = [len(texts) for texts in references]
    return [Features(images, part, parts[-1], counts) for part in parts[:-1]]


def _group(row: int) -> str:
    """Where the scores of each photo are, for the first file of captions and the others."""
    return "per_image" if row == 0 else f"per_image_{row + 1}"


def _notes(
    sources: Sequence[_Source], scores: Sequence[Scores], encoder: EncodeSettings | None
) -> list[str]:
    """What a reader should know, a line each; what is not of all files, with the name of its."""
    of_files = [
        [*source.candidates.notes, *found.notes]
        for source, found in zip(sources, scores, strict=True)
    ]
    shared = [note for note in of_files[0] if all(note in notes for notes in of_files)]
    notes = [
        f"{source.origin.file}: {note}"
        for source, lines in zip(sources, of_files, strict=True)
        for note in lines
        if note not in shared
    ]
    by_other = encoder and comparability(encoder.model, encoder.pretrained)
    return [*notes, *shared, *([by_other] if by_other else [])]


def _others(
    sources: Sequence[_Source],
    scores: Sequence[Scores],
    differences: Sequence[Mapping[str, Difference]],
) -> list[dict[str, Any]]:
    return [
        {
            "captions": source.origin.file,
            "metrics": found.corpus,
            "differences": {name: [d.value, d.low, d.high] for name, d in difference.items()},
        }
        for source, found, difference in zip(sources, scores, differences, strict=True)
    ]


def _file_input(kind: str, path: Path) -> Input:
    _refuse_stream(kind, path)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise MissingError(f"{path}: no such file; check the name") from error
    except OSError as error:
        raise SynticError(f"{path}: cannot be read ({error.strerror}); name another") from error
    return Input(kind, digest, str(path))


def _is_text(path: Path) -> bool:
    """Whether a file is no artifact, nor called like one."""
    if path.suffix == ".h5" or not path.is_file():
        return False
    try:
        return not h5py.is_hdf5(path)
    except OSError as error:
        raise SynticError(f"{path}: may not be read; change its permissions") from error


def _refuse_stream(kind: str, path: Path) -> None:
    """Refuse what cannot be read again: scores know the files that they are of."""
    is_stream = path.exists() and not path.is_file() and not path.is_dir()
    if is_stream or str(path) == "-":
        raise SynticError(
            f"{path}: {kind} are read from a file, not a stream; save them and name it"
        )
