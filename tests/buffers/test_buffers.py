"""The replay layer's units: every row carries its own identity, so any mix-up shows."""

import math

import pytest
import torch
from scipy.stats import chisquare

from reverie.buffers import Layout, ReplayBuffer, Source, Transitions, concatenate, mix

LAYOUT = Layout(3, 2, {"tag": 1, "label": 2})
T, N = 8, 3


def rows(world, episode, t):
    """Transitions whose every column follows from (world, episode, t); episodes are 4 long."""
    w, e, t = torch.broadcast_tensors(*(torch.as_tensor(x).float() for x in (world, episode, t)))
    key, code = torch.stack([w, e, t], -1), 10_000 * w + 100 * e + t
    last = t == 3
    return Transitions(
        obs=key,
        action=torch.stack([w - t, e + t], -1),
        reward=code,
        next_obs=key + torch.tensor([0.0, 0.0, 1.0]),
        terminated=(last & (e % 2 == 0)).float(),
        truncated=(last & (e % 2 == 1)).float(),
        extra={"tag": code + 0.5, "label": key[..., 1:] - 7},
    )


def grid(first, last, n=N):
    """Vector steps first..last-1 of n worlds, whose episodes end at different times."""
    s, w = torch.arange(first, last)[:, None], torch.arange(n)
    return rows(w, (s + w) // 4, (s + w) % 4)


def gaps(first, last, n=N):
    """A validity mask for `grid` with some slots False."""
    s, w = torch.arange(first, last)[:, None], torch.arange(n)
    return (s + 2 * w) % 7 != 0


def filled(steps, *, capacity=T * N, n=N, seed=0, invalid=False):
    buffer = ReplayBuffer(LAYOUT, capacity, n, seed=seed)
    if steps:
        buffer.add(grid(0, steps, n), gaps(0, steps, n) if invalid else None)
    return buffer


def tensors(x):
    """Every tensor of Transitions, Windows or a tensor, in a fixed order."""
    if isinstance(x, torch.Tensor):
        return [x]
    parts = x.values() if hasattr(x, "values") else x
    return [t for part in parts for t in tensors(part)]


def same(a, b):
    a, b = tensors(a), tensors(b)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def whole(batch):
    """Does every column belong to the row that obs names?"""
    return same(batch, rows(*batch.obs.unbind(-1)))


def keys(obs):
    return {tuple(row) for row in obs.reshape(-1, 3).int().tolist()}


DRAWS = {
    "sample": lambda b: b.sample(64),
    "gather": lambda b: b.gather(b.sample_indices(64)),
    "windows": lambda b: b.sample_windows(64, 3, 2),
    "initial_obs": lambda b: b.initial_obs(64),
}
draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


# -- layout


@pytest.mark.parametrize("lead", [(5,), (2, 4), (1,)])
def test_rows_pack_and_unpack_as_views(lead):
    batch = rows(torch.arange(math.prod(lead)).view(lead), 2, 3)
    packed = LAYOUT.pack(batch)
    assert packed.shape == (*lead, LAYOUT.width) and packed.dtype == torch.float32
    views = LAYOUT.unpack(packed)
    assert same(views, batch)
    home = packed.untyped_storage().data_ptr()
    assert all(x.untyped_storage().data_ptr() == home for x in tensors(views))
    packed.fill_(-1)
    assert all((x == -1).all() for x in tensors(views)), "unpack copied"
    assert whole(batch), "pack did not copy"


def test_columns_stand_in_the_documented_order():
    assert LAYOUT.width == 3 + 2 + 1 + 3 + 1 + 1 + 1 + 2
    packed = torch.arange(LAYOUT.width).float()
    assert torch.cat([x.reshape(-1) for x in tensors(LAYOUT.unpack(packed))]).equal(packed)
    names = ["obs", "action", "reward", "next_obs", "terminated", "truncated", "tag", "label"]
    assert list(LAYOUT.slices) == names
    assert torch.cat([packed[LAYOUT.slices[k]].reshape(-1) for k in names]).equal(packed)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"extra": {"tag": torch.zeros(4)}}, KeyError, r"lacks the columns \['label'\].*\['tag'\]"),
        ({"obs": torch.zeros(4, 2)}, ValueError, r"obs has shape \(4, 2\), expected \(4, 3\)"),
        ({"action": torch.zeros(4)}, ValueError, r"action has shape \(4,\), expected \(4, 2\)"),
        ({"next_obs": torch.zeros(5, 3)}, ValueError, r"next_obs has shape \(5, 3\), expected"),
        ({"truncated": torch.zeros(4, 1)}, ValueError, r"truncated has shape \(4, 1\)"),
        (
            {"extra": {"tag": torch.zeros(4), "label": torch.zeros(4)}},
            ValueError,
            r"label has shape \(4,\), expected \(4, 2\)",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_named(change, error, text):
    batch = rows(torch.arange(4), 0, 1)._replace(**change)
    with pytest.raises(error, match=text):
        LAYOUT.pack(batch)
    with pytest.raises(error, match=text):
        ReplayBuffer(LAYOUT, 8, 4).add(batch)


@pytest.mark.parametrize("widths", [(0, 2, {}), (3, 0, {}), (3, 2, {"tag": 0})])
def test_a_layout_needs_positive_widths(widths):
    with pytest.raises(ValueError, match="every width must be at least 1"):
        Layout(*widths)


@pytest.mark.parametrize("name", Transitions._fields[:6])
def test_an_extra_column_does_not_take_a_fields_name(name):
    with pytest.raises(ValueError, match=name):
        Layout(3, 2, {name: 1})


def test_a_declared_column_that_is_missing_is_named():
    LAYOUT.require(["tag", "label"], "SAC")
    with pytest.raises(ValueError, match=r"BC needs the columns \['step'\].*'label', 'tag'"):
        LAYOUT.require(["tag", "step"], "BC")


def test_map_and_concatenate_treat_every_column():
    a, b = rows(0, 1, torch.arange(4)), rows(1, 2, torch.arange(2))
    both = concatenate([a, b])
    assert whole(both) and both.reward.tolist() == [*a.reward.tolist(), *b.reward.tolist()]
    keep = torch.tensor([True, False, True, False])
    assert same(a.map(lambda x: x[keep]), rows(0, 1, torch.tensor([0, 2])))
    bare = b._replace(extra={"label": b.extra["label"]})
    assert list(concatenate([a, bare]).extra) == list(concatenate([bare, a]).extra) == ["label"]


# -- adding


@pytest.mark.parametrize(
    ("capacity", "n", "hint"), [(10, 4, 8), (3, 4, 4), (0, 1, 1), (-5, 5, 5), (7, 2, 6)]
)
def test_a_capacity_that_worlds_do_not_divide_is_refused(capacity, n, hint):
    with pytest.raises(ValueError, match=f"num_envs={n}, got {capacity}; try {hint}$"):
        ReplayBuffer(LAYOUT, capacity, n)


@pytest.mark.parametrize("n", [1, N])
def test_bulk_and_single_steps_store_the_same(n):
    steps = 2 * T + 3
    packed, valid = LAYOUT.pack(grid(0, steps, n)), gaps(0, steps, n)
    one, bulk = (ReplayBuffer(LAYOUT, T * n, n) for _ in range(2))
    for row, mask in zip(packed, valid, strict=True):
        one.add(LAYOUT.unpack(row), mask)
    if n == 1:
        bulk.add(LAYOUT.unpack(packed[:, 0]), valid[:, 0])
    else:
        bulk.add(LAYOUT.unpack(packed), valid)
    assert len(one) == len(bulk) == int(valid[-T:].sum())
    assert same(one.export_rows(steps - T, steps), bulk.export_rows(steps - T, steps))
    assert all(same(f(one), f(bulk)) for f in DRAWS.values())


@pytest.mark.parametrize("lead", [(2,), (4,), (5, 2), (1, 1, 3)])
def test_a_batch_of_another_shape_is_refused(lead):
    with pytest.raises(ValueError, match=r"does not fit a buffer of num_envs=3: give \(3,\)"):
        filled(2).add(rows(torch.zeros(lead), 0, 0))


def test_a_refused_batch_leaves_the_buffer_as_it_was():
    buffer, twin = filled(T, invalid=True), filled(T, invalid=True)
    before = len(buffer)
    with pytest.raises(ValueError, match="obs has shape"):
        buffer.add(rows(torch.arange(N), 0, 0)._replace(obs=torch.zeros(N, 9)))
    with pytest.raises(KeyError, match="lacks"):
        buffer.add(rows(torch.arange(N), 0, 0)._replace(extra={}))
    assert len(buffer) == before
    assert all(same(f(buffer), f(twin)) for f in DRAWS.values())


@pytest.mark.parametrize(
    ("lead", "shape"),
    [((2, N), (N,)), ((2, N), (2, 1)), ((2, N), (1, N)), ((2, N), (3, N)), ((N,), (1,))],
)
def test_a_validity_mask_of_another_shape_is_refused(lead, shape):
    buffer = filled(3)
    with pytest.raises(ValueError, match="valid"):
        buffer.add(rows(torch.zeros(lead), 9, 0), torch.zeros(shape, dtype=torch.bool))
    assert len(buffer) == 3 * N


# -- sampling


@pytest.mark.parametrize("invalid", [False, True])
@pytest.mark.parametrize("steps", [5, T, 2 * T + 3])
def test_what_can_be_sampled_is_what_is_stored_and_valid(steps, invalid):
    buffer = filled(steps, invalid=invalid)
    first = max(0, steps - T)
    keep = gaps(first, steps) if invalid else torch.ones(steps - first, N, dtype=torch.bool)
    batch = buffer.sample(2000)
    assert whole(batch)
    assert keys(batch.obs) == keys(grid(first, steps).obs[keep])
    assert len(buffer) == int(keep.sum())


@pytest.mark.parametrize("invalid", [False, True])
@pytest.mark.parametrize("steps", [5, 2 * T + 3])
def test_sampling_is_uniform(steps, invalid):
    buffer = filled(steps, invalid=invalid, seed=1)
    anchors = buffer.sample_windows(20_000, 2, burn_in=1).batch.reward[:, 1]
    for code in (buffer.sample(20_000).reward, anchors):
        counts = code.unique(return_counts=True)[1]
        assert len(counts) == len(buffer)
        assert chisquare(counts).pvalue > 0.001
    starts = buffer.initial_obs(20_000).unique(dim=0, return_counts=True)[1]
    assert len(starts) > 3 and chisquare(starts).pvalue > 0.001


@draw
def test_draws_are_in_memory_that_is_never_written_again(draw):
    buffer = filled(T + 3)
    taken = draw(buffer)
    copies = [x.clone() for x in tensors(taken)]
    buffer.add(grid(100, 100 + 2 * T))
    assert same(taken, copies), "the ring's next rows overwrote a batch"
    stored = buffer.export_rows(buffer.total - T, buffer.total)
    for x in tensors(draw(buffer)):
        x.zero_()
    assert same(stored, buffer.export_rows(buffer.total - T, buffer.total)), "a batch is the ring"


@draw
def test_draws_come_from_the_buffers_own_seed(draw):
    torch.manual_seed(0)
    a = draw(filled(T + 3, seed=5))
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert same(a, draw(filled(T + 3, seed=5)))
    assert torch.equal(before, torch.get_rng_state()), "torch's global generator moved on"
    assert not same(a, draw(filled(T + 3, seed=6)))


def test_indices_gather_what_sample_returns():
    a, b = filled(T + 3, invalid=True), filled(T + 3, invalid=True)
    index = b.sample_indices(64)
    assert index.dtype == torch.int64 and index.shape == (64,)
    assert same(a.sample(64), b.gather(index))


def test_an_empty_buffer_says_so():
    for buffer in (filled(0), ReplayBuffer(LAYOUT, T * N, N)):
        assert len(buffer) == 0
        for act in (
            buffer.sample,
            buffer.sample_indices,
            lambda n, b=buffer: b.sample_windows(n, 2),
        ):
            with pytest.raises(ValueError, match="no valid transition"):
                act(4)
        with pytest.raises(ValueError, match="no episode start"):
            buffer.initial_obs(4)
        # Slots that are all invalid are as good as none.
        buffer.add(grid(0, 3), torch.zeros(3, N, dtype=torch.bool))
        assert len(buffer) == 0
        with pytest.raises(ValueError, match="no valid transition"):
            buffer.sample(4)


# -- windows and starts


@pytest.mark.parametrize(("length", "burn_in"), [(0, 0), (-1, 2), (3, -1)])
def test_a_windows_length_is_checked(length, burn_in):
    with pytest.raises(ValueError, match=f"got {length} and {burn_in}"):
        filled(5).sample_windows(4, length, burn_in)


def test_windows_of_a_ring_by_hand():
    # Six slots; steps 0..8 of one world; episodes 0123 4567 8; so slots hold 6 7 8 3 4 5.
    buffer = filled(9, capacity=6, n=1)
    batch, mask = buffer.sample_windows(500, 3, burn_in=1)
    assert mask.shape == (500, 4) and batch.obs.shape == (500, 4, 3)
    step = batch.obs[..., 1] * 4 + batch.obs[..., 2]
    seen = {
        tuple(s if m else None for s, m in zip(*row, strict=True))
        for row in zip(step.int().tolist(), mask.tolist(), strict=True)
    }
    assert seen == {
        (None, 3, None, None),
        (None, 4, 5, 6),
        (4, 5, 6, 7),
        (5, 6, 7, None),
        (6, 7, None, None),
        (None, 8, None, None),
    }


@pytest.mark.parametrize("invalid", [False, True])
def test_a_windows_masked_slots_are_zero(invalid):
    buffer = filled(2 * T + 3, invalid=invalid)
    batch, mask = buffer.sample_windows(500, 5, burn_in=3)
    packed = LAYOUT.pack(batch)
    assert (packed[~mask] == 0).all() and mask[:, 3].all() and not mask.all()
    assert whole(LAYOUT.unpack(packed[mask]))


def test_masked_slots_are_zero_whatever_lies_beneath():
    buffer = filled(0)
    bad = rows(torch.arange(N), 0, 1)
    bad = bad._replace(next_obs=bad.next_obs * torch.nan, reward=bad.reward + torch.inf)
    buffer.add(bad, torch.zeros(N, dtype=torch.bool))
    buffer.add(grid(0, 2))
    batch, mask = buffer.sample_windows(200, 3, burn_in=2)
    assert (LAYOUT.pack(batch)[~mask] == 0).all(), "a non-finite row leaks through the mask"


def test_starts_are_first_observations():
    starts = keys(filled(T).initial_obs(500))
    # World w began at t = w, and its later episodes at t = 0.
    assert starts == {(0, 0, 0), (0, 1, 0), (1, 0, 1), (1, 1, 0), (1, 2, 0)} | {
        (2, 0, 2), (2, 1, 0), (2, 2, 0)
    }  # fmt: skip
    assert all(t == 0 for _, _, t in keys(filled(2 * T + 3).initial_obs(500)))
    with pytest.raises(ValueError, match="every stored episode began earlier"):
        filled(4, capacity=2, n=1).initial_obs(3)


def test_break_episodes_separates_what_follows():
    buffer = ReplayBuffer(LAYOUT, 8, 1)
    buffer.add(rows(0, 0, torch.tensor([0, 1])))
    buffer.break_episodes()
    buffer.add(rows(0, 0, torch.tensor([2, 3])))
    batch, mask = buffer.sample_windows(200, 4, burn_in=3)
    t = batch.obs[..., 2]
    assert {tuple(row[m].int().tolist()) for row, m in zip(t, mask, strict=True)} == {
        (0, 1),
        (2, 3),
    }
    assert keys(buffer.initial_obs(100)) == {(0, 0, 0), (0, 0, 2)}


def test_clear_forgets_the_rows_and_keeps_the_generator():
    buffer, twin = filled(T + 3, invalid=True), filled(T + 3, invalid=True)
    assert same(buffer.sample(8), twin.sample(8))
    state = buffer.generator.get_state()
    buffer.clear()
    assert len(buffer) == 0 and torch.equal(buffer.generator.get_state(), state)
    with pytest.raises(ValueError, match="no valid transition"):
        buffer.sample(1)
    buffer.add(grid(50, 53))
    assert len(buffer) == 3 * N
    assert keys(buffer.sample(500).obs) == keys(grid(50, 53).obs)
    assert keys(buffer.initial_obs(500)) == keys(grid(50, 51).obs) | {
        k for k in keys(grid(50, 53).obs) if k[2] == 0
    }


# -- state


@pytest.mark.parametrize("invalid", [False, True])
@pytest.mark.parametrize("steps", [0, 5, T, 2 * T + 3])
def test_a_saved_buffer_continues_exactly(steps, invalid, tmp_path):
    a = filled(steps, invalid=invalid, seed=3)
    if steps:
        a.sample(5)
    torch.save(a.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    b = filled(0, seed=99)
    b.load_state_dict(state)
    for s in range(steps, steps + T + 2):
        a.add(grid(s, s + 1), gaps(s, s + 1) if invalid else None)
        b.add(grid(s, s + 1), gaps(s, s + 1) if invalid else None)
        assert len(a) == len(b)
        assert all(same(f(a), f(b)) for f in DRAWS.values())


def test_a_state_is_a_snapshot():
    a = filled(T + 3, invalid=True)
    state = a.state_dict()
    twin = filled(T + 3, invalid=True)
    expected = [f(twin) for f in DRAWS.values()]
    a.add(grid(200, 220))
    a.sample(9)
    b = filled(0)
    b.load_state_dict(state)
    assert same([f(b) for f in DRAWS.values()], expected)
    for c in (b, twin):
        c.add(grid(T + 3, T + 6))
    assert all(same(f(b), f(twin)) for f in DRAWS.values())


def test_a_state_goes_into_a_used_buffer():
    a, b = filled(3, invalid=True), filled(T, invalid=True)
    b.load_state_dict(a.state_dict())
    for s in range(3, 2 * T):
        a.add(grid(s, s + 1))
        b.add(grid(s, s + 1))
        assert len(a) == len(b), f"after step {s}"
        assert all(same(f(a), f(b)) for f in DRAWS.values())


@pytest.mark.parametrize("capacity", [T * N // 2, 2 * T * N])
def test_a_state_of_another_capacity_is_refused(capacity):
    state = filled(T + 3).state_dict()
    with pytest.raises(ValueError, match=r"capacity|do not fit"):
        filled(0, capacity=capacity).load_state_dict(state)


def test_exported_rows_come_back():
    a = filled(2 * T + 3, invalid=True)
    first = a.total - T
    b = filled(0)
    for cut in (first, first + 3):  # in two parts, across the ring's seam
        b.import_rows(cut, a.export_rows(cut, first + 3 if cut == first else a.total))
    b.load_state_dict(a.state_dict(rows=False))
    assert "data" not in a.state_dict(rows=False)
    assert same(a.export_rows(first, a.total), b.export_rows(first, b.total))
    assert all(same(f(a), f(b)) for f in DRAWS.values())


@pytest.mark.parametrize("span", [(0, 5), (11, 20), (15, 14), (10, 19)])
def test_steps_that_are_not_kept_cannot_be_exported(span):
    buffer = filled(2 * T + 3)
    assert len(buffer.export_rows(11, 19)["rows"]) == T
    assert len(buffer.export_rows(19, 19)["rows"]) == 0
    with pytest.raises(ValueError, match=f"{span[0]}..{span[1]} are not in the buffer of 19"):
        buffer.export_rows(*span)


@pytest.mark.parametrize("shape", [(2, N + 1, LAYOUT.width), (2, N, LAYOUT.width - 1), (T + 1, N)])
def test_rows_of_another_buffer_cannot_be_imported(shape):
    parts = filled(T).export_rows(0, 2)
    shape = (*shape, LAYOUT.width)[:3]
    with pytest.raises(ValueError, match="do not fit"):
        filled(0).import_rows(0, {**parts, "rows": torch.zeros(shape)})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_buffer_takes_rows_from_the_host():
    host, gpu = filled(0), ReplayBuffer(LAYOUT, T * N, N, device="cuda")
    for s in range(2 * T + 3):
        for buffer in (host, gpu):
            buffer.add(LAYOUT.unpack(LAYOUT.pack(grid(s, s + 1))[0]), gaps(s, s + 1)[0])
    first = host.total - T
    assert len(host) == len(gpu) and same(host.export_rows(first, 19), gpu.export_rows(first, 19))
    assert gpu.sample(64).obs.device.type == "cuda"


# -- mixing


class Constant:
    """Rows of one world, with some of the extra columns."""

    def __init__(self, world, extra=("tag", "label")):
        self.world, self.extra, self.asked = world, extra, []

    def sample(self, n):
        self.asked.append(n)
        batch = rows(self.world, 0, torch.arange(n))
        return batch._replace(extra={k: batch.extra[k] for k in self.extra})


@pytest.mark.parametrize(
    ("shares", "n", "counts"),
    [
        ([0.5, 0.5], 256, [128, 128]),
        ([1, 1, 1], 10, [4, 3, 3]),
        ([0.5, 0.5], 5, [3, 2]),
        ([3, 1], 8, [6, 2]),
        ([0.7, 0.2, 0.1], 4, [3, 1, 0]),
        ([0.1] * 10, 10, [1] * 10),
        ([0.1, 0.2, 0.7], 10, [1, 2, 7]),
        ([0, 1], 3, [0, 3]),
        ([0.99, 0.01], 10, [10, 0]),
    ],
)
def test_mix_takes_the_largest_remainders(shares, n, counts):
    sources = [Constant(i) for i in range(len(shares))]
    batch = mix(list(zip(sources, shares, strict=True))).sample(n)
    assert batch.obs[:, 0].int().bincount(minlength=len(shares)).tolist() == counts
    assert [sum(s.asked) for s in sources] == counts
    assert all(k not in s.asked for s, k in zip(sources, counts, strict=True) if not k)
    assert whole(batch)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_mix_keeps_the_common_columns(order):
    sources = [Constant(0, ("tag", "label")), Constant(1, ("label",))]
    batch = mix([(sources[i], 0.5) for i in order]).sample(6)
    assert list(batch.extra) == ["label"]
    assert whole(batch._replace(extra=rows(*batch.obs.unbind(-1)).extra | dict(batch.extra)))


def test_a_mix_of_buffers_is_a_source():
    a, b = filled(T, seed=1), filled(0)
    b.add(grid(40, 45))
    both = mix([(a, 0.5), (mix([(b, 1.0)]), 0.5)])
    assert all(isinstance(x, Source) for x in (a, both))
    batch = both.sample(100)
    assert whole(batch)
    assert (batch.obs[:50, 1] < 9).all() and (batch.obs[50:, 1] > 9).all()


@pytest.mark.parametrize("shares", [[], [0, 0], [-1, 2], [math.nan, 1], [math.inf, 1]])
def test_mix_refuses_shares_that_mean_nothing(shares):
    with pytest.raises(ValueError, match="finite, not negative and sum above 0"):
        mix([(Constant(0), share) for share in shares])


def test_a_buffer_for_an_environment():
    from types import SimpleNamespace

    env = SimpleNamespace(obs_dim=3, act_dim=2, num_envs=4)
    buffer = ReplayBuffer.for_env(env, 10, seed=5)
    assert (buffer.capacity, buffer.num_envs) == (8, 4) and buffer.layout == Layout(3, 2)
    assert buffer.generator.initial_seed() == 5
