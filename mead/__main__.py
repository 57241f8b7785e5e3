"""`python -m mead`."""

from mead.cli.main import main

if __name__ == "__main__":
    main()
