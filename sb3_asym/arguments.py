"""Constructor arguments: the signature that ``help`` shows, and attributes that stay as they were given."""

import inspect
from inspect import Signature
from typing import Any


class FixedAtConstruction:
    """An argument from which networks, memory and master were built, so that setting it later would have no effect."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, agent: Any, owner: type | None = None) -> Any:
        return self if agent is None else agent.__dict__[self.name]

    def __set__(self, agent: Any, value: Any) -> None:
        if "option_memory" in agent.__dict__:
            raise AttributeError(f"{self.name} is fixed when the agent is built: make a new agent with {self.name}={value!r}.")
        agent.__dict__[self.name] = value


def with_arguments_of(base: type, signature: Signature) -> Signature:
    """
    The signature of a subclass whose constructor passes ``*args`` and ``**kwargs`` on to its base class.

    :param base: base class
    :param signature: signature of the subclass's constructor
    :return: the base class's arguments in their order, then the subclass's own
    """
    arguments = [p for p in inspect.signature(base).parameters.values() if p.name not in signature.parameters]
    own = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    first = [p for p in own if p.kind is not p.KEYWORD_ONLY]
    return signature.replace(parameters=[*first, *arguments, *(p for p in own if p.kind is p.KEYWORD_ONLY)])
