"""`python -m open_miipher.commands NAME …`, which torchrun can start (`torchrun -m …`)."""

from open_miipher.commands import main

if __name__ == "__main__":
    main()
