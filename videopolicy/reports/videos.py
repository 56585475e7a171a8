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
MARKUP = 500  # bytes of the page around a video


@dataclass(frozen=True)
class Clip:
    """A video as the page holds it.

    Args:
        video: Data URI of the mp4.
        poster: Data URI of its last frame, which shows how the episode ended before anything is played.
        width: Pixels.
        height: Pixels.
        reencoded: Whether the video is not the file's own bytes.
    """

    video: str
    poster: str
    width: int
    height: int
    reencoded: bool = False

    @property
    def size(self) -> int:
        """Bytes that it takes in the page."""
        return len(self.video) + len(self.poster) + MARKUP


@dataclass
class VideoBudget:
    """Takes videos into the page until the limit is reached; the first asked for are the first served.

    Args:
        limit: Bytes of base64 that may be used.
    """

    limit: int
    used: int = 0
    taken: dict[tuple[str, Path], Clip] = field(default_factory=dict)
    left_out: list[tuple[str, Path]] = field(default_factory=list)
    reencoded: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)
    _clips: dict[Path, Clip | None] = field(default_factory=dict)

    def embed(self, path: Path, place: str) -> Clip | None:
        """A video for the page; None if it cannot be played or does not fit, which is counted.

        Args:
            path: The mp4.
            place: Where it is shown; a video in two places is there twice, and counts twice.
        """
        room = self.limit - self.used
        clip = self._read(path) if room > 0 else None
        if path in self.broken:
            return None
        if clip is None or clip.size > room:
            self.left_out.append((place, path))
            return None
        self.used += clip.size
        self.taken[place, path] = clip
        return clip

    def _read(self, path: Path) -> Clip | None:
        if path not in self._clips:
            self._clips[path] = clip = read_clip(path)
            if clip is None:
                self.broken.append(path)
            elif clip.reencoded:
                self.reencoded.append(path)
        return self._clips[path]


def read_clip(path: Path) -> Clip | None:
    """A video with its poster, made smaller if it is large; None if ffmpeg cannot decode it."""
    poster = last_frame(path)
    if poster is None:
        return None
    content = path.read_bytes()
    small = reencode(path) if len(content) > REENCODE_FROM else None
    reencoded = small is not None and len(small) < len(content)
    video = small if small is not None and reencoded else content
    return Clip(
        _uri("video/mp4", video), _uri("image/jpeg", poster), *Image.open(io.BytesIO(poster)).size, reencoded=reencoded
    )


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
