"""Distils all-MiniLM-L6-v2 into a text tower of 4 million parameters in CLIP's form."""

import json
from pathlib import Path

import numpy as np
import torch
from data import COCO_NAMES, coco128, coco_captions, flickr8k
from imagenet import PROMPTS, imagenet_names
from open_clip.transformer import TextTransformer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from torch.nn import functional as F
from towers import minilm_folder
from training import Budget, set_rate, training_parser
from transformers import AutoModel, AutoTokenizer, CLIPTokenizer

VOCABULARY = 8192
CONTEXT = 32
WIDTH, LAYERS, HEADS = 256, 3, 4
START, END = "<|startoftext|>", "<|endoftext|>"


def distillation_texts(data: Path, coco: int, seed: int = 0) -> list[str]:
    """Captions of the training photos, `coco` captions of other COCO photos, names in prompts."""
    captions = [c for photo in flickr8k(data, "train") for c in photo.captions]
    captions += [c for photo in coco128(data, "train") for c in photo.captions]
    scoring = {int(p.path.stem) for p in coco128(data, "score")}
    others = [text for photo, text in coco_captions() if photo not in scoring]
    chosen = np.random.RandomState(seed).permutation(len(others))[:coco]
    names = COCO_NAMES + [name for names in imagenet_names() for name in names]
    return captions + [p.format(n) for n in names for p in PROMPTS] + [others[i] for i in chosen]


def train_tokenizer(texts: list[str], folder: Path) -> CLIPTokenizer:
    """Byte-pair merges of CLIP's kind learned on `texts`, saved as a CLIPTokenizer."""
    frame = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(
        # Room for the two marks and for every byte as the end of a word.
        vocab_size=VOCABULARY - 2 - len(alphabet),
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    words = sorted(learned["vocab"], key=learned["vocab"].get)
    words += sorted({f"{byte}</w>" for byte in alphabet} - set(words))
    # The end mark has the highest number of all: open_clip pools where the number is highest.
    vocabulary = {word: i for i, word in enumerate([*words, START, END])}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    return tokenizer


@torch.no_grad()
def minilm_features(texts: list[str], device: str, batch: int = 64) -> Tensor:
    """Sentence embeddings (n, 384) of unit norm, by masked mean pooling."""
    folder = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval().to(device)
    features = torch.empty(len(texts), 384)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        tokens = tokenizer([texts[i] for i in rows], padding=True, return_tensors="pt").to(device)
        states, mask = model(**tokens).last_hidden_state, tokens.attention_mask[..., None]
        features[rows] = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).cpu()
    return features


def text_transformer(vocabulary: int, output: int) -> TextTransformer:
    """The text tower as open_clip builds it from the shipped configuration."""
    return TextTransformer(
        context_length=CONTEXT,
        vocab_size=vocabulary,
        width=WIDTH,
        heads=HEADS,
        layers=LAYERS,
        output_dim=output,
        proj_bias=True,
    )


def encode_tokens(tower: TextTransformer, ids: Tensor) -> Tensor:
    """As `tower(ids)`, for batches shorter than the context, which open_clip does not take."""
    length = ids.shape[1]
    x = tower.token_embedding(ids) + tower.positional_embedding[:length]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    return tower.text_projection(x[torch.arange(len(x)), ids.argmax(1)])


def word_vectors(tokenizer: CLIPTokenizer, device: str) -> Tensor:
    """A start for the token embeddings: each token's own MiniLM embedding, rotated to WIDTH."""
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    features = minilm_features([word.removesuffix("</w>") for word in words], device)
    features = features - features.mean(0)
    _, _, axes = torch.linalg.svd(features, full_matrices=False)
    vectors = features @ axes[:WIDTH].T
    return 0.02 * vectors / vectors.std()


def batches(lengths: np.ndarray, size: int, random: np.random.RandomState) -> list[np.ndarray]:
    """Random batches of texts of about equal length."""
    order = np.argsort(lengths + random.uniform(0, 2, len(lengths)))
    rows = [order[i : i + size] for i in range(0, len(order), size)]
    return [rows[i] for i in random.permutation(len(rows))]


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes a tokenizer's files without the white space that doubles their size."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> tuple[Tensor, np.ndarray]:
    """Token numbers (n, CONTEXT) and lengths (n,)."""
    kwargs = {"padding": "max_length", "truncation": True, "max_length": CONTEXT}
    tokens = tokenizer(texts, return_tensors="pt", **kwargs)
    return tokens.input_ids, tokens.attention_mask.sum(1).numpy()


def distil(
    tower: TextTransformer,
    tokens: Tensor,
    lengths: np.ndarray,
    target: Tensor,
    *,
    batch: int,
    rate: float,
    budget: Budget,
) -> None:
    """Trains the tower to point where the teacher points, within a time budget."""
    optimizer = torch.optim.AdamW(tower.parameters(), lr=rate, weight_decay=0.02)
    random, step = np.random.RandomState(0), 0
    while True:
        for rows in batches(lengths, batch, random):
            if budget.left <= 0:
                return
            set_rate(optimizer, rate * budget.rate(step, 100, 0.7))
            ids = tokens[rows, : lengths[rows].max()].to(target.device)
            loss = (1 - F.cosine_similarity(encode_tokens(tower, ids), target[rows])).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0:
                print(f"step {step}  left {budget.left:.0%}  {loss.item():.4f}", flush=True)


def main() -> None:
    parser = training_parser(__doc__, minutes=15.0, batch=128, rate=1.5e-3)
    parser.add_argument("--coco", type=int, default=30_000, help="COCO captions to distil on")
    args = parser.parse_args()
    texts = distillation_texts(args.data, args.coco)
    folder = args.out / "tokenizer"
    if not folder.exists():
        everything = [text for _, text in coco_captions()]
        train_tokenizer(texts[: len(texts) - args.coco] + everything, folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    cache = args.out / "minilm.safetensors"
    if not cache.exists():
        features = minilm_features(texts, args.device)
        save_file({"features": features, "words": word_vectors(tokenizer, args.device)}, cache)
    teacher = load_file(cache, device=args.device)
    tower = text_transformer(len(tokenizer), teacher["features"].shape[1]).to(args.device)
    target = args.out / "text_tower.safetensors"
    if target.exists():  # a further round
        tower.load_state_dict(load_file(target))
    else:
        with torch.no_grad():
            tower.token_embedding.weight.copy_(teacher["words"])
    distil(
        tower,
        *tokenize(tokenizer, texts),
        teacher["features"],
        batch=args.batch,
        rate=args.rate,
        budget=Budget(args.minutes),
    )
    save_file(tower.state_dict(), target)


if __name__ == "__main__":
    main()
