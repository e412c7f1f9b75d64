"""The labelled tasks: no text twice, one split for ever, and classes that can be learned."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from benchmarks.assets import AssetError
from benchmarks.assets.unpack import UnsafeArchive, unpack
from benchmarks.tasks import TASKS, catalogue, film_reviews, load
from benchmarks.tasks.data import Task, make_task


def rows(count: int) -> list[tuple[str, int]]:
    return [(f"text number {i}", i % 2) for i in range(count)]


def texts_of(task: Task) -> list[str]:
    return [*task.train.texts, *task.test.texts]


def test_no_text_twice() -> None:
    same = [("Text  number 3", 1), ("text number 4", 0)]
    task = make_task("x", ("a", "b"), [*rows(200), *same])
    assert sorted(texts_of(task)) == sorted(text for text, _ in rows(200))


def test_a_text_of_two_classes_is_left_out() -> None:
    task = make_task("x", ("a", "b"), [*rows(200), ("TEXT number 3", 0), ("text number 3", 1)])
    assert len(texts_of(task)) == 199
    assert "text number 3" not in texts_of(task)


def test_the_split_depends_on_the_text_alone() -> None:
    whole = make_task("x", ("a", "b"), rows(2000))
    half = make_task("x", ("a", "b"), reversed(rows(1000)))
    assert set(half.test.texts) == set(whole.test.texts) & set(texts_of(half))
    assert len(whole.test.texts) / 2000 == pytest.approx(0.15, abs=0.02)
    labels = dict(rows(2000))
    assert all(labels[t] == n for t, n in zip(whole.test.texts, whole.test.labels, strict=True))


def test_the_first_test_texts_are_a_sample_of_all() -> None:
    """Also of a data set that is sorted by class, as film reviews are."""
    for task in (
        make_task("x", ("a", "b"), sorted(rows(4000), key=lambda r: r[1])),
        film_reviews(),
    ):
        first = np.array(task.test.labels[:200])
        assert first.mean() == pytest.approx(np.mean(task.test.labels), abs=0.12)


def test_a_task_of_one_class() -> None:
    with pytest.raises(AssetError, match="fewer than two classes"):
        make_task("x", ("a", "b"), [(text, 1) for text, _ in rows(100)])


def test_an_unknown_task() -> None:
    with pytest.raises(AssetError, match="known: film reviews"):
        load("haiku")
    assert len(TASKS) == 10


@pytest.mark.parametrize(
    ("name", "least", "classes"),
    [("spam messages", 4500, 2), ("prompt injections", 15_000, 2), ("film reviews", 9_000, 2)],
)
def test_real_data(name: str, least: int, classes: int) -> None:
    task = load(name)
    assert task.name == name
    assert len(texts_of(task)) >= least
    assert len(set(texts_of(task))) == len(texts_of(task))
    assert set(task.train.labels) == set(task.test.labels) == set(range(classes))


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="latin-1")


def test_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each format, on an archive's folder that is written here."""
    monkeypatch.setattr(catalogue, "fetch", lambda name: tmp_path / name)
    many = range(60)
    write(
        tmp_path,
        "pang-lee/sentences.csv",
        "".join(f'"{2 * (i % 2) - 1}","a ""{i}"""\n' for i in many),
    )
    header = "sentiment,confidence,text\n"
    moods = ("negative", "neutral", "positive")
    write(
        tmp_path,
        "opinion-tweets/tweets.csv",
        header + "".join(f"{moods[i % 3]},1,t {i}\n" for i in many),
    )
    for i in many:
        kind = "spam-1" if i % 2 else "easy-ham-1"
        write(
            tmp_path, f"spam-assassin/{kind}/{i}.txt", f"From: spammer\nSubject: x\n\nbody {i} \xe9"
        )
        write(tmp_path, f"bbc-news/{('tech', 'sports')[i % 2]}/{i}.txt", f"news {i} £")
    write(
        tmp_path,
        "topic-texts/reuters-r8-train.tab",
        "Category\tText\nd\tstring\nclass\t\n\n"
        + "".join(f"{'ab'[i % 2]}\twire {i}\n" for i in many),
    )
    write(tmp_path, "topic-texts/reuters-r8-test.tab", "Category\tText\nd\tstring\nclass\t\n\n")
    assert '"7"' in "".join(texts_of(load("film sentences")))
    assert load("tweets").classes == moods
    mail = load("spam mail")
    assert all(text.startswith("body ") and text.endswith("é") for text in texts_of(mail))
    news = load("news")
    assert news.classes == ("sports", "tech")
    wire = load("newswire")
    assert (wire.classes, len(texts_of(wire))) == (("a", "b"), 60)


def archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, BytesIO(b"text"))
    return path


def test_folders_of_an_archive(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "x.tgz", "p/a/1.txt", "p/a/2.txt", "p/a/b/3.txt", "p/a/4.py", "p/c/5.txt"
    )
    unpack(path, {}, tmp_path / "out", folders={"p/a": "kept"})
    assert sorted(p.name for p in (tmp_path / "out" / "kept").iterdir()) == ["1.txt", "2.txt"]
    with pytest.raises(UnsafeArchive, match="no texts in 'p/x'"):
        unpack(path, {}, tmp_path / "other", folders={"p/x": "kept"})
    hostile = archive(tmp_path / "y.tgz", "p/a/..\\1.txt")
    with pytest.raises(UnsafeArchive, match="outside"):
        unpack(hostile, {}, tmp_path / "more", folders={"p/a": "kept"})
