"""Videos, as bytes or files, to frames."""

import contextlib
import dataclasses
import functools
import io
import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from etils import epath

from p3d_jax.data import clips as clips_lib
from p3d_jax.data import mp4
from p3d_jax.preprocess import SWSCALE, Preprocessing, resized

# What FFmpeg may take a file for. Without the list it would draw a text file on
# a screen and film it, and follow a playlist to other files of the machine.
CONTAINERS = ",".join(
  ("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "flv")
  + ("mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "av1", "obu", "ivf")
  + ("asf", "ogg", "gif", "mjpeg", "mxf", "nut", "dv", "rm", "wtv", "vc1")
  + ("mp3", "flac", "wav", "aac")  # to say that they hold no video
)

Source = bytes | str | os.PathLike[str]
Crop = Callable[[np.ndarray], np.ndarray]


class VideoError(ValueError):
  """A video that cannot be read: one line, which one and why."""


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """What a video is, measured and not as its container says.

  Attributes:
    num_frames: frames that reading it gives.
    height: of a frame as it is shown, in pixels.
    width: of a frame as it is shown, in pixels.
    fps: mean rate, frames a second.
    rotation: degrees, clockwise, by which the stored frames are turned.
    duration: seconds from the first frame to the end of the last.
  """

  num_frames: int
  height: int
  width: int
  fps: float
  rotation: int
  duration: float


def probe(source: Source) -> VideoInfo:
  """Measures a video; its packets are read, and one frame is decoded.

  Where packets carry no time (raw streams), all frames are decoded.

  Raises:
    VideoError: it cannot be read, or holds no video.
  """
  return Video(source).info


def read_frames(
  source: Source,
  indices: Sequence[int] | np.ndarray | None = None,
  *,
  resize: int | tuple[int, int] | None = None,
  fps: float | None = None,
  threads: int = 1,
) -> np.ndarray:
  """Reads frames, turned as the metadata says.

  Args:
    source: an encoded video, or the path of one.
    indices: which frames, ascending, repeats allowed; None: all.
    resize: as `Preprocessing.resize`.
    fps: rate to resample to, to which `indices` then refer; None: the video's
      own frames.
    threads: of the decoder; 0 takes one for each core.

  Returns:
    uint8 (time, height, width, 3), RGB.

  Raises:
    VideoError: it cannot be read, or holds no video.
    ValueError: indices are not ascending, or beyond the video.
  """
  video = Video(source, threads=threads)
  timeline = video.timeline(fps)
  if indices is None:
    return video.read(timeline, resize)
  wanted = np.asarray(indices, np.int64)
  if len(wanted) and (wanted[0] < 0 or wanted[-1] >= len(timeline)):
    raise ValueError(
      f"indices={wanted.tolist()}: must be within 0..{len(timeline) - 1}, the "
      f"frames of {video.name}"
    )
  return video.read(timeline[wanted], resize)


def read_clips(
  source: Source,
  preprocessing: Preprocessing,
  clips: int,
  *,
  threads: int = 1,
) -> np.ndarray:
  """Reads the clips that evaluation takes, for `preprocess` to finish.

  `preprocessing.preprocess` of what this returns (its resize then changes
  nothing, it cuts out the centre and normalises) is, bit for bit, what `p3d
  evaluate` and `p3d predict` feed the network. They keep no more than the
  centre in the first place: `Video.read_clips`.

  Args:
    source: an encoded video, or the path of one.
    preprocessing: what the weights expect: frames, stride, fps, resize.
    clips: how many, spread evenly over the video.
    threads: of the decoder; 0 takes one for each core.

  Returns:
    uint8 (clips, time, height, width, 3), RGB, resized but not cropped.

  Raises:
    VideoError: it cannot be read, or holds no video.
  """
  video = Video(source, threads=threads)
  indices = video.clip_indices(preprocessing, clips_lib.Views(clips))
  return video.read_clips(indices, preprocessing, crops=None)


class Video:
  """An encoded video: how many frames, when each is shown, and their pixels.

  The frames are numbered by the time they are shown at. A frame that the
  decoder does not give (a damaged stream) is the one before it, so a number
  means one moment, whichever frame the reading started from.
  """

  def __init__(self, source: Source, *, threads: int = 1):
    """Reads the packets' times; decodes nothing.

    Args:
      source: an encoded video, or the path of one.
      threads: of the decoder; 0 takes one for each core.

    Raises:
      VideoError: it cannot be read, or holds no video.
    """
    self._source = source
    self._threads = threads
    if isinstance(source, bytes):
      self.name = f"video of {len(source)} bytes"
    else:
      self.name = os.fspath(source)
    # A video in memory is opened only once: its packets are kept, or the table
    # of those that we write ourselves, which is much faster.
    self._kept: tuple[Any, list[av.Packet]] | None = None
    self._table: mp4.Table | None = None
    self._decoder: Any = None
    # The number says where in the stream, among all packets, a keyframe is.
    self._keys: list[tuple[int, int]] = []
    if isinstance(source, bytes):
      self._table = mp4.read_table(source)
    if self._table is not None:
      self._index_table(self._table)
      return
    with self._errors(), contextlib.ExitStack() as opened:
      container, stream = self._open(opened)
      if isinstance(source, bytes):
        self._kept = container, list(_packets(container, stream))
        self._index(container, stream, self._kept[1])
        opened.pop_all()  # stays open as long as the video lives
      else:
        self._index(container, stream, _packets(container, stream))

  @property
  def num_frames(self) -> int:
    """Frames of the video."""
    return len(self.times)

  @functools.cached_property
  def info(self) -> VideoInfo:
    """What the video is; decodes its first frame."""
    first = next(self.frames(), None)
    if first is None:
      raise VideoError(f"{self.name}: no frame of it can be decoded")
    matrix = _orientation(first)
    height, width = first.height, first.width
    if matrix[0][0] == 0:
      height, width = width, height
    return VideoInfo(
      num_frames=self.num_frames,
      height=height,
      width=width,
      fps=self._fps,
      rotation=_degrees(matrix),
      duration=self.duration,
    )

  def timeline(self, fps: float | None) -> np.ndarray:
    """Returns the frames, int64 (time,), shown at an even rate.

    Args:
      fps: frames a second; None: every frame once.
    """
    if fps is None:
      return np.arange(self.num_frames)
    return clips_lib.resample(self.times, self.duration, fps)

  def read(
    self,
    indices: Sequence[int] | np.ndarray,
    resize: int | tuple[int, int] | None = None,
    crop: Crop | None = None,
  ) -> np.ndarray:
    """Decodes frames, and no more than it takes.

    Args:
      indices: ascending, repeats allowed.
      resize: as `Preprocessing.resize`.
      crop: maps each frame, uint8 (height, width, channels), to what is kept
        of it, the same part of all; a frame is given to it channel by channel
        (channels 1) or whole. None: all of it.

    Returns:
      uint8 (time, height, width, 3), RGB.
    """
    indices = np.asarray(indices, np.int64)
    if np.any(np.diff(indices) < 0):
      raise ValueError(f"indices={indices.tolist()}: must be ascending")
    if len(indices) == 0:
      raise ValueError("indices=[]: must name at least one frame")
    if indices[-1] >= self.num_frames or indices[0] < 0:
      raise ValueError(
        f"indices={indices.tolist()}: must be within 0..{self.num_frames - 1}, "
        f"the frames of {self.name}"
      )
    wanted = [self._pts[i] for i in indices]
    pictures = self._pictures(len(indices), resize, crop)
    start = 0
    if self._by_pts:
      # Frames shown after a keyframe never need what was stored before it.
      start = max((k for k, pts in self._keys if pts <= wanted[0]), default=0)
    if start:
      with contextlib.suppress(VideoError):
        if self._pick(wanted, start, pictures):
          return pictures.array
    # Streams whose keyframes need earlier data exist: then from the first one.
    self._pick(wanted, 0, pictures)
    return pictures.array

  def clip_indices(
    self,
    preprocessing: Preprocessing,
    views: clips_lib.Views,
    name: str = "",
  ) -> np.ndarray:
    """Returns the frames, int64 (clips, time), of the clips that test it.

    Args:
      preprocessing: frames, stride and fps of a clip.
      views: which clips.
      name: of the video, which random clips are a function of.
    """
    timeline = self.timeline(preprocessing.fps)
    chosen = views.choose(
      len(timeline), preprocessing.frames, preprocessing.stride, name
    )
    return timeline[chosen]

  def read_clips(
    self,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    *,
    crops: int | None = 1,
  ) -> np.ndarray:
    """Decodes clips for an evaluation, each frame once.

    Args:
      indices: of the frames, (clips, time), in any order.
      preprocessing: resize and crop.
      crops: of each clip, 1 or 3 (`Preprocessing.crops`), as
        `preprocessing.normalize` takes them; None: the whole frames, as
        `preprocessing.preprocess` does.

    Returns:
      uint8 (clips x crops, time, height, width, 3), RGB, resized; the crops of
      a clip follow one another.

    Raises:
      VideoError: it cannot be decoded, or its frames are smaller than the crop.
    """
    unique, where = np.unique(indices, return_inverse=True)
    cut = None
    if crops is not None:
      cut = preprocessing.center_crop if crops == 1 else preprocessing.band
    try:
      frames = self.read(unique, preprocessing.resize, cut)
    except VideoError:
      raise
    except ValueError as error:
      raise VideoError(f"{self.name}: {error}") from None
    clips = frames[where.reshape(indices.shape)]
    if crops is None or crops == 1:
      return clips
    each = np.stack(preprocessing.crops(clips, crops), axis=1)
    return each.reshape(-1, *each.shape[2:])

  def frames(self, start: int = 0) -> Generator[av.VideoFrame, None, None]:
    """Decodes from packet `start` on, in the order frames are shown in.

    One of these runs at a time.
    """
    with self._errors():
      if self._table is not None:
        yield from self._decoded(self._table, start)
        return
      if self._kept is not None:
        container, packets = self._kept
        packets[0].stream.codec_context.flush_buffers()
        for packet in packets[start:]:
          yield from packet.decode()
        return
      with contextlib.ExitStack() as opened:
        container, stream = self._open(opened)
        for k, packet in enumerate(_packets(container, stream)):
          if k >= start or packet.size == 0:
            yield from packet.decode()

  def _pictures(
    self, count: int, resize: int | tuple[int, int] | None, crop: Crop | None
  ) -> "Pictures":
    """Returns what `read` fills; the argument names are those of `read`."""
    return Pictures(count, resize, crop)

  def _decoded(
    self, table: mp4.Table, start: int
  ) -> Generator[av.VideoFrame, None, None]:
    """Decodes from packet `start` of a table on."""
    if self._decoder is None:
      self._decoder = av.CodecContext.create("h264", "r")
      self._decoder.extradata = table.extradata
      # A container may show less than is coded: 1080 of 1088 rows.
      self._decoder.width, self._decoder.height = table.size
      self._set_threads(self._decoder)
    else:
      self._decoder.flush_buffers()
    data = self._source
    assert isinstance(data, bytes)
    spans = zip(table.offsets[start:], table.sizes[start:], strict=True)
    for k, (offset, size) in enumerate(spans, start):
      packet = av.Packet(data[offset : offset + size])
      packet.pts = self._pts[k]
      yield from self._decoder.decode(packet)
    yield from self._decoder.decode(None)

  def _index_table(self, table: mp4.Table) -> None:
    """Does what `_index` does, for a file that is known to be whole."""
    step, base = table.step, 1 / table.rate
    pts = step * np.arange(len(table.offsets))
    self._pts, self._by_pts = pts.tolist(), True
    self._keys = [(k, step * k) for k in table.keys.tolist()]
    self.times = pts * base
    self.duration = float(self.times[-1] + step * base)
    self._fps = table.rate / step

  def _index(
    self, container: Any, stream: Any, packets: Iterable[av.Packet]
  ) -> None:
    """Finds the time of every frame, and where decoding can start."""
    count, corrupt, durations = 0, False, {}
    pts: list[int | None] = []
    self._keys = []
    for packet in packets:
      if not packet.size:
        continue
      if not packet.is_discard:
        pts.append(packet.pts)
        durations[packet.pts] = packet.duration or 0
      if packet.is_keyframe and packet.pts is not None:
        self._keys.append((count, packet.pts))
      count, corrupt = count + 1, packet.is_corrupt
    self._by_pts = None not in pts and len(set(pts)) == len(pts)
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if self._by_pts:
      self._pts = sorted(at for at in pts if at is not None)
      base = float(stream.time_base)
    else:
      self._pts = list(range(sum(1 for _ in self.frames())))
      # FFmpeg, too, takes raw streams that do not say for 25 frames a second.
      base = 1 / (rate or 25.0)
    if not self._pts:
      raise VideoError(f"{self.name}: it holds no video frame")
    self.times = (np.asarray(self._pts) - self._pts[0]) * base
    last = durations.get(self._pts[-1], 0) * base if self._by_pts else base
    self.duration = float(self.times[-1] + (last or 1 / (rate or 25.0)))
    self._fps = rate or self.num_frames / self.duration
    ends = _expected_seconds(container, stream)
    if corrupt or _missing(container, stream, count):
      raise VideoError(f"{self.name}: truncated, its last frames are missing")
    # A tenth: headers are rounded, and the last frames may be left out.
    if self._by_pts and ends is not None and self.duration < 0.9 * ends:
      raise VideoError(
        f"{self.name}: truncated, it ends after {self.duration:.2f} of "
        f"{ends:.2f} seconds"
      )

  def _pick(self, wanted: list[int], start: int, pictures: "Pictures") -> bool:
    """Decodes from packet `start` and keeps the frames of the times wanted.

    From packet 0 a missing frame is the one before it, or the first there is;
    from another packet it is a failure.

    Returns:
      Whether all were found.
    """
    at = 0
    before: av.VideoFrame | None = None
    with contextlib.closing(self.frames(start)) as frames:
      for count, frame in enumerate(frames):
        time = frame.pts if self._by_pts else count
        if time is None:
          continue
        while at < len(wanted) and wanted[at] <= time:
          missing = wanted[at] < time
          if missing and start:
            return False
          pictures.put(at, (before or frame) if missing else frame)
          at += 1
        if at == len(wanted):
          return True
        before = frame
    if start:
      return False
    if before is None:
      raise VideoError(f"{self.name}: no frame of it can be decoded")
    for k in range(at, len(wanted)):
      pictures.put(k, before)
    return True

  def _open(self, opened: contextlib.ExitStack) -> tuple[Any, Any]:
    """Opens the container, and its first video stream.

    Args:
      opened: closes what is opened here: the container, then its file.
    """
    if isinstance(self._source, bytes):
      file: Any = io.BytesIO(self._source)
    else:
      path = epath.Path(self._source)
      if not path.exists():
        raise VideoError(f"{self.name}: no such file")
      if path.is_dir():
        raise VideoError(f"{self.name}: it is a folder, not a video")
      # A plain path is opened by FFmpeg itself, which is faster.
      file = self.name
      if "://" in self.name:
        file = opened.enter_context(path.open("rb"))
    container = opened.enter_context(
      av.open(
        file,
        metadata_errors="replace",
        options={"format_whitelist": CONTAINERS},
      )
    )
    for stream in container.streams.video:
      # The cover of a song is no video; without a context there is no decoder.
      if (
        not stream.disposition & av.stream.Disposition.attached_pic
        and stream.codec_context is not None
      ):
        self._set_threads(stream)
        return container, stream
    raise VideoError(f"{self.name}: it holds no video that can be decoded")

  def _set_threads(self, decoder: Any) -> None:
    # One thread decodes small clips fastest, and workers share the cores.
    decoder.thread_type = "SLICE" if self._threads == 1 else "AUTO"
    decoder.thread_count = self._threads

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    """Turns what FFmpeg raises into one line that names the video."""
    try:
      yield
    except (av.FFmpegError, OSError) as error:
      reason = getattr(error, "strerror", None) or str(error)
      raise VideoError(f"{self.name}: {reason}") from error


def _packets(container: Any, stream: Any) -> Iterator[av.Packet]:
  """Gives the packets that hold data, then the one that ends the decoding."""
  for packet in container.demux(stream):
    # AVI has empty packets for frames left out; to the decoder they mean the
    # end. Only the one PyAV adds has no time.
    if packet.size or packet.dts is None:
      yield packet


def _missing(container: Any, stream: Any, packets: int) -> bool:
  """Says whether an mp4 has fewer packets than its table lists."""
  # The table after the edit list, which leaves frames out, has been applied.
  return "mp4" in container.format.name and packets < len(stream.index_entries)


def _expected_seconds(container: Any, stream: Any) -> float | None:
  """Returns how long the header says the stream is; None: it does not."""
  if stream.duration:
    return float(stream.duration * stream.time_base)
  # Matroska: 00:00:04.000000000, written when the file is complete.
  if match := re.match(
    r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")
  ):
    hours, minutes, seconds = (float(part) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds
  if container.duration and len(container.streams) == 1:
    return container.duration / av.time_base
  return None


_THREAD = threading.local()


def _scaler() -> VideoReformatter:
  """Returns the thread's scaler.

  It makes its filters anew only where sizes or formats change.
  """
  if not hasattr(_THREAD, "scaler"):
    _THREAD.scaler = VideoReformatter()
  return _THREAD.scaler


class Pictures:
  """Frames as RGB arrays, turned, resized and cropped, through one scaler."""

  def __init__(
    self, count: int, resize: int | tuple[int, int] | None, crop: Crop | None
  ):
    self.array = np.empty((0,), np.uint8)
    self._count = count
    self._resize = resize
    self._crop = crop
    self._size = (0, 0)
    self._layout: tuple[tuple[int, int], tuple[int, int]] | None = None
    self._last: tuple[int, av.VideoFrame] | None = None
    # Of a plane: bytes of a line, and the shape, the first byte and the strides
    # of what is kept.
    self._window: tuple[int, tuple[int, ...], int, tuple[int, ...]]
    self._window = 0, (), 0, ()

  def put(self, at: int, frame: av.VideoFrame) -> None:
    """Writes a frame to `array[at]`."""
    if self._last is not None and self._last[1] is frame:
      self.array[at] = self.array[self._last[0]]
      return
    planes = self._planes(frame)
    if not self.array.size:
      self.array = np.empty((self._count, *planes[0].shape, 3), np.uint8)
    picture = self.array[at]
    for channel, plane in enumerate(planes):
      picture[..., channel] = plane
    self._last = at, frame

  def rgb(self, frame: av.VideoFrame) -> np.ndarray:
    """Returns uint8 (height, width, 3)."""
    return np.stack(self._planes(frame), axis=-1)

  def _planes(self, frame: av.VideoFrame) -> list[np.ndarray]:
    """Returns red, green and blue, uint8 (height, width) each, cropped."""
    if self._layout is None:
      # The first frame's, for all: a stream may change its size on the way,
      # its clips may not.
      self._layout = _orientation(frame)
      shape = frame.height, frame.width
      turned = self._layout[0][0] == 0
      size = resized(self._resize, *(shape[::-1] if turned else shape))
      self._size = size[::-1] if turned else size
    height, width = self._size
    # To planes, and not to rgb24: swscale writes the same pixels in a third of
    # the time, and only those of the crop are then put side by side.
    picture = _scaler().reformat(
      frame, width, height, PLANES, interpolation=_FLAGS, threads=1
    )
    green, blue, red = picture.planes
    return [self._kept(plane) for plane in (red, green, blue)]

  def _kept(self, plane: Any) -> np.ndarray:
    """Returns a view of a plane, uint8 (height, width): turned and cropped."""
    line, shape, offset, strides = self._window
    if line != plane.line_size:
      # Where it lies is found once, as views are costly beside such small work.
      whole = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
      view = self._shown(whole[:, : self._size[1]])
      if self._crop is not None:
        view = self._crop(view[..., None])[..., 0]
      line, shape, strides = plane.line_size, view.shape, view.strides
      offset = _address(view) - _address(whole)
      self._window = line, shape, offset, strides
    return np.ndarray(shape, np.uint8, plane, offset, strides)

  def _shown(self, plane: np.ndarray) -> np.ndarray:
    """Turns a plane as the metadata says."""
    assert self._layout is not None
    (a, b), (c, d) = self._layout
    if a == 0:
      plane = plane.T
    # x' = a x + c y and y' = b x + d y, so a sign says which axis is mirrored.
    return plane[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]


# What frames are converted to, and how: green, blue and red planes of 8 bits.
# Its name, and the flags as they are, would be looked up for each frame.
PLANES: Any = av.VideoFormat("gbrp")
_FLAGS = int(SWSCALE)


def _address(array: np.ndarray) -> int:
  """Returns where the first element lies in memory."""
  return array.__array_interface__["data"][0]


def _orientation(
  frame: av.VideoFrame,
) -> tuple[tuple[int, int], tuple[int, int]]:
  """Returns how a frame is laid out on the screen, ((a, b), (c, d)).

  A point (x, y), y downwards, is shown at (a x + c y, b x + d y): the display
  matrix of the container, rounded to the nearest of the eight ways that keep
  the axes. `VideoFrame.rotation` does not tell mirrored ones apart.
  """
  side: Any = frame.side_data.get("DISPLAYMATRIX")
  if side is None:
    return (1, 0), (0, 1)
  matrix = np.frombuffer(bytes(side), np.int32)
  a, b, c, d = (int(matrix[k]) for k in (0, 1, 3, 4))
  if abs(a) + abs(d) >= abs(b) + abs(c):
    return (1 if a >= 0 else -1, 0), (0, 1 if d >= 0 else -1)
  return (0, 1 if b >= 0 else -1), (1 if c >= 0 else -1, 0)


def _degrees(matrix: tuple[tuple[int, int], tuple[int, int]]) -> int:
  """Returns the clockwise turn, in degrees, of an orientation.

  The x axis goes to (a, b); a mirrored picture counts as turned, then mirrored
  left and right.
  """
  (a, b), (c, d) = matrix
  if a * d - b * c < 0:
    a, c = -a, -c
  return {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[a, b]
