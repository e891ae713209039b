"""Which images are taken, in which batches, by which rank: nothing twice, nothing left out."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.selection import EvaluationData, Selection, shard_of
from datamodules import Digits

DIGITS = Digits()
TEST_INDICES = [int(index) for index in DIGITS.dataset("test").indices]


def evaluation(batch_size, shard=None, rank=0, ranks=1, **selection) -> EvaluationData:
    data = EvaluationData(DIGITS, Selection(**selection), shard=shard, batch_size=batch_size)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)
    data.setup()
    return data


@given(
    count=st.integers(1, 50), start=st.integers(0, 20), stride=st.integers(1, 5), batch_size=st.integers(1, 20),
    shards=st.integers(1, 4), ranks=st.integers(1, 4), done=st.sets(st.integers(0, 9)),
)  # fmt: skip
def test_shards_and_ranks_share_the_selected_images(count, start, stride, batch_size, shards, ranks, done):
    expected = TEST_INDICES[start::stride][:count]
    seen, skipped = [], []
    for k in range(1, shards + 1):
        batches = None
        for rank in range(ranks):
            data = evaluation(batch_size, f"{k}/{shards}", rank, ranks, count=count, start=start, stride=stride)
            assert batches in (None, data.batches)  # the same fixed slices on every rank
            assert data.total == count
            batches = data.batches
            data.done = {number for number in done if number < len(batches)}
            loaded = [batch["index"].tolist() for batch in data.predict_dataloader()]
            assert loaded == [batches[number] for number in data.mine()]
            seen += [index for batch in loaded for index in batch]
        skipped += [index for number in done if number < len(batches) for index in batches[number]]
    assert sorted(seen + skipped) == sorted(expected)


def test_a_batch_is_named_after_its_images_alone():
    whole = evaluation(10, count=30)
    shifted = evaluation(10, count=20, start=10)
    assert whole.key(1) == shifted.key(0) != whole.key(0)
    assert whole.key(0) != evaluation(10, count=30, stride=2).key(0)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_is_k_of_n(shard):
    with pytest.raises(ValueError, match="shard must be k/n with 1 <= k <= n"):
        shard_of([1, 2], shard)


@pytest.mark.parametrize("options", [{"count": 0}, {"start": -1}, {"stride": 0}])
def test_a_selection_takes_something(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Selection(**options)
