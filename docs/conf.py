"""Sphinx builds the documentation from this: ``make docs``."""

import inspect
import os
from typing import Any

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

    def run(self) -> list[nodes.Node]:
        """The help as a block."""
        from typer.testing import CliRunner

        from sb3_asym.cli.main import app

        result = CliRunner().invoke(app, [self.arguments[0], "--help"], prog_name="sb3-asym")
        if result.exit_code:
            raise self.error(f"sb3-asym {self.arguments[0]} --help: {result.output}")
        text = "\n".join(line.rstrip() for line in result.output.strip("\n").splitlines())
        return [nodes.literal_block(text, text, language="text")]


def skip_fields(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a named tuple are described in its own docstring."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Register what is defined here."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-skip-member", skip_fields)
