"""Where does `safe-cli` begin?

A child process imports this module anew, whoever started it; so the verbs are loaded when it runs.
"""


def main() -> None:
    """Run `safe-cli`."""
    from cli import app

    app.main()


if __name__ == "__main__":
    main()
