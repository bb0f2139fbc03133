"""Pictures come by name and one at a time; units are the same each time, and called after what decides them."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from invdiff.bench.definition import Benchmark, Dataset, Method, Skip, Task
from invdiff.bench.plan import Unit, evaluations, parts, pictures, size_of, units
from invdiff.bench.store import Row, Store
from invdiff.errors import RequestError

FILES = ("b.png", "a.PNG", "a/z.jpg", "a/b/c.tiff", "a.b/1.webp", "é.png", "Z.bmp")
OTHERS = ("notes.txt", ".hidden.png", "._a.png", "__MACOSX/a.png", "a/.git/x.png", "png")


def dataset(path: str, **others: int) -> Dataset:
    return Dataset(name="some", path=path, **others)


def names(path: str, root: Path, **others: int) -> list[str]:
    return [picture.name for picture in pictures(dataset(path, **others), root)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with FILES and OTHERS in it."""
    for name in (*FILES, *OTHERS):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def small(root: Path, **others: object) -> Benchmark:
    """Two data sets of three and two pictures, two tasks, two methods, two seeds."""
    for name, count in (("one", 3), ("two", 2)):
        (root / name).mkdir(exist_ok=True)
        for i in range(count):
            Image.new("RGB", (16, 16), (i, 2, 3)).save(root / name / f"{i}.png")
    whole = Benchmark(
        name="small",
        root=str(root),
        folder=str(root),
        datasets=[Dataset(name="one", path="one", crop=16), Dataset(name="two", path="two", crop=16)],
        tasks=[
            Task(name="sr", operator={"downsample": {"factor": 2}}),
            Task(name="noise", operator="identity", noise=0.1),
        ],
        methods=[Method(method="dps"), Method(name="quick", method="ddnm")],
        seeds=[0, 7],
        metrics=["psnr"],
    )
    return replace(whole, **others)  # type: ignore[arg-type]


def test_pictures_of_a_folder_and_of_a_zip_file_of_it_are_the_same_in_the_same_order(tree: Path) -> None:
    with ZipFile(tree / "tree.zip", "w") as archive:
        for path in sorted((tree / "tree").rglob("*"), reverse=True):
            archive.write(path, path.relative_to(tree / "tree"))
    found = names("tree", tree)
    assert found == sorted(FILES)
    assert names("tree.zip", tree) == found
    assert names("tree", tree, limit=3) == names("tree.zip", tree, limit=3) == found[:3]
    (only,) = pictures(dataset("tree/a/z.jpg"), tree)
    assert (only.name, only.path, only.member) == ("z.jpg", tree / "tree/a/z.jpg", None)
    first = next(pictures(dataset("tree.zip"), tree))
    assert (first.path, first.member, first.place) == (
        tree / "tree.zip",
        found[0],
        f"{tree / 'tree.zip'}:{found[0]}",
    )


def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    elsewhere = tree / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.png").touch()
    (tree / "tree/link").symlink_to(elsewhere)
    (tree / "tree/a/up").symlink_to(tree / "tree")
    (elsewhere / "self").symlink_to(elsewhere)
    assert names("tree", tree) == sorted([*FILES, "link/far.png"])


def test_what_is_not_there_or_holds_nothing_is_told(tree: Path) -> None:
    (tree / "tree/broken.zip").write_text("no zip")
    for path, said in {
        "tre": "Did you mean 'tree'?",
        "tree/__MACOSX": "",
        "tree/a/.git": "",
        "tree/broken.zip": "not a readable zip file",
        "nowhere/at/all": "no such file or folder",
    }.items():
        if said:
            with pytest.raises(RequestError, match=said.replace("?", r"\?")):
                names(path, tree)
    (tree / "empty").mkdir()
    with pytest.raises(RequestError, match=r"empty: no pictures in it; expected files such as \*\.png"):
        names("empty", tree)


def test_a_name_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    try:
        (folder / "\udcff.png").touch()
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(RequestError, match="is no UTF-8"):
        names("some", tmp_path)


def test_many_pictures_are_not_held_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for part in range(4):
        (folder / str(part)).mkdir(parents=True)
        for i in range(2000):
            (folder / str(part) / f"a_rather_long_name_of_a_picture_{(i * 7919) % 2000:06}.png").touch()
    list(pictures(dataset("many", limit=1), tmp_path))  # what is imported, is
    tracemalloc.start()
    last, count, held = "", 0, 0
    for picture in pictures(dataset("many"), tmp_path):
        assert picture.name > last
        last, count = picture.name, count + 1
        if count == 4000:  # pathlib interns names, in a table that is large whatever is in it
            snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*pathlib*")])
            held = sum(trace.size for trace in snapshot.traces)
    tracemalloc.stop()
    assert count == 8000
    assert held < 100_000  # the names alone are seven times that


