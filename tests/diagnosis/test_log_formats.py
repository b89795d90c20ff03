"""Logs in the manner of well-known repositories: what is found in them, and what each column is taken for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from stabilgan.diagnosis.log.columns import Game, games
from stabilgan.diagnosis.log.read import read_log


class Case(NamedTuple):
    """A text, the values that each column must have, and the steps of D's loss (or of what comes first)."""

    text: str
    columns: dict[str, list[float]]
    steps: list[int] | None = None


def read(text: str) -> list[Game]:
    log = read_log(io.StringIO(text))
    playing, _ = games(log.store.runs[-1], {})
    return playing


CASES = {
    "the DCGAN example of PyTorch": Case(
        "[0/25][0/1583] Loss_D: 1.9847 Loss_G: 5.6512 D(x): 0.6246 D(G(z)): 0.6527 / 0.0052\n"
        "[0/25][50/1583] Loss_D: 0.1331 Loss_G: 9.1216 D(x): 0.9451 D(G(z)): 0.0214 / 0.0003\n"
        "[1/25][0/1583] Loss_D: 0.5 Loss_G: 3.25 D(x): 0.8 D(G(z)): 0.2 / 0.05\n",
        {
            "d_loss": [1.9847, 0.1331, 0.5],
            "g_loss": [5.6512, 9.1216, 3.25],
            "d_real": [0.6246, 0.9451, 0.8],
            "d_fake": [0.6527, 0.0214, 0.2],
            "d_fake_after": [0.0052, 0.0003, 0.05],
        },
        [0, 50, 1583],
    ),
    "the same with tabs, as it is printed": Case(
        "[0/5][0/200]\tLoss_D: 1.7410\tLoss_G: 4.7761\tD(x): 0.5343\tD(G(z)): 0.5771 / 0.0136\n"
        "[0/5][50/200]\tLoss_D: nan\tLoss_G: nan\tD(x): nan\tD(G(z)): nan / nan\n",
        {"d_loss": [1.741, float("nan")], "d_fake_after": [0.0136, float("nan")]},
        [0, 50],
    ),
    "PyTorch-GAN": Case(
        "[Epoch 3/200] [Batch 20/938] [D loss: 0.102345] [G loss: 4.234000]\n"
        "[Epoch 3/200] [Batch 21/938] [D loss: 0.112345] [G loss: 4.134000]\n",
        {"d_loss": [0.102345, 0.112345], "g_loss": [4.234, 4.134]},
        [3 * 938 + 20, 3 * 938 + 21],
    ),
    "PyTorch-GAN, CycleGAN with ETA": Case(
        "\r[Epoch 0/200] [Batch 1/300] [D loss: 0.5] [G loss: 12.0, adv: 0.9, cycle: 0.8, identity: 0.7] ETA: 12:30:00"
        "\r[Epoch 0/200] [Batch 2/300] [D loss: 0.4] [G loss: 11.0, adv: 0.8, cycle: 0.7, identity: 0.6] ETA: 9:59:00",
        {"d_loss": [0.5, 0.4], "g_loss": [12.0, 11.0], "g_adv": [0.9, 0.8]},
        [1, 2],
    ),
    "Keras-GAN": Case(
        "1233 [D loss: 0.512, acc.: 62.50%] [G loss: 1.021]\n1234 [D loss: 0.498, acc.: 65.62%] [G loss: 1.033]\n",
        {"d_loss": [0.512, 0.498], "accuracy_d": [62.5, 65.62], "g_loss": [1.021, 1.033]},
        [1233, 1234],
    ),
    "Keras-GAN, pix2pix": Case(
        "[Epoch 0/1] [Batch 10/353] [D loss: 0.1077, acc:  98%] [G loss: 10.2] time: 0:01:02.123456\n"
        "[Epoch 0/1] [Batch 11/353] [D loss: 0.1066, acc: 100%] [G loss: 10.1] time: 0:01:03.023456\n",
        {"d_loss": [0.1077, 0.1066], "accuracy_d": [98, 100], "g_loss": [10.2, 10.1]},
        [10, 11],
    ),
    "Keras-GAN, WGAN": Case(
        "7 [D loss: 0.999970] [G loss: 1.000061]\n8 [D loss: 0.999960] [G loss: 1.000071]\n",
        {"d_loss": [0.99997, 0.99996], "g_loss": [1.000061, 1.000071]},
        [7, 8],
    ),
    "a tutorial of dense GANs": Case(
        "Epoch [0/200], Step [200/600], d_loss: 0.0421, g_loss: 4.1531, D(x): 0.99, D(G(z)): 0.03\n"
        "Epoch [0/200], Step [400/600], d_loss: 0.0101, g_loss: 6.3302, D(x): 1.00, D(G(z)): 0.01\n"
        "Epoch [1/200], Step [200/600], d_loss: 0.0001, g_loss: 9.1, D(x): 1.00, D(G(z)): 0.00\n",
        {"d_loss": [0.0421, 0.0101, 0.0001], "d_real": [0.99, 1.0, 1.0], "d_fake": [0.03, 0.01, 0.0]},
        [200, 400, 800],
    ),
    "pix2pix": Case(
        "================ Training Loss (Tue Nov 24 10:11:12 2026) ================\n"
        "(epoch: 1, iters: 100, time: 0.107, data: 0.232) G_GAN: 1.108 G_L1: 31.214 D_real: 0.532 D_fake: 0.611 \n"
        "(epoch: 1, iters: 200, time: 0.108, data: 0.002) G_GAN: 1.208 G_L1: 30.214 D_real: 0.432 D_fake: 0.511 \n",
        {"g_adv": [1.108, 1.208], "d_loss_real": [0.532, 0.432], "d_loss_fake": [0.611, 0.511]},
        [100, 200],
    ),
    "pix2pixHD": Case(
        "(epoch: 1, iters: 96, time: 0.457) G_GAN: 0.824 G_GAN_Feat: 4.112 G_VGG: 3.9 D_real: 0.611 D_fake: 0.455 \n",
        {"g_adv": [0.824], "d_loss_real": [0.611], "d_loss_fake": [0.455]},
        [96],
    ),
    "stylegan-like lines of lucidrains": Case(
        "G: 1.87 | D: 3.59 | GP: 35.82 | PL: 0.01 | CR: 0.00 | Q: 0.00\nG: 1.09 | D: 0.42 | GP: 12.44 | PL: 0.01\n",
        {"d_loss": [3.59, 0.42], "g_loss": [1.87, 1.09], "gp": [35.82, 12.44]},
        [0, 1],
    ),
    "StudioGAN": Case(
        "[INFO] 2021-04-14 20:40:17 > Step: 100 Progress: 0.1% Elapsed: 0:00:20 temperature: 0.0 Gen_loss: -0.42 "
        "Dis_loss: 1.823\n"
        "[INFO] 2021-04-14 20:40:37 > Step: 200 Progress: 0.2% Elapsed: 0:00:40 temperature: 0.0 Gen_loss: 0.318 "
        "Dis_loss: 1.623\n",
        {"d_loss": [1.823, 1.623], "g_loss": [-0.42, 0.318]},
        [100, 200],
    ),
    "BigGAN-PyTorch": Case(
        "100/782 (12.7%) (TE/ET1k: 1:10 / 11:41) itr: 100, G_loss : +0.512, "
        "D_loss_real : +0.751, D_loss_fake : +0.622\n"
        "101/782 (12.9%) (TE/ET1k: 1:11 / 11:42) itr: 101, G_loss : -0.112, "
        "D_loss_real : +0.651, D_loss_fake : +0.522\n",
        {"g_loss": [0.512, -0.112], "d_loss_real": [0.751, 0.651], "d_loss_fake": [0.622, 0.522]},
        [100, 101],
    ),
    "BasicSR": Case(
        "2021-02-01 12:00:01,123 INFO: [ESRGA..][epoch:  3, iter:   5,000, lr:(1.000e-04,)] [eta: 2 days, 1:02:03, "
        "time (data): 0.512 (0.001)] l_g_pix: 1.2e-02 l_g_percep: 9.1e-01 "
        "l_g_gan: 5.5e-02 l_d_real: 3.2484e-01 out_d_real: "
        "-1.0425e+01 l_d_fake: 5.3701e-01 out_d_fake: -1.2688e+01 \n",
        {
            "g_adv": [0.055],
            "d_loss_real": [0.32484],
            "d_loss_fake": [0.53701],
            "score_real": [-10.425],
            "score_fake": [-12.688],
            "lr": [1e-4],
        },
        [5000],
    ),
    "HiFi-GAN": Case(
        "Steps : 5, Gen Loss Total : 60.123, Mel-Spec. Error : 0.912, s/b : 0.512\n"
        "Steps : 10, Gen Loss Total : 58.123, Mel-Spec. Error : 0.812, s/b : 0.412\n",
        {"g_loss": [60.123, 58.123]},
        None,
    ),
    "a text-to-speech trainer": Case(
        "   --> STEP: 25/1000 -- GLOBAL_STEP: 244300\n"
        "     | > D_loss: 1.52000  (1.51)\n     | > G_adv_loss: 0.00000\n     | > current_lr_0: 7.05e-111\n",
        {"d_loss": [1.52], "g_adv": [0.0], "lr:0": [7.05e-111]},
        None,
    ),
    "key=value": Case(
        "epoch 3 iter 100 loss_d=0.1 loss_g=2.1\nepoch 3 iter 200 loss_d=0.2 loss_g=2.2\n",
        {"d_loss": [0.1, 0.2], "g_loss": [2.1, 2.2]},
        [100, 200],
    ),
    "the logging module": Case(
        "2026-11-24 10:11:12,345 - train - INFO - step=10 errD=1.2 errG=0.9\n"
        "2026-11-24 10:11:13,345 - train - INFO - step=20 errD=1.1 errG=1.0\n",
        {"d_loss": [1.2, 1.1], "g_loss": [0.9, 1.0]},
        [10, 20],
    ),
    "JSON inside text": Case(
        'INFO:root:{"step": 1, "d_loss": 0.5, "g_loss": 1.5}\n'
        'INFO:root:{"step": 2, "d_loss": NaN, "g_loss": -Infinity}\n',
        {"d_loss": [0.5, float("nan")], "g_loss": [1.5, float("-inf")]},
        [1, 2],
    ),
    "a printed dict": Case(
        "{'iteration': 5, 'loss_D': 0.25, 'loss_G': 0.5}\n{'iteration': 6, 'loss_D': 0.125, 'loss_G': 0.75}\n",
        {"d_loss": [0.25, 0.125], "g_loss": [0.5, 0.75]},
        [5, 6],
    ),
    "a printed tensor": Case(
        "iter 1 d_loss: tensor(0.5000, device='cuda:0', grad_fn=<AddBackward0>) g_loss: tensor(1.25, device='cuda:0')\n"
        "iter 2 d_loss: tensor(0.2500, device='cuda:0', grad_fn=<SubBackward>) g_loss: tensor(1.75, device='cuda:0')\n",
        {"d_loss": [0.5, 0.25], "g_loss": [1.25, 1.75]},
        [1, 2],
    ),
    "tqdm": Case(
        "Epoch 1:   1%|▏         | 10/938 [00:01<02:03,  7.5it/s, loss_d=0.51, loss_g=1.2]\r"
        "Epoch 1:   2%|▎         | 20/938 [00:02<02:02,  7.6it/s, loss_d=0.41, loss_g=1.3]\r",
        {"d_loss": [0.51, 0.41], "g_loss": [1.2, 1.3]},
        None,
    ),
    "colours": Case(
        "\x1b[32mstep 5\x1b[0m \x1b[1;31md_loss: 0.75\x1b[0m g_loss: 0.5\n\x1b[32mstep 6\x1b[0m \x1b[1;31md_loss: "
        "0.5\x1b[0m g_loss: 0.25\n",
        {"d_loss": [0.75, 0.5], "g_loss": [0.5, 0.25]},
        [5, 6],
    ),
    "Lightning's bar": Case(
        "Epoch 0:  10%|█         | 94/938 [00:05<00:50, 16.81it/s, v_num=0, g_loss=2.50, d_loss=0.125]\n",
        {"d_loss": [0.125], "g_loss": [2.5]},
        None,
    ),
    "the bar of Keras": Case(
        "Epoch 1/20\n 100/1875 [>......] - ETA: 1:02 - d_loss: 0.4471 - g_loss: 1.4427\n",
        {"d_loss": [0.4471], "g_loss": [1.4427]},
        None,
    ),
    "TensorFlow's DCGAN": Case(
        "Epoch: [14] [   3/   4] time: 12.1234, d_loss: 14.95790005, g_loss: 0.00002277\n"
        "Epoch: [15] [   0/   4] time: 13.1234, d_loss: 14.68263435, g_loss: 0.00022513\n",
        {"d_loss": [14.95790005, 14.68263435], "g_loss": [0.00002277, 0.00022513]},
        [14 * 4 + 3, 15 * 4],
    ),
    "an old WGAN": Case(
        "[0/25][10/1583][1] Loss_D: -0.500000 Loss_G: 0.250000 Loss_D_real: -0.75 Loss_D_fake 0.25\n"
        "[0/25][15/1583][2] Loss_D: -0.600000 Loss_G: 0.350000 Loss_D_real: -0.85 Loss_D_fake 0.25\n",
        {"d_loss": [-0.5, -0.6], "d_loss_real": [-0.75, -0.85], "d_loss_fake": [0.25, 0.25]},
        [10, 15],
    ),
    "WGAN-GP in words": Case(
        "Iteration 100: critic loss = -3.5, generator loss = 1.25, gradient penalty = 0.125\n",
        {"d_loss": [-3.5], "g_loss": [1.25], "gp": [0.125]},
        [100],
    ),
    "names with slashes": Case(
        "step: 1 train/D_loss: 0.5 train/G_loss: 1.5\nstep: 2 train/D_loss: 0.4 train/G_loss: 1.6\n",
        {"d_loss": [0.5, 0.4], "g_loss": [1.5, 1.6]},
        [1, 2],
    ),
    "D and G on lines of their own": Case(
        "Step 1\n  D loss: 0.5\n  G loss: 1.5\nStep 2\n  D loss: 0.4\n  G loss: 1.6\n",
        {"d_loss": [0.5, 0.4], "g_loss": [1.5, 1.6]},
        None,
    ),
    "words written out": Case(
        "Batch 10 Discriminator Loss: 0.5 Generator Loss: 1.5\nBatch 20 Discriminator Loss: 0.4 Generator Loss: 1.6\n",
        {"d_loss": [0.5, 0.4], "g_loss": [1.5, 1.6]},
        [10, 20],
    ),
    "camels": Case("iter 3 lossD 0.5 lossG 1.5\niter 4 lossD 0.4 lossG 1.6\n", {"d_loss": [0.5, 0.4]}, [3, 4]),
    "NaN in all its spellings": Case(
        "".join(
            f"step {i} d_loss: {x} g_loss: 1.0\n" for i, x in enumerate(["NaN", "-nan", "nan", "1.#QNAN", "-1.#IND"])
        ),
        {"d_loss": [float("nan")] * 5, "g_loss": [1.0] * 5},
        [0, 1, 2, 3, 4],
    ),
    "infinity in all its spellings": Case(
        "".join(f"step {i} d_loss: {x} g_loss: 1.0\n" for i, x in enumerate(["inf", "Infinity", "+inf", "1.#INF"])),
        {"d_loss": [float("inf")] * 4},
        [0, 1, 2, 3],
    ),
    "scientific notation": Case("d_loss: 1.5e-05 g_loss: 2E+01\n", {"d_loss": [1.5e-5], "g_loss": [20.0]}),
    "pasted with semicolons": Case(
        "[1/50] loss_d: 0.855, loss_g: 1.262; [5/50] 0.070, 4.227; [11/50] 0.006, 6.242\n",
        {"d_loss": [0.855, 0.07, 0.006], "g_loss": [1.262, 4.227, 6.242]},
        [1, 5, 11],
    ),
    "pasted with steps before a colon": Case(
        "Step 900 Gen_loss: -2.982 Dis_loss: -1.749; 1000: 12.56 -1.571; 1100: 6.941 -1.659\n",
        {"d_loss": [-1.749, -1.571, -1.659], "g_loss": [-2.982, 12.56, 6.941]},
        [900, 1000, 1100],
    ),
    "arrows": Case("gp 10 -> 0.5 -> 3000\nFID 58 to 634\n", {"gp": [10, 0.5, 3000], "fid": [58, 634]}),
    "CSV of Lightning, sparse": Case(
        "d_loss,epoch,g_loss,step\n0.5,0,,49\n,0,1.5,49\n0.4,0,,99\n,0,1.6,99\n",
        {"d_loss": [0.5, 0.4], "g_loss": [1.5, 1.6]},
        [49, 99],
    ),
    "TSV": Case("iter\tloss_D\tloss_G\n1\t0.5\t1.5\n2\tnan\t1.6\n", {"d_loss": [0.5, float("nan")]}, [1, 2]),
    "CSV with semicolons": Case("epoch;D loss;G loss\n1;0.5;1.5\n2;0.4;1.6\n3;0.3;1.7\n", {"d_loss": [0.5, 0.4, 0.3]}),
    "stats.jsonl of StyleGAN": Case(
        "".join(
            json.dumps(
                {
                    "Progress/tick": {"num": 1, "mean": i, "std": 0},
                    "Progress/kimg": {"num": 1, "mean": 4.0 * i, "std": 0},
                    "Loss/scores/fake": {"num": 64, "mean": -0.5, "std": 0.1},
                    "Loss/scores/real": {"num": 64, "mean": 0.5, "std": 0.1},
                    "Loss/signs/real": {"num": 64, "mean": 0.3, "std": 0.1},
                    "Loss/G/loss": {"num": 64, "mean": 0.9, "std": 0.1},
                    "Loss/D/loss": {"num": 64, "mean": 1.1, "std": 0.1},
                    "Loss/r1_penalty": {"num": 4, "mean": 0.001, "std": 0.01},
                    "Loss/D/reg": {"num": 4, "mean": 0.005, "std": 0.1},
                    "Loss/G/reg": {"num": 16, "mean": 0.02, "std": 0.1},
                    "timestamp": 1600000000.5,
                }
            )
            + "\n"
            for i in range(3)
        ),
        {"d_loss": [1.1] * 3, "g_loss": [0.9] * 3, "score_real": [0.5] * 3, "sign_real": [0.3] * 3},
        [0, 4, 8],
    ),
    "JSON lines of W&B": Case(
        '{"_step": 0, "_runtime": 1.5, "D_loss": 0.5, "G_loss": 1.5}\n'
        '{"_step": 1, "_runtime": 2.5, "D_loss": "NaN", "G_loss": 1.6}\n',
        {"d_loss": [0.5, float("nan")], "g_loss": [1.5, 1.6]},
        [0, 1],
    ),
    "a JSON array": Case(
        json.dumps([{"step": i, "loss": {"d": 0.5, "g": 1.5}} for i in range(3)]),
        {"d_loss": [0.5] * 3, "g_loss": [1.5] * 3},
        [0, 1, 2],
    ),
    "a JSON object of lists": Case(
        json.dumps({"history": {"step": [10, 20], "d_loss": [0.5, None], "g_loss": [1.5, 1.6]}}, indent=1),
        {"d_loss": [0.5], "g_loss": [1.5, 1.6]},
        [10],
    ),
}


