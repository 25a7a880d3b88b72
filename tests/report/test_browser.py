"""The page in a real browser: nothing is fetched, nothing goes wrong, the viewer plays, any screen will do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crossguard as cg
from crossguard.report import report
from tests.report.synthetic import DEPTH, INERTIAL, RGB, SKELETON, make

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not here (Debian's package chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    flag = {"name": "attack_not_converged", "modality": "rgb", "detail": "four times the steps fooled 9 of 128 more"}
    runs = [
        make(folder / "a", "rgb-standard", accuracy=(0.78, 0.02), modalities=(RGB,), seed=1),
        make(folder / "b", "concat-standard", accuracy=(0.95, 0.08), seed=2),
        make(folder / "c", "amr-adversarial", accuracy=(0.9, 0.6), objective="adversarial", weights=True, seed=3,
             flags=(flag,)),
    ]  # fmt: skip
    return report(runs, folder / "page.html")


class Tab:
    """One open page, with what it complained about and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **options: Any) -> None:
        self.trouble: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.trouble.append(str(e)))
        self.page.route("**/*", self._only_files)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".plot .main-svg")

    def _only_files(self, route: Any) -> None:
        url: str = route.request.url
        if url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.asked.append(url)
            route.abort()

    def settle(self) -> None:
        """Waits until the viewer shows what was chosen: clips are unpacked while the page goes on."""
        self.page.wait_for_selector("#viewer .stage[aria-busy=false]")

    def pixels(self, index: int = 0) -> str:
        """What a canvas of the viewer shows."""
        self.settle()
        return self.page.evaluate("i => document.querySelectorAll('#viewer canvas')[i].toDataURL()", index)

    def scrolls_sideways(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")

    def close(self) -> None:
        self.context.close()
        assert self.trouble == []
        assert self.asked == []


@pytest.fixture
def tab(browser: Any, html: Path) -> Iterator[Tab]:
    opened = Tab(browser, html, reduced_motion="reduce")
    yield opened
    opened.close()


def test_every_curve_is_drawn_and_the_switch_shows_them_by_model(tab: Tab) -> None:
    assert tab.page.locator('[data-view="condition"] .plot .scatterlayer .trace').count() == 2 * (2 + 2 + 3 + 3) + 2
    tab.page.click('[data-panels="model"]')
    assert tab.page.locator('[data-view="model"] .plot .main-svg').first.is_visible()
    assert not tab.page.locator('[data-view="condition"]').is_visible()


def test_the_table_sorts_within_its_groups(tab: Tab) -> None:
    def names() -> list[str]:
        return tab.page.locator("table.summary tbody th[scope=row]").all_inner_texts()

    def clean() -> list[str]:
        return tab.page.locator(
            "table.summary tbody:nth-of-type(1) tr:not(.family) td:nth-child(2) b"
        ).all_inner_texts()

    assert names() == ["rgb-standard", "concat-standard", "amr-adversarial"]
    tab.page.click("table.summary thead button:text-is('clean')")
    assert names()[:2] == ["concat-standard", "rgb-standard"]
    assert clean() == sorted(clean(), key=float, reverse=True)
    tab.page.click("table.summary thead button:text-is('clean')")
    assert names()[:2] == ["rgb-standard", "concat-standard"]
    assert tab.page.locator("th[aria-sort=ascending]").count() == 1


def test_classes_follow_the_selector(tab: Tab) -> None:
    tab.page.select_option("[data-classes]", label="concat-standard")
    assert tab.page.locator(".classes:visible").get_attribute("data-model") == "1"


def test_the_viewer_plays_pauses_and_changes_pixels(tab: Tab) -> None:
    tab.page.locator("#viewer").scroll_into_view_if_needed()
    first = tab.pixels()
    tab.page.wait_for_timeout(400)
    assert tab.pixels() == first, "who asked for less motion gets no autoplay"
    tab.page.click("#viewer .play")
    tab.page.wait_for_timeout(700)
    assert tab.pixels() != first
    tab.page.click("#viewer .play")
    held = tab.pixels()
    tab.page.wait_for_timeout(400)
    assert tab.pixels() == held


def test_the_viewer_obeys_the_keyboard(tab: Tab) -> None:
    tab.page.locator("#viewer").focus()
    tab.pixels()
    clock = tab.page.locator("#viewer .clock")
    assert clock.inner_text() == "1 / 16"
    before = tab.pixels()
    tab.page.keyboard.press("ArrowRight")
    assert clock.inner_text() == "2 / 16"
    assert tab.pixels() != before
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("ArrowLeft")
    assert clock.inner_text() == "16 / 16"
    about = tab.page.locator("#viewer .about")
    opened = about.inner_text()
    tab.page.keyboard.press("n")
    assert "clip-00" in about.inner_text() != opened
    tab.page.keyboard.press("p")
    assert about.inner_text() == opened
    pressed = tab.page.locator("#viewer .switch [aria-pressed=true]")
    assert pressed.inner_text() == "all at once"
    tab.page.keyboard.press("c")
    assert pressed.inner_text() == "only rgb"
    tab.page.keyboard.press(" ")
    assert tab.page.locator("#viewer .play").get_attribute("aria-label") == "pause"


def test_models_stand_side_by_side_with_what_they_said(tab: Tab) -> None:
    titles = tab.page.locator("#viewer .take h3")
    tab.pixels()
    assert titles.all_inner_texts() == ["Original", "concat-standard", "amr-adversarial"]
    for verdict in tab.page.locator("#viewer .verdict p").all_inner_texts():
        assert ("✓" in verdict and "right" in verdict) or ("✗" in verdict and "wrong" in verdict)
    tab.page.click("#viewer .chip-label:has-text('rgb-standard')")
    tab.settle()
    assert tab.page.locator("#viewer .take").count() == 4


def test_overlay_and_side_view_change_what_is_drawn(tab: Tab) -> None:
    skeleton = (
        "[...document.querySelectorAll('#viewer figcaption')].findIndex(f => f.textContent.includes('over original'))"
    )
    tab.pixels()
    index = tab.page.evaluate(skeleton)
    front, picture = tab.pixels(index), tab.pixels(2)
    tab.page.locator("#viewer .transport select").nth(1).select_option("side")
    assert tab.pixels(index) != front
    tab.page.locator("#viewer .transport input[type=checkbox]").uncheck()
    assert tab.pixels(2) != picture


FOOLED, HELD = "[aria-label='show clips that fooled']", "[aria-label='but did not fool']"


def test_the_filter_finds_the_sample_that_fooled_one_and_not_the_other(browser: Any, tmp_path: Path) -> None:
    weak, strong = make(tmp_path / "a", "weak", clips=4, seed=1), make(tmp_path / "b", "strong", clips=4, seed=2)
    fates = {"weak": "fhfh", "strong": "hhff"}  # by clip: fooled or held
    for folder in (weak, strong):
        meta = json.loads((folder / "record.json").read_text())
        for clip, fate in zip(meta["clips"], fates[meta["name"]], strict=True):
            clip["margins"] |= {"clean": 1.0, "joint": 1.0 if fate == "h" else -1.0, "only:rgb": 1.0}
        (folder / "record.json").write_text(json.dumps(meta))
    tab = Tab(browser, report([weak, strong], tmp_path / "p.html"), reduced_motion="reduce")
    tab.pixels()
    about, counts = tab.page.locator("#viewer .about"), tab.page.locator("#viewer .filter output")
    menu = tab.page.locator("#viewer .pick select option")
    assert "clip-000" in about.inner_text(), "it opens on a clip that tells the models apart"
    assert [words[-3:] for words in menu.all_inner_texts()] == ["✗ ✓", "✓ ✓", "✗ ✗", "✓ ✗"]
    tab.page.select_option(FOOLED, label="strong")
    assert menu.count() == 2
    assert "clip-002" in about.inner_text()
    tab.page.select_option(HELD, label="weak")
    assert menu.count() == 1
    assert "clip-003" in about.inner_text()
    broken = {r: cg.Record.load(r).broken_at("joint") for r in (weak, strong)}
    both = int(((broken[strong] > 0) & (broken[strong] <= 1) & (broken[weak] > 1)).sum())
    assert counts.inner_text() == f"1 of 4 clips; so are {both} of 120 tested samples"
    assert tab.page.locator("#viewer .pick button").first.is_disabled()
    tab.page.click("#viewer .switch button:text-is('only rgb')")
    tab.settle()
    assert "None of the clips" in tab.page.locator("#viewer .stage").inner_text()
    tab.page.select_option(FOOLED, "")
    tab.page.select_option(HELD, "")
    assert menu.count() == 4
    tab.settle()
    assert tab.page.locator("#viewer .take h3").all_inner_texts() == ["Original", "weak", "strong"]
    tab.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Depth whose background is masked out, a skeleton, and an inertial series that is padded."""
    folder = tmp_path_factory.mktemp("three")
    runs = [
        make(folder / "a", "concat-standard", modalities=(DEPTH, SKELETON, INERTIAL), seed=1),
        make(folder / "b", "skeleton-adversarial", objective="adversarial", modalities=(SKELETON,), seed=2),
        make(folder / "c", "concat-adversarial", objective="adversarial", modalities=(DEPTH, SKELETON, INERTIAL)),
    ]
    return report(runs, folder / "page.html")


ALPHA = """([i, x, y]) => {
    const c = document.querySelectorAll('#viewer canvas')[i], one = new OffscreenCanvas(1, 1).getContext('2d');
    one.drawImage(c, -Math.floor(x * c.width), -Math.floor(y * c.height));
    return [...one.getImageData(0, 0, 1, 1).data];
}"""


@pytest.mark.parametrize("width", [390, 1280])
def test_depth_skeleton_and_inertial_stand_side_by_side(browser: Any, three: Path, width: int) -> None:
    tab = Tab(browser, three, width, reduced_motion="reduce")
    tab.pixels()
    takes = tab.page.locator("#viewer .take")
    titles = tab.page.locator("#viewer .take h3").all_inner_texts()
    assert titles[0] == "Original"
    assert [takes.nth(i).locator("canvas").count() for i in range(len(titles))] == [3, *([6] * (len(titles) - 1))]
    scale = takes.nth(0).locator(".scale")
    assert scale.inner_text().endswith("mm")
    assert [w.isdigit() for w in scale.inner_text().split()][:2] == [True, True]
    assert "inertial, each lane" in takes.nth(0).inner_text()
    assert tab.page.evaluate(ALPHA, [0, 0.02, 0.02])[3] == 0, "what the sensor removed is not drawn"
    assert tab.page.evaluate(ALPHA, [4, 0.02, 0.02])[3] == 0, "nor is there a difference"
    body = [tab.page.evaluate(ALPHA, [0, 0.5, y / 20])[3] for y in range(20)]
    assert max(body) == 255
    for row in range(3):  # all figures of a modality begin level, on a screen that has room for columns
        tops = {round(takes.nth(i).locator(".frames").nth(row).bounding_box()["y"]) for i in range(len(titles))}
        assert (len(tops) == 1) == (width > 640)
    tab.page.click("#viewer .switch button:text-is('only skeleton')")
    tab.settle()
    assert takes.nth(1).locator(".untouched").all_inner_texts() == ["depth as it was", "inertial as it was"]
    tab.page.click("#viewer .chip-label:has-text('skeleton-adversarial')")
    tab.settle()
    assert not tab.scrolls_sideways()
    tab.page.emulate_media(media="print")
    assert tab.page.locator("#viewer canvas").first.is_visible()
    assert not tab.page.locator("#viewer .filter").is_visible()
    tab.close()


def test_motion_starts_by_itself_only_where_it_is_welcome(browser: Any, html: Path) -> None:
    tab = Tab(browser, html, reduced_motion="no-preference")
    tab.page.locator("#viewer").scroll_into_view_if_needed()
    tab.page.wait_for_selector("#viewer .play[aria-label=pause]")
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_no_screen_scrolls_sideways(browser: Any, html: Path, width: int, scheme: str) -> None:
    tab = Tab(browser, html, width, color_scheme=scheme, reduced_motion="reduce")
    tab.pixels()
    assert not tab.scrolls_sideways()
    tab.page.click('[data-panels="model"]')
    for details in tab.page.locator("details > summary").all():
        details.click()
    assert not tab.scrolls_sideways()
    tab.close()


def test_dark_and_print_have_their_own_colours(browser: Any, html: Path) -> None:
    tab = Tab(browser, html, color_scheme="dark", reduced_motion="reduce")
    ground = "getComputedStyle(document.body).backgroundColor"
    tick = "getComputedStyle(document.querySelector('.plot .ytick text')).fill"
    dark, dark_tick = tab.page.evaluate(ground), tab.page.evaluate(tick)
    tab.page.emulate_media(media="print", color_scheme="dark")
    assert tab.page.evaluate(ground) == "rgb(255, 255, 255)" != dark
    assert tab.page.evaluate(tick) != dark_tick
    assert not tab.page.locator("#viewer .transport").is_visible()
    assert not tab.page.locator("nav").is_visible()
    assert tab.page.pdf(format="A4")[:5] == b"%PDF-"
    tab.close()


def test_hostile_names_and_other_modalities_do_no_harm(browser: Any, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    wide = "W" * 60
    runs = [
        make(tmp_path / "a", hostile, modalities=(DEPTH, SKELETON, INERTIAL), classes=(hostile, "b", wide)),
        make(tmp_path / "b", wide, modalities=(RGB, SKELETON), classes=(hostile, "b", wide), seed=5),
    ]
    tab = Tab(browser, report(runs, tmp_path / "p.html"), 390, reduced_motion="reduce")
    tab.page.on("dialog", lambda dialog: tab.trouble.append(dialog.message))
    for box in tab.page.locator("#viewer .chip-label input").all():
        box.check()
    tab.pixels()
    tab.page.locator(".plot .drag").first.hover()
    tab.page.wait_for_timeout(300)
    assert not tab.scrolls_sideways()
    tab.close()


def test_without_scripts_the_figures_are_there(browser: Any, html: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(html.as_uri())
    assert page.locator("table.summary td b").first.is_visible()
    assert page.locator("noscript p.flag").count() == 2
    context.close()
