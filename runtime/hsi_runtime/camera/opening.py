"""Opens a scene as the user says that its camera left it."""

from pathlib import Path

from hsi_runtime.camera.calibration import CalibratedScene, read_calibration
from hsi_runtime.camera.frames import FramedScene
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import Scene


def open_camera_scene(
    path: Path,
    dark: Path | None = None,
    white: Path | None = None,
    frame_counter: tuple[int, int] | None = None,
) -> Scene:
    """Open a scene, put in lost lines, and calibrate it.

    Args:
        path: The scene.
        dark: Reference without light; None where the scene is not raw counts.
        white: Reference of a white panel.
        frame_counter: Column and band of the frame's number, or None.

    Raises:
        SceneError: A file cannot be read, or they do not belong together.
    """
    scene = open_scene(path)
    try:
        if frame_counter is not None:
            scene = FramedScene(scene, frame_counter)
        if dark is not None and white is not None:
            scene = CalibratedScene(scene, read_calibration(dark, white))
    except BaseException:
        scene.close()
        raise
    return scene
