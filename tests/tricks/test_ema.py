"""EMA against the recursion written out."""

import pickle

import play
import pytest
import torch

import stabilgan


def test_the_average_follows_its_recursion() -> None:
    g, d = play.players()
    opt_g = play.sgd(g)
    ema = stabilgan.EMA(decay=0.9)
    game = stabilgan.attach(g, d, opt_g, play.sgd(d), [ema])
    expected = play.params(g)
    for _ in range(5):
        opt_g.zero_grad()
        game.critic(g(torch.randn(8, 4))).mean().backward()
        opt_g.step()
        expected = 0.9 * expected + 0.1 * play.params(g)
    torch.testing.assert_close(play.params(ema.average), expected)
    assert play.same(dict(ema.average.named_buffers()), dict(g.named_buffers()))


def test_the_trainer_samples_from_the_average() -> None:
    g, d = play.players()
    t = stabilgan.Trainer(g, d, play.sgd(g), play.sgd(d), [stabilgan.EMA(0.5)], latent=4, batch_size=8)
    t.fit(play.ring, 3)
    z = t.draw(10, torch.Generator().manual_seed(4))
    torch.testing.assert_close(t.sample(10, seed=4), t.game.tricks[0].average(z))
    assert not torch.equal(t.sample(10, seed=4), t.sample(10, seed=4, ema=False))


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        stabilgan.EMA(1.0)


def test_it_can_be_sent_to_a_process_before_it_is_attached() -> None:
    assert pickle.loads(pickle.dumps(stabilgan.EMA(0.25))).decay == 0.25
