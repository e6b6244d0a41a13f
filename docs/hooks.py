"""Formulas as MathML, made when the site is built: browsers need no script and no network."""

import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """Replaces LaTeX by MathML; called by mkdocs for every page."""

    def formula(match: re.Match[str]) -> str:
        latex = html.unescape(match[2].strip())[2:-2].strip()  # without \( \) or \[ \]
        return convert(latex, display="block" if match[1] == "div" else "inline")

    return FORMULA.sub(formula, content)
