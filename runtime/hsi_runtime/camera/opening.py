"""Opens a scene as the user says that its camera left it."""

from pathlib import Path

from hsi_runtime.camera.calibration import CalibratedScene, calibration_of
from hsi_runtime.camera.frames import FramedScene
from hsi_runtime.camera.references import References
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import Scene

NO_REFERENCES = References()


def open_camera_scene(
    path: Path,
    references: References = NO_REFERENCES,
    frame_counter: tuple[int, int] | None = None,
) -> Scene:
    """Open a scene, put in lost lines, and calibrate it.

    Args:
        path: The scene.
        references: Files that calibrate raw counts; none where it is not of these.
        frame_counter: Column and band of the frame's number; None for the place that
            the scene's header says.

    Raises:
        SceneError: A file cannot be read, or they do not belong together.
    """
    scene = open_scene(path)
    try:
        counter = frame_counter or scene.info.frame_counter
        if counter is not None:
            scene = framed = FramedScene(scene, counter)
            framed.check_counter()
        calibration = calibration_of(references)
        if calibration is not None:
            scene = CalibratedScene(scene, calibration)
    except BaseException:
        scene.close()
        raise
    return scene
