"""``python -m secagg`` runs the console script where it is not on the path."""

from secagg.cli import main

if __name__ == "__main__":
    main()
