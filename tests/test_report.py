"""The report: what it holds, what it bears, and how it works in a browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest

from syntic_cli.artifacts.reading import Artifact
from syntic_cli.report import charts
from syntic_cli.report.gather import gather
from syntic_cli.report.lineage import ABSENT, READY, STALE, gather_lineage
from syntic_cli.report.page import age, render

from . import handmade
from .browser import Page, chromium, find_chromium
from .conftest import RunCli

EVIL = "<script>alert('x')</script> & \"quoted\" <img src=x onerror=alert(1)>"


class Seen(HTMLParser):
    """The elements of a page, and its text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._within = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._within:
            self._within = ""

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            found
            for name, found in self.elements
            if name == tag and wanted.items() <= found.items()
        ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.write_run(tmp_path_factory.mktemp("report") / "run", first_caption=EVIL)


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return render(gather([run], 60))


@pytest.fixture(scope="module")
def page(text: str) -> Seen:
    return Seen(text)


class TestContent:
    def test_every_photo_is_there_with_its_caption_as_alternative_text(
        self, run: Path, page: Seen
    ) -> None:
        with Artifact(run / "captions.h5") as artifact:
            captions = artifact.texts("caption")
        alternatives = [image["alt"] for image in page.all("img")]
        assert set(captions) <= set(alternatives)
        assert all(image["src"].startswith("data:image/") for image in page.all("img"))  # type: ignore[union-attr]
        assert "The reference of photo007 ." in page.text
        assert {c["aria-label"] for c in page.all("article")} >= {"photo000.jpg", "photo029.jpg"}

    def test_nothing_is_loaded_from_elsewhere(self, text: str, page: Seen) -> None:
        assert "http://" not in text
        assert "https://" not in text
        assert not page.all("link")
        assert [found for found in page.all("script") if found] == []
        (policy,) = page.all("meta", http_equiv="Content-Security-Policy")
        assert "default-src 'none'" in str(policy["content"])

    def test_markup_in_a_caption_is_text(self, page: Seen) -> None:
        assert EVIL in page.text
        assert len(page.all("script")) == 1
        assert not [image for image in page.all("img") if "onerror" in image]
        assert EVIL in [image["alt"] for image in page.all("img")]

    def test_the_worst_by_cider_are_marked(self, run: Path, page: Seen) -> None:
        with Artifact(run / "scores.h5") as artifact:
            cider, paths = artifact.group("per_image")["CIDEr"], artifact.texts("path")
        worst = {Path(paths[i]).name for i in np.argsort(cider)[:20]}
        marked = page.all("article", data_groups="worst0")
        assert {found["aria-label"] for found in marked} == worst

    def test_cosines_are_those_of_numpy(self, run: Path) -> None:
        (workspace,) = gather([run], 60).workspaces
        assert workspace.pairs is not None
        for name, when in (("features.h5", "before"), ("optimized.h5", "after")):
            with h5py.File(run / name) as file:
                cosines = (file["image_features"][:] * file["text_features"][:]).sum(axis=1)
                valid = file["valid"][:]
            found = {pair.row: getattr(pair, when) for pair in workspace.pairs.pairs}
            for row, value in found.items():
                assert (
                    value == pytest.approx(cosines[row], abs=1e-5)
                    if valid[row]
                    else np.isnan(value)
                )
            histogram = workspace.pairs.cosines[when]
            assert sum(histogram.counts) == valid.sum()
            assert histogram.mean == pytest.approx(cosines[valid].mean(), abs=1e-5)

    def test_the_best_and_the_worst_images_are_chosen(self, run: Path) -> None:
        (workspace,) = gather([run], 9).workspaces
        assert workspace.pairs is not None
        with h5py.File(run / "optimized.h5") as file:
            cosines = (file["image_features"][:] * file["text_features"][:]).sum(axis=1)
            cosines[~file["valid"][:]] = np.nan
        order = [row for row in np.argsort(cosines) if np.isfinite(cosines[row])]
        groups = {pair.row: pair.groups for pair in workspace.pairs.pairs}
        assert {row for row, found in groups.items() if "worst" in found} == set(order[:3])
        assert {row for row, found in groups.items() if "best" in found} == set(order[-3:])

    def test_what_failed_and_what_was_blanked_is_told(self, page: Seen) -> None:
        assert "the model failed on it" in page.text
        assert "blanked by the safety checker" in page.text

    def test_corpus_in_numbers(self, run: Path) -> None:
        (workspace,) = gather([run], 3).workspaces
        facts = workspace.corpus
        assert facts is not None
        assert (facts.texts, facts.duplicates) == (len(handmade.TEXTS), 0)
        assert facts.words == sum(len(text.split()) for text in handmade.TEXTS)
        assert dict(facts.frequent)["table"] == 12
        assert dict(facts.frequent)["dog"] == 4
        assert "on" not in dict(facts.frequent)
        assert facts.lengths[7] == 12

    def test_texts_that_repeat_are_counted(self, tmp_path: Path) -> None:
        texts = ["One dog .", "one  DOG .", "Two dogs .", "One dog ."] * 2
        handmade.write_pairs(tmp_path, texts)
        (workspace,) = gather([tmp_path], 3).workspaces
        assert workspace.corpus is not None
        assert workspace.corpus.duplicates == 6
        assert workspace.corpus.repeated[0] == ("One dog .", 6)

    def test_boxes_lie_where_the_objects_are(self, page: Seen) -> None:
        boxes = page.all("span", class_="box")
        assert boxes
        assert "left: 0.0%; top: 0.0%; width: 50.0%; height: 50.0%" in str(boxes[0]["style"])

    def test_a_page_of_large_photos_stays_small(self, tmp_path: Path) -> None:
        photos = handmade.write_photos(tmp_path / "photos", 12, side=1500)
        handmade.write_captions(tmp_path / "captions.h5", photos, ["noise"] * 12)
        size = len(render(gather([tmp_path], 12)))
        assert size < 12 * 5e6 / 150 + 100_000


