"""Any sequence of changes leaves what the same changes leave in a dict."""

from __future__ import annotations

import tempfile

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from genmm_retriever.corpus.store import (
    IdentifierRecord,
    IndexReader,
    IndexSettings,
    IndexWriter,
    check_index,
)
from genmm_retriever.errors import DuplicateIdError, InputError
from genmm_retriever.schema import Item

NAMES = st.sampled_from(["a", "b", "c\n", "😀", "d'\""])
CONTENTS = st.tuples(st.booleans(), st.integers(0, 2))
SETTINGS = IndexSettings(model="m", model_fingerprint="f")


def item(name, content):
    is_image, version = content
    fields = {"image": b"%d" % version} if is_image else {"text": f"text {version}"}
    return Item(id=name, metadata={"version": version}, **fields)


class Changes(RuleBasedStateMachine):
    """Three dicts of name -> content: published, complete, and staged after that."""

    @initialize()
    def begin(self):
        self.place = tempfile.TemporaryDirectory()
        self.folder = f"{self.place.name}/index"
        self.writer = IndexWriter.create(self.folder, SETTINGS)
        self.published = None
        self.complete = {}
        self.staged = {}
        self.rows = {}

    def newest(self):
        return {**self.complete, **self.staged}

    @rule(items=st.dictionaries(NAMES, CONTENTS, max_size=4), replace=st.booleans())
    def stage(self, items, replace):
        newest = self.newest()
        conflict = any(newest.get(name, content) != content for name, content in items.items())
        given_items = [item(name, content) for name, content in items.items()]
        try:
            report = self.writer.stage_items(given_items, replace=replace)
        except DuplicateIdError:
            assert conflict
            assert not replace
            return
        assert replace or not conflict
        changed = {n: c for n, c in items.items() if newest.get(n) != c}
        assert report.added == len(changed.keys() - newest.keys())
        assert report.added + report.replaced == len(changed)
        self.staged.update(changed)

    @rule()
    def finish_stages(self):
        rows = self.writer.pending("features")
        if rows:
            self.writer.put_features(rows, np.array([[row] for row in rows]))
        rows = self.writer.pending("identifiers")
        assert len(rows) == len(self.staged)
        self.writer.put_identifiers([IdentifierRecord(r, f"id {r}", (r, 0)) for r in rows])
        self.complete.update(self.staged)
        self.staged = {}

    @rule(names=st.sets(NAMES, max_size=3))
    def delete(self, names):
        unknown = names - self.newest().keys()
        try:
            count = self.writer.delete(names)
        except InputError:
            assert unknown
            return
        assert not unknown
        assert count == len(names)
        for name in names:
            self.complete.pop(name, None)
            self.staged.pop(name, None)

    @rule()
    def publish(self):
        self.writer.publish()
        self.published = dict(self.complete)

    @rule()
    def reopen(self):
        self.writer.close()
        self.writer = IndexWriter.create(self.folder, SETTINGS)

    @invariant()
    def readers_see_what_is_published(self):
        if self.published is None:
            return
        with IndexReader.open(self.folder) as reader:
            rows = reader.live_rows()
            assert len(reader) == len(rows) == len(self.published)
            for row, found in zip(rows.tolist(), reader.items(rows), strict=True):
                content = self.published[found.id]
                assert found.metadata == {"version": content[1]}
                assert (found.kind == "image") == content[0]
                assert reader.row(found.id) == row
                assert reader.identifiers_of([row]) == [[f"id {row}"]]
                # A row means the same item and content for the life of the index.
                assert self.rows.setdefault(row, (found.id, content)) == (found.id, content)
                if content[0]:
                    assert reader.features([row]) == [[row]]
            for version in range(3):
                wanted = [n for n, c in self.published.items() if c[1] == version]
                assert len(reader.select({"version": version})) == len(wanted)

    def teardown(self):
        self.writer.close()
        if self.published is not None:
            assert check_index(self.folder) == []
        self.place.cleanup()


Changes.TestCase.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)


def test_changes_equal_a_dict():
    Changes.TestCase("runTest").runTest()
