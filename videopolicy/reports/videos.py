"""Videos inside the page, within a limit."""

from __future__ import annotations

import base64
import io
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

REENCODE_FROM = 400_000  # bytes; smaller files go into the page as they are
WIDTH = 640  # pixels of a re-encoded video


@dataclass(frozen=True)
class Clip:
    """A video as the page holds it.

    Args:
        video: Data URI of the mp4.
        poster: Data URI of its last frame, which shows how the episode ended before anything is played.
        width: Pixels.
        height: Pixels.
    """

    video: str
    poster: str
    width: int
    height: int


@dataclass
class VideoBudget:
    """Takes videos into the page until the limit is reached; the first asked for are the first served.

    Args:
        limit: Bytes of base64 that may be used.
    """

    limit: int
    used: int = 0
    taken: dict[Path, Clip] = field(default_factory=dict)
    left_out: list[Path] = field(default_factory=list)
    reencoded: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)

    def embed(self, path: Path) -> Clip | None:
        """A video for the page; None if it cannot be played or does not fit, which is counted."""
        if path not in self.taken and path not in self.broken and path not in self.left_out:
            self._take(path)
        return self.taken.get(path)

    def _take(self, path: Path) -> None:
        room = self.limit - self.used
        if room <= 0:
            self.left_out.append(path)
            return
        poster = last_frame(path)
        if poster is None:
            self.broken.append(path)
            return
        content = path.read_bytes()
        small = reencode(path) if len(content) > REENCODE_FROM else None
        if is_smaller := small is not None and len(small) < len(content):
            content = small or content
        clip = Clip(_uri("video/mp4", content), _uri("image/jpeg", poster), *Image.open(io.BytesIO(poster)).size)
        if len(clip.video) + len(clip.poster) > room:
            self.left_out.append(path)
            return
        self.used += len(clip.video) + len(clip.poster)
        self.taken[path] = clip
        if is_smaller:
            self.reencoded.append(path)


def last_frame(path: Path) -> bytes | None:
    """The last frame as JPEG; None if ffmpeg cannot decode the file."""
    return _ffmpeg(path, "last.jpg", "-update", "1", "-q:v", "6")


def reencode(path: Path) -> bytes | None:
    """The video at most `WIDTH` wide and in coarser quality; None if ffmpeg cannot decode it."""
    scale = f"scale='min({WIDTH},iw)':-2"
    codec = ("-an", "-c:v", "libx264", "-crf", "30", "-pix_fmt", "yuv420p", "-movflags", "+faststart")
    return _ffmpeg(path, "small.mp4", "-vf", scale, *codec)


def _ffmpeg(path: Path, target: str, *options: str) -> bytes | None:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / target
        command = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-i", str(path), *options, str(result)]
        done = subprocess.run(command, capture_output=True, check=False)
        return result.read_bytes() if done.returncode == 0 and result.is_file() else None


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