class TestLineage:
    def test_edges_are_what_was_made_from_what(self, run: Path) -> None:
        lineage = gather_lineage(sorted(run.glob("*.h5")))
        names = {node.key: node.name for node in lineage.nodes}
        edges = {(names[edge.source], names[edge.target]) for edge in lineage.edges}
        assert ("corpus.txt", "synthetic.h5") in edges
        assert ("synthetic.h5", "features.h5") in edges
        assert ("synthetic.h5", "objects.h5") in edges
        assert ("captions.h5", "scores.h5") in edges
        assert all(edge.fresh for edge in lineage.edges)
        assert {node.state for node in lineage.nodes} == {READY, "given"}

    def test_what_is_stale_is_marked(self, tmp_path: Path) -> None:
        handmade.write_pairs(tmp_path)
        handmade.write_pairs(tmp_path / "other", seed=1)
        (tmp_path / "other" / "synthetic.h5").replace(tmp_path / "synthetic.h5")
        lineage = gather_lineage([tmp_path / name for name in ("synthetic.h5", "optimized.h5",
                                                               "features.h5")])  # fmt: skip
        nodes = {node.name: node for node in lineage.nodes}
        assert nodes["synthetic.h5"].state == READY
        assert nodes["features.h5"].state == nodes["optimized.h5"].state == STALE
        assert "earlier synthetic.h5" in nodes["optimized.h5"].problem
        fresh = {(e.source, e.target): e.fresh for e in lineage.edges}
        assert not fresh[nodes["synthetic.h5"].key, nodes["features.h5"].key]
        assert fresh[nodes["features.h5"].key, nodes["optimized.h5"].key]

    def test_what_is_gone_is_told(self, tmp_path: Path) -> None:
        handmade.write_pairs(tmp_path)
        (tmp_path / "synthetic.h5").unlink()
        lineage = gather_lineage([tmp_path / "features.h5"])
        assert {node.name: node.state for node in lineage.nodes}["synthetic.h5"] == ABSENT

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [(5, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (3 * 86400, "3 days ago")],
    )
    def test_age(self, seconds: int, said: str) -> None:
        from datetime import datetime, timedelta, timezone

        now = datetime(2030, 1, 1, tzinfo=timezone.utc)
        assert age((now - timedelta(seconds=seconds)).isoformat(), now) == said
        assert age("long ago", now) == ""


