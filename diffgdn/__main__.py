"""`python -m diffgdn`."""

from diffgdn.cli import main

if __name__ == "__main__":
    main()
