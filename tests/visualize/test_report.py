"""The page of a run: its numbers, its videos, its text."""

import dataclasses
import html.parser
import io
import json
import pathlib
import shutil
import types
from typing import Any

import numpy as np
import pytest
from PIL import Image

import p3d_jax
from p3d_jax import cli
from p3d_jax.data.clips import Views
from p3d_jax.data.pipeline import Reading
from p3d_jax.data.sets import open_set
from p3d_jax.evaluate.evaluate import evaluate
from p3d_jax.evaluate.feature_file import Features, save_features
from p3d_jax.evaluate.score_file import VideoScores, load_scores, save_scores
from p3d_jax.train import config as configs
from p3d_jax.train import logs
from p3d_jax.visualize import report as module
from p3d_jax.visualize import report_html, report_run, report_videos
from p3d_jax.visualize.report import Parts, report
from tests import small
from tests.fast import compiles_fast
from tests.visualize.report_runs import bare_run, random_run

__all__ = ["compiles_fast"]

# What would be markup, were it not escaped; and what no HTML may hold.
NAMES = ('<b>"bold"</b>', "Tom & 'Jerry'", "电影 &lt; \x00\x1b[1m")


class Reader(html.parser.HTMLParser):
  """Collects the elements of a page: (tag, attributes, text inside)."""

  def __init__(self, page: str) -> None:
    super().__init__()
    self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
    self._open: list[list[str]] = []
    self.feed(page)

  def handle_starttag(self, tag: str, attrs: Any) -> None:
    self.elements.append((tag, dict(attrs), []))
    if tag not in ("img", "source", "meta", "link", "wbr"):
      self._open.append(self.elements[-1][2])

  def handle_endtag(self, tag: str) -> None:
    self._open.pop()

  def handle_data(self, data: str) -> None:
    for text in self._open:
      text.append(data)

  def texts(self, tag: str, **attributes: str) -> list[str]:
    wanted = {name.rstrip("_"): value for name, value in attributes.items()}
    return [
      "".join(text)
      for kind, found, text in self.elements
      if kind == tag and wanted.items() <= found.items()
    ]


def made_scores(
  scores: Any, labels: Any, readable: Any = None, **fields: Any
) -> VideoScores:
  scores = np.asarray(scores, np.float32)
  return VideoScores(
    **{
      "ids": tuple(f"video {k}" for k in range(len(scores))),
      "label_names": NAMES[: scores.shape[1]],
      **fields,
    },
    scores=scores,
    labels=np.asarray(labels, np.int32).reshape(len(scores), -1),
    readable=np.asarray([True] * len(scores) if readable is None else readable),
  )


SCORES = made_scores(
  [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]],
  [0, 1, 1, 0],
  ids=("a", "<script>alert(1)</script>", "c", "d"),
)


def test_text_is_escaped() -> None:
  made = report_html.tag("b", '<&"', report_html.tag("i", "'"), data_x='"<')
  assert made == '<b data-x="&quot;&lt;">&lt;&amp;&quot;<i>&#x27;</i></b>'
  # In an attribute markup is text too: its quotes would end the attribute.
  inner = report_html.tag("i", title="x")
  assert report_html.tag("b", title=inner) == (
    '<b title="&lt;i title=&quot;x&quot;&gt;&lt;/i&gt;"></b>'
  )
  # Added to a str it is no markup any more: rather twice escaped than never.
  assert report_html.escaped(report_html.tag("b") + "<") == (
    "&lt;b&gt;&lt;/b&gt;&lt;"
  )
  assert report_html.escaped("a\x00b\n\x1b电") == "a\ufffdb\n\ufffd电"
  assert report_html.tag("img", alt="", hidden=True, id=None) == (
    '<img alt="" hidden>'
  )