class TestCharts:
    @pytest.mark.parametrize("ends", [(0, 1), (-0.043, 0.7), (0, 57), (1e-5, 3e-5), (0, 1e6)])
    def test_ticks_are_even_and_within(self, ends: tuple[float, float]) -> None:
        found = charts.ticks(*ends)
        assert 3 <= len(found) <= 7
        assert all(ends[0] - 1e-12 <= tick <= ends[1] + 1e-9 for tick in found)
        steps = np.diff(found)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)

    def test_bars_are_as_high_as_their_counts(self) -> None:
        drawn = Seen(
            charts.histogram([0, 1, 2, 3], {"n": [4, 0, 2]}, title="t", across="x", up="y")
        )
        heights = [float(str(bar["height"])) for bar in drawn.all("rect")]
        assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)

    def test_names_are_escaped(self) -> None:
        assert "<b>" not in charts.lines({"<b>": [1, 2]}, title="<b>", across="<b>", up="<b>")

    def test_values_that_are_no_numbers_are_left_out(self) -> None:
        drawn = charts.lines({"a": [1.0, float("nan"), 2.0]}, title="t", across="x", up="y")
        assert "nan" not in drawn


class TestCommand:
    def test_it_writes_a_page_and_writes_it_again(
        self, run_cli: RunCli, run: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "report.html"
        for _ in range(2):
            result = run_cli("report", run, "-o", target)
            assert result.exit_code == 0, result.stderr
            assert "report.html" in result.stderr
        assert target.stat().st_size < 5e6

    def test_two_workspaces_stand_side_by_side(
        self, run_cli: RunCli, run: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other" / "second"
        other.mkdir(parents=True)
        photos = sorted((run.parent / "photos").glob("*.jpg"))
        handmade.write_captions(other / "captions.h5", photos, ["Something else ."] * len(photos))
        target = tmp_path / "report.html"
        assert run_cli("report", run, other, "-o", target, "-q").exit_code == 0
        page = Seen(target.read_text(encoding="utf-8"))
        cards = [c for c in page.all("article") if str(c["aria-label"]).startswith("photo")]
        assert len(cards) == len(photos)
        assert page.text.count("Something else .") == len(photos)
        assert {"run", "second"} <= {t.strip() for t in page.text.split("\n")}

    def test_scores_of_files_that_were_compared_are_found(
        self, run_cli: RunCli, tmp_path: Path
    ) -> None:
        run = handmade.write_run(tmp_path / "run", photos=6)
        (run / "scores.h5").unlink()
        photos = sorted((tmp_path / "photos").glob("*.jpg"))
        texts = [f"The reference of {photo.stem} ." for photo in photos]
        handmade.write_captions(run / "better.h5", photos, texts)
        done = run_cli(
            "evaluate", run / "captions.h5", run / "better.h5", "-w", run, "-q", "--bootstrap", 10,
            "--references", tmp_path / "references.csv", "--metrics", "ROUGE-L,CIDEr",
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr
        found = gather([run, run / "better.h5"], 6).photos
        assert found is not None
        for number, name in enumerate(("captions.h5", "better.h5")):
            own = tmp_path / f"own-{name}"
            run_cli(
                "evaluate", run / name, "-o", own, "-q", "--metrics", "ROUGE-L,CIDEr",
                "--references", tmp_path / "references.csv",
            )  # fmt: skip
            with Artifact(own) as artifact:
                wanted = artifact.group("per_image")["CIDEr"].tolist()
                total = artifact.attributes["CIDEr"]
            scores = found.sources[number].scores
            assert scores is not None
            assert scores.metrics["CIDEr"] == pytest.approx(total)
            assert [photo.said[number].scores["CIDEr"] for photo in found.photos] == pytest.approx(
                wanted
            )

    def test_another_file_is_not_written_over(
        self, run_cli: RunCli, run: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "report.html"
        target.write_text("my own")
        result = run_cli("report", run, "-o", target)
        assert result.exit_code == 2
        assert "--force" in result.stderr
        assert target.read_text() == "my own"
        assert run_cli("report", run, "-o", target, "--force", "-q").exit_code == 0

    def test_where_it_cannot_be_written_a_line_says_so(
        self, run_cli: RunCli, run: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        result = run_cli("report", run, "-o", tmp_path / "file" / "report.html")
        assert result.exit_code == 2
        assert "cannot be written" in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_photo_that_has_gone_has_a_placeholder(self, run_cli: RunCli, tmp_path: Path) -> None:
        run = handmade.write_run(tmp_path / "run", photos=4)
        (tmp_path / "photos" / "photo002.jpg").unlink()
        (tmp_path / "photos" / "photo003.jpg").write_bytes(b"no image")
        target = tmp_path / "report.html"
        assert run_cli("report", run, "-o", target).exit_code == 0
        page = Seen(target.read_text(encoding="utf-8"))
        gone = [str(f["aria-label"]) for f in page.all("span", class_="frame gone")]
        assert any("train" in label and "not there any more" in label for label in gone)
        assert any("not an image" in label for label in gone)

    def test_references_that_have_gone_are_told(self, run_cli: RunCli, tmp_path: Path) -> None:
        run = handmade.write_run(tmp_path / "run", photos=3)
        (tmp_path / "references.csv").unlink()
        result = run_cli("report", run, "-o", tmp_path / "report.html")
        assert result.exit_code == 0
        assert "references are gone" in result.stderr

    def test_a_workspace_of_another_version_is_told(self, run_cli: RunCli, tmp_path: Path) -> None:
        run = handmade.write_run(tmp_path / "run", photos=3)
        for name in ("synthetic.h5", "captions.h5"):
            with h5py.File(run / name, "a") as file:
                file.attrs["schema"] = np.int64(99)
        result = run_cli("report", run, "-o", tmp_path / "report.html")
        assert result.exit_code == 0, result.stderr
        assert "schema 99 is newer" in result.stderr
        assert "schema 99 is newer" in Seen((tmp_path / "report.html").read_text()).text

    @pytest.mark.parametrize("what", ["nothing", "empty folder", "other artifact"])
    def test_where_there_is_nothing_to_show(
        self, run_cli: RunCli, run: Path, tmp_path: Path, what: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        sources = {
            "nothing": tmp_path / "nothing",
            "empty folder": tmp_path / "empty",
            "other artifact": run / "features.h5",
        }
        result = run_cli("report", sources[what], "-o", tmp_path / "report.html")
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "report.html").exists()

    def test_torch_is_not_imported(self, run: Path, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from syntic_cli.stages.report import report; "
            f"report([Path({str(run)!r})], output=Path({str(tmp_path / 'r.html')!r})); "
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if find_chromium() is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    with chromium() as page:
        yield page


@pytest.fixture(scope="module")
def written(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


SHOWN = "[...document.querySelectorAll('#photo-cards .card:not([hidden])')]"


class TestBrowser:
    @pytest.fixture(autouse=True)
    def _opened(self, browser: Page, written: Path) -> None:
        browser.problems.clear()
        browser.open(written)

    def test_it_loads_without_a_word_on_the_console(self, browser: Page) -> None:
        assert browser.problems == []
        assert browser.run(f"{SHOWN}.length") == 20
        assert browser.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")

    def test_markup_in_a_caption_does_nothing(self, browser: Page) -> None:
        browser.run("document.querySelector('[data-group=\"\"]').click()")
        texts = browser.run(f"{SHOWN}.map((c) => c.querySelector('.text').textContent)")
        assert EVIL in texts
        assert browser.run("document.scripts.length") == 1

    def test_a_word_filters(self, browser: Page) -> None:
        browser.run("document.querySelector('#photos [data-group=\"\"]').click()")
        assert browser.run(f"{SHOWN}.length") == 30
        typed = (
            "(() => { const i = document.querySelector('#photos input[type=search]');"
            " i.value = 'Hors'; i.dispatchEvent(new Event('input')); })()"
        )
        browser.run(typed)
        assert browser.run(f"{SHOWN}.length") == 6
        assert browser.run("document.querySelector('#photos .shown').textContent") == (
            "6 of 30 shown"
        )
        browser.run(typed.replace("Hors", "zebra"))
        assert browser.run(f"{SHOWN}.length") == 0
        assert browser.run("!document.querySelector('#photos .nothing').hidden")

    def test_it_sorts_both_ways(self, browser: Page, run: Path) -> None:
        browser.run("document.querySelector('#photos [data-group=\"\"]').click()")
        with Artifact(run / "scores.h5") as artifact:
            cider = dict(
                zip(artifact.texts("path"), artifact.group("per_image")["CIDEr"], strict=True)
            )
        wanted = [Path(path).name for path in sorted(cider, key=lambda path: cider[path])]
        names = f"{SHOWN}.map((c) => c.getAttribute('aria-label'))"
        assert browser.run(names) == wanted
        browser.run("document.querySelector('#photos .direction').click()")
        assert browser.run(names) == wanted[::-1]
        browser.run(
            "(() => { const s = document.querySelector('#photos select');"
            " s.value = '0 log-probability'; s.dispatchEvent(new Event('change')); })()"
        )
        assert browser.run(names) == [f"photo{row:03d}.jpg" for row in range(30)]

    def test_a_photo_opens_by_keyboard_and_closes(self, browser: Page) -> None:
        browser.run(f"{SHOWN}[2].querySelector('.open').focus()")
        name = browser.run(f"{SHOWN}[2].getAttribute('aria-label')")
        following = browser.run(f"{SHOWN}[3].getAttribute('aria-label')")
        browser.press("Enter", 13)
        title = "document.querySelector('#dialog-title').textContent"
        browser.wait_until(f"document.querySelector('dialog').open && {title} === '{name}'")
        assert "The reference of" in browser.run("document.querySelector('dialog').innerText")
        browser.press("ArrowRight", 39)
        browser.wait_until(f"{title} === '{following}'")
        browser.press("Escape", 27)
        focused = "document.activeElement.closest('.card')?.getAttribute('aria-label')"
        browser.wait_until(f"!document.querySelector('dialog').open && {focused} === '{following}'")
        assert browser.problems == []

    def test_tabs_move_by_arrows(self, browser: Page) -> None:
        browser.run("document.querySelector('#photos [role=tab]').focus()")
        browser.press("ArrowRight", 39)
        browser.wait_until("document.activeElement.textContent === 'All'")
        assert browser.run("document.activeElement.getAttribute('aria-selected')") == "true"
        assert browser.run(f"{SHOWN}.length") == 30

    @pytest.mark.parametrize("theme", ["light", "dark"])
    @pytest.mark.parametrize("width", [380, 1600])
    def test_it_fits_and_can_be_read(
        self, browser: Page, written: Path, width: int, theme: str
    ) -> None:
        browser.open(written, width, 800, theme)
        assert browser.run("document.documentElement.scrollWidth") == width
        contrast = """(() => {
          const light = (text) => {
            const [r, g, b] = text.match(/[\\d.]+/g).map((v) => v / 255)
              .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const behind = (e) => {
            for (; e; e = e.parentElement) {
              const colour = getComputedStyle(e).backgroundColor;
              if (!/, 0\\)|transparent/.test(colour)) return colour;
            }
          };
          const found = ["h1", ".quiet", ".said", ".badge", ".state", ".tabs button", ".failures"]
            .map((name) => document.querySelector(name)).map((e) => {
              const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            });
          return Math.min(...found);
        })()"""
        assert browser.run(contrast) >= 4.5

    def test_several_sources_of_long_names_fit_too(
        self, browser: Page, run: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / ("no-objects-and-no-projection-" * 3 + "captions.h5")
        photos = sorted((run.parent / "photos").glob("*.jpg"))
        handmade.write_captions(other, photos, ["Something else ."] * len(photos))
        path = tmp_path / "report.html"
        path.write_text(render(gather([run, other], 30)), encoding="utf-8")
        browser.open(path, 380, 800)
        assert browser.run("document.documentElement.scrollWidth") == 380
        assert browser.problems == []

    def test_every_control_has_a_name(self, browser: Page) -> None:
        browser.call("Accessibility.enable")
        tree = browser.call("Accessibility.getFullAXTree")["nodes"]
        roles = {
            "button",
            "combobox",
            "searchbox",
            "checkbox",
            "tab",
            "image",
            "link",
            "StaticText",
        }
        unnamed = [
            node["role"]["value"]
            for node in tree
            if not node.get("ignored")
            and node["role"]["value"] in roles
            and not node.get("name", {}).get("value", "").strip()
        ]
        assert [role for role in unnamed if role != "StaticText"] == []
