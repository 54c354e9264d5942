"""An attack that is made in several visits is the attack that is made at once, wherever θ is by then."""

import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch
from support import tiny
from support.exactness import EXACT
from support.simulated import batches, loss_function

from trl_tar import Adversary
from trl_tar.adversaries.diverged import AttackDiverged
from trl_tar.simulation.attack_steps import attack_steps
from trl_tar.simulation.attacker_pool import AttackerPool
from trl_tar.simulation.curriculum import RECENT, Curriculum
from trl_tar.simulation.restored import restored


STEPS, VISIT = 6, 2
FULL = Adversary("full", "forget", learning_rate=0.02, num_steps=STEPS, batch_size=4)
ATTACKS = {
    "adamw": FULL,
    "lora": replace(FULL, lora_r=2),
    "cosine": replace(FULL, lr_scheduler="cosine", warmup_steps=2),
    "momentum": replace(FULL, optimizer="sgd", momentum=0.9),
    "sgd": replace(FULL, optimizer="sgd"),
    "adagrad": replace(FULL, optimizer="adagrad"),
    "schedule-free": replace(FULL, optimizer="schedule_free_adamw"),
    "schedule-free lora": replace(FULL, optimizer="schedule_free_adamw", lora_r=2),
}


def new_pool(longest=STEPS, offload=False, visit=VISIT, size=1) -> AttackerPool:
    return AttackerPool(visit, size, Curriculum(longest, longest), offload)


def whole_attacker(pool: AttackerPool, adversary: Adversary):
    """The attacker of the pool, with the adversary's length whatever is drawn."""
    attacker = pool.attacker(0, adversary, "seed")
    attacker.adversary = adversary
    return attacker


def visit(pool, attacker, model, loss=loss_function):
    with restored(model, attacker.adversary, seed=0) as attacked, pool.visited(attacker, attacked):
        attacker.lay_displacement(attacked)
        part = islice(batches(STEPS), attacker.age, attacker.age + attacker.visit)
        steps = attack_steps(attacked, attacker.adversary, part, loss, VISIT, progress=attacker.progress)
        assert list(steps) == [VISIT - 1]
        return [p.detach().clone() for p in attacked.parameters], attacked.losses


@pytest.mark.parametrize("offload", [False, True], ids=["", "offloaded"])
@pytest.mark.parametrize("name", ATTACKS)
def test_visits_add_up_to_the_attack(name, offload):
    adversary, model = ATTACKS[name], tiny.gpt2()
    start, pool = tiny.weights(model), new_pool(offload=offload)
    losses = []
    for i in range(STEPS // VISIT):
        attacker = pool.attacker(i, adversary, "seed") if i else whole_attacker(pool, adversary)
        assert attacker.age == i * VISIT
        reached, new = visit(pool, attacker, model)
        losses += new
        assert all(torch.equal(p, start[n]) for n, p in model.named_parameters())
    assert pool.slots == [None] and attacker.ends
    with restored(model, adversary, seed=0) as attacked:
        list(attack_steps(attacked, adversary, batches(STEPS), loss_function, STEPS))
        pairs = list(zip(reached, attacked.parameters, strict=True))
        # Adagrad divides the rounding of key biases, whose gradient is 0 (about 1e-18), by its ε of 1e-10
        limit = 1e-8 if name == "adagrad" else EXACT
        assert max((a - b).abs().max().item() for a, b in pairs) < limit
        assert losses == pytest.approx(attacked.losses, abs=EXACT)


@pytest.mark.parametrize("name", ["adamw", "lora", "schedule-free"])
def test_the_displacement_is_laid_where_theta_is_by_then(name):
    adversary, model, pool = ATTACKS[name], tiny.gpt2(), new_pool()
    attacker = whole_attacker(pool, adversary)
    reached, _ = visit(pool, attacker, model)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3)
    moved = 0.0 if adversary.lora_r else 0.3
    iterates = [state["z"].clone() for state in attacker.progress.states if "z" in state]
    attacker = pool.attacker(0, adversary, "other seed")
    with restored(model, adversary, seed=0) as attacked:
        attacker.lay_displacement(attacked)
        for p, there in zip(attacked.parameters, reached, strict=True):
            assert torch.allclose(p, there + moved, rtol=0, atol=1e-12)
        for state, z, theta in zip(attacker.progress.states, iterates, before, strict=False):
            assert torch.allclose(state["z"], z + theta + 0.3, rtol=0, atol=1e-12)
    assert len(iterates) == (len(before) if name == "schedule-free" else 0)


def test_weights_in_bfloat16_lose_no_displacement():
    model = tiny.gpt2(dtype=torch.bfloat16)
    attacker = new_pool().attacker(0, FULL, "seed")
    tiny_step = [torch.full(p.shape, 1e-5) for p in model.parameters()]  # rounding to nearest would lose it
    attacker.age, attacker.progress.states = 1, [{} for _ in tiny_step]
    theta = torch.cat([p.detach().float().flatten() for p in model.parameters()])
    moved = torch.zeros_like(theta)
    for seed in range(40):
        attacker.displacement = list(tiny_step)
        with restored(model, FULL, seed) as attacked:
            attacker.lay_displacement(attacked)
            moved += torch.cat([p.detach().float().flatten() for p in attacked.parameters]) - theta
    mean, error = (moved / 40).mean().item(), (moved / 40).std().item() / len(moved) ** 0.5
    assert abs(mean - 1e-5) < 5 * error and error < 1e-6


