"""Docstrings as mkdocstrings wants them: examples as code, Sphinx's roles as links."""

import re

import griffe

ROLE = re.compile(r":(?:func|class|mod|meth):`~?([\w.]+)`")


class Docstrings(griffe.Extension):
    """Rewrites the text of every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is None:
            return
        text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
        public = set(obj.package.exports or ())

        def link(match: re.Match[str]) -> str:
            name = match[1].removeprefix("linjax.")
            return f"[`{name}`][linjax.{name}]" if name in public else f"`{name}`"

        obj.docstring.value = ROLE.sub(link, text)
