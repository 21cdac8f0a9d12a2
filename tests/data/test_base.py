import torch

from kdbench.data.base import Dataset, MemoryImages, Split, known_of_images


def split(labels, **groups):
    images = MemoryImages(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8))
    return Split(images, torch.tensor(labels), {name: torch.tensor(codes) for name, codes in groups.items()})


def known(train, test, **names):
    return known_of_images(Dataset("synthetic", ("x", "y", "z"), train, test, test, (1, 2, 2), torch.zeros(1),
                                   torch.ones(1), "digest", names))


def test_metrics_get_the_groups_of_test_images_and_the_counts_of_training_ones():
    train = split([0, 0, 1, 0], tint=[0, 1, 1, 0])
    test = split([0, 2], tint=[1, 0], collar=[2, 0])
    found = known(train, test, tint=("warm", "cool"), collar=("red", "blue", "none"))
    assert found["train_class_counts"].tolist() == [3, 1, 0]
    assert found["group_attributes"].tolist() == ["collar", "tint"]
    assert found["group_names"].tolist() == [["red", "blue", "none"], ["warm", "cool", ""]]
    assert found["test_groups"].tolist() == [[2, 0], [1, 0]]
    assert found["train_group_counts"].tolist() == [
        [[0, 0, 0], [0, 0, 0], [0, 0, 0]],  # nobody says what collars training images have
        [[2, 1, 0], [0, 1, 0], [0, 0, 0]]]


def test_without_attributes_only_the_counts_of_classes_are_known():
    assert list(known(split([0]), split([1]))) == ["train_class_counts"]
