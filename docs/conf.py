"""Sphinx builds the documentation from this: ``make docs``."""

import inspect
import os
import pkgutil
import re
from importlib import import_module
from typing import Any

import gymnasium as gym
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from sb3_asym import AsymSAC, __version__

os.environ.update(TERMINAL_WIDTH="90", NO_COLOR="1", TERM="dumb")  # before Typer is imported, which reads them

project = "sb3-asym"
author = "the sb3-asym developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"sb3-asym {release}"
html_show_copyright = False

# Autodoc takes the types of a class's arguments from the attributes of the same name, which are not always the same.
AsymSAC.__annotations__.update({p.name: p.annotation for p in inspect.signature(AsymSAC).parameters.values()})


class CommandHelp(Directive):
    """``{command-help} evaluate``: what ``sb3-asym evaluate --help`` prints."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The help as a block."""
        from typer.testing import CliRunner

        from sb3_asym.cli.main import app

        result = CliRunner().invoke(app, [*self.arguments[0].split(), "--help"], prog_name="sb3-asym")
        if result.exit_code:
            raise self.error(f"sb3-asym {self.arguments[0]} --help: {result.output}")
        text = "\n".join(line.rstrip() for line in result.output.strip("\n").splitlines())
        return [nodes.literal_block(text, text, language="text")]


def automodule(name: str, *options: str) -> str:
    """Markdown: all that a module documents."""
    lines = [f".. automodule:: {name}", *(f"   {option}" for option in (":members:", *options))]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def modules(name: str, elsewhere: str) -> str:
    """Markdown: the public names of a package, then each of its modules with all the rest."""
    package = import_module(name)
    exported = {exported: getattr(package, exported) for exported in getattr(package, "__all__", ())}
    public = [key for key, value in exported.items() if getattr(value, "__module__", "").startswith(name)]
    texts = []
    if name != "sb3_asym":
        lower = ", ".join(set(exported) - set(public))
        texts = [automodule(name, ":imported-members:", f":exclude-members: {lower}") if public else automodule(name)]
    # A module that is named as the public function in it cannot be told from that.
    documented = {*elsewhere.replace(",", " ").split(), *public, "__main__"}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg and module.name not in documented:
            texts += [f"## {name.rpartition('.')[2]}.{module.name}"]
            texts += [automodule(f"{name}.{module.name}", f":exclude-members: {', '.join(public)}")]
    return "\n\n".join(texts)


def insert_modules(app: Sphinx, docname: str, source: list[str]) -> None:
    """Pages of the API say ``<!-- modules PACKAGE -->``, with ``without NAME, NAME`` where a module is on another page."""
    mark = r"^<!-- modules (\S+)(?: without (.*))? -->$"
    source[0] = re.sub(mark, lambda match: modules(match[1], match[2] or ""), source[0], flags=re.MULTILINE)


def skip_member(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Not the fields of a named tuple, which its own docstring describes, nor what Gymnasium says of an env's methods."""
    text = getattr(member, "__doc__", None)
    is_field = (text or "").startswith("Alias for field number")
    return True if is_field or (text is None and hasattr(gym.Env, name.rpartition(".")[2])) else None


def setup(app: Sphinx) -> None:
    """Register what is defined here."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("source-read", insert_modules)