def test_there_are_formats_enough() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_its_columns_are_found_and_named_rightly(name: str) -> None:
    case = CASES[name]
    (game,) = read(case.text)
    for column, values in case.columns.items():
        assert column in game.columns, f"{column} not among {sorted(game.columns)}"
        assert game.columns[column].value.tolist() == pytest.approx(values, nan_ok=True), column
    if case.steps is not None:
        first = next(iter(case.columns))
        assert game.columns[first].step.tolist() == case.steps


def test_two_discriminators_are_two_games_with_their_own_generators() -> None:
    line = (
        "(epoch: 1, iters: {i}, time: 0.1, data: 0.2) D_A: 0.3 G_A: 0.2 cycle_A: 1.1 idt_A: 0.5 D_B: 0.4 G_B: 0.6 "
        "cycle_B: 1.2 idt_B: 0.6 \n"
    )
    a, b = read("".join(line.format(i=i) for i in (100, 200)))
    assert (a.name, b.name) == ("A", "B")
    assert a.columns["d_loss"].value.tolist() == [0.3, 0.3]
    assert a.columns["g_loss"].value.tolist() == [0.2, 0.2]
    assert b.columns["d_loss"].value.tolist() == [0.4, 0.4]
    assert b.columns["g_loss"].value.tolist() == [0.6, 0.6]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_the_encoding_does_not_matter(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    text = "".join(f"période {i}: step {i} d_loss: 0.5 g_loss: 1.5\n" for i in range(20))
    path.write_bytes(text.encode(encoding))
    log = read_log(path)
    assert log.store.runs[0].columns["d_loss"].n == 20


@pytest.mark.parametrize("separator", [";", "\t", ",", ""], ids=["Excel", "tabs", "quoted", "text"])
def test_decimal_commas_are_read_in_tables_and_in_text(separator: str) -> None:
    d, g = [1.2126, 0.75, 0.003, 12.5], [0.887, 1.25, 1e-4, 3.0]
    values = [
        (str(i), f"{x:g}".replace(".", ","), f"{y:.6f}".replace(".", ","))
        for i, (x, y) in enumerate(zip(d, g, strict=True))
    ]
    if not separator:
        text = "".join("step {}: Loss_D: {} Loss_G: {}\n".format(*row) for row in values)
    else:
        quote = '"' if separator == "," else ""
        rows = [("step", "d_loss", "g_loss"), *values]
        text = "sep=" + separator + "\n" + "".join(separator.join(quote + x + quote for x in r) + "\n" for r in rows)
    log = read_log(io.StringIO(text))
    assert "numbers were read with a decimal comma" in log.notes
    (game,), _ = games(log.store.runs[-1], {})
    assert game.columns["d_loss"].value.tolist() == d
    assert game.columns["g_loss"].value.tolist() == g
    assert game.columns["d_loss"].step.tolist() == [0, 1, 2, 3]


def test_thousands_and_whole_numbers_between_commas_are_no_decimals() -> None:
    log = read_log(io.StringIO("".join(f"step {i},000 d_loss: 0.5 g_loss: 1,234.5\n" for i in range(1, 5))))
    (game,), _ = games(log.store.runs[-1], {})
    assert game.columns["d_loss"].step.tolist() == [1000, 2000, 3000, 4000]
    log = read_log(io.StringIO("step,fid\n" + "".join(f"{i},{90 - i}\n" for i in range(10, 40, 10))))
    assert log.store.runs[-1].columns["fid"].values.tolist() == [80, 70, 60]
    log = read_log(io.StringIO("".join(f"step {i} critic_loss: -12,345.67 gen_loss: {i}.5\n" for i in range(4))))
    (game,), _ = games(log.store.runs[-1], {})
    assert game.columns["d_loss"].value.tolist() == [-12345.67] * 4


@pytest.mark.parametrize(
    "line",
    [
        "25.11.2026 14:00:00 Epoch {} D-Loss 1,250 G-Loss 0,950\n",
        "[25.11. 14:00] Epoch {} D-Loss 1,250 G-Loss 0,950\n",
        "PyTorch 2.4 Epoch {} D-Loss 1,250 G-Loss 0,950\n",
        "step {}000 D-Loss: 1,250 G-Loss: 1,950\n",
        "{};1,250;0,950\n",
    ],
)
def test_dates_versions_and_long_step_numbers_beside_decimal_commas(line: str) -> None:
    head = "step;d_loss;g_loss\n" if ";" in line else ""
    log = read_log(io.StringIO(head + "".join(line.format(i) for i in range(1, 6))))
    (game,), _ = games(log.store.runs[-1], {})
    assert game.columns["d_loss"].value.tolist() == [1.25] * 5
    assert game.columns["g_loss"].value.tolist() == [0.95 if "0,950" in line else 1.95] * 5


def test_a_real_run_in_stats_jsonl_style_keeps_its_order() -> None:
    (game,) = read(CASES["stats.jsonl of StyleGAN"].text)
    assert game.columns["d_loss"].label == "Loss/D/loss"


@pytest.mark.parametrize("term", ["Loss/D/reg", "d_r1_loss", "loss_D_r1", "D_drift_loss", "D_regularization_loss"])
def test_a_regulariser_is_never_ds_loss(term: str) -> None:
    (game,) = read(
        "".join(json.dumps({"step": i, term: 0.004, "Loss/D/loss": 1.2, "G_loss": 0.9}) + "\n" for i in (0, 1))
    )
    assert game.columns["d_loss"].value.tolist() == [1.2, 1.2]
