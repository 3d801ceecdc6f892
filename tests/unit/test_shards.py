"""Many machines: the stream of one seed, dealt out."""

from __future__ import annotations

from diffgdn.campaign.rotation import Rotation


def streams(count: int, part: int, parts: int, seed: int = 7) -> list[tuple[str, int]]:
    """Operation and seed of so many batches of a shard."""
    source = Rotation(("a", "b"), "interpret", seed, None, 5.0, shard=(part, parts))
    batches = [source.next(frozenset()) for _ in range(count)]
    return [(batch.operation, batch.seed) for batch in batches if batch is not None]


class TestShards:
    def test_shards_deal_out_the_stream_of_one_machine(self) -> None:
        """None explores what another does, and together they explore what one would, in the same order."""
        alone = streams(24, 1, 1)
        dealt = [streams(8, part, 3) for part in (1, 2, 3)]
        every = [stream for shard in dealt for stream in shard]
        assert len(set(every)) == 24
        assert set(every) == set(alone)
        assert dealt[0][:2] == alone[:2]

    def test_a_shard_is_the_same_every_time_and_another_with_another_seed(self) -> None:
        assert streams(12, 3, 40) == streams(12, 3, 40)
        assert set(streams(12, 3, 40)).isdisjoint(streams(12, 3, 40, seed=8))

    def test_a_later_machine_begins_with_small_batches_too(self) -> None:
        source = Rotation(("a",), "interpret", 1, None, 5.0, shard=(40, 40))
        task = source.next(frozenset())
        assert task is not None
        assert (task.cases, task.shrink) == (3, False)
