"""`python -m llm_jepa` is the command `llm-jepa`."""

from llm_jepa.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
