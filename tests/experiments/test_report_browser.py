"""A report in a real browser: Debian's chromium with its driver, else skipped."""

import json
import shutil

import pytest
from reported import claimed, put

from reverie.buffers.aside import write_text
from reverie.experiments.studies.report import page
from reverie.experiments.studies.report_data import gather
from reverie.experiments.studies.shows import Show, told

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.slow  # starts a browser
CAPSULE = {"kind": "capsule", "body": 1, "pos": [0, 0, 0], "quat": [1, 0, 0, 0],
           "size": [0.1, 0.5, 0], "colour": [200, 0, 0]}  # fmt: skip
UPRIGHT, LYING = [0, 0, 0, 10000, 0, 0, 0], [0, 0, 0, 7071, 0, 7071, 0]
WALK = {
    "reverie_episodes": 1, "what": "walk", "env": "E-v0", "fps": 25, "steps": 2, "played": 3,
    "camera": {"azimuth": 90, "elevation": 0, "distance": 4, "lookat": [0, 0, 0], "track": 0},
    "bodies": [1], "geoms": [CAPSULE], "fan": {"step": [0, 1], "real": [[0, 1]],
                                               "dreams": [[[0, 2], [0, 3]]]},
    "episodes": [{"label": label, "return": 3.0, "frames": [UPRIGHT, LYING], "gained": [1.0, 3.0],
                  "circuit": {"units": ["neuron 1"], "values": [[100, 0]]}}
                 for label in ("median", "worst")],
}  # fmt: skip
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    """Chromium without a screen, whose console is kept."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium with chromedriver: apt-get install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page with a claim, curves, single evaluations and numbers of others."""
    folder = tmp_path_factory.mktemp("page")
    results = claimed(folder)
    write_text(results.parent / "walk.json", json.dumps(WALK))
    chosen = {"picks": [1, 0], "values": [[0.1, None], [0.4, 0.9]]}
    write_text(results.parent / "selection.json", json.dumps(chosen))
    for seed in range(2):
        cosines = {f"conflict_{i}_{j}": [1.0 if i == j else -0.4] for i in (0, 1) for j in (0, 1)}
        rows = {"step": [20], "return": [1.0 + seed], "per": [0.5 + seed], **cosines}
        put(results.parent / "once", "an-arm", seed, rows, method="oer")
    show = Show("Method", "one against the other", "s", "a", "b", "return", "higher", "faster")
    row = told(show, {0: 12.0, 1: 13.0}, {0: 10.0, 1: 10.0})
    write_text(results.parent / "shows.json", json.dumps({"reverie_shows": 1, "rows": [row]}))
    file = folder / "report.html"
    file.write_text(page(gather([results.parent], folder / "claims.toml"), "A report"))
    return file


def opened(browser, file, size, theme):
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in media.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(f"file://{file}")


