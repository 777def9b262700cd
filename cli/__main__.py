"""The beginning of `safe-cli`.

A child process imports this module again, whoever started it; so the verbs are loaded when it runs.
"""


def main() -> None:
    """Run `safe-cli`."""
    from cli import app

    app.main()


if __name__ == "__main__":
    main()
