"""The RL Zoo's commands, as ``sb3-asym VERB``."""

import typer

from sb3_asym import zoo


def add_zoo_commands(app: typer.Typer) -> None:
    """
    Add a command for each verb of the RL Zoo, which gets all arguments unchanged, ``--help`` too.

    :param app: the command line
    """
    for verb, module in zoo.VERBS.items():
        _add(app, verb, module)


def _add(app: typer.Typer, verb: str, module: str) -> None:
    def command(context: typer.Context) -> None:
        zoo.run(verb, context.args)

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(verb, context_settings=settings, help=f"The RL Zoo's, with its flags: python -m {module}.")(command)