def ask(browser, script, *args):
    return browser.execute_script(f"return {script}", *args)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_there_at_each_width_and_theme(browser, shown, size, theme):
    opened(browser, shown, size, theme)
    assert ask(browser, "document.querySelector('.claim .pill').textContent") == "stands"
    assert ask(browser, "document.querySelectorAll('#claims .forest .reach').length") == 1
    small = ask(browser, "document.querySelector('#shows').innerText")
    assert "A hint, no more: a ahead in all 2 seeds" in small and "at full size: stands" in small
    cosines = "[...document.querySelectorAll('.panel.conflict svg text')].map((e) => e.textContent)"
    assert ask(browser, cosines)[:4] == ["1.00", "-0.40", "-0.40", "1.00"]
    means = "[...document.querySelectorAll('#s .charts .mean')].map((e) => e.getTotalLength())"
    assert len(lengths := ask(browser, means)) == 2 and min(lengths) > 50
    assert ask(browser, "document.querySelectorAll('#once svg.strip .reach').length") == 1
    page = "document.documentElement"  # nothing sticks out to the right
    assert ask(browser, f"{page}.scrollWidth == {page}.clientWidth")
    assert SIZES[size][0] - 20 < ask(browser, f"{page}.clientWidth") <= SIZES[size][0]
    paper = ask(browser, "getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, paper[4:-1].split(","))) > 380
    assert light == (theme == "light")
    assert browser.get_log("browser") == []


def test_pointer_seeds_legend_metric_and_theme(browser, shown):
    from selenium.webdriver import ActionChains

    opened(browser, shown, "desktop", "light")
    chart = browser.find_element("css selector", "#s .charts svg")
    ActionChains(browser).move_to_element_with_offset(chart, 200, 0).perform()
    tip = browser.find_element("id", "tip").text
    assert tip.startswith("20 ") and "a" in tip and "13.0" in tip and "10.5 to 15.5" in tip
    assert tip.index("13.0") < tip.index("10.0")  # the best first
    assert ask(browser, "document.querySelectorAll('#s .seed').length") == 0
    browser.find_element("css selector", "#s button.seeds").click()
    assert ask(browser, "document.querySelectorAll('#s .seed').length") == 6
    browser.find_element("css selector", "#s .legend button").click()
    assert ask(browser, "document.querySelectorAll('#s .charts g[data-arm]').length") == 1
    choose = "document.querySelector('#once select')"
    two = f"[...{choose}.options].slice(0, 2).map((o) => o.value)"
    assert ask(browser, two) == ["return", "per"]
    browser.execute_script(f"{choose}.value = 'per'; {choose}.dispatchEvent(new Event('change'))")
    assert "per" in ask(browser, "document.querySelector('#once figcaption').textContent")
    browser.find_element("css selector", "#s details.compare summary").click()
    assert ask(browser, "document.querySelectorAll('#s .profile .mean').length") == 1
    browser.find_element("id", "theme").click()
    assert ask(browser, "document.documentElement.dataset.theme") == "dark"
    assert browser.get_log("browser") == []


def test_an_episode_is_played_and_scrubbed(browser, shown):
    """A capsule of 0.1 and 0.5 m, 4 m away, first upright, then along x: to the right."""
    opened(browser, shown, "desktop", "light")
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    stage = "document.querySelector('.stage')"
    red = (
        "(() => { const c = " + stage + ", pen = c.getContext('2d');"
        "const d = pen.getImageData(0, 0, c.width, c.height).data; let xs = [], ys = [];"
        "for (let i = 0; i < d.length; i += 4) if (d[i] > 150 && d[i + 1] < 60 && d[i + 3] > 200)"
        "{ xs.push(i / 4 % c.width); ys.push(Math.floor(i / 4 / c.width)); }"
        "return [Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), c.height];"
        "})()"
    )
    wide, tall, height = ask(browser, red)
    metre = height / 2 / 4 / 0.34433  # of a view of 38 degrees: tan 19
    assert abs(tall - 1.2 * metre) < 4 and abs(wide - 0.2 * metre) < 4
    slider = "document.querySelector('svg.track')"
    key = "new KeyboardEvent('keydown', {key: 'ArrowRight'})"
    browser.execute_script(f"{slider}.dispatchEvent({key})")
    assert ask(browser, f"{slider}.getAttribute('aria-valuenow')") == "1"
    wide, tall, _ = ask(browser, red)
    assert abs(wide - 1.2 * metre) < 4 and abs(tall - 0.2 * metre) < 4
    assert ask(browser, "document.querySelector('.raster .head').style.left") == "75%"
    assert "3.000" in ask(browser, "document.querySelector('.clock').textContent")
    browser.find_element("css selector", ".play button").click()
    assert ask(browser, "document.querySelectorAll('.selections .mark').length") == 2
    assert ask(browser, "document.querySelectorAll('.selections rect').length") == 4
    assert ask(browser, "document.querySelectorAll('.fans .seed').length") == 2
    assert "forgetting" in ask(browser, "document.querySelector('#methods').textContent")
    own = [e for e in browser.get_log("browser") if "getImageData" not in e["message"]]  # is ours
    assert own == []
