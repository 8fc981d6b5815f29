"""Entry point of ``python -m sb3_asym.zoo VERB …``."""

import sys

from sb3_asym.zoo import VERBS, run


def main() -> None:
    """Run a command of the Zoo, or print the names of all commands."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        helped = sys.argv[1:2] in ([], ["-h"], ["--help"])
        print(f"usage: python -m sb3_asym.zoo {{{','.join(VERBS)}}} …", file=sys.stdout if helped else sys.stderr)
        sys.exit(0 if helped else 2)
    run(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    main()
