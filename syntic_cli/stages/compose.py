"""compose: groups of texts that describe one scene, and a summary of each to make an image of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..artifacts.checkpoint import Checkpoint
from ..artifacts.making import making
from ..artifacts.reading import Artifact, Values
from ..artifacts.recipe import Input, Recipe
from ..artifacts.records import cut_texts, describe_scenes, errors_of
from ..artifacts.shards import Draft
from ..corpus import Corpus
from ..errors import SynticError, plural
from ..interrupts import StopRequest
from ..method.summary import NoScene, choose_sentences, summarise
from ..models.identity import identity
from ..models.scenes import Group, Limits, Scene, Writer, prompt_digest
from ..passes import Mapper, map_rows
from ..schema import COMPOSE
from ..settings import ComposeSettings, EncodeSettings, Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor


MODEL = "model:"
# Texts encoded, and groups written, at a time.
TEXTS = {"cpu": 64, "cuda": 1024, "mps": 256}
GROUPS = {"cpu": 4, "cuda": 32, "mps": 8}
GROUPS_BY_RULES = 256
BATCHES_OF_REQUESTS = 4
SECONDS_A_CHECKPOINT = 60.0
# What does not change what is made, or stands in the recipe in another way.
ASIDE = ("writer", "writer_model", "writer_revision", "tries", "concurrency", "timeout")


def compose(
    corpus: Corpus,
    workspace: str | Path,
    settings: ComposeSettings,
    encoder: EncodeSettings,
    run: Run | None = None,
    *,
    seed: int = 0,
    output: Path | None = None,
) -> Path:
    """Gather groups of alike texts, and make a scene of each (ICSD, AAAI 2024).

    Args:
        corpus: the texts.
        workspace: the folder of the run.
        settings: the groups, and who writes.
        encoder: the dual encoder whose text features tell what is alike.
        run: how the stage runs.
        seed: decides which texts are heads of groups.
        output: the artifact, if not the workspace's own.

    Returns:
        The path of the artifact: the texts with their features, the groups, and of each the
        sentences that go together and their summary, or why there are none.

    Raises:
        SynticError: where a model or server cannot be used, another artifact is in the way, or the
            output cannot be written.
    """
    run = run or Run()
    path = output or Path(workspace) / COMPOSE.file
    if len(corpus.captions) < settings.least:
        raise SynticError(
            f"{corpus.source}: {console.count(len(corpus.captions), 'text')}; --least "
            f"{settings.least} of them make a scene"
        )
    with making(path, _recipe(corpus, settings, encoder, run, seed), run) as draft:
        if not draft.up_to_date:
            console.notes(corpus.said(), quiet=run.quiet)
            _make(draft, corpus.captions, settings, encoder, draft.in_its_dtype(run), seed)
    with Artifact(path, COMPOSE.name) as made:
        console.failures(COMPOSE.name, made.texts("error"), "group")
        found, groups = describe_scenes(made), made.rows
    console.note(
        f"{COMPOSE.name}: {found['scenes']:,} {plural(int(found['scenes']), 'scene')} of "
        f"{groups:,} {plural(groups, 'group')}, "
        f"{found['sentences_a_scene']} sentences a scene, {found['words_a_summary']} words a "
        f"summary, {found['texts_in_no_scene']:,} of {len(corpus.captions):,} "
        f"{plural(len(corpus.captions), 'text')} in none",
        quiet=run.quiet,
    )
    return path


def _recipe(
    corpus: Corpus, settings: ComposeSettings, encoder: EncodeSettings, run: Run, seed: int
) -> Recipe:
    name = identity(encoder.model, encoder.revision, encoder.pretrained)
    chosen = {key: value for key, value in asdict(settings).items() if key not in ASIDE}
    chosen.update({"clip": name, "seed": seed, **_writer_identity(settings), **run.chosen_dtype()})
    return Recipe(
        COMPOSE.name,
        chosen,
        {"corpus": Input("corpus", corpus.digest, corpus.source)},
        {"clip": {**asdict(encoder), "identity": name}},
        corpus.digest,
    )


def _writer_identity(settings: ComposeSettings) -> dict[str, str]:
    """What the writer is to a fingerprint; of a server it is the model that counts."""
    if settings.writer == "extractive":
        return {"writer": settings.writer}
    if settings.writer.startswith(MODEL):
        name = settings.writer.removeprefix(MODEL)
        writer = f"model {identity(name, settings.writer_revision)}"
    elif "://" in settings.writer:
        writer = f"server's {settings.writer_model}"
    else:
        raise SynticError(
            f"--writer {settings.writer}: give extractive, model:HUB_ID_OR_FOLDER or a server's URL"
        )
    return {"writer": writer, "prompt": prompt_digest()}


def _make(
    draft: Draft,
    captions: Sequence[str],
    settings: ComposeSettings,
    encoder: EncodeSettings,
    run: Run,
    seed: int,
) -> None:
    from ..models.loading import find_device, find_dtype

    device = find_device(run.device)
    dtype = find_dtype(run.dtype, device)
    draft.computed_in(device, dtype)
    # First, so that a model that is not there is told of before an hour of encoding.
    writer, batch_size = _load_writer(settings, device, dtype)
    gathered = _finished(draft)
    if gathered is None:
        gathered = _gather(draft.checkpoint(), captions, settings, encoder, run, seed)
    features, groups = gathered
    map_rows(
        draft,
        len(groups),
        _mapper(writer, captions, features, groups),
        title=COMPOSE.name,
        unit="groups",
        batch_size=run.batch_size or batch_size,
        run=run,
    )
    draft.finish(columns={"captions": captions, "text_features": features})


def _finished(draft: Draft) -> tuple[np.ndarray, np.ndarray] | None:
    """Features and groups of the artifact some of whose groups are written anew."""
    if not any(piece.path == draft.path for piece in draft.pieces()):
        return None
    with Artifact(draft.path, COMPOSE.name) as made:
        return made.numbers("text_features"), made.numbers("groups")


def _gather(
    checkpoint: Checkpoint,
    captions: Sequence[str],
    settings: ComposeSettings,
    encoder: EncodeSettings,
    run: Run,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Text features, (N, d), and groups, (G, K), each set once; from the checkpoint where it has
    them."""
    import torch

    from ..method.grouping import draw_heads, first_of_each_set
    from ..models.loading import find_device

    state = checkpoint.load() or {}
    if "groups" not in state:
        request = StopRequest()
        with request.listening():
            state = _encode(state, checkpoint, captions, encoder, run, request)
            heads = draw_heads(len(captions), settings.groups, seed)
            state = _group(
                state, checkpoint, heads, settings.neighbours, find_device(run.device), request, run
            )
            groups = state.pop("grouped").numpy()
            state["groups"] = torch.from_numpy(groups[first_of_each_set(groups)])
            checkpoint.save(state)
    return state["features"].numpy(), state["groups"].numpy()


