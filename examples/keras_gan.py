"""GANs of Keras layers on the torch backend, trained by Keras' own `fit` with a custom step: `dense` and `dcgan`.

    python examples/keras_gan.py --model dcgan --epochs 2 --out keras.png

The dense GAN has SELU layers, the DCGAN strided convolutions, BatchNorm and Dropout of 0.4; both learn by RMSprop.
Digits come from $STABILGAN_DATA, or are downloaded.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")  # before keras is imported

import keras
import torch
from keras import layers
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce

import stabilgan
from stabilgan import EMA, R1, Replay, Watch
from stabilgan.integrations.keras import KerasOptimizer
from stabilgan.workloads import digits

CODINGS = 30


def dense() -> tuple[keras.Model, keras.Model]:
    g = keras.Sequential(
        [
            keras.Input((CODINGS,)),
            layers.Dense(100, activation="selu", kernel_initializer="lecun_normal"),
            layers.Dense(150, activation="selu", kernel_initializer="lecun_normal"),
            layers.Dense(28 * 28, activation="tanh"),
            layers.Reshape((28, 28, 1)),
        ]
    )
    d = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(150, activation="selu", kernel_initializer="lecun_normal"),
            layers.Dense(100, activation="selu", kernel_initializer="lecun_normal"),
            layers.Dense(1),  # logits: no sigmoid
        ]
    )
    return g, d


def dcgan(width: int = 32) -> tuple[keras.Model, keras.Model]:
    g = keras.Sequential(
        [
            keras.Input((CODINGS,)),
            layers.Dense(7 * 7 * 2 * width),
            layers.Reshape((7, 7, 2 * width)),
            layers.BatchNormalization(),
            layers.Conv2DTranspose(width, 5, strides=2, padding="same", activation="selu"),
            layers.BatchNormalization(),
            layers.Conv2DTranspose(1, 5, strides=2, padding="same", activation="tanh"),
        ]
    )
    d = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(width, 5, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Dropout(0.4),
            layers.Conv2D(2 * width, 5, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Dropout(0.4),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    return g, d


class GAN(keras.Model):
    """A generator and a discriminator, trained in turns by `fit`."""

    def __init__(self, g: keras.Model, d: keras.Model) -> None:
        super().__init__()
        self.g, self.d = g, d
        self.latents = torch.Generator().manual_seed(0)
        self.built = True  # there is nothing to call: `fit` only takes training steps

    def compile(self, opt_g: Any, opt_d: Any, tricks: Sequence[stabilgan.Trick] = ()) -> None:
        super().compile()
        self.opt_g = KerasOptimizer(opt_g, self.g.trainable_variables)
        self.opt_d = KerasOptimizer(opt_d, self.d.trainable_variables)
        self.game = stabilgan.attach(self.g, self.d, self.opt_g, self.opt_d, tricks)

    def train_step(self, real: Tensor) -> dict[str, Tensor]:
        fake = self.g(torch.randn(len(real), CODINGS, generator=self.latents).to(real.device), training=True)

        self.zero_grad()
        output = self.d(self.game.real(real), training=True)
        d_loss = bce(output, torch.ones_like(output))
        output = self.d(self.game.fake(fake.detach()), training=True)
        d_loss = d_loss + bce(output, torch.zeros_like(output))
        d_loss.backward()
        self.opt_d.apply([v.value.grad for v in self.d.trainable_variables])

        self.zero_grad()
        output = self.game.critic(fake, training=True)
        g_loss = bce(output, torch.ones_like(output))
        g_loss.backward()
        self.game.record(d_loss=d_loss, g_loss=g_loss)
        self.opt_g.apply([v.value.grad for v in self.g.trainable_variables])

        return {"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}


MODELS = {"dense": dense, "dcgan": dcgan}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="dcgan")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="steps in an epoch, if it is to be cut short")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, help="where to write a picture of samples, a PNG")
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(0)
    images = digits.scaled(digits.load("MNIST", None, train=True)[0]).view(-1, 28, 28, 1)
    if options.steps:
        images = images[: options.steps * options.batch]
    gan = GAN(*MODELS[options.model]())
    average, watch = EMA(), Watch(family="logistic")
    tricks = [Replay(), R1(weight=1), average, watch]
    gan.compile(keras.optimizers.RMSprop(1e-3), keras.optimizers.RMSprop(1e-3), tricks)
    gan.fit(images.numpy(), batch_size=options.batch, epochs=options.epochs, verbose=2)

    if options.out:
        from torchvision.utils import save_image

        samples = average.average(torch.randn(40, CODINGS, generator=gan.latents)).detach().cpu().permute(0, 3, 1, 2)
        save_image(samples, options.out, nrow=10, normalize=True, value_range=(-1, 1))
    for alarm in watch.alarms:
        print(alarm)


if __name__ == "__main__":
    main()