def test_the_size_of_a_picture_is_that_which_it_is_shown_in(tmp_path: Path) -> None:
    image = Image.new("RGB", (48, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    (tmp_path / "some").mkdir()
    image.save(tmp_path / "some/a.jpg", exif=exif)
    image.save(tmp_path / "some/b.png")
    assert [size_of(picture) for picture in pictures(dataset("some"), tmp_path)] == [(48, 40), (40, 48)]


# ------------------------------------------------------------------------------------------------------------ units


def ways(found: list[Unit]) -> list[tuple[str, ...]]:
    return [(one.dataset, one.task, one.prior, one.method, str(one.seed)) for one in found]


def test_every_picture_meets_every_task_method_and_seed_once(tmp_path: Path) -> None:
    found = list(units(small(tmp_path)))
    assert len(found) == (3 + 2) * 2 * 2 * 2
    assert len({one.id for one in found}) == len(found)
    assert len({(way, one.pictures[0].name) for way, one in zip(ways(found), found, strict=True)}) == len(
        found
    )
    assert [one.id for one in units(small(tmp_path))] == [one.id for one in found]


def test_units_are_cut_by_batch_and_never_across_data_sets(tmp_path: Path) -> None:
    found = list(units(small(tmp_path, batch=2), only=("task=sr", "method=dps", "seed=0")))
    assert [[p.name for p in one.pictures] for one in found] == [
        ["0.png", "1.png"],
        ["2.png"],
        ["0.png", "1.png"],
    ]
    assert [one.dataset for one in found] == ["one", "one", "two"]


def test_a_prior_is_done_with_before_the_next_begins(tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"weights")
    order = [one.prior for one in units(small(tmp_path, priors=["natural", "other.pt"]))]
    assert order == sorted(order)
    assert set(order) == {"natural", "other.pt"}


def test_a_limit_is_of_each_data_set_and_leaves_the_same_units(tmp_path: Path) -> None:
    benchmark = small(tmp_path)
    whole = {one.id for one in units(benchmark)}
    some = list(units(benchmark, limit=2))
    assert len(some) == (2 + 2) * 8
    assert {one.id for one in some} < whole
    shorter = small(tmp_path, datasets=[replace(one, limit=1) for one in benchmark.datasets])
    assert len(list(units(shorter, limit=2))) == 2 * 8


def test_only_and_skip_leave_what_they_say(tmp_path: Path) -> None:
    benchmark = small(tmp_path, skip=[Skip(task="sr", method="quick"), Skip(dataset="two")])
    assert {way[:4] for way in ways(list(units(benchmark)))} == {
        ("one", "sr", "natural", "dps"),
        ("one", "noise", "natural", "dps"),
        ("one", "noise", "natural", "quick"),
    }
    chosen = list(units(benchmark, only=("method=quick,dps", "task=noise", "seed=7")))
    assert {way[1:] for way in ways(chosen)} == {
        ("noise", "natural", "dps", "7"), ("noise", "natural", "quick", "7"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("methd=dps", "Did you mean 'method'?"),
        ("method=dpss", "Did you mean 'dps'?"),
        ("method", "expected names after method=, of dps, quick"),
        ("method=dps,", "expected names after method="),
        ("seed=1", "unknown seed '1', expected one of 0, 7"),
    ],
)
def test_a_wrong_choice_is_told(tmp_path: Path, only: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        list(units(small(tmp_path), only=(only,)))
    assert str(caught.value).startswith(f"--only {only}: ")
    assert said in str(caught.value)


def ids(benchmark: Benchmark) -> list[str]:
    return [one.id for one in units(benchmark)]


def test_a_units_id_is_the_same_wherever_its_files_lie(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        Image.new("L", (3, 3), 255).save(folder / "k.png")
    blur = [Task(name="blur", operator={"blur": {"kernel": "k.png"}}, noise=0.1)]
    assert ids(small(first, tasks=blur)) == ids(small(second, tasks=blur))
    moved = small(second, tasks=blur)
    (second / "one").rename(second / "three")
    moved = replace(moved, datasets=[replace(moved.datasets[0], path="three"), moved.datasets[1]])
    assert ids(moved) == ids(small(first, tasks=blur))
    assert ids(small(first, device="cuda:1")) == ids(small(first, device="cuda"))
    ways = [{"eta": 0.5, "eta_b": 0.9}, {"eta_b": 0.9, "eta": 0.5}]
    one, other = (ids(small(first, methods=[Method(method="ddrm", settings=given)])) for given in ways)
    assert one == other
    assert ids(small(first, tasks=blur, summary="Words.", skip=[], pictures=False)) == ids(
        small(first, tasks=blur)
    )


@pytest.mark.parametrize(
    "others",
    [
        {"batch": 2},
        {"threads": 2},
        {"device": "cuda"},
        {"precision": "float32"},
        {"datasets": [Dataset(name="one", path="one", crop=16, resize=16), Dataset(name="two", path="two", resize=16)]},
        {"metrics": ["ssim"]},
        {"colour": "luma"},
        {"border": 1},
        {"seeds": [1, 8]},
        {"methods": [Method(method="dps", steps=5), Method(name="quick", method="ddnm", settings={"eta": 0.5})]},
        {"methods": [Method(method="dps", samples=2), Method(name="quick", method="ddnm", best_of=2)]},
        {"datasets": [Dataset(name="one", path="one", crop=8), Dataset(name="two", path="two", channels=1, crop=16)]},
        {
            "tasks": [
                Task(name="sr", operator={"downsample": {"factor": 4}}),
                Task(name="noise", operator="identity", noise=0.2),
            ]
        },
    ],
    ids=lambda others: "-".join(others),
)  # fmt: skip
def test_a_units_id_follows_whatever_decides_its_result(tmp_path: Path, others: dict[str, object]) -> None:
    assert not set(ids(small(tmp_path))) & set(ids(small(tmp_path, **others)))


def test_a_units_id_follows_the_files_of_priors_masks_and_kernels(tmp_path: Path) -> None:
    prior, mask = tmp_path / "p.pt", tmp_path / "m.png"

    def now() -> list[str]:
        return ids(small(tmp_path, priors=["p.pt"], tasks=[Task(name="fill", mask="m.png")]))

    prior.write_bytes(b"weights")
    Image.new("L", (16, 16), 0).save(mask)
    first = now()
    prior.write_bytes(b"others")
    second = now()
    Image.new("L", (16, 16), 9).save(mask)
    assert not set(first) & set(second)
    assert not set(second) & set(now())


# ------------------------------------------------------------------------------------------- how much there is to do


def test_what_is_done_is_counted_and_the_rows_tell_the_time(tmp_path: Path) -> None:
    benchmark, out = small(tmp_path), tmp_path / "out"
    assert {(part.runs, part.done, part.seconds) for part in parts(benchmark, out)} == {
        (6, 0, None),
        (4, 0, None),
    }
    with Store.open(out, benchmark.record()) as store:
        for i, unit in enumerate(units(benchmark, only=("method=dps", "task=sr", "dataset=one"))):
            status = "failed" if i == 0 else "done"
            row = Row(
                unit=unit.id, dataset=unit.dataset, picture=unit.pictures[0].name, task=unit.task, prior=unit.prior,
                method=unit.method, seed=unit.seed, status=status, seconds=2.0, evaluations=30.0,
            )  # fmt: skip
            store.write(unit.id, [row])
    found = {(part.dataset, part.task, part.method): part for part in parts(benchmark, out)}
    assert (found["one", "sr", "dps"].done, found["one", "sr", "dps"].runs) == (6, 6)
    assert found["one", "sr", "dps"].evaluations == 30
    assert found["two", "noise", "dps"].seconds == 2
    assert found["two", "noise", "dps"].evaluations is None
    assert found["one", "sr", "quick"].seconds is None
    again = {(part.dataset, part.task, part.method): part for part in parts(benchmark, out, retry=True)}
    assert again["one", "sr", "dps"].done == 5
    with pytest.raises(RequestError, match=r"another configuration, which differs in seeds"):
        parts(replace(benchmark, seeds=[0]), out)


def test_evaluations_are_told_where_the_catalog_knows_them() -> None:
    assert evaluations(Method(method="dps", steps=100, samples=2)) == 200
    assert evaluations(Method(method="dps", steps=100, samples=2, best_of=3)) == 600
    assert evaluations(Method(method="mala", settings={"steps": 10})) == 20
    assert evaluations(Method(peer="bicubic")) == 0
    for unknown in (
        Method(method="dps"),
        Method(method="dps", steps=10, settings={"integrator": "heun"}),
        Method(method="smc", steps=10),
        Method(method="repaint", steps=10),
        Method(method="auto", steps=10),
        Method(peer="deepinv/dps", steps=10),
    ):
        assert evaluations(unknown) is None


def test_a_limit_does_not_cut_a_unit_short(tmp_path: Path) -> None:
    benchmark = replace(small(tmp_path), batch=2)
    whole = {unit.id for unit in units(benchmark)}
    few = list(units(benchmark, limit=1))
    assert {len(unit.pictures) for unit in few} == {2}
    assert {unit.id for unit in few} < whole
