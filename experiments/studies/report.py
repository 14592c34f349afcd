"""`reverie report RESULTS...`: one page that needs nothing but a browser, and Markdown tables."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ...buffers.aside import write_text
from ..runs.config import parse
from .claims import HERE
from .report_data import embedded, gather
from .report_diff import diff
from .report_published import read_seeds
from .report_tables import markdown, number, span
from .shows import numbers

PAGE = Path(__file__).parent / "page"
LARGEST = 5_000_000  # bytes of a page: it is to be sent by mail
SCRIPTS = ("charts.js", "panels.js", "player.js", "page.js")


@dataclass(frozen=True)
class ReportOptions:
    """Write one page of results: folders of `reverie compare`, folders of such, run directories."""

    out: Path = Path("report.html")
    """page to write"""
    title: str = "Reverie report"
    """its title"""
    markdown: Path | None = None
    """file for the tables as Markdown, beside the page"""
    claims: Path = HERE / "claims.toml"
    """claims whose suites are among the results get a verdict"""
    published: tuple[Path, ...] = ()
    """numbers of others to lay beside ours: CSV files, columns exp,env,seed,metric,step,value"""
    diff: tuple[Path, Path] | None = None
    """instead: two pages, to be told what they say differently"""
    action_repeat: str = ""
    """environment steps of a decision in those files, to be stated beside them"""


def page(data: Mapping[str, Any], title: str) -> str:
    """Return the page of what `report_data.gather` returns: one HTML text, styles and all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "span": span, "numbers": numbers}
    return environment.get_template("page.html.j2").render(
        data,
        title=title,
        style=Markup((PAGE / "page.css").read_text()),
        scripts=[Markup((PAGE / name).read_text()) for name in SCRIPTS],
        data=Markup(embedded(data)),
    )


def write(data: Mapping[str, Any], out: Path, title: str) -> str:
    """Write the page of what `report_data.gather` returns; say what is in it.

    Raises ValueError where it would be larger than can be sent about.
    """
    text = page(data, title)
    if (size := len(text.encode())) > LARGEST:
        raise ValueError(f"a page of {size:,} bytes, over {LARGEST:,}: name fewer results")
    write_text(out, text)
    runs = sum(c["runs"] for s in data["studies"] for c in s["cost"])
    return f"{out}: {len(data['studies'])} studies, {runs} runs, {size / 1e6:.2f} MB"


def main(args: Sequence[str]) -> int:
    """Run `reverie report`."""
    n = next((i for i, a in enumerate(args) if a.startswith("-")), len(args))
    if n == 0 and not {"-h", "--help", "--diff"} & set(args):
        raise ValueError("`reverie report` needs results: reverie report results/mine --out a.html")
    options = parse(ReportOptions, args[n:], "report RESULTS...")
    if options.diff is not None:
        if n:
            raise ValueError(f"--diff A B compares two pages: leave {args[0]} out")
        text = diff(*options.diff)
        print(text, end="")
        if options.markdown is not None:
            write_text(options.markdown, text)
        return 0
    if options.out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out {options.out}: end it with .html")
    theirs = [p for f in options.published for p in read_seeds(f, options.action_repeat)]
    command = shlex.join(["reverie", "report", *args])
    data = gather([Path(a) for a in args[:n]], options.claims, theirs, command)
    print(write(data, options.out, options.title))
    if options.markdown is not None:
        write_text(options.markdown, markdown(data, options.title))
        print(options.markdown)
    return 0
