"""A growing file with a nodata line for each frame that its camera lost."""

from hsi_runtime.camera.frames import SURE_LINES, FramedScene
from hsi_runtime.follow.sources.growing_file import GrowingFile


class FramedFile(FramedScene):
    """A line source whose rows are the frames, lost ones included.

    Args:
        file: The lines that came.
        counter: Column and band of the frame's number.
    """

    durable = True

    def __init__(self, file: GrowingFile, counter: tuple[int, int]) -> None:
        self._file = file
        self.path = file.path
        super().__init__(file, counter)

    @property
    def dropped(self) -> int:
        """Frames that are missing."""
        return self.lost

    @property
    def header_fields(self) -> dict[str, str]:
        return self._file.header_fields

    @property
    def complete(self) -> int:
        return self.info.rows

    @property
    def ended(self) -> bool:
        return self._file.ended

    @property
    def end_byte(self) -> int:
        return self._file.end_byte

    @property
    def lines_per_second(self) -> float | None:
        return self._file.lines_per_second

    def rows_before(self, byte: int) -> int:
        """Return how many rows end before a byte of the file."""
        lines = self._file.rows_before(byte)
        self.extend()
        return self.row_of(lines - 1) + 1 if lines else 0

    def begin(self, row: int) -> None:
        pass

    def look(self) -> None:
        self._file.look()
        self.extend()
        self.check_counter(SURE_LINES)

    def finish(self) -> None:
        self._file.finish()
        self.extend()

    def arrived(self, line: int) -> float:
        return self._file.arrived(self.line_before(line))

    def check_lines(self) -> None:
        self.check_counter()
        self._file.check_lines()
