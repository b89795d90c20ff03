"""Names: what a column is, by what people call it.

A name is cut into words ("Loss_D", "errD", "netD/dis_loss" and "dLoss" alike), and the words decide. What a name means
only beside others (`D_real` is a loss in pix2pix and a score in ESRGAN) is decided where all names are known.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple


class Role(NamedTuple):
    """What a column is: a canonical name, and whose, where there are several discriminators ("A", "2", "mpd")."""

    name: str
    group: str = ""


D_WORDS = {"d", "disc", "discriminator", "dis", "critic", "netd", "discrim", "discr"}
G_WORDS = {"g", "gen", "generator", "netg"}
LOSS = {"loss", "losses", "err", "error", "cost", "objective"}
GLUED = {
    "errd": "err d",
    "errg": "err g",
    "lossd": "loss d",
    "lossg": "loss g",
    "dloss": "d loss",
    "gloss": "g loss",
    "discloss": "disc loss",
    "genloss": "gen loss",
    "ganloss": "gan loss",
    "dreal": "d real",
    "dfake": "d fake",
    "ld": "loss d",
    "lg": "loss g",
    "lrd": "lr d",
    "lrg": "lr g",
    "dlr": "lr d",
    "glr": "lr g",
    "dgp": "d gp",
    "gradnorm": "grad norm",
    "dacc": "d acc",
    "globalstep": "global step",
}
ADVERSARIAL = {"adv", "gan", "adversarial"}
ASIDE = {
    *(
        "l1",
        "l2",
        "mse",
        "mae",
        "mel",
        "perceptual",
        "percep",
        "content",
        "pixel",
        "pix",
        "fm",
        "feat",
        "feature",
        "cls",
    ),
    *("class", "cycle", "cyc", "idt", "identity", "id", "rec", "recon", "reconstruction", "vgg", "aux", "kl", "kld"),
    *("style", "tv", "dur", "lpips", "ssim", "path", "pl", "seg", "matching", "duration", "std", "var", "min", "max"),
    *("reg", "regularization", "regularizer", "regularisation", "r1", "r2", "drift"),
    *("num", "val", "valid", "validation", "test", "eval", "time", "count", "weight", "lambda", "ada", "augment"),
}
STEPS = {"step", "steps", "iter", "iters", "iteration", "iterations", "batch", "it", "itr", "kimg", "minibatch", "i"}
EPOCHS = {"epoch", "epochs", "ep", "tick"}
NETS = {"mpd", "msd", "mrd", "mcd", "global", "local", "patch", "image", "video", "frame", "spatial", "temporal"}

_ANSWERS = {"d(x)": "d_real", "d(g(z))": "d_fake", "d(g(z1))": "d_fake", "d(g(z2))": "d_fake_after", "d(y)": "d_real"}
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


def words(name: str) -> list[str]:
    """A name's words in lower case.

    >>> words("Loss/D/loss"), words("netD.errD_real"), words("dA_loss")
    (['loss', 'd', 'loss'], ['netd', 'err', 'd', 'real'], ['d', 'a', 'loss'])
    """
    plain = re.sub(r"net([DG])(?![a-z])", r"net\1 ", name).replace("netD", "netd").replace("netG", "netg")
    found: list[str] = []
    for piece in re.split(r"[^A-Za-z0-9]+", plain):
        low = piece.lower()
        if low in GLUED:
            found += GLUED[low].split()
        elif low in ("l1", "l2", "r1", "r2"):
            found.append(low)
        else:
            for word in (w.lower() for w in _WORD.findall(piece)):
                found += GLUED.get(word, word).split()
    return found


@lru_cache(maxsize=4096)
def role(name: str) -> Role | None:
    """What a column of this name is, or None where it is nothing that is judged.

    >>> role("Dis_loss"), role("D_A"), role("G_L1")
    (Role(name='d_loss', group=''), Role(name='d_loss', group='A'), None)
    """
    bare = re.sub(r"\s+", "", name).lower()
    for text, canonical in _ANSWERS.items():
        if bare.endswith(text):
            return Role(canonical)
    w = words(name)
    kept = set(w)
    d, g, loss = bool(kept & D_WORDS), bool(kept & G_WORDS), bool(kept & LOSS) or w[:1] == ["l"]
    if d and g:  # "G loss after D": the first word rules
        first = next(x for x in w if x in D_WORDS | G_WORDS)
        d, g = first in D_WORDS, first in G_WORDS
    if {"learning", "rate"} <= kept or "lr" in kept:
        player = "lr_d" if d else "lr_g" if g else "lr"
        return Role(player, next((x for x in w if x.isdigit()), ""))
    if kept & {"fid", "fid50k"}:
        return Role("fid")
    if (kept & STEPS or kept & EPOCHS) and not loss and not d and not g:
        if kept & {"time", "per", "sec", "total", "max", "num", "lr", "ms"}:
            return None
        return Role("epoch" if kept & EPOCHS and not kept & STEPS else "step")
    if kept & {"gp", "penalty"} and not kept & {"r1", "r2", "path", "pl"}:
        return Role("gp", _group(w))
    if kept & {"grad", "gradient", "gradients"} and (d or g) and not loss:
        return Role("d_grad" if d else "g_grad", _group(w))
    if kept & {"sign", "signs"}:
        return Role("sign_real") if "real" in kept else Role("sign_fake") if "fake" in kept else None
    real, fake = bool(kept & {"real", "x"}), bool(kept & {"fake", "gz"})
    if kept & {"score", "scores", "logit", "logits", "out", "output", "outputs", "pred", "prob"} and not (
        loss and (d or g)
    ):
        if real and fake:
            return None
        return Role("score_real", _group(w)) if real else Role("score_fake", _group(w)) if fake else None
    if kept & {"acc", "accuracy"}:
        return Role("accuracy_d") if not g and not kept & {"val", "test", "cls", "class"} else None
    if kept & ASIDE - {"val"} or kept & {"val"}:
        aside = kept & ASIDE
        if not (aside == {"mse"} and not (d and loss)):
            return None
        return Role("g_adv", _group(w)) if g else None
    if d:
        if real != fake:
            return Role(
                ("d_loss_real" if real else "d_loss_fake") if loss else ("d_real?" if real else "d_fake?"), _group(w)
            )
        return Role("d_loss", _group(w)) if loss or _bare(w, D_WORDS) or kept & ADVERSARIAL else None
    if g:
        if kept & ADVERSARIAL:
            return Role("g_adv", _group(w))
        return Role("g_loss", _group(w)) if loss or _bare(w, G_WORDS) else None
    if kept & ADVERSARIAL and (loss or len(w) == 1):
        return Role("g_adv")
    return None


def _bare(w: list[str], player: set[str]) -> bool:
    """A player's letter, with whose at most: "D", "G_A", "netD"."""
    rest = [x for x in w if x not in player]
    return all(len(x) == 1 or x in NETS or x in {"train", "total"} for x in rest)


def _group(w: list[str]) -> str:
    """Whose: the letter or number beside the player, or the name of one of several nets.

    >>> _group(["d", "a", "loss"]), _group(["loss", "d"])
    ('A', '')
    """
    named = next((x for x in w if x in NETS), "")
    if named:
        return named
    for i, x in enumerate(w):
        if x in D_WORDS | G_WORDS:
            for near in (*w[i + 1 : i + 2], *w[max(0, i - 1) : i]):
                if len(near) == 1 and near not in D_WORDS | G_WORDS | {"l", "x", "z", "i"}:
                    return near.upper()
    return ""