def test_margins_by_hand() -> None:
  scores = made_scores(
    [
      [0.7, 0.2, 0.1],
      [0.2, 0.5, 0.3],
      [0.5, 0.3, 0.2],
      [0.9, 0.1, 0],
      [1, 0, 0],
    ],
    [[0, -1], [0, -1], [1, 2], [-1, -1], [0, -1]],
    [True, True, True, True, False],
  )
  # Of several labels the best one counts; without one, or unread, none does.
  expected = [0.5, -0.3, -0.2, np.nan, np.nan]
  np.testing.assert_allclose(report_videos.margins(scores), expected, atol=1e-7)


def test_the_best_and_the_worst_are_chosen() -> None:
  rng = np.random.default_rng(0)
  scores = rng.dirichlet(np.ones(3), 40)
  labels = rng.integers(0, 3, 40)
  readable = rng.random(40) > 0.2
  best, worst = report_videos.choose(made_scores(scores, labels, readable), 4)
  lead = {}
  for k, (row, label) in enumerate(zip(scores, labels, strict=True)):
    if readable[k]:
      lead[k] = row[label] - max(row[j] for j in range(3) if j != label)
  ranked = sorted(lead, key=lambda k: lead[k])
  assert worst == ranked[:4]
  assert best == ranked[::-1][:4]
  assert lead[worst[-1]] < 0 < lead[best[-1]]


def test_no_more_are_shown_than_there_are() -> None:
  # A tie: the first class is said, so label 1 is missed and label 0 is hit.
  scores = made_scores([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]], [1, 0, 1])
  assert report_videos.choose(scores, 5) == ([2, 1], [0])
  assert report_videos.choose(scores, 0) == ([], [])


def test_the_animation_shows_each_frame_in_turn() -> None:
  colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 220)]
  frames = np.stack([np.full((40, 56, 3), c, np.uint8) for c in colors])
  picture: Any = Image.open(io.BytesIO(report_videos.animation(frames)))
  assert (picture.format, picture.n_frames) == ("WEBP", 4)
  assert picture.info["loop"] == 0  # for ever
  assert picture.size == (56, 40)
  for k, color in enumerate(colors):
    picture.seek(k)
    shown = np.asarray(picture.convert("RGB")).mean((0, 1))
    # What WebP's chroma does to a plain colour is a few levels.
    np.testing.assert_allclose(shown, color, atol=6)


@pytest.mark.parametrize(
  "shape",
  [(40, 96, 96, 3), (8, 224, 224, 3), (300, 8, 8, 3)],
  ids=["long", "large", "tiny"],
)
def test_the_animation_is_small(shape: tuple[int, ...]) -> None:
  # Noise is what compresses worst.
  frames = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
  for largest in (report_videos.LARGEST, 9_000):
    content = report_videos.animation(frames, largest)
    assert len(content) <= largest
    picture: Any = Image.open(io.BytesIO(content))
    assert picture.n_frames > 1


def test_fields_that_differ() -> None:
  config = configs.default()
  assert report_run.differences(logs.config_json(config)) == []
  config.train.steps = 12
  config.model.stages = (1, 2, 1, 1)
  found = logs.config_json(config)
  found["train"]["gone"] = "old"
  del found["seed"]
  assert report_run.differences(found) == [
    ("seed", "none", "0"),
    ("model.stages", "[1, 2, 1, 1]", "null"),
    ("train.steps", "12", "7500"),
    ("train.gone", '"old"', "none"),
  ]


def test_commands_as_a_shell_takes_them() -> None:
  for program in ("/usr/bin/p3d", "/x/p3d_jax/cli/__main__.py"):
    words = [program, "train", "--workdir=my run"]
    assert report_run.command(words) == "p3d train '--workdir=my run'"
  assert report_run.command(["mine.py", "a"]) == "mine.py a"


