"""Items shared out between ranks."""

from open_miipher.corpus.run import Item
from open_miipher.distributed import Share, StopSignal, pack_shares


def shares_of(items: list[Item], num_ranks: int) -> list[list[Item]]:
    found = []
    for pieces in pack_shares(list(items), num_ranks):
        share = Share(StopSignal())
        for piece in pieces:
            share.add(*piece)
        found.append(list(share))
        assert share.num_items == len(found[-1])
        assert share.cost == sum(item.cost for item in found[-1])
    return found


def test_items_are_shared_out_by_cost_the_costliest_first(monkeypatch) -> None:
    monkeypatch.setattr("open_miipher.distributed.share._PACKED", 2)
    costs = [1, 9, 3, 3, 2, 8, 1, 1]
    items = [Item(str(k), "", cost, [k, 2], {"more": k}) for k, cost in enumerate(costs)]
    for num_ranks in (1, 2, 3, 11):
        shares = shares_of(items, num_ranks)
        assert len(shares) == num_ranks
        whole = [item for share in shares for item in share]
        assert sorted(whole, key=lambda item: item.id) == items
        for share in shares:
            assert [i.cost for i in share] == sorted((i.cost for i in share), reverse=True)
    assert [sum(item.cost for item in share) for share in shares_of(items, 2)] == [14, 14]