def _encode(
    state: dict[str, Tensor],
    checkpoint: Checkpoint,
    captions: Sequence[str],
    encoder: EncodeSettings,
    run: Run,
    request: StopRequest,
) -> dict[str, Tensor]:
    """The state with the features of all texts."""
    import torch

    from ..models.clip import load_clip
    from ..models.loading import FittingBatch, find_device, find_dtype

    done = int(state.get("encoded", 0))
    if done == len(captions):
        return state
    device = find_device(run.device)
    model = load_clip(encoder, device, find_dtype(run.dtype, device))
    for warning in cut_texts(model.count_cut(captions), model.context_length):
        console.warn(f"{COMPOSE.name}: {warning}")
    fitting, size = FittingBatch(console.warn), TEXTS[device.type]
    with console.progress(
        COMPOSE.name, len(captions), done=done, unit="texts", quiet=run.quiet
    ) as advance:
        for start in range(done, len(captions), size):
            some = captions[start : start + size]
            parts = fitting.run(
                lambda a, b, some=some: model.encode_texts(some[a:b]),  # type: ignore[misc]
                len(some),
            )
            found = torch.cat(parts)
            if "features" not in state:
                state["features"] = found.new_zeros(len(captions), found.shape[1])
            state["features"][start : start + len(some)] = found
            state["encoded"] = torch.tensor(start + len(some))
            advance(len(some))
            if request.signal_number is not None or checkpoint.due(SECONDS_A_CHECKPOINT):
                checkpoint.save(state)
            request.check()
    return state