def test_names_on_the_page(tmp_path: pathlib.Path) -> None:
  folder = tmp_path / 'a <i>"run"'
  problem = "record '<u>': \"no\" video & no end"
  bare_run(folder, SCORES, problems=[problem])
  page = report(folder, parts=Parts(videos=0)).read_text()
  read = Reader(page)
  kinds = {kind for kind, _, _ in read.elements}
  assert not kinds & {"script", "b>", "i>", "u", "iframe", "object"}
  assert read.texts("h1") == ['a <i>"run"']
  assert read.texts("title") == ['a <i>"run": P3D report']
  # The character in place of another that no page may hold.
  names = [*NAMES[:2], "电影 &lt; \ufffd\ufffd[1m"]
  (bars,) = read.texts("div", class_="bars")
  assert [name for name in names if name in bars] == names
  assert problem in read.texts("li")
  assert [*read.texts("td")][:2] == [names[0], names[2]]
  assert "/no/set <here>" in page.replace("&lt;", "<").replace("&gt;", ">")


def test_cards_are_escaped() -> None:
  one = report_videos.Shown(
    id="<script>alert(1)</script>",
    truth=(1,),
    scores=np.array([0.6, 0.3, 0.1]),
    frames=np.zeros((3, 8, 8, 3), np.uint8),
    times=np.array([0.5]),
    clips=np.array([[0.6, 0.3, 0.1]]),
  )
  read = Reader(report_videos.cards([one], NAMES))
  assert "script" not in {kind for kind, _, _ in read.elements}
  assert read.texts("p") == [one.id]
  assert read.texts("h4") == [NAMES[1]]
  assert read.texts("span", class_="true") == [NAMES[1]]
  assert read.texts("span", class_="wrong") == [NAMES[0]]
  (alt,) = [found["alt"] for kind, found, _ in read.elements if kind == "img"]
  assert alt == f"3 frames of {one.id}, {NAMES[1]}"


def test_bars_and_lines_by_hand() -> None:
  scores = np.array([0.3, 0.02, 0.25, 0.2, 0.1, 0.08, 0.05])
  one = report_videos.Shown(
    id="v",
    truth=(1,),
    scores=scores,
    frames=np.zeros((1, 8, 8, 3), np.uint8),
    times=np.array([1.0, 2.0, 5.0]),
    clips=np.stack([scores, np.roll(scores, 1), np.zeros(7)]),
  )
  read = Reader(report_videos.cards([one], list("abcdefg")))
  values = read.texts("span", class_="value")
  # The true class is not among the five: it has a bar all the same.
  assert values == ["30.0", "25.0", "20.0", "10.0", "8.0", "2.0"]
  assert read.texts("span", class_="true") == ["b (place 7)"]
  widths = [f["style"] for kind, f, _ in read.elements if kind == "i"]
  assert widths == [f"width:{value}%" for value in values]
  (svg,) = [f for kind, f, _ in read.elements if kind == "svg"]
  assert svg["aria-label"] == "scores of 3 clips over time: b, a, c"
  lines = [f["points"] for kind, f, _ in read.elements if kind == "polyline"]
  # Last is b: 0.02, 0.3 and 0, at 0, 1/4 and 1 of the width.
  found = [tuple(map(float, p.split(","))) for p in lines[-1].split()]
  x, y = np.array(found).T
  np.testing.assert_allclose(
    (x - x[0]) / (x[2] - x[0]), [0, 0.25, 1], atol=1e-3
  )
  np.testing.assert_allclose((y[2] - y) / (y[2] - 6), [0.02, 0.3, 0], atol=2e-3)


