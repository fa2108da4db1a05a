"""hsi-train for ``python -m`` and ``torchrun -m``."""

from hsi_train.cli import main

if __name__ == "__main__":
    main()
