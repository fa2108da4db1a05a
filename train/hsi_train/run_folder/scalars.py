"""Writes the curves of a training for TensorBoard, where that is installed."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hsi_train.fitting.progress import Epoch

log = logging.getLogger(__name__)


@contextmanager
def scalars(folder: Path, finished: int) -> Iterator[Callable[[Epoch], None]]:
    """Give a function that writes an epoch's figures, at once.

    Without tensorboard, which nothing here needs, the function does nothing.

    Args:
        folder: Folder of the event files.
        finished: Epochs before those to come; what was written later than them, by a
            run that was interrupted, is withdrawn.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield lambda _: None
        return
    log.info(f"Curves: tensorboard --logdir {folder.parent}")
    with SummaryWriter(str(folder), purge_step=finished + 1) as writer:

        def write(epoch: Epoch) -> None:
            for name, value in {
                "loss": epoch.loss,
                "learning_rate": epoch.learning_rate,
                "validation/accuracy": epoch.validation_accuracy,
                "validation/kappa": epoch.validation_kappa,
            }.items():
                if value is not None:
                    writer.add_scalar(name, value, epoch.epoch)
            writer.flush()

        yield write