def _group(
    state: dict[str, Tensor],
    checkpoint: Checkpoint,
    heads: Tensor,
    size: int,
    device: torch.device,
    request: StopRequest,
    run: Run,
) -> dict[str, Tensor]:
    """The state with the group of each head."""
    import torch

    from ..method.grouping import TILE, gather_groups

    features = state["features"].to(device)
    size, done = min(size, len(features)), int(state.get("gathered", 0))
    if "grouped" not in state:
        state["grouped"] = torch.zeros(len(heads), size, dtype=torch.int32)
    with console.progress(
        COMPOSE.name, len(heads), done=done, unit="heads", quiet=run.quiet
    ) as advance:
        for start in range(done, len(heads), TILE):
            some = heads[start : start + TILE]
            found = gather_groups(features, some.to(device), size)
            state["grouped"][start : start + len(some)] = found.cpu()
            state["gathered"] = torch.tensor(start + len(some))
            advance(len(some))
            if request.signal_number is not None or checkpoint.due(SECONDS_A_CHECKPOINT):
                checkpoint.save(state)
            request.check()
    return state


@dataclass(frozen=True)
class Extractive:
    """A writer that chooses and joins sentences by rules."""

    limits: Limits

    def write(self, groups: Sequence[Group]) -> list[Scene | SynticError]:
        """See `Writer`."""
        return [self._scene(group) for group in groups]

    def _scene(self, group: Group) -> Scene | SynticError:
        try:
            chosen = choose_sentences(
                group.texts, group.features, least=self.limits.least, most=self.limits.most
            )
            return Scene(chosen, summarise([group.texts[row] for row in chosen], self.limits.words))
        except NoScene as reason:
            return SynticError(str(reason))


def _load_writer(
    settings: ComposeSettings, device: torch.device, dtype: torch.dtype
) -> tuple[Writer, int]:
    """The writer, and how many groups to give it at a time."""
    from ..models.chat_server import connect
    from ..models.writer import load_language_model

    limits = Limits(settings.least, settings.most, settings.words)
    if settings.writer == "extractive":
        return Extractive(limits), GROUPS_BY_RULES
    if settings.writer.startswith(MODEL):
        name = settings.writer.removeprefix(MODEL)
        if device.type == "cpu":
            console.warn(
                f"{COMPOSE.name}: no GPU: {name} may take minutes a group; --writer extractive "
                "takes milliseconds"
            )
        model = load_language_model(
            name, settings.writer_revision, limits, settings.tries, device, dtype
        )
        return model, GROUPS[device.type]
    server = connect(
        settings.writer,
        settings.writer_model,
        limits,
        settings.tries,
        timeout=settings.timeout,
        concurrency=settings.concurrency,
    )
    return server, BATCHES_OF_REQUESTS * settings.concurrency


def _mapper(
    writer: Writer, captions: Sequence[str], features: np.ndarray, groups: np.ndarray
) -> Mapper[Group, Scene]:
    from ..models.loading import FittingBatch

    fitting = FittingBatch(console.warn)

    def read(row: int) -> Group:
        texts = groups[row]
        return Group([captions[text] for text in texts], features[texts])

    def compute(some: Sequence[Group]) -> list[Scene | SynticError]:
        parts = fitting.run(lambda start, stop: writer.write(some[start:stop]), len(some))
        return [scene for part in parts for scene in part]

    def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
        members = groups[first : first + len(results)]
        chosen = [[] if isinstance(r, SynticError) else r.sentences for r in results]
        sentences = [texts[rows] for texts, rows in zip(members, chosen, strict=True) if rows]
        return {
            "groups": members,
            "offsets": np.concatenate([[0], np.cumsum([len(rows) for rows in chosen])]),
            "sentence": np.concatenate([np.zeros(0, np.int32), *sentences]),
            "prompts": ["" if isinstance(r, SynticError) else r.summary for r in results],
            "error": errors_of(results),
        }

    return Mapper(read, compute, pack)