def test_an_attacker_that_diverges_gives_way_to_a_new_one():
    pool, model = new_pool(), tiny.gpt2()
    start = tiny.weights(model)
    visit(pool, whole_attacker(pool, FULL), model)

    def not_finite(model, batch):
        total, count = loss_function(model, batch)
        return total * float("nan"), count

    attacker = pool.attacker(1, FULL, "seed")
    with pytest.raises(AttackDiverged):
        visit(pool, attacker, model, not_finite)
    assert attacker.displacement == [] and attacker.progress.states == []
    assert pool.slots == [None]
    assert pool.attacker(2, FULL, "other").age == 0
    assert all(torch.equal(p, start[n]) for n, p in model.named_parameters())


def test_an_interrupted_visit_leaves_no_half_changed_attacker():
    pool, model = new_pool(), tiny.gpt2()
    visit(pool, whole_attacker(pool, FULL), model)
    attacker = pool.attacker(1, FULL, "seed")
    with pytest.raises(KeyboardInterrupt):
        with restored(model, FULL, seed=0) as attacked, pool.visited(attacker, attacked):
            raise KeyboardInterrupt
    assert pool.slots == [None]


def test_lengths_are_whole_visits_up_to_the_longest():
    pool = AttackerPool(8, 1, Curriculum(8, 512), offload=False)
    adversary = replace(FULL, num_steps=500)

    def lengths(**changes):
        drawn = []
        for seed in range(300):
            pool.slots = [None]
            drawn.append(pool.attacker(0, replace(adversary, **changes), f"{seed}").adversary.num_steps)
        return drawn

    drawn = lengths()
    assert min(drawn) == 8 and max(drawn) == 496 and all(length % 8 == 0 for length in drawn)
    assert (
        0.4 < sum(length <= 248 for length in drawn) / 300 < 0.6
    )  # half of the 62 visits is the median of a uniform draw
    assert set(lengths(role="benign")) == {500}  # what an honest user reaches is measured at the end too
    assert set(lengths(num_steps=8)) == {8} and set(lengths(num_steps=5)) == {5} and set(lengths(num_steps=0)) == {0}
    pool.curriculum.maximum = 8.0
    assert set(lengths()) == {8}


@pytest.mark.parametrize("maximum", [8.0, 100.0, 512.0])
def test_weights_are_shares_of_visits_however_long_attacks_last(maximum):
    adversaries = [
        replace(FULL, name="long", num_steps=512, weight=6.0),
        replace(FULL, name="one visit", num_steps=5, weight=1.0),
        Adversary("benign", "tasks", role="benign", num_steps=128, weight=3.0),
    ]
    pool = AttackerPool(8, 6, Curriculum(maximum, 512, threshold=-1.0), offload=False)
    rng, visits, turns = random.Random(0), Counter(), 12_000
    for turn in range(turns):
        (drawn,) = rng.choices(adversaries, map(pool.odds, adversaries))
        attacker = pool.attacker(turn, drawn, f"{turn}")
        visits[attacker.adversary.name] += 1
        if not attacker.ends:
            attacker.age += attacker.visit
            pool.slots[attacker.slot] = attacker
    expected = [6.0, 1.0, 3.0 * maximum / 512]  # honest users come as the defence grows
    # rounding to whole visits makes short attacks a little longer, and lives of up to 64 visits make the shares noisy
    shares = [visits[adversary.name] / turns for adversary in adversaries]
    assert shares == pytest.approx([value / sum(expected) for value in expected], abs=0.04)


def test_attackers_are_visited_in_turn():
    pool = new_pool(size=3)
    first = [pool.attacker(turn, FULL, f"{turn}") for turn in range(3)]
    for slot, attacker in enumerate(first):
        pool.slots[slot] = attacker
    assert [pool.attacker(turn, FULL, "new") for turn in (3, 4, 5)] == first
    assert AttackerPool(None, 3, Curriculum(4, 4), False).attacker(0, FULL, "seed").ends


def test_the_longest_attack_grows_when_the_oldest_attacks_fail():
    curriculum = Curriculum(8, 20, threshold=-3.0, growth=2.0)
    curriculum.add([(4, -3.4)] * 50)  # too young to count
    assert curriculum.maximum == 8
    curriculum.add([(8, -3.1)] * (RECENT - 1))
    assert curriculum.maximum == 8
    curriculum.add([(5, -1.7)])  # the mean is -2.98
    assert curriculum.maximum == 8
    curriculum.add([(8, -3.1)] * RECENT)
    assert curriculum.maximum == 16
    curriculum.add([(9, -3.1)] * (RECENT - 1))  # counted again from 0, at ages above 8
    assert curriculum.maximum == 16
    curriculum.add([(9, -3.1)])
    assert curriculum.maximum == 20  # no adversary attacks longer
    assert Curriculum(8, 20).maximum == 20  # no threshold, no curriculum
