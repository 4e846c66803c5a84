from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from genmm_retriever.identifiers import clusters
from genmm_retriever.identifiers.clusters import (
    base_form,
    class_tf_idf,
    cluster_count,
    cluster_names,
    kmeans,
    nearest,
)


def test_class_tf_idf_golden():
    """Worked by hand: A = 4 words a cluster, f(dog) = 5, f(snow) = 1, f(cat) = 2."""
    weights = class_tf_idf([Counter(dog=3, snow=1), Counter(cat=2, dog=2)])
    assert weights[0] == pytest.approx({"dog": 0.4408400, "snow": 0.4023595}, abs=1e-6)
    assert weights[1] == pytest.approx({"cat": 0.5493061, "dog": 0.2938933}, abs=1e-6)


def test_class_tf_idf_of_unequal_clusters():
    """A = (1 + 9) / 2 = 5; sea: 1/1 * ln(1 + 5/4); sand: 6/9 * ln(1 + 5/6)."""
    weights = class_tf_idf(
        [
            Counter(sea=1),
            Counter(sea=3, sand=6),
        ]
    )
    assert weights[0]["sea"] == pytest.approx(0.8109302, abs=1e-6)
    assert weights[1]["sand"] == pytest.approx(0.4040905, abs=1e-6)


def test_class_tf_idf_of_nothing():
    assert class_tf_idf([]) == []
    assert class_tf_idf([Counter()]) == [{}]


@pytest.mark.parametrize(
    ("items", "k"), [(1, 1), (15, 1), (16, 2), (1000, 125), (1024, 128), (31_000, 128)]
)
def test_cluster_count(items, k):
    assert cluster_count(items) == k


def test_names_are_distinct_readable_and_without_forms_of_one_word():
    texts = ["dogs dog snow", "dog snow", "dog snow lake", "dog snow", "jumps jumping high"]
    names = cluster_names(texts, np.array([0, 1, 2, 3, 4]))
    assert len(set(names)) == 5
    assert names[4] in ("high jumping", "high jumps", "jumping high", "jumps high")
    for name in names:
        assert len({base_form(word) for word in name.split()}) == len(name.split())


def test_equal_clusters_get_numbers_at_last():
    assert cluster_names(["dog", "dog", "dog"], np.array([0, 1, 2])) == ["dog", "dog 2", "dog 3"]


def test_kmeans_finds_blobs_and_repeats_itself():
    generator = np.random.default_rng(0)
    centres = np.eye(5, dtype=np.float32)
    truth = generator.integers(0, 5, size=300)
    vectors = centres[truth] + generator.normal(scale=0.05, size=(300, 5)).astype(np.float32)
    found, labels = kmeans(vectors, 5, seed=3)
    assert len({(t, f) for t, f in zip(truth.tolist(), labels.tolist(), strict=True)}) == 5
    again, same = kmeans(vectors, 5, seed=3)
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_array_equal(nearest(vectors, found), labels)


def test_kmeans_of_fewer_different_points_than_clusters():
    vectors = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    centres, labels = kmeans(vectors, 8)
    assert len(centres) == 2
    assert sorted(set(labels.tolist())) == [0, 1]
    one, all_in_it = kmeans(vectors[:1], 8)
    assert one.shape == (1, 2)
    assert all_in_it.tolist() == [0]


def test_kmeans_of_more_points_than_it_looks_at(monkeypatch):
    monkeypatch.setattr(clusters, "_MOST_POINTS", 50)
    vectors = np.repeat(np.eye(4, dtype=np.float32), 100, axis=0)
    centres, labels = kmeans(vectors, 4, seed=1)
    assert len(centres) == 4
    assert [len(set(part.tolist())) for part in labels.reshape(4, 100)] == [1, 1, 1, 1]
    np.testing.assert_array_equal(labels, kmeans(vectors, 4, seed=1)[1])
