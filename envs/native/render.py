"""Pictures of a world without a screen."""

import ctypes.util
import importlib
import os
from typing import Any

import mujoco
import numpy as np
from mujoco.rendering.classic import gl_context

from ..api import Array

GHOST = (0.25, 0.45, 0.95, 0.45)
HELP = (
    "no headless OpenGL on this machine: install EGL or OSMesa (Debian: `apt-get install "
    "libegl1 libgl1-mesa-dri`, or `libosmesa6`)."
)


def _headless_context() -> Any:
    """Return MuJoCo's OpenGL context class for this machine, without touching a screen.

    MuJoCo chooses when it is imported, by MUJOCO_GL, and takes a window system by default; so
    where neither is given the choice is made here, from the libraries that are installed.
    """
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return gl_context.GLContext
    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            return importlib.import_module(f"mujoco.{name}").GLContext
    raise RuntimeError(HELP)


def camera_of(env: Any) -> mujoco.MjvCamera:
    """Return the camera of a task of ours: MuJoCo's free one, set as the task says."""
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(env.model, camera)
    for name, value in env.task.camera.items():
        if name == "trackbody":
            camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            camera.trackbodyid = value
        else:
            setattr(camera, name, value)
    return camera


class WorldRenderer:
    """Renders single worlds of a `TaskEnv`, one at a time.

    Raises RuntimeError that says what to install where there is no headless OpenGL.
    """

    def __init__(self, env: Any, width: int = 320, height: int = 240) -> None:
        self.env = env
        model = env.model
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._renderer = _open(model, height, width)
        self._data = mujoco.MjData(model)
        self._ghost: mujoco.MjData | None = None
        self._camera = camera_of(env)

    def frame(self, world: int = 0, ghost: Array | None = None) -> Array:
        """Return world `world` as an RGB image [H, W, 3], uint8.

        `ghost` [nq]: the same body elsewhere, drawn over it in a translucent blue.
        """
        state = self.env.physics.get_state()[world]
        sig = mujoco.mjtState.mjSTATE_INTEGRATION.value
        model = self.env.physics.models[world]
        mujoco.mj_setState(model, self._data, state, sig)
        mujoco.mj_forward(model, self._data)
        self._renderer.update_scene(self._data, self._camera)
        if ghost is not None:
            self._haunt(model, ghost)
        return np.asarray(self._renderer.render()).copy()

    def _haunt(self, model: mujoco.MjModel, qpos: Array) -> None:
        """Add the moving geoms of another position to the scene."""
        if self._ghost is None:
            self._ghost = mujoco.MjData(self.env.model)
        self._ghost.qpos[:] = qpos
        mujoco.mj_kinematics(model, self._ghost)
        scene = self._renderer.scene
        own, moving = scene.ngeom, mujoco.mjtCatBit.mjCAT_DYNAMIC.value
        look, touch = mujoco.MjvOption(), mujoco.MjvPerturb()
        mujoco.mjv_addGeoms(model, self._ghost, look, touch, moving, scene)
        for geom in scene.geoms[own : scene.ngeom]:
            geom.rgba[:] = GHOST

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def _open(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    try:
        gl_context.GLContext = _headless_context()
        return mujoco.Renderer(model, height, width)
    except RuntimeError:
        raise
    except Exception as error:  # the bindings raise whatever their OpenGL loader raises
        raise RuntimeError(f"{HELP} MuJoCo said: {error}") from error