def test_the_numbers_are_those_of_the_evaluation(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def never(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("it is evaluated already")

  monkeypatch.setattr(module, "evaluate", never)
  bare_run(tmp_path, SCORES)
  read = Reader(report(tmp_path, parts=Parts(videos=0)).read_text())
  # By hand: the first two are right, of classes 0 and 1 one of two each. Class
  # 2 has no videos. Both are found second to last: precision 1, then 2 of 4;
  # and 1, then 2 of 3.
  map_ = 100 * (0.5 * (1 + 0.5) + 0.5 * (1 + 2 / 3)) / 2
  tiles = read.texts("div", class_="tile")
  assert tiles == [
    "50.0clip hit@1",
    "50.0video hit@1",
    "100.0video hit@5",
    "50.0mean class accuracy",
    f"{map_:.1f}mAP",
  ]
  values = read.texts("span", class_="value")
  assert values == ["50.0", "of 2", "50.0", "of 2", "none", "of 0"]
  cells = read.texts("td")
  # "c" is of class 1 and said to be 0; "d" is of class 0 and said to be 2.
  assert cells[2:4] == cells[6:8] == ["1", "50.0"]
  assert "".join(read.texts("p")).count("2 clips each, centre crop") == 1


def test_a_run_that_was_not_evaluated(
  tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
  run = random_run(tmp_path / "run")
  before = {path.name for path in run.iterdir()}
  words = ["report", str(run), "--videos=2", "--clips=3"]
  assert cli.main(words) == 0
  said = capfd.readouterr()
  assert said.out == f"written to {run / 'report.html'}\n"
  assert "evaluate 10/10" in said.err
  found = json.loads((run / "evaluation-4-test.json").read_text())
  assert found["views"]["clips"] == 3
  read = Reader((run / "report.html").read_text())
  for name in ("clip_hit@1", "video_hit@1", "mean_class_accuracy", "mAP"):
    tile = f"{found[name]:.1f}{name.replace('_', ' ')}"
    assert tile in read.texts("div", class_="tile")
  scores = load_scores(run / "evaluation-4-test.npz")
  best, worst = report_videos.choose(scores, 2)
  ids = [scores.ids[k] for k in best + worst]
  assert [text for text in read.texts("p", class_="soft") if text in ids] == ids
  shares = [
    f"{100 * share:.1f}"
    for k in best + worst
    for share in np.sort(scores.scores[k])[:-6:-1]
  ]
  values = read.texts("span", class_="value")[2 * len(found["per_class"]) :]
  # A true class below the five has a bar besides.
  assert [v for v in values if v in shares][: len(shares)]
  assert set(shares) <= set(values)
  assert {path.name for path in run.iterdir()} - before == {
    "report.html",
    "evaluation-4-test.json",
    "evaluation-4-test.npz",
  }
  # Again, from what is there: the same but for the day.
  (run / "evaluation-4-test.json").chmod(0o400)
  again = report(run, out=tmp_path / "b.html", parts=Parts(videos=2))
  assert (
    again.read_text().split("Made on")[1][20:]
    == ((run / "report.html").read_text().split("Made on")[1][20:])
  )


@pytest.mark.parametrize(
  "views", [Views(3), Views(4, "random", 3, seed=5)], ids=["uniform", "random"]
)
def test_clips_of_a_video_are_those_of_the_evaluation(views: Views) -> None:
  run = random_run(small.folder() / "run")
  network = p3d_jax.load(run)
  videos = open_set(small.dataset(), "test")
  numbers = run / "scores.json"
  evaluate(run, views=views, out=numbers)
  scores = load_scores(numbers.with_suffix(".npz"))
  chosen = [7, 2]
  shown = report_videos.read(chosen, scores, videos, network, views, Reading())
  for k, one in zip(chosen, shown, strict=True):
    # A batch of another size rounds in another way.
    np.testing.assert_allclose(one.clips.mean(0), scores.scores[k], atol=1e-5)
    assert (np.diff(one.times) >= 0).all()
    assert one.clips.shape == (views.clips, 8)
    assert one.id == scores.ids[k]
  if views.sampling == "uniform":
    file = run / "video.mp4"
    file.write_bytes(videos[7]["video"])
    clips = p3d_jax.read_clips(file, network[2].preprocessing, clips=3)
    pixels = network[2].preprocessing.center_crop(clips)
    np.testing.assert_array_equal(shown[0].frames, pixels[1])


@pytest.mark.parametrize("time", [1, 3], ids=["frames", "clips"])
def test_what_a_flow_network_saw(time: int) -> None:
  """Two clips of three crops: grey, but where the motion is to the right."""
  scores = made_scores(np.eye(3), [0, 1, 2])
  clips = np.full((6, time, 4, 4, 2), 128, np.uint8)
  # The centre crop of the clip that is later in the video, and in the list
  # first: 127 levels, 8 pixels a frame to the right.
  clips[1, ..., 0] = 255
  found = {"clips": clips, "times": np.array([5.0] * 3 + [1.0] * 3)}
  each = np.arange(18, dtype=np.float32).reshape(6, 3)
  videos: Any = types.SimpleNamespace(channels="flow", metadata={"bound": 8})
  one = report_videos._shown(1, scores, found, each, Views(2, crops=3), videos)
  # The middle one of two clips is the later; of single frames there are both.
  red, white = [255, 0, 0], [255, 255, 255]
  expected = [white, red] if time == 1 else [red] * 3
  np.testing.assert_array_equal(one.frames[:, 0, 0], expected)
  assert one.times.tolist() == [1, 5]
  # Rows 3 to 5 and 0 to 2: means of 9, 12, 15 and of 0, 3, 6.
  np.testing.assert_allclose(one.clips, [[12, 13, 14], [3, 4, 5]])
  assert one.truth == (1,)


def test_another_split_is_told() -> None:
  scores = made_scores(np.eye(3), [0, 1, 2])
  net = small.network()
  network = (net, small.variables(net), small.record(net))
  videos = open_set(small.dataset(), "test")
  with pytest.raises(ValueError, match="video 1 was 'video 1' of 3"):
    report_videos.read([1], scores, videos, network, Views(2), Reading())


@pytest.mark.parametrize("stale", ["json", "npz", "about", "none", "views"])
def test_what_is_of_another_evaluation_is_not_shown(
  stale: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  bare_run(tmp_path, SCORES)
  numbers = tmp_path / "evaluation-7-test.json"
  scores = numbers.with_suffix(".npz")
  found = json.loads(numbers.read_text())
  if stale == "json":
    numbers.write_text(json.dumps({**found, "sha256": "0" * 64}))
  elif stale == "npz":
    # Of the same hit@1, by the same network.
    labels = np.zeros_like(SCORES.labels)
    save_scores(scores, dataclasses.replace(load_scores(scores), labels=labels))
  elif stale == "about":
    about = {**load_scores(scores).about, "split": "train"}
    save_scores(scores, dataclasses.replace(load_scores(scores), about=about))
  elif stale == "none":
    scores.unlink()
  asked = []

  def again(*args: Any, views: Views | None, out: Any, **kwargs: Any) -> None:
    asked.append(views)
    shutil.rmtree(tmp_path)
    bare_run(tmp_path, SCORES)

  monkeypatch.setattr(module, "evaluate", again)
  views = Views(5) if stale == "views" else None
  report(tmp_path, parts=Parts(videos=0), views=views)
  # A repeated evaluation takes the clips that the old one had.
  assert asked == [{"json": None, "views": Views(5)}.get(stale, Views(2))]


def test_features_and_class_pictures(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  found = bare_run(tmp_path / "run", SCORES)
  rng = np.random.default_rng(0)
  features = Features(
    ids=tuple(map(str, range(12))),
    arrays={"pool5": rng.standard_normal((12, 6)).astype(np.float32)},
    labels=np.arange(12, dtype=np.int32).reshape(12, 1) % 3,
    label_names=NAMES,
    sources=("",) * 12,
    clip=None,
    about={"sha256": found["sha256"]},
  )
  file = tmp_path / "features.npz"
  save_features(file, features)
  asked = []

  def class_clips(*args: Any) -> np.ndarray:
    asked.append(list(args[3]))
    return np.zeros((2, 4, 32, 32, 3), np.uint8)

  monkeypatch.setattr(module, "class_clips", class_clips)
  monkeypatch.setattr(module, "class_pictures_png", lambda clips, names: b"png")
  parts = Parts(videos=0, features=file, classes=2)
  read = Reader(report(tmp_path / "run", parts=parts).read_text())
  headings = ["Evaluation", "Training", "Features", "Class pictures"]
  headings += ["Network", "Config", "Starts"]
  assert read.texts("h2") == read.texts("a") == headings
  links = [f["href"] for kind, f, _ in read.elements if kind == "a"]
  marks = [f"#{f['id']}" for kind, f, _ in read.elements if kind == "section"]
  assert links == marks
  assert asked == [[0, 1]]
  alts = [f["alt"] for kind, f, _ in read.elements if kind == "img"]
  assert "pool5 of 12 videos by t-SNE, a colour a class" in alts
  other = tmp_path / "other.npz"
  save_features(other, dataclasses.replace(features, about={"sha256": "1"}))
  with pytest.raises(ValueError, match="they are of another network"):
    report(tmp_path / "run", parts=Parts(features=other))
  with pytest.raises(ValueError, match="res9"):
    report(tmp_path / "run", parts=Parts(features=file, endpoint="res9"))


def test_many_classes_are_folded() -> None:
  rows = [(f"class {k}", float(k), 1) for k in range(100)]
  rows[50] = ("class 50", None, 0)
  read = Reader(module._bars(rows))
  best, worst, everything = read.texts("div", class_="bars")
  assert best.startswith("class 99")
  assert worst.endswith("class 00.0of 1")
  assert everything.startswith("class 0")
  assert "class 50none" in everything
  assert "class 50" not in best + worst


def test_a_failure_leaves_the_old_page(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  bare_run(tmp_path, SCORES)
  (tmp_path / "report.html").write_text("old")
  before = sorted(tmp_path.iterdir())

  def fail(*args: Any) -> bytes:
    raise ValueError("no picture")

  monkeypatch.setattr(module, "confusion_png", fail)
  with pytest.raises(ValueError, match="no picture"):
    report(tmp_path)
  assert sorted(tmp_path.iterdir()) == before
  assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["RUN", "--out=FOLDER/no/a.html"], "there is no such folder"),
    (["RUN", "--out=FOLDER/a.pdf"], "it must end in .html"),
    (["RUN", "--videos=-1"], "--videos is -1: it must be >= 0"),
    (
      ["RUN", "--class-pictures=-1"],
      "--class-pictures is -1: it must be >= 0",
    ),
    (["RUN", "--step=3"], "has no step 3: it has [7]"),
    (["RUN", "--features=FOLDER/f.npz"], "f.npz"),
    (["RUN/checkpoints/7"], "it is a checkpoint; name the workdir"),
    (["FOLDER"], "no workdir"),
    (["RUN"], "no built set is there"),
    (["RUN", "--data=FOLDER/set"], "no built set is there"),
    (["RUN", "--clips=0"], "clips=0: must be >= 1"),
    (["RUN", "--batch=0"], "--batch is 0"),
    (["DAMAGED", "--videos=0"], "is damaged"),
  ],
  ids=lambda value: (
    "-".join(value).replace("/", "_")[:40] if isinstance(value, list) else ""
  ),
)
def test_mistakes_are_one_line(
  words: list[str],
  message: str,
  tmp_path: pathlib.Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  run = tmp_path / "run"
  bare_run(run, SCORES)
  if words[0] == "DAMAGED":
    (run / "evaluation-7-test.json").write_text('{"views":')
  for name, path in (("RUN", run), ("DAMAGED", run), ("FOLDER", tmp_path)):
    words = [word.replace(name, str(path)) for word in words]
  before = sorted(tmp_path.rglob("*"))
  assert cli.main(["report", *words]) == 2
  said = capfd.readouterr()
  assert said.out == ""
  (line,) = said.err.splitlines()
  assert line.startswith("p3d report: ")
  assert message in line
  assert sorted(tmp_path.rglob("*")) == before
