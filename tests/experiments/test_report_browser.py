"""A report in a real browser: Debian's chromium with its driver, else skipped."""

import shutil

import pytest
from reported import claimed, put

from reverie.experiments.studies.report import page
from reverie.experiments.studies.report_data import gather

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.slow  # starts a browser
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
    for seed in range(2):
        rows = {"step": [20], "return": [1.0 + seed], "per": [0.5 + seed]}
        put(results.parent / "once", "an-arm", seed, rows, method="oer")
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
    assert ask(browser, "document.querySelectorAll('.claim .forest .reach').length") == 1
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
    assert ask(browser, f"[...{choose}.options].map((o) => o.value)") == ["return", "per"]
    browser.execute_script(f"{choose}.value = 'per'; {choose}.dispatchEvent(new Event('change'))")
    assert "per" in ask(browser, "document.querySelector('#once figcaption').textContent")
    browser.find_element("css selector", "#s details.compare summary").click()
    assert ask(browser, "document.querySelectorAll('#s .profile .mean').length") == 1
    browser.find_element("id", "theme").click()
    assert ask(browser, "document.documentElement.dataset.theme") == "dark"
    assert browser.get_log("browser") == []
