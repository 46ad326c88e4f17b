"""`python -m jdnas`."""

from jdnas.cli import main

if __name__ == "__main__":
    main()
